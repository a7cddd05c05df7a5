//! Calls whose futures are dropped before they are answered.

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, join_all};
use rdb_client::Client;
use tokio::task::unconstrained;

use crate::harness::{Cluster, HANG_GUARD, guarded};

const VALUE_BYTES: usize = 64 << 10;

/// All together have more bytes than a client holds of commands for a store.
const CALLS: usize = 2000;

fn key(round: usize, number: usize) -> String {
    format!("{round}/{number:04}")
}

fn value(number: usize) -> Bytes {
    let mut value = vec![b'v'; VALUE_BYTES];
    value[..8].copy_from_slice(&(number as u64).to_be_bytes());
    value.into()
}

/// On one thread, so that nothing is sent before it is dropped.
#[tokio::test]
async fn calls_that_are_dropped_before_they_are_sent_give_their_room_back() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await.with_timeout(HANG_GUARD);
    client.raw_put("k", "v").await.expect("put");
    for round in 0..2 {
        drop(started_puts(&client, round).await);
        // Each as large as several of those, and more of them than a client has streams.
        for _ in 0..8 {
            let large = vec![b'v'; 4 * VALUE_BYTES];
            let written = guarded("there is room again", client.raw_put("k", large)).await;
            assert_eq!(written, Ok(()));
        }
        assert_eq!(client.raw_get(key(round, 0)).await, Ok(None), "it was sent");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_dropped_take_nothing_from_the_others() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await.with_timeout(HANG_GUARD);
    client.raw_put("k", "v").await.expect("put");
    // What is dropped here, under way, in the queue or still before it, is more than the queue holds.
    cluster.store.pause();
    drop(started_puts(&client, 0).await);
    cluster.store.resume();

    cluster.store.pause();
    let round = 1;
    let puts = started_puts(&client, round).await;
    let kept: Vec<_> = puts.into_iter().step_by(2).collect();
    cluster.store.resume();
    for put in guarded("the other half is served", join_all(kept)).await {
        assert_eq!(put, Ok(()));
    }

    cluster.store.pause();
    let mut reads = Vec::new();
    for number in 0..CALLS {
        let mut read = Box::pin(unconstrained(client.raw_get(key(round, number))));
        assert!(futures::poll!(&mut read).is_pending());
        reads.push(read);
    }
    let kept: Vec<_> = reads.into_iter().step_by(2).collect();
    cluster.store.resume();
    for (index, found) in guarded("reads", join_all(kept))
        .await
        .into_iter()
        .enumerate()
    {
        let found = found.expect("read").expect("acknowledged");
        assert!(found == value(2 * index), "{}", 2 * index);
    }
}

/// Puts that are under way.
async fn started_puts(
    client: &Client,
    round: usize,
) -> Vec<BoxFuture<'_, Result<(), rdb_client::Error>>> {
    let mut puts = Vec::new();
    for number in 0..CALLS {
        let put = client.raw_put(key(round, number), value(number));
        // All of them go as far as they can, in spite of what one turn may do.
        let mut put = unconstrained(put).boxed();
        assert!(futures::poll!(&mut put).is_pending());
        puts.push(put);
    }
    puts
}
