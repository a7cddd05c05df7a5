//! Disks that are full, that fail, that hang, and that lose what was not synced.

use std::time::Duration;

use rdb_client::Client;
use tokio::time::sleep;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::run::Run;
use crate::stores::{Leader, STORES, Setup, Stores};

/// Larger than what stores need for themselves.
const DISK_MIB: u32 = 256;

const FILLER_BYTES: usize = 256 << 10;

/// Whose disk it is.
#[derive(Clone, Copy)]
enum Of {
    Leaders,
    Followers,
}

impl Of {
    fn store(self, leader: Leader) -> usize {
        match self {
            Self::Leaders => leader.store,
            Self::Followers => Stores::others(leader.store)[0],
        }
    }

    /// The disk of a store has failed: the others go on.
    async fn others_go_on(self, run: &Run, leader: Leader) {
        if matches!(self, Self::Leaders) {
            run.stores.another_leads(leader).await;
        }
        run.load.goes_on().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disks_of_leaders_are_full() {
    fill_disks("the_disks_of_leaders_are_full", Of::Leaders).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disks_of_followers_are_full() {
    fill_disks("the_disks_of_followers_are_full", Of::Followers).await;
}

async fn fill_disks(name: &'static str, of: Of) {
    let setup = Setup {
        disk_mib: Some(DISK_MIB),
        ..Setup::default()
    };
    let Some(mut run) = Run::begin(name, setup).await else {
        return;
    };
    let client = Client::connect([run.stores.pd.address()]).await;
    let client = client.expect("the placement driver serves");
    while run.leaders_hit() < Run::rounds() {
        run.dwell().await;
        let leader = run.stores.leader().await;
        let store = of.store(leader);
        run.stores.fill_disk(store).await;
        run.note_hit(leader);
        let full = &mut run.stores.nodes[store];
        // What stores have set aside for their logs is used up, too.
        tokio::select! {
            () = fill(&client) => {}
            () = full.wait_for_health(ServingStatus::NotServing) => {}
        }
        full.wait_for_log("No space left").await;
        of.others_go_on(&run, leader).await;
        assert!(run.stores.resize_disk(store, DISK_MIB << 10));
        run.stores.nodes[store].kill();
        run.stores.nodes[store].start_serving().await;
    }
    run.end().await;
}

/// Writes until it is dropped.
async fn fill(client: &Client) {
    loop {
        // It need not succeed.
        let _ = client.raw_put("filler", vec![0; FILLER_BYTES]).await;
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn syncs_of_leaders_fail() {
    fail_syncs("syncs_of_leaders_fail", Of::Leaders).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn syncs_of_followers_fail() {
    fail_syncs("syncs_of_followers_fail", Of::Followers).await;
}

async fn fail_syncs(name: &'static str, of: Of) {
    let setup = Setup {
        shim: true,
        ..Setup::default()
    };
    let Some(mut run) = Run::begin(name, setup).await else {
        return;
    };
    while run.leaders_hit() < 2 * Run::rounds() {
        run.dwell().await;
        let leader = run.stores.leader().await;
        let store = of.store(leader);
        run.stores.shims[store].fail_syncs(true);
        run.note_hit(leader);
        let failing = &mut run.stores.nodes[store];
        failing.wait_for_log("the Raft log has stopped").await;
        failing.wait_for_health(ServingStatus::NotServing).await;
        of.others_go_on(&run, leader).await;
        run.stores.shims[store].fail_syncs(false);
        run.stores.nodes[store].kill();
        run.stores.nodes[store].start_serving().await;
    }
    run.end().await;
}

/// A disk that neither finishes a sync nor fails it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn syncs_of_leaders_hang() {
    let setup = Setup {
        shim: true,
        ..Setup::default()
    };
    let Some(mut run) = Run::begin("syncs_of_leaders_hang", setup).await else {
        return;
    };
    while run.leaders_hit() < 2 * Run::rounds() {
        run.dwell().await;
        let leader = run.stores.leader().await;
        run.stores.hold_syncs(&[leader.store], &run.load).await;
        run.note_hit(leader);
        let hanging = &mut run.stores.nodes[leader.store];
        hanging.wait_for_log("neither ended nor failed").await;
        hanging.wait_for_health(ServingStatus::NotServing).await;
        Of::Leaders.others_go_on(&run, leader).await;
        run.stores.shims[leader.store].release_syncs();
    }
    run.end().await;
}

/// Every other time in the middle of a sync, so that each store has something to lose.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_stores_lose_power_at_once() {
    let setup = Setup {
        shim: true,
        loses_majority: true,
        ..Setup::default()
    };
    let Some(mut run) = Run::begin("all_stores_lose_power_at_once", setup).await else {
        return;
    };
    for cut in 0..2 * Run::rounds() {
        run.dwell().await;
        let is_within_sync = cut % 2 == 0;
        if is_within_sync {
            run.stores.hold_syncs(&[0, 1, 2], &run.load).await;
        }
        for store in &mut run.stores.nodes {
            store.kill();
        }
        for number in 0..STORES {
            let lost = run.stores.shims[number].cut_power();
            println!("store {number}: {lost:?}");
            assert!(lost.synced_files > 0, "the shim saw no sync");
            assert!(
                lost.log_bytes > 0 || !is_within_sync,
                "there was nothing to lose"
            );
            run.stores.nodes[number].start();
        }
        run.stores.all_serve().await;
        run.load.goes_on().await;
    }
    run.end().await;
}
