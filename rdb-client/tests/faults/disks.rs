//! Disks that are full, that fail, and that lose what was not synced.

use std::time::Duration;

use rdb_client::Client;
use tokio::time::sleep;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::run::Run;
use crate::stores::{STORES, Setup};

/// Larger than what stores need for themselves.
const DISK_MIB: u32 = 256;

const FILLER_BYTES: usize = 256 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disks_of_leaders_are_full() {
    let setup = Setup {
        disk_mib: Some(DISK_MIB),
        ..Setup::default()
    };
    let Some(mut run) = Run::begin("the_disks_of_leaders_are_full", setup).await else {
        return;
    };
    let client = Client::connect([run.stores.pd.address()]).await;
    let client = client.expect("the placement driver serves");
    while run.leaders_hit() < Run::rounds() {
        run.dwell().await;
        let leader = run.stores.leader().await;
        run.stores.fill_disk(leader.store).await;
        run.note_hit(leader);
        let full = &mut run.stores.nodes[leader.store];
        // What stores have set aside for their logs is used up, too.
        tokio::select! {
            () = fill(&client) => {}
            () = full.wait_for_health(ServingStatus::NotServing) => {}
        }
        full.wait_for_log("No space left").await;
        run.stores.another_leads(leader).await;
        run.load.goes_on().await;
        assert!(run.stores.resize_disk(leader.store, DISK_MIB << 10));
        run.stores.nodes[leader.store].kill();
        run.stores.nodes[leader.store].start_serving().await;
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
    let setup = Setup {
        shim: true,
        ..Setup::default()
    };
    let Some(mut run) = Run::begin("syncs_of_leaders_fail", setup).await else {
        return;
    };
    while run.leaders_hit() < 2 * Run::rounds() {
        run.dwell().await;
        let leader = run.stores.leader().await;
        run.stores.shims[leader.store].fail_syncs(true);
        run.note_hit(leader);
        let failing = &mut run.stores.nodes[leader.store];
        failing.wait_for_log("the Raft log has stopped").await;
        failing.wait_for_health(ServingStatus::NotServing).await;
        run.stores.another_leads(leader).await;
        run.load.goes_on().await;
        run.stores.shims[leader.store].fail_syncs(false);
        run.stores.nodes[leader.store].kill();
        run.stores.nodes[leader.store].start_serving().await;
    }
    run.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_stores_lose_power_at_once() {
    let setup = Setup {
        shim: true,
        ..Setup::default()
    };
    let Some(mut run) = Run::begin("all_stores_lose_power_at_once", setup).await else {
        return;
    };
    for _ in 0..2 * Run::rounds() {
        run.dwell().await;
        for store in &mut run.stores.nodes {
            store.kill();
        }
        for number in 0..STORES {
            let lost = run.stores.shims[number].cut_power();
            println!("store {number}: {lost:?}");
            assert!(lost.synced_files > 0, "the shim saw no sync");
            run.stores.nodes[number].start();
        }
        run.stores.all_serve().await;
        run.load.goes_on().await;
    }
    run.end().await;
}
