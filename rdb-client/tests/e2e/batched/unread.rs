//! A client that does not read its answers.

use bytes::Bytes;

use crate::batched::raw_stream::{RawStream, found_value, get};
use crate::harness::{Cluster, connect};

const VALUE_BYTES: usize = 1 << 20;

/// All together are far more than what may be kept for the client.
const READS: u64 = 256;

/// What the server may keep for the client: what the connection's window has room for, and some on the way there.
const KEPT_BYTES_MAX: u64 = 32 << 20;

/// Calls of another client meanwhile, one after the other.
const CALLS: usize = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_are_not_made_and_hold_up_nobody_else() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
    client.raw_put("large", value.clone()).await.expect("put");
    let channel = connect(&cluster.store.address()).await;
    let mut stream = RawStream::open(channel.expect("the store listens")).await;
    let before = cluster.store.memory_bytes();

    for message in 0..READS / 64 {
        let ids = message * 64..(message + 1) * 64;
        stream.send(ids.map(|id| get(id, "large")).collect()).await;
    }
    // Not one of these waits for an answer to be read, and a call that did would end with an error.
    let mut most = 0;
    for call in 0..CALLS {
        client
            .raw_put("small", call.to_string())
            .await
            .expect("put");
        let found = client.raw_get("small").await;
        assert_eq!(found, Ok(Some(call.to_string().into())));
        most = most.max(cluster.store.memory_bytes());
    }
    println!("{} KiB kept", most.saturating_sub(before) >> 10);
    assert!(
        most < before + KEPT_BYTES_MAX,
        "from {before} to {most} bytes"
    );

    for (id, answer) in stream.answers(READS as usize).await {
        assert!(found_value(&answer) == Some(&value), "{id}");
    }
    stream.assert_ended().await;
}
