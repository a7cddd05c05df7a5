//! `rdbctl bench`: every workload runs against a real cluster, and its figures are consistent with each other.

use std::io::{BufRead, BufReader};
use std::process::{Child, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Cluster, found, guarded};
use crate::rdbctl::{Rdbctl, command, objects};

/// So little that all workloads together take seconds.
const SHORT: &[&str] = &[
    "--duration",
    "500ms",
    "--warmup",
    "100ms",
    "--concurrency",
    "8",
];
const FEW_KEYS: &[&str] = &["--keys", "500"];

#[tokio::test]
async fn every_workload_counts_what_it_does() {
    let cluster = Cluster::start().await;
    for workload in [
        &["raw-put"][..],
        &["raw-get"],
        &["raw-get", "--distribution", "zipfian", "--unary"],
        &["raw-put", "--idle-connections", "20"],
        &["mixed", "--read-ratio", "0.9"],
        &["ycsb-a"],
        &["ycsb-b"],
        &["ycsb-c"],
        &["scan", "--scan-limit", "10"],
        &["cas"],
        &["cas", "--no-load"],
    ] {
        let report = measured(&cluster.pd.address(), &[workload, SHORT, FEW_KEYS].concat()).await;
        assert_consistent(&report, workload[0]);
        assert_eq!(report["keys"], 500, "{report}");
        assert_eq!(report["value_bytes"], 128, "{report}");
        assert_eq!(report["conflicts"], 0, "{report}");
    }
    for workload in ["tso", "tso-stream"] {
        let report = measured(&cluster.pd.address(), &[&[workload], SHORT].concat()).await;
        assert_consistent(&report, workload);
    }
}

#[tokio::test]
async fn callers_on_one_key_report_conflicts_apart_and_how_evenly_they_fared() {
    let cluster = Cluster::start().await;
    let has_conflicts = |report: &Value| report["conflicts"] != 0;
    let arguments = [&["cas-hot"], SHORT].concat();
    let report = measured_until(has_conflicts, &cluster.pd.address(), &arguments).await;
    assert_consistent(&report, "cas-hot");
    assert_eq!(report["swaps_per_second"], report["operations_per_second"]);
    let fairness = number(&report, "/slowest_over_mean");
    assert!((0.0..=1.0).contains(&fairness), "{report}");
    // Each success made one version, and there was nobody else.
    let client = cluster.client().await;
    let entry = client.get("bench/hot").await.expect("the store serves");
    let version = entry.expect("it was written").version;
    assert!(Some(version) >= report["operations"].as_u64(), "{report}");
}

#[tokio::test]
async fn an_open_loop_keeps_its_rate() {
    let cluster = Cluster::start().await;
    let arguments = [&["raw-put", "--rate", "200", "--keys", "100"][..], SHORT].concat();
    let report = measured(&cluster.pd.address(), &arguments).await;
    assert_consistent(&report, "raw-put");
    // Those of half a second are due, whether the machine keeps up or not.
    let due = report["operations"].as_u64().expect("a count")
        + report["not_started"].as_u64().expect("a count");
    assert!((99..=101).contains(&due), "{report}");
}

#[tokio::test]
async fn loading_writes_every_key() {
    let cluster = Cluster::start().await;
    let report = measured(
        &cluster.pd.address(),
        &["load", "--keys", "2500", "--value-size", "10"],
    )
    .await;
    assert_eq!(report["operations"], 2500, "{report}");
    // What reads nothing fails, so these have found every key they asked for.
    let read = [&["raw-get", "--no-load", "--keys", "2500"], SHORT].concat();
    assert_consistent(&measured(&cluster.pd.address(), &read).await, "raw-get");
    let beyond = [&["raw-get", "--no-load", "--keys", "1000000"], SHORT].concat();
    let output = bench(&cluster.pd.address(), &beyond).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("not found"),
        "{output:?}"
    );
}

#[tokio::test]
async fn the_limits_are_measured_against_an_echo_server_that_ends_when_asked_to() {
    let mut echo = Echo::start().await;
    // No cluster is needed.
    for workload in ["empty-call", "echo-stream"] {
        let arguments = [&[workload, "--endpoint", &echo.address], SHORT].concat();
        let report = measured("127.0.0.1:1", &arguments).await;
        assert_consistent(&report, workload);
    }
    echo.terminate();
    assert!(echo.exited().await, "SIGTERM ends it in good order");

    let mut echo = Echo::start().await;
    drop(echo.process.stdin.take());
    assert!(echo.exited().await, "so does the end of its input");
}

#[tokio::test]
async fn failed_operations_are_counted_and_the_run_fails() {
    let mut cluster = Cluster::start().await;
    let load = measured(&cluster.pd.address(), &["load", "--keys", "100"]).await;
    assert_eq!(load["operations"], 100);
    cluster.store.kill();
    let arguments = [
        &["raw-get", "--no-load", "--keys", "100", "--timeout", "3s"],
        SHORT,
    ]
    .concat();
    let output = bench(&cluster.pd.address(), &arguments).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = object(&output);
    let errors = report["errors"].as_object().expect("an object");
    assert!(!errors.is_empty(), "{report}");
    assert_eq!(report["operations"], 0, "{report}");
}

#[tokio::test]
async fn arguments_that_make_no_sense_are_refused_before_anything_is_done() {
    for arguments in [
        &["raw-put", "--concurrency", "0"][..],
        &["raw-put", "--duration", "0s"],
        &["raw-put", "--keys", "0"],
        &["raw-put", "--value-size", "4194305"],
        &["raw-put", "--rate", "0"],
        &["raw-put", "--rate", "NaN"],
        &["raw-put", "--distribution", "normal"],
        &["raw-put", "--target", "etcd"],
        &["raw-put", "--target", "etcd", "--endpoint", "127.0.0.1"],
        &["raw-put", "--endpoint", "127.0.0.1:1"],
        &[
            "raw-put",
            "--target",
            "etcd",
            "--endpoint",
            "127.0.0.1:1",
            "--unary",
        ],
        &["mixed", "--read-ratio", "1.1"],
        &["cas", "--keys", "10", "--concurrency", "11"],
        &["cas", "--distribution", "zipfian"],
        &["ycsb-a", "--distribution", "uniform"],
        &["tso", "--keys", "1"],
        &["echo-stream", "--rate", "1", "--endpoint", "127.0.0.1:1"],
        &["empty-call"],
        &["nonsense"],
    ] {
        let output = bench("127.0.0.1:1", arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    }
}

/// What an ended run reports, in one object. A run in which the machine let no operation end says nothing, and is made again.
async fn measured(pd_address: &str, arguments: &[&str]) -> Value {
    measured_until(|_| true, pd_address, arguments).await
}

/// The report of the first run that counts an operation and has what is wanted.
async fn measured_until(
    is_wanted: impl Fn(&Value) -> bool,
    pd_address: &str,
    arguments: &[&str],
) -> Value {
    let counted = async {
        loop {
            let output = bench(pd_address, arguments).await;
            assert!(output.status.success(), "{arguments:?}: {output:?}");
            let report = object(&output);
            if report["operations"] != 0 && is_wanted(&report) {
                return report;
            }
            assert_eq!(report["errors"], serde_json::json!({}), "{report}");
        }
    };
    guarded("a run that counts operations", counted).await
}

async fn bench(pd_address: &str, arguments: &[&str]) -> Output {
    let rdbctl = Rdbctl::at(pd_address);
    let arguments = [&["bench", "--output", "json"], arguments].concat();
    rdbctl.run(arguments).await
}

/// The report, also of a run that failed.
fn object(output: &Output) -> Value {
    objects(output).swap_remove(0)
}

fn assert_consistent(report: &Value, workload: &str) {
    assert_eq!(report["workload"], workload, "{report}");
    assert_eq!(report["errors"], serde_json::json!({}), "{report}");
    let operations = number(report, "/operations");
    assert!(operations > 0.0, "{report}");
    assert_eq!(number(report, "/latency_us/count"), operations, "{report}");
    let per_second = operations / number(report, "/duration_s");
    let gap_ms = number(report, "/longest_gap_ms");
    assert!(gap_ms <= number(report, "/duration_s") * 1000.0, "{report}");
    let told = number(report, "/operations_per_second");
    assert!((told - per_second).abs() < 1.0, "{report}");
    let ascending = ["p50", "p90", "p99", "p999", "max"]
        .map(|name| number(&report["latency_us"], &format!("/{name}")));
    assert!(ascending.is_sorted() && ascending[0] > 0.0, "{report}");
}

fn number(report: &Value, pointer: &str) -> f64 {
    let number = report.pointer(pointer).and_then(Value::as_f64);
    number.unwrap_or_else(|| panic!("no number at {pointer}: {report}"))
}

/// `rdbctl bench serve-echo`.
struct Echo {
    process: Child,
    address: String,
}

impl Echo {
    async fn start() -> Self {
        let mut process = command()
            .args(["bench", "serve-echo"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary can be started");
        let stdout = process.stdout.take().expect("it is piped");
        let reading = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).map(|_| line)
        });
        let line = guarded("serve-echo prints its address", reading).await;
        let line = line.expect("no panic").expect("readable");
        Self {
            process,
            address: line.trim_end().to_owned(),
        }
    }

    fn terminate(&self) {
        kill_process(Pid::from_child(&self.process), Signal::TERM)
            .expect("a child can be signalled");
    }

    /// Waits for its end; whether that was in good order.
    async fn exited(&mut self) -> bool {
        let status = found("serve-echo ends", async || {
            self.process.try_wait().expect("a child can be asked")
        });
        status.await.success()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
