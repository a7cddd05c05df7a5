//! A cluster for trying things out: it serves, it tells what happens, and it leaves nothing behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};

use rdb_client::{Client, Config, Error, Tls};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{DONE, FAILED, Rdbctl, USAGE, assert_exit, command, errors};
use crate::harness::{found, guarded, http_get};

/// A playground that serves. Dropping it kills it.
struct Playground {
    process: Child,
    events: UnboundedReceiver<Value>,
    pd: String,
    /// Names with process ids.
    pids: Vec<(String, i32)>,
    /// Where the status pages of each process are.
    status: Vec<String>,
    /// The store that leads, as it was last told.
    leader: Option<u64>,
}

impl Playground {
    /// `temporary` is where it may make directories.
    async fn start(temporary: &Path, arguments: &[&str]) -> Self {
        let mut playground = Self::begin(temporary, arguments);
        let ready = playground.event("ready").await;
        playground.pd = text(&ready["pd"]);
        playground
    }

    fn begin(temporary: &Path, arguments: &[&str]) -> Self {
        let mut command = command();
        command
            .args(["playground", "-o", "json"])
            .args(arguments)
            .env("TMPDIR", temporary)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut process = command.spawn().expect("the binary can be started");
        let stdout = process.stdout.take().expect("it is piped");
        let (sender, events) = unbounded_channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let event = serde_json::from_str(&line.expect("text")).expect("an object");
                // The test may be over.
                let _ = sender.send(event);
            }
        });
        Self {
            process,
            events,
            pd: String::new(),
            pids: Vec::new(),
            status: Vec::new(),
            leader: None,
        }
    }

    /// The next event of this kind. Notes the processes and the leader that it passes.
    async fn event(&mut self, kind: &str) -> Value {
        guarded(kind, async {
            loop {
                let event = self.events.recv().await.expect("it runs");
                if event["event"] == "started" {
                    let pid = event["pid"].as_i64().expect("a number");
                    let pid = i32::try_from(pid).expect("a process id");
                    self.pids.push((text(&event["name"]), pid));
                    self.status.push(text(&event["status"]));
                }
                if event["event"] == "leader" {
                    self.leader = event["store_id"].as_u64();
                }
                if event["event"] == kind {
                    return event;
                }
            }
        })
        .await
    }

    async fn client(&self) -> Client {
        let connected = Client::connect([self.pd.clone()]).await;
        connected.expect("the placement driver serves")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("it runs");
    }

    async fn stop(&mut self) {
        self.signal(Signal::TERM);
        self.event("stopped").await;
        assert_eq!(self.exited().await, Some(DONE));
        self.all_are_gone().await;
    }

    async fn exited(&mut self) -> Option<i32> {
        let status = found("it exits", async || {
            self.process.try_wait().expect("a child can be asked")
        });
        status.await.code()
    }

    /// Waits until none of its processes runs.
    async fn all_are_gone(&self) {
        let gone = async || self.pids.iter().all(|(_, pid)| is_gone(*pid)).then_some(());
        found("its processes end", gone).await;
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

/// One that has ended may wait for whoever has inherited it.
fn is_gone(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    status.map_or(true, |status| status.contains("State:\tZ"))
}

fn is_empty(directory: &Path) -> bool {
    let mut entries = fs::read_dir(directory).expect("it is there");
    entries.next().is_none()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_serves_goes_on_without_a_store_and_leaves_nothing_behind() {
    let temporary = TempDir::new().expect("the temporary directory can be written");
    let mut playground = Playground::start(temporary.path(), &["--stores", "3"]).await;
    let client = playground.client().await;
    client.raw_put("k", "v").await.expect("put");
    let (region, leader) = found("a store leads", async || {
        let route = client.region("k").await.expect("it answers")?;
        Some((route.region, route.leader?))
    })
    .await;
    assert_eq!(region.peers.len(), 3);
    let rdbctl = Rdbctl::at(&playground.pd);
    assert_eq!(playground.pids.len(), 4);
    for status in &playground.status {
        assert_eq!(http_get(status, "/ready").await.status, 200);
    }
    let checked = rdbctl.run(["region", "check", "--timeout", "10m"]).await;
    assert_exit(&checked, DONE, "all replicas hold the same");
    let log = |name: &str| {
        let mut directories = fs::read_dir(temporary.path()).expect("it is there");
        let directory = directories.next().expect("one").expect("readable").path();
        fs::read_to_string(directory.join(format!("{name}.log"))).expect("a log")
    };
    let (name, pid) = playground
        .pids
        .iter()
        .find(|(name, _)| log(name).contains(&format!(" addr={} ", leader.address)))
        .cloned()
        .expect("one of them leads");
    kill_process(Pid::from_raw(pid).expect("an id"), Signal::KILL).expect("it runs");
    let ended = playground.event("ended").await;
    assert_eq!(text(&ended["name"]), name);
    // It may have lost its leadership before.
    while playground.leader.is_none_or(|told| told == leader.id) {
        playground.event("leader").await;
    }
    let value = client.raw_get("k").await.expect("read");
    assert_eq!(value.as_deref(), Some(&b"v"[..]));

    playground.signal(Signal::INT);
    playground.event("stopped").await;
    assert_eq!(playground.exited().await, Some(DONE));
    playground.all_are_gone().await;
    assert!(is_empty(temporary.path()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tls_it_lets_in_who_has_its_certificate() {
    let temporary = TempDir::new().expect("the temporary directory can be written");
    let mut playground = Playground::begin(temporary.path(), &["--stores", "1", "--tls"]);
    let ready = playground.event("ready").await;
    let path = |name: &str| text(&ready["certificates"][name]);
    let tls = Tls::with_ca_file(path("ca"));
    let tls = tls.with_identity_files(path("client_cert"), path("client_key"));
    let config = Config::default().with_tls(tls);
    let client = Client::connect_with([text(&ready["pd"])], config).await;
    let client = client.expect("it lets the client in");
    client.raw_put("k", "v").await.expect("put");
    playground.stop().await;
    assert!(is_empty(temporary.path()), "the keys are gone, too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_auth_it_serves_who_has_its_token_also_when_it_is_started_again() {
    let temporary = TempDir::new().expect("the temporary directory can be written");
    let directory = temporary.path().join("kept");
    let directory = directory.to_str().expect("text");
    let arguments = ["--stores", "1", "--auth", "--tls", "--dir", directory];
    for value in [None, Some(&b"v"[..])] {
        let mut playground = Playground::begin(temporary.path(), &arguments);
        let ready = playground.event("ready").await;
        let path = |of: &str, name: &str| text(&ready[of][name]);
        let tls = Tls::with_ca_file(path("certificates", "ca")).with_identity_files(
            path("certificates", "client_cert"),
            path("certificates", "client_key"),
        );
        let connect = |config: Config| {
            let config = config.with_tls(tls.clone());
            Client::connect_with([text(&ready["pd"])], config)
        };
        let config = Config::default().with_token_file(path("tokens", "admin"));
        let client = connect(config).await.expect("it lets the client in");
        let got = client.raw_get("k").await.expect("read");
        assert_eq!(got.as_deref(), value);
        client.raw_put("k", "v").await.expect("put");
        let nobody = connect(Config::default()).await;
        assert!(
            matches!(nobody, Err(Error::Unauthenticated { .. })),
            "{nobody:?}"
        );
        playground.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_process_outlives_it() {
    let temporary = TempDir::new().expect("the temporary directory can be written");
    let mut playground = Playground::start(temporary.path(), &["--stores", "1"]).await;
    assert_eq!(playground.pids.len(), 2);
    playground.signal(Signal::KILL);
    assert_eq!(playground.exited().await, None);
    playground.all_are_gone().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_given_directory_is_kept_and_can_be_used_again() {
    let temporary = TempDir::new().expect("the temporary directory can be written");
    let directory = temporary.path().join("kept");
    let directory = directory.to_str().expect("text");
    let arguments = ["--stores", "1", "--dir", directory];
    let mut playground = Playground::start(temporary.path(), &arguments).await;
    let client = playground.client().await;
    client.raw_put("k", "v").await.expect("put");
    playground.stop().await;

    let playground = Playground::start(temporary.path(), &arguments[2..]).await;
    assert_eq!(playground.pids.len(), 2);
    let value = playground.client().await.raw_get("k").await.expect("read");
    assert_eq!(value.as_deref(), Some(&b"v"[..]));

    let log = temporary.path().join("kept/pd.log");
    let written = fs::read_to_string(&log).expect("a log");
    let second = Rdbctl::at(&playground.pd)
        .run(["playground", "--dir", directory])
        .await;
    assert_exit(&second, FAILED, "another one in the same directory");
    let told = errors(&second);
    assert!(told.contains("another playground runs in"), "{told}");
    assert!(second.stdout.is_empty(), "it starts nothing");
    let now = fs::read_to_string(&log).expect("a log");
    assert!(now.starts_with(&written), "it is not written anew: {now}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_first_start_and_a_lost_store_do_not_change_the_number_of_stores() {
    let temporary = TempDir::new().expect("the temporary directory can be written");
    let directory = temporary.path().join("kept");
    let arguments = ["--dir", directory.to_str().expect("text"), "--stores", "3"];
    let mut playground = Playground::begin(temporary.path(), &arguments);
    let pd = playground.event("started").await;
    playground.stop().await;
    let remembered = fs::read_to_string(directory.join("addresses")).expect("written");
    let told = format!("pd {}\n", text(&pd["address"]));
    assert!(remembered.starts_with(&told), "{remembered}");

    let rdbctl = Rdbctl::at("127.0.0.1:1");
    let other = ["playground", arguments[0], arguments[1], "--stores", "2"];
    let refused = rdbctl.run(other).await;
    assert_exit(&refused, USAGE, "another number of stores");
    let mut playground = Playground::start(temporary.path(), &arguments[..2]).await;
    assert_eq!(playground.pids.len(), 4);
    let client = playground.client().await;
    client.raw_put("k", "v").await.expect("put");
    let region = client.region("k").await.expect("it answers");
    assert_eq!(region.expect("it is there").region.peers.len(), 3);
    playground.stop().await;

    fs::remove_dir_all(directory.join("store-2")).expect("removed");
    let mut playground = Playground::start(temporary.path(), &arguments[..2]).await;
    assert_eq!(playground.pids.len(), 4);
    let value = playground.client().await.raw_get("k").await.expect("read");
    assert_eq!(value.as_deref(), Some(&b"v"[..]));
    playground.stop().await;

    for lost in ["store-1", "store-3"] {
        fs::remove_dir_all(directory.join(lost)).expect("removed");
    }
    let mut playground = Playground::begin(temporary.path(), &arguments[..2]);
    let waiting = playground.event("waiting").await;
    assert!(!text(&waiting["cause"]).is_empty());
    assert_eq!(playground.pids.len(), 4);
    playground.stop().await;
}

#[tokio::test]
async fn a_failure_leaves_the_logs_that_it_names() {
    let temporary = TempDir::new().expect("the temporary directory can be written");
    let mut playground = Playground::start(temporary.path(), &["--stores", "1"]).await;
    for (_, pid) in &playground.pids {
        kill_process(Pid::from_raw(*pid).expect("an id"), Signal::KILL).expect("it runs");
    }
    assert_eq!(playground.exited().await, Some(FAILED));
    let mut directories = fs::read_dir(temporary.path()).expect("it is there");
    let directory = directories.next().expect("one").expect("readable").path();
    assert!(directory.join("pd.log").is_file());
    let last = guarded("the output ends", async {
        let mut last = Value::Null;
        while let Some(event) = playground.events.recv().await {
            last = event;
        }
        last
    });
    let message = text(&last.await["error"]["message"]);
    assert!(
        message.contains(directory.to_str().expect("text")),
        "{message}"
    );
}

#[tokio::test]
async fn a_process_whose_old_port_is_taken_has_another_one() {
    let temporary = TempDir::new().expect("the temporary directory can be written");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let taken = listener.local_addr().expect("bound").to_string();
    fs::write(temporary.path().join("addresses"), format!("pd {taken}\n")).expect("written");
    let directory = temporary.path().to_str().expect("text");
    let arguments = ["--stores", "1", "--dir", directory];
    let playground = Playground::start(temporary.path(), &arguments).await;
    assert_ne!(playground.pd, taken);
}

#[tokio::test]
async fn what_cannot_be_started_is_told_of() {
    let temporary = TempDir::new().expect("the temporary directory can be written");
    let rdbctl = Rdbctl::at("127.0.0.1:1");
    let file = temporary.path().join("file");
    fs::write(&file, "").expect("written");
    let file = file.to_str().expect("text");
    let refused = rdbctl.run(["playground", "--dir", file]).await;
    assert_exit(&refused, FAILED, "a file in the way");
    assert!(errors(&refused).contains(file), "{}", errors(&refused));
}
