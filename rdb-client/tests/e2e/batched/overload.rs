//! More writes than the store can take.

use std::time::Duration;

use bytes::Bytes;
use rdb_proto::error::details;
use rdb_proto::errorpb::Fate;
use rdb_proto::kvrpc::batch_answer::Response;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;

use crate::batched::raw_stream::{RawStream, is_busy, put};
use crate::harness::{Cluster, HANG_GUARD, connect, guarded};

const CONNECTIONS: u64 = 8;

/// Per connection.
const MESSAGES: u64 = 32;

/// Per message.
const COMMANDS: u64 = 4;

const VALUE_BYTES: usize = 512 << 10;

/// How often the store's memory is looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(5);

/// Both bounds of the store, in MiB.
const BOUND_MIB: &str = "16";

/// The bounds, what RocksDB keeps in memory until it is flushed, and what the transport has received. Without bounds the
/// 512 MiB that are sent would come on top of that, as far as the disk is slower than the loopback interface.
const MEMORY_BYTES_MAX: u64 = 320 << 20;

fn key(connection: u64, id: u64) -> String {
    format!("{connection}/{id:04}")
}

fn value(connection: u64, id: u64) -> Bytes {
    let mut value = vec![b'v'; VALUE_BYTES];
    value[..8].copy_from_slice(&(connection << 32 | id).to_be_bytes());
    value.into()
}

/// Sends everything as fast as the transport takes it, and returns whether each was written. The store refuses the others,
/// one by one or by ending the stream.
async fn flood(channel: Channel, connection: u64) -> Vec<bool> {
    let mut stream = RawStream::open(channel).await;
    let sender = stream.sender();
    let sending = tokio::spawn(async move {
        for message in 0..MESSAGES {
            let ids = message * COMMANDS..(message + 1) * COMMANDS;
            let puts = ids.map(|id| put(id, key(connection, id), value(connection, id)));
            if !sender.try_send(puts.collect()).await {
                return;
            }
        }
    });
    let sending = AbortOnDropHandle::new(sending);
    let all = MESSAGES * COMMANDS;
    let (answers, end) = stream.answers_until_end(all as usize).await;
    drop(sending);
    match end {
        None => stream.assert_ended().await,
        Some(refusal) => {
            let fate = details(&refusal).map(|error| error.fate());
            assert_eq!(fate, Some(Fate::NotApplied), "{connection}: {refusal:?}");
        }
    }
    let written = (0..all).map(|id| {
        let Some(answer) = answers.get(&id) else {
            return false;
        };
        let written = matches!(answer, Response::RawPut(_));
        assert!(written || is_busy(answer), "{connection}/{id}: {answer:?}");
        written
    });
    written.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overloaded_store_says_so_keeps_within_its_memory_and_writes_what_it_acknowledged() {
    let mut cluster = Cluster::prepare();
    cluster.store = cluster
        .store
        .with_flag("--write-queue-mib", BOUND_MIB)
        .with_flag("--bytes-in-flight-mib", BOUND_MIB);
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;

    let mut floods = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let channel = connect(&cluster.store.address()).await;
        let flood = flood(channel.expect("the store listens"), connection);
        floods.spawn(async move { (connection, flood.await) });
    }
    let (mut most, mut answered) = (0, Vec::new());
    while let Some(finished) = guarded("all is answered", async {
        loop {
            most = most.max(cluster.store.memory_bytes());
            if let Ok(finished) = timeout(SAMPLE_INTERVAL, floods.join_next()).await {
                return finished;
            }
        }
    })
    .await
    {
        answered.push(finished.expect("every command has one answer"));
    }
    let all = answered.iter().flat_map(|(_, written)| written);
    let (written, all) = (all.clone().filter(|written| **written).count(), all.count());
    println!(
        "{written} of {all} written, the others refused; at most {} MiB in memory",
        most >> 20
    );
    assert!(written > 0, "whoever is alone at last has room");
    assert!(most < MEMORY_BYTES_MAX, "{most} bytes");

    let client = cluster.client().await.with_timeout(HANG_GUARD);
    for (connection, written) in answered {
        for (id, written) in (0..).zip(written) {
            let found = client.raw_get(key(connection, id)).await.expect("read");
            let expected = written.then(|| value(connection, id));
            assert!(found == expected, "{}: {written}", key(connection, id));
        }
    }
}
