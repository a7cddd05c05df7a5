//! A real Prometheus that scrapes both servers, in the form that it asks for.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::{Cluster, HttpAnswer, Port, found, skipped};

/// It scrapes every second. Dropping it ends it, and prints its log when the test has failed.
struct Prometheus {
    process: Child,
    port: Port,
    directory: TempDir,
}

impl Prometheus {
    fn start(targets: &[&str]) -> Self {
        let directory = TempDir::new().expect("the temporary directory can be written");
        let (place, port) = (directory.path(), Port::reserve());
        // JSON is YAML, too.
        let config = json!({
            "global": { "scrape_interval": "1s" },
            "scrape_configs": [{
                "job_name": "flaredb",
                "static_configs": [{ "targets": targets }],
            }],
        });
        fs::write(place.join("config.yml"), config.to_string()).expect("it can be written");
        let log = File::create(place.join("log")).expect("it can be written");
        let process = Command::new("prometheus")
            .current_dir(place)
            .args(["--config.file=config.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address=127.0.0.1:{}", port.number()))
            .arg("--log.level=debug")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log can be opened again"))
            .stderr(log)
            .spawn();
        Self {
            process: process.expect("it can be started"),
            port,
            directory,
        }
    }

    /// What its API answers. `None`: it is not ready yet.
    async fn ask(&mut self, query: &str) -> Option<Value> {
        let ended = self.process.try_wait().expect("a child can be asked");
        assert_eq!(ended, None, "it goes on");
        let address = format!("127.0.0.1:{}", self.port.number());
        let mut stream = TcpStream::connect(&address).await.ok()?;
        // It closes the connection behind an answer to HTTP/1.0, which is in one piece.
        let request = format!("GET /api/v1/{query} HTTP/1.0\r\nhost: {address}\r\n\r\n");
        let sent = stream.write_all(request.as_bytes()).await;
        sent.expect("it takes requests");
        let answer = HttpAnswer::read(&mut stream).await;
        if answer.status == 503 {
            return None;
        }
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut answer: Value = serde_json::from_str(&answer.body).expect("JSON");
        Some(answer["data"].take())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.directory.path().join("log"));
            eprintln!("---- log of prometheus:\n{}", log.unwrap_or_default());
        }
    }
}

#[tokio::test]
async fn prometheus_takes_in_the_figures_of_both_servers_with_their_units() {
    const WITH_UNIT: &str = "flaredb_disk_available_bytes";
    if Command::new("prometheus")
        .arg("--version")
        .output()
        .is_err()
    {
        skipped("prometheus is not installed");
        return;
    }
    let mut cluster = Cluster::prepare();
    cluster.pd = cluster.pd.with_status();
    cluster.store = cluster.store.with_status();
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;
    let pd = cluster.pd.status_address().await;
    let store = cluster.store.status_address().await;
    let client = cluster.client().await;
    client.raw_put("k", "v").await.expect("put");
    client.tso().await.expect("a timestamp");

    let mut prometheus = Prometheus::start(&[&pd, &store]);
    found("both are up", async || {
        let targets = prometheus.ask("targets").await?;
        let targets = targets["activeTargets"].as_array()?.iter();
        let up = targets.filter(|target| target["health"] == "up");
        (up.count() == 2).then_some(())
    })
    .await;
    for (name, labels) in [
        (
            "flaredb_tso_timestamps_total",
            &[("instance", pd.as_str())][..],
        ),
        (
            "flaredb_commands_total",
            &[
                ("instance", store.as_str()),
                ("kind", "raw_put"),
                ("outcome", "ok"),
            ][..],
        ),
    ] {
        let is_sought = |sample: &&Value| {
            let mut labels = labels.iter();
            labels.all(|(label, value)| sample["metric"][*label] == *value)
        };
        let value = found(name, async || {
            let known = prometheus.ask(&format!("query?query={name}")).await?;
            let sample = known["result"].as_array()?.iter().find(is_sought)?;
            sample["value"][1].as_str()?.parse::<f64>().ok()
        })
        .await;
        assert!(value >= 1.0, "{name}: {value}");
    }
    // The older form has no units, so it was OpenMetrics from both.
    let described = found("a unit", async || {
        let query = format!("metadata?metric={WITH_UNIT}");
        let mut known = prometheus.ask(&query).await?;
        known.get_mut(WITH_UNIT).map(Value::take)
    })
    .await;
    let described = described.as_array().expect("a list");
    assert!(!described.is_empty());
    for one in described {
        assert_eq!(one["unit"], "bytes", "{described:?}");
    }
}
