//! What one look at a store with many regions costs, and that it waits for no write. Regions do not split yet, so a placement driver of
//! the test makes them up.

use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::{HANG_GUARD, Metrics, Node, found, guarded, http_get, skipped};
use crate::held_disk;
use crate::scripted_pd::ScriptedPd;

const REGIONS: u64 = 1000;

const SCRAPES: usize = 50;

/// The median of a release build on an idle machine.
const AIM: Duration = Duration::from_millis(20);

/// Prints how long a scrape takes, from connecting until its last byte. docs/monitoring.md says how to run it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, so it wants an idle machine and a release build"]
async fn a_scrape_of_a_thousand_regions_takes_20_ms_at_most() {
    let pd = ScriptedPd::start("", "").await;
    pd.assign_many(REGIONS);
    let directory = TempDir::new().expect("the temporary directory can be written");
    let store = Node::store(directory.path().join("store"), &pd.address());
    let mut store = store.with_status();
    store.start_serving().await;
    let address = store.status_address().await;
    found("the store leads them all", async || {
        let metrics = Metrics::of(&address).await;
        (metrics.get("flaredb_regions_led") == REGIONS as f64).then_some(())
    })
    .await;
    let (mut took, mut bytes) = (Vec::new(), 0);
    for _ in 0..SCRAPES {
        let began = Instant::now();
        let answer = http_get(&address, "/metrics").await;
        took.push(began.elapsed());
        bytes = answer.body.len();
    }
    took.sort_unstable();
    let (median, last) = (took[SCRAPES / 2], took[SCRAPES - 1]);
    println!("{REGIONS} regions: {bytes} bytes, median {median:?}, longest {last:?}");
    assert!(median <= AIM, "{took:?}");
}

/// If a look took a lock that a write holds while it is synced, it would have no end here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_at_a_store_does_not_wait_for_a_write_whose_sync_does_not_end() {
    let Some((mut cluster, shim)) = held_disk::prepare() else {
        return skipped("there is no C compiler");
    };
    cluster.store = cluster.store.with_status();
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;
    let address = cluster.store.status_address().await;
    let client = cluster.client().await.with_timeout(HANG_GUARD);
    client.raw_put("k", "1").await.expect("put");

    let held_at = shim.hold_syncs();
    let write = tokio::spawn(async move { client.raw_put("k", "2").await });
    found("the write waits for a sync", async || {
        let metrics = Metrics::of(&address).await;
        let is_queued = metrics.get("flaredb_write_queue_bytes") > 0.0;
        (is_queued && shim.has_unsynced_log(&held_at)).then_some(())
    })
    .await;
    for path in ["/metrics", "/status", "/page.json"] {
        let answer = guarded(path, http_get(&address, path)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert!(!write.is_finished());
    shim.release_syncs();
    write.await.expect("no panic").expect("it goes on");
}
