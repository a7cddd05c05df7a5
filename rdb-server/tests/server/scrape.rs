//! What one look at a store with many regions costs. Regions do not split yet, so a placement driver of the test makes them up.

use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::{Metrics, Node, found, http_get};
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
