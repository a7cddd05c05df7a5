//! What becomes of a call when its connection breaks, or is never made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rdb_client::{Client, Error};
use tokio::task::JoinSet;

use crate::cluster::{Cluster, SHORT, region};
use crate::proxy::{Mode, Proxy};
use crate::store::Step;

fn is_undetermined<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Undetermined { .. }))
}

/// Which of the two depends on where in an attempt the deadline came; either says that nothing was applied.
fn is_out_of_time<T>(result: &Result<T, Error>) -> bool {
    matches!(
        result,
        Err(Error::Unavailable { .. } | Error::DeadlineExceeded { .. })
    )
}

#[tokio::test]
async fn a_refused_connection_is_made_again_and_the_write_applied_once() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    cluster.node.proxy.refuse().await;
    let lookups = cluster.pd.pd.region_lookups();
    let write = tokio::spawn(async move { client.cas_put("k", 0, "v").await });
    // The third lookup comes after two attempts to connect.
    cluster.pd.pd.wait_region_lookups(lookups + 3).await;
    cluster.node.proxy.listen();
    assert_eq!(write.await.unwrap(), Ok(1));
    assert_eq!(cluster.node.store.applied("k"), 1);
}

#[tokio::test]
async fn a_refused_connection_is_certain_also_at_the_deadline() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await.with_timeout(SHORT);
    cluster.node.proxy.refuse().await;
    let result = client.raw_put("k", "v").await;
    assert!(is_out_of_time(&result), "{result:?}");
}

#[tokio::test]
async fn a_connection_closed_at_accept_was_never_made() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    cluster.node.proxy.set_mode(Mode::CloseAtAccept);
    let hurried = client.with_timeout(SHORT);
    let result = hurried.cas_put("k", 0, "v").await;
    assert!(is_out_of_time(&result), "{result:?}");
    cluster.node.proxy.set_mode(Mode::Pass);
    assert_eq!(client.cas_put("k", 0, "v").await, Ok(1));
    assert_eq!(cluster.node.store.applied("k"), 1);
}

#[tokio::test]
async fn a_connection_cut_during_a_write_leaves_it_undetermined() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    client.raw_get("k").await.unwrap();
    cluster.node.proxy.set_mode(Mode::CutRequests);
    let result = client.cas_put("k", 0, "v").await;
    assert!(is_undetermined(&result), "{result:?}");
    assert_eq!(cluster.node.store.requests(), 1, "the read alone");
}

#[tokio::test]
async fn a_connection_cut_after_a_write_leaves_it_undetermined_and_applied_once() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    client.raw_get("k").await.unwrap();
    cluster.node.proxy.set_mode(Mode::HoldAnswers);
    let writer = client.clone();
    let write = tokio::spawn(async move { writer.cas_put("k", 0, "v").await });
    cluster.node.store.wait_applied(1).await;
    cluster.node.proxy.cut().await;
    cluster.node.proxy.set_mode(Mode::Pass);
    let result = write.await.unwrap();
    assert!(is_undetermined(&result), "{result:?}");

    // The next calls find their way, and what happened is there to be read.
    let entry = client.get("k").await.unwrap().expect("applied");
    assert_eq!(entry.version, 1);
    assert_eq!(cluster.node.store.applied("k"), 1);
}

#[tokio::test]
async fn a_write_on_an_idle_connection_that_broke_is_applied_once() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    client.raw_get("k").await.unwrap();
    cluster.node.proxy.refuse().await;
    let result = client.with_timeout(SHORT).raw_put("k", "v").await;
    // Only a client that has noticed the break by itself can be certain.
    assert!(
        is_out_of_time(&result) || is_undetermined(&result),
        "{result:?}"
    );
    assert_eq!(cluster.node.store.applied("k"), 0);
    cluster.node.proxy.listen();
    assert_eq!(client.cas_put("k", 0, "v").await, Ok(1));
    assert_eq!(cluster.node.store.applied("k"), 1);
}

#[tokio::test]
async fn a_read_survives_a_cut() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    client.raw_put("k", "v").await.unwrap();
    cluster.node.store.script(1, [Step::Hang]);
    let reader = client.clone();
    let read = tokio::spawn(async move { reader.raw_get("k").await });
    cluster.node.store.wait_arrived(2).await;
    cluster.node.proxy.cut().await;
    assert_eq!(read.await.unwrap(), Ok(Some("v".into())));
}

#[tokio::test]
async fn a_store_that_restarts_at_another_address_is_found_again() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    client.raw_put("k", "v").await.unwrap();
    let _old_address: Proxy = cluster.node.move_away().await;
    let moved = cluster.node.route(region(1, 1, "", ""));
    cluster.pd.pd.set_routes(vec![moved]);
    assert_eq!(client.raw_get("k").await, Ok(Some("v".into())));
    client.raw_put("k", "v2").await.unwrap();
    assert_eq!(cluster.node.store.raw("k"), Some("v2".into()));
}

#[tokio::test]
async fn a_store_that_restarts_at_its_address_needs_no_placement_driver() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    client.raw_put("k", "v").await.unwrap();
    cluster.pd.proxy.refuse().await;
    cluster.node.proxy.cut().await;
    assert_eq!(client.raw_get("k").await, Ok(Some("v".into())));
}

#[tokio::test]
async fn with_the_last_clone_every_connection_ends() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let clone = client.clone();
    client.raw_get("k").await.unwrap();
    drop(client);
    clone.raw_get("k").await.unwrap();
    assert_eq!(cluster.node.proxy.connections(), 1, "clones share");
    drop(clone);
    cluster.node.proxy.closed().await;
    cluster.pd.proxy.closed().await;
}

/// Adds one to the number under a key, as often as told, and counts what became of it.
async fn count_up(client: Client, key: String, done: Arc<AtomicBool>) -> (u64, u64) {
    let (mut successes, mut undetermined) = (0, 0);
    while !done.load(Ordering::Relaxed) {
        let version = client
            .get(&key)
            .await
            .unwrap()
            .map_or(0, |entry| entry.version);
        match client.cas_put(&key, version, "v").await {
            Ok(written) => {
                assert_eq!(written, version + 1);
                successes += 1;
            }
            Err(Error::Undetermined { .. }) => undetermined += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    (successes, undetermined)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_many_cuts_every_success_was_applied_once_and_nothing_twice() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let done = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let key = format!("k{task}");
        let counting = count_up(client.clone(), key.clone(), Arc::clone(&done));
        tasks.spawn(async move { (key, counting.await) });
    }
    for round in 1..=20 {
        cluster.node.store.wait_applied(round * 40).await;
        cluster.node.proxy.cut().await;
    }
    done.store(true, Ordering::Relaxed);
    while let Some(counted) = tasks.join_next().await {
        let (key, (successes, undetermined)) = counted.unwrap();
        let applied = cluster.node.store.applied(&key);
        let version = client
            .get(&key)
            .await
            .unwrap()
            .map_or(0, |entry| entry.version);
        assert_eq!(applied, version, "{key}");
        assert!(
            successes <= applied && applied <= successes + undetermined,
            "{key}"
        );
    }
}
