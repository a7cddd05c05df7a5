//! Read, change, swap: nothing is lost to other writers, nothing is written twice, and what is not known is not claimed.

use std::time::Duration;

use rdb_client::{Bytes, Client, Error, Versioned};
use rdb_proto::errorpb::NotReady;
use rdb_proto::errorpb::region_error::Kind;
use tonic::Status;

use crate::fates::cluster::{Cluster, SHORT};
use crate::fates::store::Step;
use crate::harness::{CallPath, over_both_paths};

over_both_paths! {
    an_update_is_given_what_is_there_and_returns_what_it_wrote,
    updates_that_race_lose_nothing,
    a_swap_that_got_lost_before_it_was_applied_is_made_again,
    a_swap_that_was_applied_and_whose_response_got_lost_is_not_made_twice_nor_claimed,
    a_swap_that_was_overtaken_on_its_way_goes_on_from_the_other_value,
    a_swap_that_was_overtaken_twice_is_undetermined,
    a_fence_that_never_got_through_leaves_the_swap_undetermined,
    a_creation_is_not_made_twice,
}

fn lost() -> Status {
    Status::unavailable("bare")
}

/// A cluster whose store has `k` at version 1.
async fn one_key(path: CallPath) -> (Cluster, Client) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    assert_eq!(client.cas_put("k", 0, "1").await, Ok(1));
    (cluster, client)
}

fn next(current: Option<&Versioned>) -> Bytes {
    let current = current.map_or("0", |current| std::str::from_utf8(&current.value).unwrap());
    (current.parse::<u64>().unwrap() + 1).to_string().into()
}

/// Makes the next value, and has the swap that follows fare as the script says. The read before it and later swaps are
/// served.
fn next_with(cluster: &Cluster, step: Step) -> impl FnMut(Option<&Versioned>) -> Bytes + use<> {
    let store = cluster.node.store.clone();
    let mut step = Some(step);
    move |current| {
        store.script(1, step.take());
        next(current)
    }
}

async fn an_update_is_given_what_is_there_and_returns_what_it_wrote(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    for count in 1..=3 {
        let written = client.update("k", next).await.unwrap();
        assert_eq!(
            (written.version, written.value),
            (count, count.to_string().into())
        );
    }
    assert_eq!(cluster.node.store.applied("k"), 3);
    let refused = client.update("", next).await;
    assert!(
        matches!(refused, Err(Error::InvalidArgument { .. })),
        "{refused:?}"
    );
}

async fn updates_that_race_lose_nothing(path: CallPath) {
    let (cluster, client) = one_key(path).await;
    let updates = (0..16).map(|_| {
        let client = client.clone();
        tokio::spawn(async move {
            for _ in 0..4 {
                client.update("k", next).await.unwrap();
            }
        })
    });
    for ended in futures::future::join_all(updates).await {
        ended.unwrap();
    }
    let entry = client.get("k").await.unwrap().unwrap();
    assert_eq!((entry.version, entry.value), (65, "65".into()));
    assert_eq!(cluster.node.store.applied("k"), 65);
}

async fn a_swap_that_got_lost_before_it_was_applied_is_made_again(path: CallPath) {
    let (cluster, client) = one_key(path).await;
    let change = next_with(&cluster, Step::Fail(lost()));
    let written = client.update("k", change).await.unwrap();
    assert_eq!((written.version, written.value), (2, "2".into()));
    assert_eq!(cluster.node.store.applied("k"), 2);
}

async fn a_swap_that_was_applied_and_whose_response_got_lost_is_not_made_twice_nor_claimed(
    path: CallPath,
) {
    let (cluster, client) = one_key(path).await;
    let change = next_with(&cluster, Step::ApplyAndFail(lost()));
    let written = client.update("k", change).await;
    // Another counter could have written the same value.
    assert!(
        matches!(written, Err(Error::Undetermined { .. })),
        "{written:?}"
    );
    assert_eq!(cluster.node.store.applied("k"), 2);
    assert_eq!(client.get("k").await.unwrap().unwrap().value, "2");
}

/// An update whose swap is on its way when another client writes `k` so many times, and never arrives.
async fn overtaken(path: CallPath, writes: u64) -> (Cluster, Result<Versioned, Error>) {
    let (cluster, client) = one_key(path).await;
    let other = cluster.client_over(path).await;
    let arrived = cluster.node.store.requests();
    let change = next_with(&cluster, Step::Hang);
    let updating = tokio::spawn(async move { client.update("k", change).await });
    cluster.node.store.wait_arrived(arrived + 2).await;
    for version in 1..=writes {
        let written = other.cas_put("k", version, "10").await;
        assert_eq!(written, Ok(version + 1));
    }
    cluster.node.proxy.cut().await;
    (cluster, updating.await.unwrap())
}

async fn a_swap_that_was_overtaken_on_its_way_goes_on_from_the_other_value(path: CallPath) {
    let (cluster, updated) = overtaken(path, 1).await;
    let written = updated.unwrap();
    assert_eq!((written.version, written.value), (3, "11".into()));
    assert_eq!(cluster.node.store.applied("k"), 3);
}

async fn a_swap_that_was_overtaken_twice_is_undetermined(path: CallPath) {
    let (_cluster, updated) = overtaken(path, 2).await;
    assert!(
        matches!(updated, Err(Error::Undetermined { .. })),
        "{updated:?}"
    );
}

async fn a_fence_that_never_got_through_leaves_the_swap_undetermined(path: CallPath) {
    let (cluster, client) = one_key(path).await;
    let store = cluster.node.store.clone();
    let mut change = next_with(&cluster, Step::ApplyAndFail(lost()));
    let hurried = client.with_timeout(SHORT);
    let updated = hurried.update("k", |current| {
        let reason = "draining".to_owned();
        store.refuse_always(Kind::NotReady(NotReady { reason }));
        change(current)
    });
    let updated = updated.await;
    // Each refusal is certain, of the second swap.
    assert!(
        matches!(updated, Err(Error::Undetermined { .. })),
        "{updated:?}"
    );
    assert_eq!(cluster.node.store.applied("k"), 2);
}

async fn a_creation_is_not_made_twice(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    let change = next_with(&cluster, Step::Fail(lost()));
    let created = client.update("k", change).await;
    assert!(
        matches!(created, Err(Error::Undetermined { .. })),
        "{created:?}"
    );
    assert_eq!(cluster.node.store.requests(), 2, "a read and a swap");
}

#[tokio::test]
async fn an_update_ends_at_its_deadline_with_the_conflict_when_others_are_always_faster() {
    let (cluster, client) = one_key(CallPath::Batched).await;
    let hurried = client.with_timeout(Duration::from_millis(200));
    let store = cluster.node.store.clone();
    let updated = hurried.update("k", |current| {
        // Somebody else writes in between, every time.
        store.swap("k", current.map_or(0, |current| current.version), "10");
        next(current)
    });
    match updated.await {
        Err(Error::Conflict { current_value, .. }) => assert_eq!(current_value, Some("10".into())),
        // The deadline met it between two swaps, or within one.
        Err(Error::DeadlineExceeded { .. } | Error::Undetermined { .. }) => {}
        other => panic!("{other:?}"),
    }
}
