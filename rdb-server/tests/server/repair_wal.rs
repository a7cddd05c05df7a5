//! A damaged write-ahead log: refused, then cut with `--repair-wal`, then served.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::harness::{Cluster, Node, binary};

/// More than one block of the log each, so that damage in the middle is not taken for a torn end.
const VALUE_BYTES: usize = 64 << 10;

const KEYS: u32 = 32;

fn key(number: u32) -> String {
    format!("key-{number:02}")
}

/// The file of `directory` or below that ends in `.log` and is the largest: the log that holds the writes.
fn write_ahead_log(directory: &Path) -> PathBuf {
    let mut directories = vec![directory.to_owned()];
    let mut logs = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("the data directory can be read") {
            let entry = entry.expect("the data directory can be read");
            let metadata = entry.metadata().expect("nobody removes files now");
            if metadata.is_dir() {
                directories.push(entry.path());
            } else if entry.path().extension().is_some_and(|name| name == "log") {
                logs.push((metadata.len(), entry.path()));
            }
        }
    }
    logs.into_iter().max().expect("there is a log").1
}

fn damage_the_middle(log: &Path) {
    let mut bytes = std::fs::read(log).expect("the log can be read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(log, bytes).expect("the log can be written");
}

fn repair(store: &Node) -> Output {
    Command::new(binary("rdb-server"))
        .arg("--repair-wal")
        .env("NO_COLOR", "1")
        .arg("--data-dir")
        .arg(store.data_dir())
        .output()
        .expect("the binary can be started")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_refused_by_name_and_served_up_to_the_damage_once_it_was_repaired() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    for number in 0..KEYS {
        let value = vec![b'v'; VALUE_BYTES];
        client.raw_put(key(number), value).await.expect("put");
    }
    let store = &mut cluster.store;
    store.kill();
    let log = write_ahead_log(store.data_dir());
    damage_the_middle(&log);

    store.start();
    let ended = store.exited().await;
    assert_eq!(ended.code(), Some(3), "damage is not served");
    let name = log.file_name().expect("a file").to_string_lossy();
    let refused = store.log();
    for told in [&*name, "damaged at byte", "--repair-wal"] {
        assert!(refused.contains(told), "{refused}");
    }
    assert!(!refused.contains("dropping"), "nothing was: {refused}");

    let repaired = repair(store);
    assert!(repaired.status.success(), "{repaired:?}");
    let told = String::from_utf8_lossy(&repaired.stderr);
    for told_of in [&*name, "damaged at byte", "bytes of log", "are lost"] {
        assert!(told.contains(told_of), "{told}");
    }
    let again = repair(store);
    assert!(again.status.success(), "{again:?}");
    let told = String::from_utf8_lossy(&again.stderr);
    assert!(
        told.contains("nothing was cut") && !told.contains("lost"),
        "{told}"
    );
    store.start_serving().await;
    let mut present = Vec::new();
    for number in 0..KEYS {
        let value = client.raw_get(key(number)).await.expect("served");
        present.push(value.is_some());
    }
    let kept = present.iter().take_while(|present| **present).count();
    assert!(0 < kept && kept < KEYS as usize, "{kept} of {KEYS} kept");
    assert!(
        present[kept..].iter().all(|present| !present),
        "a hole: {present:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_placement_driver_that_is_damaged_says_how_a_copy_takes_its_place() {
    let mut cluster = Cluster::start().await;
    let pd = &mut cluster.pd;
    pd.kill();
    let log = write_ahead_log(pd.data_dir());
    let mut bytes = std::fs::read(&log).expect("the log can be read");
    // A record that others follow: the store has registered.
    bytes[100] ^= 1;
    std::fs::write(&log, bytes).expect("the log can be written");
    pd.start();
    assert_eq!(pd.exited().await.code(), Some(3));
    for told in ["is damaged at byte", "--tso-advance-ms", "empty directory"] {
        assert!(pd.log().contains(told), "{}", pd.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_of_a_mistyped_directory_is_refused_and_makes_nothing() {
    let mut cluster = Cluster::prepare();
    let missing = cluster.store.data_dir().join("mistyped");
    cluster.store = Node::store(&missing, &cluster.pd.address());
    let refused = repair(&cluster.store);
    assert!(!refused.status.success(), "{refused:?}");
    assert!(!missing.exists(), "it was made");
}
