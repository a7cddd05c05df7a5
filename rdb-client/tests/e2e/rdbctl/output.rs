//! What is read and printed: every byte, and JSON that parses.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::slice::from_ref;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::{CONFLICT, DONE, NOT_FOUND, Rdbctl, assert_exit, objects};
use crate::fates::cluster as scripted;
use crate::harness::Cluster;

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
