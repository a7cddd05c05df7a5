//! A full disk, over gRPC: a real one, on a small file system in memory. Skipped with a message where none can be mounted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rdb_client::{Client, Error};
use rdb_proto::error::details;
use rdb_proto::errorpb::Fate;
use rdb_proto::kvrpc::RawPutRequest;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::transport::NOT_SERVING_CAUSE;
use serde_json::Value;
use tempfile::TempDir;
use tonic::Status;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{Cluster, Metrics, Node, connect, http_get, skipped};

const VALUE_BYTES: usize = 256 << 10;

/// A file system of a fixed size, unmounted when dropped.
pub(crate) struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    /// `None` where this process may not mount.
    pub(crate) fn mount(mib: u32) -> Option<Self> {
        let directory = TempDir::new().expect("the temporary directory can be written");
        let size = format!("size={mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(directory.path())
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then_some(Self { directory })
    }

    fn resize(&self, mib: u32) {
        let options = format!("remount,size={mib}m");
        let status = Command::new("mount")
            .args(["-o", &options])
            .arg(self.path())
            .status();
        assert!(status.expect("mount worked before").success());
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    fn data_dir(&self) -> PathBuf {
        self.path().join("store")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.path())
            .status();
    }
}

fn key(number: u32) -> String {
    format!("key-{number:05}")
}

/// Random, so that it does not compress.
fn value(number: u32) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number.into());
    let mut value = vec![0; VALUE_BYTES];
    random.fill(&mut value);
    value
}

/// Puts until one fails; returns how many were acknowledged, and the failure.
async fn fill(raw: &mut KvRawClient<tonic::transport::Channel>) -> (u32, Status) {
    for number in 0.. {
        let request = RawPutRequest {
            context: None,
            key: key(number).into(),
            value: value(number).into(),
        };
        if let Err(status) = raw.raw_put(request).await {
            return (number, status);
        }
    }
    unreachable!("the disk is small")
}

async fn assert_readable(client: &Client, numbers: impl Iterator<Item = u32>) {
    for number in numbers {
        let found = client.raw_get(key(number)).await.expect("reads go on");
        assert!(
            found.is_some_and(|found| found == value(number)),
            "{}",
            key(number)
        );
    }
}

/// How a client that gives up early ends while writes are refused. A deadline that meets a call before the store's answer
/// leaves its fate open, so it is called again.
async fn refused_with_certainty(client: &Client) -> Error {
    let client = client.with_timeout(Duration::from_secs(1));
    loop {
        let refused = client.raw_put("later", "small").await;
        let refused = refused.expect_err("writes have stopped");
        if refused.is_certain() {
            return refused;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_writes_only_and_loses_nothing_acknowledged() {
    let Some(disk) = SmallDisk::mount(96) else {
        skipped("this process may not mount a file system");
        return;
    };
    let mut cluster = Cluster::prepare();
    cluster.pd.start_serving().await;
    cluster.store = Node::store(disk.data_dir(), &cluster.pd.address()).with_status();
    cluster.store.start_serving().await;
    let status = cluster.store.status_address().await;

    let channel = connect(&cluster.store.address())
        .await
        .expect("the store listens");
    let mut raw = KvRawClient::new(channel);
    let (acknowledged, in_hand) = fill(&mut raw).await;
    println!("{acknowledged} values of {VALUE_BYTES} bytes fit");
    assert!(acknowledged > 10);
    let error = details(&in_hand).expect("details");
    assert_ne!(error.fate(), Fate::Unspecified, "{error:?}");

    cluster
        .store
        .wait_for_health(ServingStatus::NotServing)
        .await;
    let channel = connect(&cluster.store.address()).await.expect("it listens");
    let checked = HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await;
    let checked = checked.expect("an answer");
    let cause = checked
        .metadata()
        .get(NOT_SERVING_CAUSE)
        .expect("a cause")
        .to_str()
        .expect("ASCII");
    for told in ["No space left", "free space", "restart"] {
        assert!(cause.contains(told), "{cause}");
    }
    let health = http_get(&status, "/health").await;
    let told = format!("not serving: {cause}\n");
    assert_eq!((health.status, health.body), (503, told));
    assert_eq!(http_get(&status, "/ready").await.status, 200);
    let page = http_get(&status, "/page.json").await;
    let page: Value = serde_json::from_str(&page.body).expect("JSON");
    // The one that matters most comes first.
    let alarm = &page["findings"]["shown"][0];
    assert_eq!(alarm["is_alarm"], true, "{page}");
    for (told, words) in [
        ("what", "No space left"),
        ("to_do", "free space on the disk of this store"),
    ] {
        let text = alarm[told].as_str().expect("text");
        assert!(text.contains(words), "{page}");
    }
    let later = RawPutRequest {
        context: None,
        key: "later".into(),
        value: "small".into(),
    };
    let refused = details(&raw.raw_put(later).await.expect_err("refused")).expect("details");
    assert_eq!(refused.fate(), Fate::NotApplied);
    assert!(refused.cause.contains("No space left"), "{refused:?}");
    let metrics = Metrics::of(&status).await;
    let puts = |outcome: &str| {
        let sample = "flaredb_commands_total{kind=\"raw_put\",outcome=";
        metrics.get(&format!("{sample}\"{outcome}\"}}"))
    };
    assert_eq!(puts("ok"), f64::from(acknowledged));
    assert_eq!(puts("undetermined") + puts("failed"), 2.0);
    assert_eq!(metrics.get("flaredb_healthy"), 0.0);

    let client = cluster.client().await;
    assert_readable(&client, 0..acknowledged).await;
    let refused = refused_with_certainty(&client).await;
    assert!(refused.to_string().contains("No space left"), "{refused}");

    cluster.store.terminate();
    assert!(cluster.store.exited().await.success());

    // Full as it is, it starts again thanks to the reserve, and can be cleaned.
    cluster.store.start_serving().await;
    let client = cluster.client().await;
    assert_readable(&client, 0..acknowledged).await;
    client
        .raw_delete_range(key(0).as_str()..key(4).as_str())
        .await
        .expect("there is room to delete");
    cluster.store.terminate();
    assert!(cluster.store.exited().await.success());

    disk.resize(256);
    cluster.store.start_serving().await;
    let client = cluster.client().await;
    assert_readable(&client, 4..acknowledged).await;
    assert_eq!(client.raw_get(key(0)).await, Ok(None));
    assert_eq!(
        client.raw_get("later").await,
        Ok(None),
        "what was refused is not there"
    );
    client
        .raw_put("after", "there is room")
        .await
        .expect("writes go on");
    cluster.store.terminate();
    assert!(cluster.store.exited().await.success());
}
