//! Three stores of which one lacks what the others have purged.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdb_raft::Timing;
use rdb_raft::machine::StateMachine;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::device::TestDevice;
use crate::payloads::Payloads;
use crate::stores::{KEPT_BYTES, Store, Stores};
use crate::voters::{GUARD, wait_until};

/// Nobody takes a busy store for a dead one.
pub(crate) const LONG: Timing = Timing {
    heartbeat_ms: 500,
    election_timeout_min_ms: 300_000,
    election_timeout_max_ms: 600_000,
};

const PAYLOAD_BYTES: usize = 4 << 20;

/// More than what is kept, and a stride.
const MANY: u64 = KEPT_BYTES / PAYLOAD_BYTES as u64 + 5;

async fn write_many(store: &Store) {
    for number in 0..MANY {
        store
            .write(vec![number as u8; PAYLOAD_BYTES])
            .await
            .unwrap();
    }
}

fn purged(store: &Store) -> u64 {
    store.group.purged().map_or(0, |purged| purged.index)
}

/// Flushes, and waits until the log is purged further than it is.
async fn purges(store: &Store) {
    let before = purged(store);
    store.payloads.flush().unwrap();
    purges_beyond(store, before).await;
}

/// Waits until the log is purged further than to `before`. A leader that is about to purge waits for the next answer of a peer whose
/// last one it has not noted, so something is written.
async fn purges_beyond(store: &Store, before: u64) {
    let purges = async {
        while purged(store) <= before {
            if store.leads() {
                store.write("news").await.unwrap();
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let purged = timeout(GUARD, purges).await;
    purged.expect("it purges its log in time");
}

fn cut(stores: &Stores, id: u64) {
    stores.ways.of(id).for_each(|way| way.cut());
}

fn heal(stores: &Stores, id: u64) {
    stores.ways.of(id).for_each(|way| way.heal());
}

/// Waits until a chunk is about to be read for another store.
async fn is_sending(payloads: &Arc<Payloads>) {
    let payloads = Arc::clone(payloads);
    let arrival = spawn_blocking(move || payloads.chunks.wait_for_arrival());
    arrival.await.unwrap();
}

fn installs(store: &Store) -> usize {
    store.payloads.state().installs
}

fn applied(store: &Store) -> Vec<Bytes> {
    store.payloads.payloads()
}

/// Three stores of which the third one was cut off while the others wrote, flushed and purged more than leaders keep.
async fn with_one_behind() -> Stores {
    let stores = Stores::led_with(LONG).await;
    let leader = &stores.stores[0];
    leader.write("before").await.unwrap();
    stores.stores[2].has_applied_some(1).await;
    cut(&stores, 3);
    write_many(leader).await;
    stores.stores[1].has_applied(&applied(leader)).await;
    purges(leader).await;
    stores
}

#[tokio::test]
async fn a_peer_that_lacks_what_was_purged_gets_a_snapshot_and_then_the_log() {
    let stores = with_one_behind().await;
    let [leader, _, behind] = &stores.stores[..] else {
        panic!("there are three");
    };
    assert_eq!(applied(behind).len(), 1);
    heal(&stores, 3);
    behind.has_applied(&applied(leader)).await;
    assert_eq!(installs(behind), 1);
    leader.write("after").await.unwrap();
    behind.has_applied(&applied(leader)).await;
    // It can lead, and has what the others need.
    leader.group.transfer_leader(3).await.unwrap();
    wait_until("it leads", || behind.leads()).await;
    behind.group.permit_read().await.unwrap();
    behind.write("by the third").await.unwrap();
    leader.has_applied(&applied(behind)).await;
    stores.stop().await;
}

#[tokio::test]
async fn a_peer_that_is_a_little_behind_gets_the_log() {
    let stores = Stores::led_with(LONG).await;
    let leader = &stores.stores[0];
    cut(&stores, 3);
    for number in 0..5 {
        leader.write(vec![number; PAYLOAD_BYTES]).await.unwrap();
    }
    leader.payloads.flush().unwrap();
    leader.group.purge(KEPT_BYTES).await.unwrap();
    assert_eq!(purged(leader), 0);
    heal(&stores, 3);
    stores.stores[2].has_applied(&applied(leader)).await;
    assert_eq!(installs(&stores.stores[2]), 0);
    // Nobody needs it any more, and it is flushed.
    purges_beyond(leader, 0).await;
    stores.stop().await;
}

#[tokio::test]
async fn writes_go_on_while_a_snapshot_is_sent_and_reach_the_peer_that_gets_it() {
    let stores = with_one_behind().await;
    let [leader, _, behind] = &stores.stores[..] else {
        panic!("there are three");
    };
    leader.payloads.chunks.close();
    heal(&stores, 3);
    is_sending(&leader.payloads).await;
    write_many(leader).await;
    leader.payloads.flush().unwrap();
    leader.group.purge(KEPT_BYTES).await.unwrap();
    leader.payloads.chunks.open();
    behind.has_applied(&applied(leader)).await;
    stores.stop().await;
}

#[tokio::test]
async fn a_leader_that_is_lost_while_it_sends_a_snapshot_is_followed_by_one_that_sends_its_own() {
    let stores = with_one_behind().await;
    let [first, second, behind] = &stores.stores[..] else {
        panic!("there are three");
    };
    purges(second).await;
    first.payloads.chunks.close();
    heal(&stores, 3);
    is_sending(&first.payloads).await;
    cut(&stores, 1);
    second.lead().await;
    second.write("after").await.unwrap();
    behind.has_applied(&applied(second)).await;
    assert_eq!(installs(behind), 1);
    first.payloads.chunks.open();
    heal(&stores, 1);
    first.has_applied(&applied(second)).await;
    stores.stop().await;
}

#[tokio::test]
async fn a_store_that_ends_while_it_receives_a_snapshot_gets_another_one() {
    let mut stores = with_one_behind().await;
    let leader = Arc::clone(&stores.stores[0].payloads);
    leader.chunks.close();
    heal(&stores, 3);
    is_sending(&leader).await;
    let behind = stores.stores.pop().unwrap();
    let payloads = behind.payloads.after_crash();
    behind.stop().await;
    leader.chunks.open();
    let device = Arc::clone(&stores.devices[2]);
    let behind = Store::start(3, &stores.ways, device, payloads).await;
    behind.has_applied(&leader.payloads()).await;
    assert_eq!(installs(&behind), 1);
    stores.stores.push(behind);
    stores.stop().await;
}

#[tokio::test]
async fn a_snapshot_of_which_nothing_arrives_any_more_is_given_up_and_another_one_is_sent() {
    let stores = with_one_behind().await;
    let [leader, _, behind] = &stores.stores[..] else {
        panic!("there are three");
    };
    leader.payloads.chunks.close();
    heal(&stores, 3);
    is_sending(&leader.payloads).await;
    stores.ways.way(1, 3).silence();
    leader.payloads.chunks.open();
    let is_over = || leader.payloads.state().snapshots_over > 0;
    wait_until("it is given up", is_over).await;
    heal(&stores, 3);
    behind.has_applied(&applied(leader)).await;
    assert!(installs(behind) > 0);
    assert!(leader.payloads.state().snapshots > 1);
    stores.stop().await;
}

/// A stream of appends whose answers are slow is not broken.
#[tokio::test]
async fn a_peer_whose_device_is_slow_does_not_keep_the_log_and_gets_a_snapshot() {
    let mut stores = Stores::led_with(LONG).await;
    let behind = stores.stores.pop().unwrap();
    let payloads = behind.payloads.after_crash();
    behind.stop().await;
    let mut device = TestDevice::default();
    device.memory = stores.devices[2].after_power_cut(usize::MAX);
    let device = Arc::new(device);
    let behind = Store::start(3, &stores.ways, Arc::clone(&device) as _, payloads).await;
    let [leader, second] = &stores.stores[..] else {
        panic!("two are left");
    };
    leader.write("before").await.unwrap();
    behind.has_applied_some(1).await;
    device.writes.close();
    write_many(leader).await;
    second.has_applied(&applied(leader)).await;
    purges(leader).await;
    device.writes.open();
    behind.has_applied(&applied(leader)).await;
    assert_eq!(installs(&behind), 1);
    stores.stores.push(behind);
    stores.stop().await;
}

#[tokio::test]
async fn a_snapshot_is_taken_once_the_peer_has_space_for_it() {
    let stores = with_one_behind().await;
    let [leader, _, behind] = &stores.stores[..] else {
        panic!("there are three");
    };
    behind.payloads.state().has_no_space = true;
    heal(&stores, 3);
    let refused = || behind.payloads.state().refused_snapshots >= 3;
    wait_until("it is asked again and again", refused).await;
    assert_eq!(leader.payloads.state().snapshots, 0);
    behind.payloads.state().has_no_space = false;
    behind.has_applied(&applied(leader)).await;
    assert_eq!(leader.payloads.state().snapshots, 1);
    stores.stop().await;
}
