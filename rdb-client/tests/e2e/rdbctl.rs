//! The command line as scripts use it: exit codes, bytes that come back as they went in, JSON that parses.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output, Stdio};
use std::slice::from_ref;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rdb_proto::errorpb::NotReady;
use rdb_proto::errorpb::region_error::Kind;
use rdb_proto::metapb::{Store, StoreStats};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::net::TcpListener;

use crate::fates::cluster as scripted;
use crate::harness::{Cluster, LossyLine, binary, guarded};

/// What the help text promises.
const DONE: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const CONFLICT: i32 = 4;
const UNDETERMINED: i32 = 5;

/// Time enough for a busy machine where what is asked does answer.
const PATIENT: &str = "10m";

#[tokio::test]
async fn exit_codes_tell_a_script_what_happened() {
    let mut cluster = Cluster::start().await;
    let rdbctl = Rdbctl::of(&cluster);
    let key_too_long = "k".repeat(8193);
    for (arguments, expected) in [
        (&["raw", "put", "k", "v"][..], DONE),
        (&["raw", "get", "k"], DONE),
        (&["raw", "get", "none"], NOT_FOUND),
        (&["raw", "del", "none"], DONE),
        (&["raw", "del", "none", "more"], DONE),
        (&["raw", "put", &key_too_long, "v"], USAGE),
        (&["raw", "put", "", "v"], USAGE),
        (&["raw", "put", "k"], USAGE),
        (&["raw", "scan", "b", "a"], USAGE),
        (&["cas", "put", "k", "v", "--expect", "0"], DONE),
        (&["cas", "put", "k", "v", "--expect", "0"], CONFLICT),
        (&["cas", "put", "none", "v", "--expect", "3"], CONFLICT),
        (&["cas", "put", "k", "v"], USAGE),
        (&["cas", "get", "k"], DONE),
        (&["cas", "get", "none"], NOT_FOUND),
        (&["cas", "del", "k", "--expect", "2"], CONFLICT),
        (&["cas", "del", "k", "--expect", "0"], USAGE),
        (&["cas", "del", "k", "--expect", "1"], DONE),
        (&["tso", "--count", "0"], USAGE),
        (&["tso", "--count", "70000"], USAGE),
        (&["nonsense"], USAGE),
        (&["health"], DONE),
    ] {
        assert_exit(&rdbctl.run(arguments).await, expected, arguments);
    }

    cluster.store.kill();
    assert_exit(&rdbctl.run(["health"]).await, FAILED, "a store is away");
    let short = ["--timeout", "300ms"];
    for arguments in [
        &["raw", "get", "k"][..],
        // Nothing was sent, so it is certain that nothing was written.
        &["raw", "put", "k", "w"],
    ] {
        let arguments = [arguments, &short].concat();
        assert_exit(&rdbctl.run(&arguments).await, FAILED, &arguments);
    }
    cluster.pd.kill();
    let arguments = [&["tso"][..], &short].concat();
    assert_exit(&rdbctl.run(&arguments).await, FAILED, &arguments);
}

#[tokio::test]
async fn a_write_whose_answer_got_lost_is_undetermined_and_such_a_read_fails() {
    let mut cluster = Cluster::prepare();
    let line = LossyLine::open(cluster.store.address(), "lost").await;
    cluster.store = cluster.store.with_flag("--advertise-addr", line.address());
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;
    let rdbctl = Rdbctl::of(&cluster);
    for arguments in [
        &["raw", "put", "lost/put", "v"][..],
        &["raw", "del", "lost/del"],
        &["raw", "delete-range", "lost/a", "lost/b"],
        &["cas", "put", "lost/swap", "v", "--expect", "0"],
        &["cas", "del", "lost/del", "--expect", "1"],
    ] {
        let output = rdbctl.run(arguments.iter().chain(&["--timeout", "1s", "-o", "json"]));
        let output = output.await;
        assert_exit(&output, UNDETERMINED, arguments);
        assert_eq!(objects(&output)[0]["error"]["kind"], "undetermined");
        assert_eq!(errors(&output).matches("may or may not").count(), 1);
    }
    let read = rdbctl
        .run(["raw", "get", "lost/put", "--timeout", "1s"])
        .await;
    assert_exit(&read, FAILED, "a read");
    // These happen to have been applied, and no other writer is there: a read whose answer comes shows them.
    assert_eq!(rdbctl.run(["raw", "scan"]).await.stdout, b"lost/put\tv\n");
    assert_eq!(
        rdbctl.run(["cas", "scan"]).await.stdout,
        b"lost/swap\t1\tv\n"
    );
}

#[tokio::test]
async fn a_scan_goes_on_behind_pages_that_are_empty() {
    let cluster = scripted::Cluster::start().await;
    let client = cluster.client().await;
    let keys = (0..50).map(|number| format!("{number:02}"));
    let entries = keys.clone().map(|key| (key, "v"));
    client.raw_batch_put(entries).await.expect("put");
    let deleted = keys.skip(1).take(48);
    client.raw_batch_delete(deleted).await.expect("deleted");
    let rdbctl = Rdbctl::at(cluster.pd.proxy.address);
    let scanned = rdbctl.run(["raw", "scan", "--keys-only"]).await;
    assert_exit(&scanned, DONE, "a scan");
    assert_eq!(scanned.stdout, b"00\n49\n");
}

#[tokio::test]
async fn keys_and_values_of_any_bytes_come_back_exactly() {
    let cluster = Cluster::start().await;
    let rdbctl = Rdbctl::of(&cluster);
    let every_byte: Vec<u8> = (0..=u8::MAX).cycle().take(300_000).collect();
    let mut file = NamedTempFile::new().expect("the temporary directory can be written");
    file.write_all(&every_byte).expect("written");

    let from_stdin = rdbctl
        .run_with_input(["raw", "put", "stdin", "-"], &every_byte)
        .await;
    assert_exit(&from_stdin, DONE, "stdin");
    let path = file.path().as_os_str();
    let from_file = rdbctl.run([
        OsStr::new("raw"),
        "put".as_ref(),
        "file".as_ref(),
        "--file".as_ref(),
        path,
    ]);
    assert_exit(&from_file.await, DONE, "file");
    for key in ["stdin", "file"] {
        let output = rdbctl.run(["raw", "get", key]).await;
        assert!(
            output.stdout == every_byte,
            "{key}: {} bytes",
            output.stdout.len()
        );
    }

    let created = ["cas", "put", "v", "--file", "-", "--expect", "0"];
    assert_exit(
        &rdbctl.run_with_input(created, &every_byte).await,
        DONE,
        "cas",
    );
    let output = rdbctl.run(["cas", "get", "v", "--value-only"]).await;
    assert!(output.stdout == every_byte, "{} bytes", output.stdout.len());

    let empty = rdbctl.run(["raw", "put", "empty", ""]).await;
    assert_exit(&empty, DONE, "an empty value is a value");
    let output = rdbctl.run(["raw", "get", "empty"]).await;
    assert_exit(&output, DONE, "and not absent");
    assert!(output.stdout.is_empty());

    // An argument is a key byte for byte, except that none can hold a zero byte; another encoding can.
    let key = OsStr::from_bytes(b"\xff\n\\ key");
    let put = rdbctl.run([OsStr::new("raw"), "put".as_ref(), key, "as typed".as_ref()]);
    assert_exit(&put.await, DONE, "a key that is not UTF-8");
    let hex = ["raw", "get", "--key-encoding", "hex", "ff0a5c206b6579"];
    assert_eq!(rdbctl.run(hex).await.stdout, b"as typed");
    let put = [
        "raw",
        "put",
        "--key-encoding",
        "escaped",
        r"\x00\xff\t",
        "escaped",
    ];
    assert_exit(&rdbctl.run(put).await, DONE, "a key with a zero byte");
    let get = ["raw", "get", "--key-encoding", "base64", "AP8J"];
    assert_eq!(rdbctl.run(get).await.stdout, b"escaped");
    let scan = ["raw", "scan", "--key-encoding", "hex", "--limit", "1"];
    assert_eq!(rdbctl.run(scan).await.stdout, b"00ff09\tescaped\n");
}

#[tokio::test]
async fn json_output_is_one_object_per_line_and_marks_bytes_that_are_not_text() {
    let cluster = Cluster::start().await;
    let rdbctl = Rdbctl::of(&cluster);
    let json = async |arguments: &[&str], code: i32| {
        let output = rdbctl
            .run(arguments.iter().chain(&["--output", "json"]))
            .await;
        assert_exit(&output, code, arguments);
        objects(&output)
    };
    let binary = b"\xff\x00\n";
    let marked = json!({ "base64": STANDARD.encode(binary) });

    assert_eq!(
        json(&["raw", "put", "a", "text\n"], DONE).await,
        [json!({ "ok": true })]
    );
    let put = rdbctl
        .run_with_input(["raw", "put", "b", "-", "-o", "json"], binary)
        .await;
    assert_eq!(objects(&put), [json!({ "ok": true })]);
    let entry = |key: &str, value: Value| json!({ "key": key, "value": value });
    let (a, b) = (entry("a", json!("text\n")), entry("b", marked.clone()));
    assert_eq!(json(&["raw", "get", "a"], DONE).await, from_ref(&a));
    assert_eq!(json(&["raw", "get", "b"], DONE).await, from_ref(&b));
    assert_eq!(json(&["raw", "scan"], DONE).await, [a.clone(), b.clone()]);
    assert_eq!(json(&["raw", "scan", "--reverse"], DONE).await, [b, a]);
    let keys_only = json(&["raw", "scan", "--keys-only", "--limit", "1"], DONE).await;
    assert_eq!(keys_only, [json!({ "key": "a" })]);

    let created = json(&["cas", "put", "c", "text", "--expect", "0"], DONE).await;
    assert_eq!(created, [json!({ "key": "c", "version": 1 })]);
    let put = ["cas", "put", "c", "-", "--expect", "1", "-o", "json"];
    let swapped = rdbctl.run_with_input(put, binary).await;
    assert_eq!(objects(&swapped), [json!({ "key": "c", "version": 2 })]);
    let found = json!({ "key": "c", "version": 2, "value": marked });
    assert_eq!(json(&["cas", "get", "c"], DONE).await, from_ref(&found));
    assert_eq!(json(&["cas", "scan"], DONE).await, [found]);
    let conflict = &json(&["cas", "put", "c", "late", "--expect", "1"], CONFLICT).await[0]["error"];
    assert_eq!(conflict["kind"], "conflict");
    assert_eq!(conflict["current_version"], 2);
    assert_eq!(conflict["current_value"], marked);
    assert_eq!(
        json(&["cas", "get", "none"], NOT_FOUND).await[0]["error"]["kind"],
        "not_found"
    );

    let timestamps = json(&["tso", "--count", "3"], DONE).await;
    let numbers: Vec<u64> = timestamps
        .iter()
        .map(|taken| {
            taken["timestamp"]
                .as_str()
                .and_then(|number| number.parse().ok())
        })
        .map(|number| number.expect("a number, as a string"))
        .collect();
    assert_eq!(numbers, [numbers[0], numbers[0] + 1, numbers[0] + 2]);
    assert_eq!(timestamps[0]["physical_ms"], json!(numbers[0] >> 18));

    let stores = json(&["store", "list"], DONE).await;
    assert_eq!(stores.len(), 1);
    assert_eq!(stores[0]["address"], json!(cluster.store.address()));
    assert_eq!(json(&["region", "list"], DONE).await.len(), 1);
    assert_eq!(json(&["region", "show", "k"], DONE).await.len(), 1);
    let processes = json(&["health"], DONE).await;
    let serving = processes
        .iter()
        .filter(|process| process["status"] == "serving");
    assert_eq!((processes.len(), serving.count()), (2, 2));
}

#[tokio::test]
async fn arguments_are_named_as_they_are_typed() {
    let cluster = Cluster::start().await;
    let rdbctl = Rdbctl::of(&cluster);
    let key_too_long = "k".repeat(8193);
    for (arguments, expected) in [
        (&["raw", "scan", "z", "a"][..], "error: END: it lies below"),
        (&["raw", "delete-range", "a", "a"], "error: END: it is not"),
        (&["raw", "get", &key_too_long], "error: KEY: it has 8193"),
        (&["raw", "scan", "--limit", "0"], "whole number, 1 or more"),
        (&["tso", "-c", "0"], "whole number from 1 to 65536"),
        (&["tso", "-c", "65537"], "whole number from 1 to 65536"),
        (
            &["cas", "put", "k", "v", "--expect", "-1"],
            "whole number, 0 or more",
        ),
        (
            &["cas", "del", "k", "--expect", "0"],
            "whole number, 1 or more",
        ),
        (&["tso", "--timeout", "1d"], "500ms, 10s, 2m, 1h"),
        (&["tso", "--pd", "nowhere"], "error: --pd: \"nowhere\""),
    ] {
        let output = rdbctl.run(arguments).await;
        assert_exit(&output, USAGE, arguments);
        let errors = errors(&output);
        assert!(errors.contains(expected), "{arguments:?}: {errors}");
    }
    let address = cluster.pd.address();
    let spaced = format!("{address}, {address} ");
    let listed = rdbctl.run(["tso", "--pd", &spaced, "--timeout", "1h"]);
    assert_exit(&listed.await, DONE, "spaces in a list");
    let logged = rdbctl.run(["raw", "get", "none", "--log-level", "debug"]);
    let logged = errors(&logged.await);
    assert!(!logged.contains("h2::"), "another library's: {logged}");
}

#[tokio::test]
async fn without_a_placement_driver_health_has_its_rows_and_a_failure_says_it_once() {
    let mut cluster = Cluster::start().await;
    cluster.pd.kill();
    let rdbctl = Rdbctl::of(&cluster);
    let health = rdbctl.run(["health", "-o", "json"]).await;
    assert_exit(&health, FAILED, "health");
    let lines = objects(&health);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0]["address"], json!(cluster.pd.address()));
    assert_eq!(lines[0]["status"], "unreachable");
    assert_eq!(
        lines[1]["error"]["message"],
        "1 of 1 processes are not serving, and no store is known"
    );

    let read = rdbctl.run(["raw", "get", "k", "--timeout", "1s"]).await;
    assert_exit(&read, FAILED, "a read");
    let errors = errors(&read);
    assert!(errors.matches("unavailable").count() <= 1, "{errors}");
}

#[tokio::test]
async fn a_connection_that_fails_is_told_without_the_layers_it_came_by() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it listens");
    // Until the test's runtime ends.
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let rdbctl = Rdbctl::at(address);
    let read = rdbctl.run(["raw", "get", "k", "--timeout", "1s"]).await;
    assert_exit(&read, FAILED, "a read");
    let errors = errors(&read);
    for layer in ["operation was canceled", "http2 error"] {
        assert!(!errors.contains(layer), "{errors}");
    }
}

#[tokio::test]
async fn a_store_that_is_asked_as_a_placement_driver_is_called_that() {
    let cluster = scripted::Cluster::start().await;
    let (store, pd) = (cluster.node.proxy.address, cluster.pd.proxy.address);
    let refusal = format!("error: --pd: {store} is no placement driver\n");
    let rdbctl = Rdbctl::at(store);
    let read = rdbctl.run(["raw", "get", "k", "--timeout", PATIENT]).await;
    assert_exit(&read, USAGE, "a read");
    assert_eq!(errors(&read), refusal);
    for both in [format!("{store},{pd}"), format!("{pd},{store}")] {
        let read = rdbctl
            .run(["raw", "get", "k", "--timeout", PATIENT, "--pd", &both])
            .await;
        assert_exit(&read, USAGE, &both);
        assert_eq!(errors(&read), refusal);
    }
    let health = rdbctl
        .run(["health", "-o", "json", "--timeout", PATIENT])
        .await;
    assert_exit(&health, FAILED, "health");
    let row = &objects(&health)[0];
    assert_eq!(row["status"], "wrong_process");
    assert_eq!(row["cause"], format!("{store} is no placement driver"));
}

#[tokio::test]
async fn health_tells_who_answers_at_an_address_and_why_it_does_not_serve() {
    let cluster = scripted::Cluster::start().await;
    let stopping = scripted::StoreNode::start(3, Vec::new()).await;
    let reason = "the store is shutting down".to_owned();
    stopping
        .store
        .refuse_always(Kind::NotReady(NotReady { reason }));
    let known = cluster.node.description();
    let full = StoreStats {
        available_bytes: 5,
        ..StoreStats::default()
    };
    cluster.node.set_serving(false);
    cluster.pd.pd.set_stores(vec![
        Store {
            stats: Some(full),
            ..known.clone()
        },
        Store { id: 2, ..known },
        stopping.description(),
        Store {
            id: 4,
            address: cluster.pd.proxy.address.to_string(),
            ..Store::default()
        },
    ]);
    let rdbctl = Rdbctl::at(cluster.pd.proxy.address);
    let health = rdbctl
        .run(["health", "-o", "json", "--timeout", PATIENT])
        .await;
    assert_exit(&health, FAILED, "health");
    let full =
        "it takes no writes (its last heartbeat: 5 bytes of its disk are free); its log says why";
    let rows = objects(&health);
    let rows = rows
        .iter()
        .map(|row| [&row["store_id"], &row["status"], &row["cause"]]);
    let rows: Vec<Value> = rows.map(|cells| json!(cells)).collect();
    assert_eq!(
        rows[..5],
        [
            json!([null, "serving", null]),
            json!([1, "not_serving", full]),
            json!([2, "wrong_process", "it is store 1"]),
            json!([3, "not_serving", "the store is shutting down"]),
            json!([4, "wrong_process", "it is no store"]),
        ]
    );
}

#[tokio::test]
async fn placement_drivers_of_different_clusters_are_refused_in_either_order() {
    let cluster = scripted::Cluster::start().await;
    let other = scripted::PdNode::start(scripted::CLUSTER_ID + 1).await;
    let (ours, other) = (cluster.pd.proxy.address, other.proxy.address);
    let rdbctl = Rdbctl::at(ours);
    for (first, second) in [(ours, other), (other, ours)] {
        let both = format!("{first},{second}");
        let write = rdbctl
            .run(["raw", "put", "k", "v", "--timeout", PATIENT, "--pd", &both])
            .await;
        assert_exit(&write, USAGE, &both);
        let foreign = format!("error: --pd: placement driver at {second} belongs to cluster");
        let errors = errors(&write);
        assert!(errors.contains(&foreign), "{errors}");

        let health = rdbctl
            .run(["health", "-o", "json", "--timeout", PATIENT, "--pd", &both])
            .await;
        assert_exit(&health, FAILED, &both);
        let rows = objects(&health);
        assert_eq!(rows[0]["status"], "serving");
        assert_eq!(rows[1]["status"], "wrong_process");
    }
    assert_eq!(cluster.node.store.applied("k"), 0);
}

/// Runs `rdbctl` against one cluster.
struct Rdbctl {
    pd_address: String,
}

impl Rdbctl {
    fn of(cluster: &Cluster) -> Self {
        Self::at(cluster.pd.address())
    }

    fn at(pd_address: impl ToString) -> Self {
        Self {
            pd_address: pd_address.to_string(),
        }
    }

    async fn run(&self, arguments: impl IntoIterator<Item: AsRef<OsStr>>) -> Output {
        self.run_with_input(arguments, b"").await
    }

    /// Runs it to its end, with `input` on its standard input.
    async fn run_with_input(
        &self,
        arguments: impl IntoIterator<Item: AsRef<OsStr>>,
        input: &[u8],
    ) -> Output {
        let arguments: Vec<OsString> = arguments
            .into_iter()
            .map(|argument| argument.as_ref().to_owned())
            .collect();
        let what = format!("rdbctl {arguments:?}");
        let mut command = Command::new(binary("rdbctl"));
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"RDBCTL_") {
                command.env_remove(name);
            }
        }
        command.env("RDBCTL_PD", &self.pd_address);
        let input = input.to_vec();
        let ended = tokio::task::spawn_blocking(move || {
            let mut process = command.spawn().expect("the binary can be started");
            let mut stdin = process.stdin.take().expect("it is piped");
            // One that refuses its arguments has ended without reading.
            let _ = stdin.write_all(&input);
            drop(stdin);
            process
                .wait_with_output()
                .expect("a child can be waited for")
        });
        guarded(&what, ended).await.expect("no panic")
    }
}

fn assert_exit(output: &Output, expected: i32, what: impl std::fmt::Debug) {
    assert_eq!(
        output.status.code(),
        Some(expected),
        "{what:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        output.stderr.is_empty(),
        expected == DONE,
        "failures are told on stderr: {what:?}"
    );
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// One object from each line of standard output.
fn objects(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).expect("JSON is UTF-8");
    let object = |line| serde_json::from_str(line).expect("a line is an object");
    text.lines().map(object).collect()
}
