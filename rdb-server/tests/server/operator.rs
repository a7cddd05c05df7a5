//! What an operator sees of the two servers: refused settings, exit codes, signals, what is logged.

use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::{Cluster, Node, binary};

/// Runs a server that ends by itself.
fn run(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary(program));
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"RDB_") {
            command.env_remove(name);
        }
    }
    let ended = command
        .args(arguments)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output();
    ended.expect("the binary can be started")
}

#[test]
fn a_value_that_cannot_work_is_refused_by_name_once_and_leaves_nothing_behind() {
    let directory = TempDir::new().expect("the temporary directory can be written");
    let data_dir = directory.path().join("data");
    let data_dir = data_dir.to_str().expect("plain text");
    for (program, flag, value, told) in [
        (
            "rdb-server",
            "--advertise-addr",
            "foo",
            "the port is missing",
        ),
        (
            "rdb-server",
            "--advertise-addr",
            "0.0.0.0:1",
            "every interface",
        ),
        (
            "rdb-server",
            "--advertise-addr",
            "[::]:1",
            "every interface",
        ),
        (
            "rdb-server",
            "--advertise-addr",
            "127.0.0.1:2379",
            "is a placement driver (--pd)",
        ),
        (
            "rdb-server",
            "--addr",
            "localhost:1",
            "an IP address and a port are needed",
        ),
        (
            "rdb-server",
            "--pd",
            "http://127.0.0.1:2379",
            "a scheme does not belong there",
        ),
        (
            "rdb-server",
            "--connections-max",
            "99999999999",
            "it has to be from 1 to",
        ),
        ("rdb-server", "--log-level", "bogus", "warn,rocksdb=debug"),
        ("rdb-pd", "--log-level", "inof", "warn,rocksdb=debug"),
        ("rdb-pd", "--connections-max", "0", "it has to be from 1 to"),
        (
            "rdb-pd",
            "--status-addr",
            "off",
            "an IP address and a port are needed",
        ),
    ] {
        let refused = run(program, &["--data-dir", data_dir, flag, value]);
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{flag} {value}: {stderr}");
        assert_eq!(stderr.matches(told).count(), 1, "{stderr}");
        assert!(
            stderr.contains(flag) && !stderr.contains("WARN"),
            "{stderr}"
        );
    }
    assert!(!directory.path().join("data").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hang_up_drains_and_the_last_line_says_that_it_is_over() {
    let mut cluster = Cluster::start().await;
    let Cluster { pd, store, .. } = &mut cluster;
    for node in [store, pd] {
        node.signal(Signal::HUP);
        // Under nohup it is ignored here, and in what is started here.
        if is_hang_up_ignored() {
            node.terminate();
        }
        assert_eq!(node.exited().await.code(), Some(0), "{}", node.log());
        let log = node.log();
        assert!(log.contains("asked to stop: draining"), "{log}");
        let last = log.lines().last().expect("lines");
        assert!(last.contains("stopped"), "{log}");
    }
}

fn is_hang_up_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux says");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = u64::from_str_radix(ignored.expect("Linux says").trim(), 16);
    mask.expect("a number") & 1 != 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_says_that_it_serves_when_it_does() {
    let mut cluster = Cluster::of_a_waiting_store().await;
    let log = cluster.store.log();
    assert!(
        log.contains("listening") && !log.contains("serving KvRaw"),
        "{log}"
    );
    cluster.pd.start_serving().await;
    cluster
        .store
        .wait_for_log("serving KvRaw, KvCas and KvBatch")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debug_shows_no_frames_of_http_and_no_options_of_rocksdb() {
    let mut cluster = Cluster::prepare();
    cluster.pd = Node::placement_driver(cluster.pd.data_dir()).with_flag("--log-level", "debug");
    cluster.pd.start_serving().await;
    cluster.pd.terminate();
    cluster.pd.exited().await;
    let log = cluster.pd.log();
    assert!(log.contains("serving Pd"), "{log}");
    for library in ["h2::", "DEBUG rocksdb"] {
        assert!(!log.contains(library), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quick_restarts_are_nothing_to_warn_of() {
    let mut cluster = Cluster::start().await;
    for _ in 0..3 {
        cluster.pd.terminate();
        cluster.pd.exited().await;
        cluster.pd.start_serving().await;
        let log = cluster.pd.log();
        assert!(!log.contains("the wall clock is behind"), "{log}");
    }
    cluster.store.kill();
    cluster.store.start_serving().await;
    cluster
        .store
        .wait_for_log("waiting for the placement driver")
        .await;
    let log = cluster.store.log();
    let waiting = log.lines().find(|line| line.contains("waiting for the"));
    let waiting = waiting.expect("it was there");
    assert!(waiting.contains(" INFO "), "{waiting}");
    assert!(
        waiting.contains("the previous process of store 1"),
        "{waiting}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_for_one_start_are_logged_with_what_they_did() {
    let Cluster {
        mut pd, directory, ..
    } = Cluster::prepare();
    pd.start_serving().await;
    assert!(pd.log().contains("so is the cluster"), "{}", pd.log());
    pd.terminate();
    pd.exited().await;
    let mut pd = pd.with_flag("--tso-advance-ms", "3600000");
    pd.start_serving().await;
    let log = pd.log();
    for told in [
        "--tso-advance-ms",
        "start without it",
        "half speed",
        // How many depends on how long the start took.
        "minutes",
    ] {
        assert!(log.contains(told), "{told}: {log}");
    }
    drop((pd, directory));
}
