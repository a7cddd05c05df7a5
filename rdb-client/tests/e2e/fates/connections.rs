//! What becomes of a call when its connection breaks, or is never made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rdb_client::{Client, Error};
use tokio::task::JoinSet;

use crate::fates::cluster::{Cluster, SHORT, region};
use crate::fates::proxy::{Mode, Proxy};
use crate::fates::store::Step;
use crate::harness::{CallPath, over_both_paths};

over_both_paths! {
    a_refused_connection_is_made_again_and_the_write_applied_once,
    a_refused_connection_is_certain_also_at_the_deadline,
    a_connection_closed_at_accept_was_never_made,
    a_connection_cut_during_a_write_leaves_it_undetermined,
    a_connection_cut_after_a_write_leaves_it_undetermined_and_applied_once,
    a_write_on_an_idle_connection_that_broke_is_applied_once,
    a_read_survives_a_cut,
    a_store_that_restarts_at_another_address_is_found_again,
    a_store_that_restarts_at_its_address_needs_no_placement_driver,
    with_the_last_clone_every_connection_ends,
}

over_both_paths! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    through_many_cuts_every_success_was_applied_once_and_nothing_twice,
}

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

async fn a_refused_connection_is_made_again_and_the_write_applied_once(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    cluster.node.proxy.refuse().await;
    let lookups = cluster.pd.pd.region_lookups();
    let write = tokio::spawn(async move { client.cas_put("k", 0, "v").await });
    // The third lookup comes after two attempts to connect.
    cluster.pd.pd.wait_region_lookups(lookups + 3).await;
    cluster.node.proxy.listen();
    assert_eq!(write.await.unwrap(), Ok(1));
    assert_eq!(cluster.node.store.applied("k"), 1);
}

async fn a_refused_connection_is_certain_also_at_the_deadline(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await.with_timeout(SHORT);
    cluster.node.proxy.refuse().await;
    let result = client.raw_put("k", "v").await;
    assert!(is_out_of_time(&result), "{result:?}");
}

async fn a_connection_closed_at_accept_was_never_made(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    cluster.node.proxy.set_mode(Mode::CloseAtAccept);
    let hurried = client.with_timeout(SHORT);
    let result = hurried.cas_put("k", 0, "v").await;
    assert!(is_out_of_time(&result), "{result:?}");
    cluster.node.proxy.set_mode(Mode::Pass);
    assert_eq!(client.cas_put("k", 0, "v").await, Ok(1));
    assert_eq!(cluster.node.store.applied("k"), 1);
}

async fn a_connection_cut_during_a_write_leaves_it_undetermined(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    client.raw_get("k").await.unwrap();
    cluster.node.proxy.set_mode(Mode::CutRequests);
    let result = client.cas_put("k", 0, "v").await;
    assert!(is_undetermined(&result), "{result:?}");
    assert_eq!(cluster.node.store.requests(), 1, "the read alone");
}

async fn a_connection_cut_after_a_write_leaves_it_undetermined_and_applied_once(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
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

async fn a_write_on_an_idle_connection_that_broke_is_applied_once(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
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

async fn a_read_survives_a_cut(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    client.raw_put("k", "v").await.unwrap();
    cluster.node.store.script(1, [Step::Hang]);
    let reader = client.clone();
    let read = tokio::spawn(async move { reader.raw_get("k").await });
    cluster.node.store.wait_arrived(2).await;
    cluster.node.proxy.cut().await;
    assert_eq!(read.await.unwrap(), Ok(Some("v".into())));
}

async fn a_store_that_restarts_at_another_address_is_found_again(path: CallPath) {
    let mut cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    client.raw_put("k", "v").await.unwrap();
    let _old_address: Proxy = cluster.node.move_away().await;
    let moved = cluster.node.route(region(1, 1, "", ""));
    cluster.pd.pd.set_routes(vec![moved]);
    assert_eq!(client.raw_get("k").await, Ok(Some("v".into())));
    client.raw_put("k", "v2").await.unwrap();
    assert_eq!(cluster.node.store.raw("k"), Some("v2".into()));
}

async fn a_store_that_restarts_at_its_address_needs_no_placement_driver(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    client.raw_put("k", "v").await.unwrap();
    cluster.pd.proxy.refuse().await;
    cluster.node.proxy.cut().await;
    assert_eq!(client.raw_get("k").await, Ok(Some("v".into())));
}

async fn with_the_last_clone_every_connection_ends(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    let clone = client.clone();
    client.raw_get("k").await.unwrap();
    drop(client);
    clone.raw_get("k").await.unwrap();
    assert_eq!(cluster.node.proxy.connections(), 1, "clones share");
    drop(clone);
    cluster.node.proxy.closed().await;
    cluster.pd.proxy.closed().await;
}

/// What became of the writes of one task.
#[derive(Default)]
struct Tally {
    /// Keys that were written once, with whether the write succeeded; else its fate is open.
    once: Vec<(String, bool)>,
    counted: u64,
    /// Steps of the counter whose fate is open.
    open: u64,
}

/// Until told to stop: writes each of its keys once, and steps its counter by compare-and-swap.
async fn write_and_count(client: Client, counter: String, stop: Arc<AtomicBool>) -> Tally {
    let mut tally = Tally::default();
    while !stop.load(Ordering::Relaxed) {
        let key = format!("{counter}-{}", tally.once.len());
        let written = client.raw_put(&key, "v").await;
        assert!(written.is_ok() || is_undetermined(&written), "{written:?}");
        tally.once.push((key, written.is_ok()));

        let entry = client.get(&counter).await.unwrap();
        let version = entry.map_or(0, |entry| entry.version);
        match client.cas_put(&counter, version, "v").await {
            Ok(written) => {
                assert_eq!(written, version + 1);
                tally.counted += 1;
            }
            Err(Error::Undetermined { .. }) => tally.open += 1,
            // An earlier step whose fate was open may come in late. Without one, the client would have sent a step twice.
            Err(Error::Conflict { .. }) if tally.open > 0 => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    tally
}

async fn through_many_cuts_every_success_was_applied_once_and_nothing_twice(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    let store = &cluster.node.store;
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let counter = format!("counter{task}");
        let writing = write_and_count(client.clone(), counter.clone(), Arc::clone(&stop));
        tasks.spawn(async move { (counter, writing.await) });
    }
    for round in 1..=20 {
        store.wait_applied(round * 40).await;
        cluster.node.proxy.cut().await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(finished) = tasks.join_next().await {
        let (counter, tally) = finished.unwrap();
        for (key, succeeded) in tally.once {
            let applied = store.applied(&key);
            assert!(
                applied == 1 || (applied == 0 && !succeeded),
                "{key}: {applied}"
            );
        }
        let applied = store.applied(&counter);
        assert!(
            tally.counted <= applied && applied <= tally.counted + tally.open,
            "{counter}: {applied} applied, {} succeeded, {} open",
            tally.counted,
            tally.open
        );
    }
}
