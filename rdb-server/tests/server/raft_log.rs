//! A Raft log and data that do not belong together.

use std::fs;
use std::path::Path;

use crate::harness::{Cluster, copy_directory, damage_largest_table};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raft_log_that_is_older_than_the_data_is_refused() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    client.raw_put("early", "value").await.expect("put");
    let store = &mut cluster.store;
    store.terminate();
    assert!(store.exited().await.success());
    let log = store.data_dir().join("raft");
    let older = tempfile::tempdir().expect("the temporary directory can be written");
    copy_directory(&log, older.path());

    // Another start leads in another term, and what is applied in it is flushed.
    store.start_serving().await;
    client.raw_put("late", "value").await.expect("put");
    store.terminate();
    assert!(store.exited().await.success());
    let newer = tempfile::tempdir().expect("the temporary directory can be written");
    copy_directory(&log, newer.path());
    replace(&log, older.path());

    store.start();
    let ended = store.exited().await;
    assert_eq!(ended.code(), Some(3), "an operator has to look");
    let refused = store.log();
    for told in ["region 1", "the log of the group is older than its state"] {
        assert!(refused.contains(told), "{refused}");
    }

    replace(&log, newer.path());
    store.start_serving().await;
    for key in ["early", "late"] {
        let value = client.raw_get(key).await.expect("read");
        assert_eq!(value.as_deref(), Some(&b"value"[..]), "{key}");
    }
}

/// A start after a kill applies the end of the log again, and a swap reads what it replaces.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_block_that_a_start_needs_is_named_with_its_region() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    let mut random = fastrand::Rng::with_seed(1);
    let mut value = vec![0; 256 << 10];
    random.fill(&mut value);
    let least_bytes = value.len();
    let version = client.cas_put("key", 0, value).await;
    let version = version.expect("swapped");
    let store = &mut cluster.store;
    store.terminate();
    assert!(store.exited().await.success(), "it has flushed");
    store.start_serving().await;
    let swapped = client.cas_put("key", version, "small").await;
    swapped.expect("swapped");
    store.kill();
    damage_largest_table(&store.data_dir().join("db"), least_bytes);

    store.start();
    let ended = store.exited().await;
    assert_eq!(ended.code(), Some(3), "an operator has to look");
    let refused = store.log();
    for told in [
        "region 1",
        "its log cannot be applied",
        ".sst",
        "Copy the directory",
    ] {
        assert!(refused.contains(told), "{refused}");
    }
}

fn replace(directory: &Path, with: &Path) {
    fs::remove_dir_all(directory).expect("it is there");
    copy_directory(with, directory);
}
