//! Timestamps as many callers take them at once, from a real placement driver. What happens to them when it is killed is
//! in `tso`; with one that follows a script, in `fates::timestamps`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use rdb_client::{Client, Error, Timestamp};
use tempfile::TempDir;
use tokio::sync::Barrier;

use crate::harness::{HANG_GUARD, Node, found, guarded};

/// The callers of two clients together.
const CALLERS: usize = 1_000;

/// Timestamps of each, one after the other.
const CALLS: usize = 50;

/// The deadline of calls that are meant to run into it.
const PATIENCE: Duration = Duration::from_millis(500);

async fn placement_driver(directory: &TempDir) -> Node {
    let mut pd = Node::placement_driver(directory.path().join("pd"));
    pd.start_serving().await;
    pd
}

async fn client_of(pd: &Node) -> Client {
    let client = Client::connect([pd.address()]).await.expect("it serves");
    client.with_timeout(HANG_GUARD)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_take_distinct_growing_timestamps_and_each_is_asked_for_once() {
    let directory = TempDir::new().expect("the temporary directory can be written");
    let pd = placement_driver(&directory).await;
    let clients = [client_of(&pd).await, client_of(&pd).await];
    let before = clients[1].tso().await.expect("timestamp");
    let all_at_once = Arc::new(Barrier::new(CALLERS));
    let callers = (0..CALLERS).map(|caller| {
        let (client, all_at_once) = (clients[caller % 2].clone(), Arc::clone(&all_at_once));
        tokio::spawn(async move {
            all_at_once.wait().await;
            let mut taken = Vec::with_capacity(CALLS);
            for _ in 0..CALLS {
                taken.push(client.tso().await.expect("timestamp"));
            }
            taken
        })
    });
    let callers = guarded("the callers end", join_all(callers)).await;
    let after = clients[0].tso().await.expect("timestamp");

    let mut all = HashSet::new();
    for taken in callers {
        let taken: Vec<Timestamp> = taken.expect("no panic");
        assert!(taken.is_sorted_by(|one, next| one < next));
        assert!(before < taken[0] && taken[CALLS - 1] < after);
        all.extend(taken);
    }
    assert_eq!(all.len(), CALLERS * CALLS);
    // How many share a request is a matter of the schedule; that those who wait do is proved of the rounds themselves.
    for client in &clients {
        let stats = client.stats();
        let mean = stats.tso_timestamps as f64 / stats.tso_requests as f64;
        println!("{mean:.1} callers of {} share a request", CALLERS / 2);
        assert_eq!(stats.tso_timestamps, (CALLERS / 2 * CALLS + 1) as u64);
        assert!(stats.tso_requests <= stats.tso_timestamps, "none was empty");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timestamp_taken_after_an_event_is_greater_whoever_takes_it() {
    let directory = TempDir::new().expect("the temporary directory can be written");
    let pd = placement_driver(&directory).await;
    let clients = [client_of(&pd).await, client_of(&pd).await];
    // Others keep requests of both clients in flight.
    let crowd: Vec<_> = (0..64)
        .map(|caller| {
            let client = clients[caller % 2].clone();
            tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
                loop {
                    client.tso().await.expect("timestamp");
                }
            }))
        })
        .collect();
    let mut last = None;
    for turn in 0..2_000 {
        let next = clients[turn % 2].tso().await.expect("timestamp");
        assert!(Some(next) > last, "{last:?} {next:?}");
        last = Some(next);
    }
    drop(crowd);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_placement_driver_that_is_paused_holds_nobody_beyond_the_deadline() {
    let directory = TempDir::new().expect("the temporary directory can be written");
    let pd = placement_driver(&directory).await;
    let client = client_of(&pd).await;
    let before = client.tso().await.expect("timestamp");
    let hurried = client.with_timeout(PATIENCE);
    pd.pause();
    // The signal may take effect a moment later.
    found("it stops answering", async || {
        hurried.tso().await.is_err().then_some(())
    })
    .await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.tso().await }
    });
    let began = Instant::now();
    let ended = join_all((0..100).map(|_| hurried.tso()));
    for result in guarded("the calls end", ended).await {
        assert!(
            matches!(result, Err(Error::DeadlineExceeded { .. })),
            "{result:?}"
        );
    }
    println!("ended after {:?}", began.elapsed());
    pd.resume();
    let waited = guarded("a patient call", waiting).await;
    assert!(waited.expect("no panic").expect("timestamp") > before);
    assert!(client.tso().await.expect("timestamp") > before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_on_after_a_drain_that_ended_their_stream() {
    let directory = TempDir::new().expect("the temporary directory can be written");
    let mut pd = placement_driver(&directory).await;
    let client = client_of(&pd).await;
    let before = client.tso().await.expect("timestamp");
    pd.terminate();
    assert!(pd.exited().await.success());
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.tso().await }
    });
    pd.start_serving().await;
    let after = guarded("a call from before the restart", waiting).await;
    assert!(after.expect("no panic").expect("timestamp") > before);
}
