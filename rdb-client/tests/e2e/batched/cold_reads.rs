//! Reads of keys that are not in memory.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::future::join_all;
use rdb_proto::transport::limits::BATCH_STREAMS_MAX;
use tonic::transport::Channel;

use crate::batched::raw_stream::{RawStream, found_value, get, is_busy};
use crate::harness::{Cluster, Metrics, connect, found, guarded};

/// With a few jobs each at the disk, more than may wait for it. Whether so many ever do depends on the disk.
const STREAMS: u64 = 400;

/// Keys of each stream, which nobody else reads.
const KEYS: u64 = 64;

/// The length of each value.
const VALUE_BYTES: usize = 1024;

/// More values than a block of a table has: one is full with 4 KiB.
const BLOCK_VALUES: u64 = 5;

/// How often a block of the data was looked for in memory and was not there: by the try that reads no file, and again by the read that does.
/// Blocks of the Raft log, which has the same values, do not count.
const BLOCKS_MISSED: &str = "flaredb_rocksdb_block_cache_misses_total{database=\"data\"}";

fn key(stream: u64, number: u64) -> String {
    format!("{stream:03}/{number:03}")
}

/// A value that does not compress.
fn value(stream: u64, number: u64) -> Bytes {
    let seed = stream * KEYS + number;
    let mut value = vec![0; VALUE_BYTES];
    fastrand::Rng::with_seed(seed).fill(&mut value);
    value.into()
}

/// Reads everything at once, then what the store was too busy for, until nothing is left. Returns how often it was busy.
async fn read_all(channel: Channel, stream_number: u64) -> usize {
    let mut stream = RawStream::open(channel).await;
    let mut wanted: BTreeSet<u64> = (0..KEYS).collect();
    let mut busy = 0;
    while !wanted.is_empty() {
        let reads = wanted
            .iter()
            .map(|&number| get(number, key(stream_number, number)));
        stream.send(reads.collect()).await;
        for (number, answer) in stream.answers(wanted.len()).await {
            if is_busy(&answer) {
                busy += 1;
                continue;
            }
            let found = found_value(&answer) == Some(&value(stream_number, number));
            assert!(found, "{}: {answer:?}", key(stream_number, number));
            wanted.remove(&number);
        }
    }
    stream.assert_ended().await;
    busy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cold_reads_of_many_streams_are_all_answered_sooner_or_later() {
    let mut cluster = Cluster::prepare();
    cluster.store = cluster.store.with_status();
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;
    let client = cluster.client().await;
    for stream in 0..STREAMS {
        let entries = (0..KEYS).map(|number| (key(stream, number), value(stream, number)));
        client.raw_batch_put(entries).await.expect("put");
    }
    // Flushed and started again, the store has none of it in memory. What takes too long to flush is left to the next start, which takes it
    // from the Raft log into memory.
    found("all is flushed", async || {
        cluster.store.terminate();
        assert!(cluster.store.exited().await.success());
        let is_flushed = !cluster.store.log().contains("nothing is lost");
        cluster.store.start_serving().await;
        is_flushed.then_some(())
    })
    .await;
    let status = cluster.store.status_address().await;
    let missed_before = Metrics::of(&status).await.get(BLOCKS_MISSED);

    let mut channels = Vec::new();
    for _ in 0..STREAMS.div_ceil(BATCH_STREAMS_MAX as u64) {
        let channel = connect(&cluster.store.address()).await;
        channels.push(channel.expect("the store listens"));
    }
    let reading = (0..STREAMS).map(|stream| {
        let channel = channels[stream as usize % channels.len()].clone();
        tokio::spawn(read_all(channel, stream))
    });
    let reading = guarded("everything is read", join_all(reading)).await;
    let busy: usize = reading
        .into_iter()
        .map(|busy| busy.expect("all is there"))
        .sum();
    println!("{} keys read, {busy} times busy", STREAMS * KEYS);
    let missed = Metrics::of(&status).await.get(BLOCKS_MISSED) - missed_before;
    let blocks = STREAMS * KEYS / BLOCK_VALUES;
    assert!(
        missed >= blocks as f64,
        "{missed} lookups of blocks missed, but at least {blocks} blocks were not in memory"
    );
}
