//! A client that does not read its answers.

use std::time::Instant;

use bytes::Bytes;
use rdb_proto::transport::limits::SEND_STALL_TIMEOUT;

use crate::batched::raw_stream::{RawStream, found_value, get, is_busy};
use crate::harness::{Cluster, HANG_GUARD, connect};

const VALUE_BYTES: usize = 1 << 20;

/// All together are far more than what may be kept for the client.
const READS: u64 = 256;

/// What the server may keep for the client: what the connection's window has room for, and some on the way there.
const KEPT_BYTES_MAX: u64 = 32 << 20;

/// Calls of another client meanwhile, one after the other. They give the store time to keep too much. That nothing holds them
/// up is tested in `rdb-server`, by a server that never gives a stream up.
const CALLS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_are_not_made() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await.with_timeout(HANG_GUARD);
    let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
    client.raw_put("large", value.clone()).await.expect("put");
    client.raw_put("small", "v").await.expect("put");
    let channel = connect(&cluster.store.address()).await;
    let mut stream = RawStream::open(channel.expect("the store listens")).await;
    let before = cluster.store.memory_bytes();

    let began = Instant::now();
    let reads = (0..READS).map(|id| get(id, "large"));
    stream.send(reads.collect()).await;
    let mut most = 0;
    for call in 0..CALLS {
        assert_eq!(client.raw_get("small").await, Ok(Some("v".into())));
        if call % 10 == 0 {
            most = most.max(cluster.store.memory_bytes());
        }
    }
    println!("{} KiB kept", most.saturating_sub(before) >> 10);
    assert!(
        most < before + KEPT_BYTES_MAX,
        "from {before} to {most} bytes"
    );

    let (answers, end) = stream.answers_until_end(READS as usize).await;
    // On a slow machine the calls take so long that what waits for room is refused.
    let (refused, read): (Vec<_>, Vec<_>) = answers.iter().partition(|(_, answer)| is_busy(answer));
    println!("{} were refused", refused.len());
    for (id, answer) in &read {
        assert!(found_value(answer) == Some(&value), "{id}");
    }
    // On a slow machine the calls take so long that the store gives the stream up.
    match end {
        None => {
            assert!(!read.is_empty(), "nothing was read");
            stream.assert_ended().await;
        }
        Some(reset) => {
            let unread = began.elapsed();
            assert!(unread >= SEND_STALL_TIMEOUT, "after {unread:?}: {reset:?}");
        }
    }
}
