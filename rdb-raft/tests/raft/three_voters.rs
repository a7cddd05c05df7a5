//! Three stores with a peer each, over the transport that servers use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use openraft::raft::VoteRequest;
use rdb_raft::Vote;
use rdb_raft::machine::StateMachine;
use rdb_storage::{LogDatabase, Role, Storage, StorageOptions};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use crate::entries::log_id;
use crate::payloads::Payloads;
use crate::stores::{Store, Stores, TIMING, Ways};
use crate::voters::{GUARD, wait_until};

fn payload(number: usize) -> Bytes {
    Bytes::from(format!("payload {number}"))
}

/// Waits until all stores have applied the same, and returns it.
async fn agreed(stores: &[&Store], count_min: usize) -> Vec<Bytes> {
    let all = || stores.iter().map(|store| store.payloads.payloads());
    wait_until("all have applied the same", || {
        let mut applied = all();
        let first = applied.next().unwrap_or_default();
        first.len() >= count_min && applied.all(|other| other == first)
    })
    .await;
    all().next().unwrap_or_default()
}

#[tokio::test]
async fn three_stores_elect_a_leader_and_apply_the_same() {
    let stores = Stores::start().await;
    let leader = stores.leader(None).await;
    let writes = (0..100).map(|number| leader.write(payload(number)));
    for written in join_all(writes).await {
        written.unwrap();
    }
    let expected: Vec<_> = (0..100).map(payload).collect();
    for store in &stores.stores {
        store.has_applied(&expected).await;
    }
    stores.stop().await;
}

#[tokio::test]
async fn entries_of_any_size_reach_all_stores() {
    let stores = Stores::led().await;
    let sizes = [0, 1, 100 << 10, 1 << 20, 6 << 20, 1, 3 << 20];
    let payloads: Vec<_> = (0..)
        .zip(sizes)
        .map(|(fill, size)| vec![fill; size])
        .collect();
    let writes = payloads
        .iter()
        .map(|payload| stores.stores[0].write(payload.clone()));
    for written in join_all(writes).await {
        written.unwrap();
    }
    let expected: Vec<_> = payloads.into_iter().map(Bytes::from).collect();
    for store in &stores.stores {
        store.has_applied(&expected).await;
    }
    stores.stop().await;
}

#[tokio::test]
async fn what_was_acknowledged_outlives_its_leader() {
    let mut stores = Stores::led().await;
    let first = stores.stores.remove(0);
    let is_stopping = Arc::new(AtomicBool::new(false));
    let writing = async {
        let mut acknowledged = Vec::new();
        for number in 0.. {
            match first.write(payload(number)).await {
                Ok(()) => acknowledged.push(payload(number)),
                Err(_) if is_stopping.load(Ordering::Relaxed) => break,
                Err(error) => panic!("{error}"),
            }
        }
        acknowledged
    };
    let stopping = async {
        first.has_applied_some(50).await;
        is_stopping.store(true, Ordering::Relaxed);
        timeout(GUARD, first.node.shut_down()).await.unwrap();
    };
    let (acknowledged, ()) = tokio::join!(writing, stopping);

    let next = stores.leader(Some(1)).await;
    next.write("next").await.unwrap();
    let remaining: Vec<_> = stores.stores.iter().collect();
    let applied = agreed(&remaining, acknowledged.len() + 1).await;
    assert_eq!(applied[..acknowledged.len()], acknowledged);
    stores.stop().await;
    first.served.stop().await;
}

#[tokio::test]
async fn a_store_that_was_cut_off_catches_up() {
    let stores = Stores::led().await;
    let leader = &stores.stores[0];
    leader.write("before").await.unwrap();
    for way in stores.ways.of(3) {
        way.cut();
    }
    for number in 0..10 {
        leader.write(payload(number)).await.unwrap();
    }
    for way in stores.ways.of(3) {
        way.heal();
    }
    // It may have been elected meanwhile, or have cost the leader its term.
    let all: Vec<_> = stores.stores.iter().collect();
    let applied = agreed(&all, 11).await;
    assert_eq!(applied[0], "before");
    stores.stop().await;
}

#[tokio::test]
async fn a_store_that_was_not_reached_catches_up_with_more_than_a_window() {
    let stores = Stores::led().await;
    let leader = &stores.stores[0];
    leader.write("before").await.unwrap();
    stores.ways.way(1, 3).silence();
    for fill in 0..20 {
        leader.write(vec![fill; 1 << 20]).await.unwrap();
    }
    stores.ways.way(1, 3).heal();
    let all: Vec<_> = stores.stores.iter().collect();
    agreed(&all, 21).await;
    stores.stop().await;
}

#[tokio::test]
async fn a_leader_that_is_cut_off_is_replaced_and_follows() {
    let stores = Stores::led().await;
    let first = &stores.stores[0];
    first.write("before").await.unwrap();
    for way in stores.ways.of(1) {
        way.cut();
    }
    let next = stores.leader(Some(1)).await;
    next.write("after").await.unwrap();
    for way in stores.ways.of(1) {
        way.heal();
    }
    let all: Vec<_> = stores.stores.iter().collect();
    assert_eq!(agreed(&all, 2).await, ["before", "after"]);
    stores.stop().await;
}

#[tokio::test]
async fn a_leader_that_is_not_heard_is_replaced_and_follows() {
    let stores = Stores::led().await;
    stores.stores[0].write("before").await.unwrap();
    // Its connections stay open, and it hears the others.
    for to in [2, 3] {
        stores.ways.way(1, to).silence();
    }
    let next = stores.leader(Some(1)).await;
    next.write("after").await.unwrap();
    let all: Vec<_> = stores.stores.iter().collect();
    assert_eq!(agreed(&all, 2).await, ["before", "after"]);
    for to in [2, 3] {
        stores.ways.way(1, to).heal();
    }
    stores.leader(None).await.write("healed").await.unwrap();
    assert_eq!(agreed(&all, 3).await, ["before", "after", "healed"]);
    stores.stop().await;
}

#[tokio::test]
async fn a_quiet_leader_keeps_its_lease_and_is_replaced_once_it_is_gone() {
    let stores = Stores::led().await;
    // What it permits after a while was acknowledged meanwhile, though nobody has asked it for anything.
    let lease = Duration::from_millis(TIMING.election_timeout_max_ms);
    let keeps = async {
        loop {
            let leader = stores.leader(None).await;
            sleep(lease).await;
            if leader.group.try_permit_read() {
                break leader;
            }
        }
    };
    let keeps = timeout(GUARD, keeps).await;
    let leader = keeps.expect("it keeps its lease");
    timeout(GUARD, leader.node.shut_down()).await.unwrap();
    let next = stores.leader(Some(leader.id)).await;
    next.write("next").await.unwrap();
    stores.stop().await;
}

#[tokio::test]
async fn a_busy_leader_that_is_not_heard_stops_to_permit_reads_before_another_one_leads() {
    let stores = Stores::led().await;
    let [leader, second, third] = &stores.stores[..] else {
        panic!("there are three");
    };
    let writers = join_all((0..64).map(|_| async { while leader.write("busy").await.is_ok() {} }));
    let losing = async {
        second.has_applied_some(100).await;
        for to in [2, 3] {
            stores.ways.way(1, to).silence();
        }
        let request = VoteRequest::new(Vote::new(1000, 3), Some(log_id(1000, 1000)));
        let would_elect = async || {
            let voted = second.group.pre_vote(request.clone()).await.unwrap();
            voted.vote_granted || second.leads() || third.leads()
        };
        while !would_elect().await {
            sleep(Duration::from_millis(5)).await;
        }
        let permits = leader.group.try_permit_read();
        // The writers wait for it.
        leader.node.shut_down().await;
        permits
    };
    let (permits, _) = tokio::join!(losing, writers);
    assert!(!permits);
    stores.stop().await;
}

#[tokio::test]
async fn leadership_is_handed_over_to_another_store() {
    let stores = Stores::led().await;
    let [first, second, _] = &stores.stores[..] else {
        panic!("there are three");
    };
    first.write("before").await.unwrap();
    second.has_applied(&["before".into()]).await;
    first.group.transfer_leader(2).await.unwrap();
    wait_until("the second leads", || second.leads()).await;
    timeout(GUARD, second.group.permit_read())
        .await
        .unwrap()
        .unwrap();
    second.write("after").await.unwrap();
    let all: Vec<_> = stores.stores.iter().collect();
    assert_eq!(agreed(&all, 2).await, ["before", "after"]);
    stores.stop().await;
}

#[tokio::test]
async fn a_store_beside_dead_ones_shuts_down_and_leaves_no_task() {
    let alive_tasks = || Handle::current().metrics().num_alive_tasks();
    let Stores {
        ways, mut stores, ..
    } = Stores::led().await;
    let first = stores.remove(0);
    first.write("before").await.unwrap();
    // One has gone, and one stands still with its connections open.
    ways.way(1, 2).silence();
    stores.pop().unwrap().stop().await;
    let undecided = first.write("undecided");
    let shut_down = timeout(GUARD, first.node.shut_down());
    let (undecided, shut_down) = tokio::join!(undecided, shut_down);
    undecided.unwrap_err();
    shut_down.expect("it shuts down in time");
    stores.pop().unwrap().stop().await;
    first.served.stop().await;
    drop((first.node, first.group, ways));
    wait_until("no task is left", || alive_tasks() == 0).await;
}

/// A store with its log on the disk. Fields are dropped in their order.
struct OnDisk {
    store: Store,
    log: Arc<LogDatabase>,
    _storage: Storage,
}

impl OnDisk {
    async fn start(id: u64, directory: &TempDir, ways: &Ways, payloads: Arc<Payloads>) -> Self {
        let options = StorageOptions {
            replicated: true,
            ..StorageOptions::new(Role::Embedded)
        };
        let storage = Storage::open(directory.path(), options).unwrap();
        let log = Arc::new(storage.open_log().unwrap());
        let store = Store::start(id, ways, Arc::clone(&log) as _, payloads).await;
        Self {
            store,
            log,
            _storage: storage,
        }
    }

    async fn stop(self) {
        self.store.stop().await;
        drop(self.log);
    }
}

#[tokio::test]
async fn a_store_that_starts_again_on_its_directory_catches_up() {
    let ways = Ways::new().await;
    let directories = [1, 2, 3].map(|_| tempfile::tempdir().unwrap());
    let start =
        |id: u64, payloads| OnDisk::start(id, &directories[id as usize - 1], &ways, payloads);
    let first = start(1, Payloads::bootstrapped([1, 2, 3])).await;
    let second = start(2, Payloads::bootstrapped([1, 2, 3])).await;
    let third = start(3, Payloads::bootstrapped([1, 2, 3])).await;
    first.store.lead().await;
    first.store.write("before").await.unwrap();
    third.store.has_applied(&["before".into()]).await;

    third.store.payloads.flush().unwrap();
    let flushed = third.store.payloads.after_crash();
    third.stop().await;
    for number in 0..10 {
        first.store.write(payload(number)).await.unwrap();
    }
    let third = start(3, flushed).await;
    let all = [&first.store, &second.store, &third.store];
    let applied = agreed(&all, 11).await;
    assert_eq!(applied[0], "before");
    for store in [first, second, third] {
        store.stop().await;
    }
}
