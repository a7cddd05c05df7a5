//! A store that is away until the others have cut the logs that it needs.

use std::time::Duration;

use rdb_client::{Client, Error};
use tokio::time::sleep;

use crate::harness::found;
use crate::members::client;
use crate::run::Run;
use crate::stores::{Setup, Stores};

const LOG_MIB_MAX: u64 = 16;

/// More than leaders keep then, in values of 1 MiB.
const LARGE_PUTS: u64 = 120;

/// Few keys make a snapshot small. As many as there are puts make one that takes some two seconds, since a store sends at most 64 MiB in
/// a second.
const FEW_KEYS: u64 = 4;
const MANY_KEYS: u64 = LARGE_PUTS;

/// How long such a snapshot is on its way before a store dies.
const ON_ITS_WAY_MS_MAX: u64 = 1500;

/// Snapshots that may have arrived before a store died.
const TRIES_MAX: u64 = 10;

const RECEIVED: &str = "a snapshot was received";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_come_back_by_a_snapshot() {
    let setup = Setup {
        log_mib_max: Some(LOG_MIB_MAX),
        ..Setup::default()
    };
    let Some(mut run) = Run::begin("followers_come_back_by_a_snapshot", setup).await else {
        return;
    };
    let client = client(&run).await;
    for _ in 0..Run::rounds() {
        let follower = falls_behind(&mut run, &client, FEW_KEYS).await;
        let follower = &mut run.stores.nodes[follower];
        follower.start_serving().await;
        follower.wait_for_log(RECEIVED).await;
        run.load.goes_on().await;
    }
    run.end().await;
}

/// The leader that sends it, and the follower that gets it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_die_while_a_snapshot_is_on_its_way() {
    let setup = Setup {
        log_mib_max: Some(LOG_MIB_MAX),
        // Without the leader, the others are no majority before one of them has the snapshot.
        loses_majority: true,
        ..Setup::default()
    };
    let name = "stores_die_while_a_snapshot_is_on_its_way";
    let Some(mut run) = Run::begin(name, setup).await else {
        return;
    };
    let client = client(&run).await;
    for _ in 0..Run::rounds() {
        for leader_dies in [true, false] {
            let mut tries = 0;
            while !dies_on_the_way(&mut run, &client, leader_dies).await {
                tries += 1;
                assert!(tries < TRIES_MAX, "each snapshot had arrived");
            }
        }
    }
    run.end().await;
}

/// Returns whether the snapshot was on its way then.
async fn dies_on_the_way(run: &mut Run, client: &Client, leader_dies: bool) -> bool {
    let follower = falls_behind(run, client, MANY_KEYS).await;
    run.stores.nodes[follower].start();
    run.stores.nodes[follower]
        .wait_for_log("receiving a snapshot")
        .await;
    let leader = run.stores.leader().await;
    sleep(Duration::from_millis(run.random.u64(0..ON_ITS_WAY_MS_MAX))).await;
    let dies = if leader_dies { leader.store } else { follower };
    run.stores.nodes[dies].kill();
    let has_arrived = run.stores.nodes[follower].log().contains(RECEIVED);
    let is_hit = !has_arrived && run.stores.leads(leader);
    println!("store {dies} dies, led by {leader:?}: on the way: {is_hit}");
    run.stores.nodes[dies].start();
    run.load.goes_on().await;
    run.stores.all_serve().await;
    is_hit
}

/// Kills a follower, and has the others cut the logs that it needs. Returns which one.
async fn falls_behind(run: &mut Run, client: &Client, keys: u64) -> usize {
    run.dwell().await;
    let leader = run.stores.leader().await;
    let [follower, _] = Stores::others(leader.store);
    run.stores.nodes[follower].kill();
    put_more_than_a_log_keeps(client, keys).await;
    follower
}

async fn put_more_than_a_log_keeps(client: &Client, keys: u64) {
    for number in 0..LARGE_PUTS {
        let put = async || {
            let key = format!("large-{}", number % keys);
            match client.raw_put(key, vec![number as u8; 1 << 20]).await {
                Ok(()) => Some(()),
                Err(Error::Undetermined { .. }) => None,
                Err(error) => panic!("put {number}: {error}"),
            }
        };
        found("a large value is put", put).await;
    }
}
