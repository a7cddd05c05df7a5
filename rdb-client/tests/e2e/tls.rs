//! A cluster whose connections are encrypted, and which lets only clients with a certificate in.

use std::fs;
use std::path::{Path, PathBuf};

use rdb_client::{Client, Config, Tls};
use rdb_proto::transport::Connector;
use rdb_proto::transport::tls::ClientTls;
use rustix::process::Signal;
use tempfile::TempDir;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::harness::{HANG_GUARD, Node, found, http_get};
use crate::rdbctl::{Rdbctl, command};

const STORES: usize = 3;

/// What a test calls of a file, and how the flags of `rdbctl` call it.
const CLIENT_FILES: [(&str, &str); 3] = [
    ("--ca", "ca.pem"),
    ("--cert", "client.pem"),
    ("--key", "client.key"),
];

/// Certificates as `rdbctl cert dev` makes them.
struct Certificates(PathBuf);

impl Certificates {
    fn make(directory: PathBuf, more: &[&str]) -> Self {
        let mut command = command();
        command.args(["cert", "dev", "--dir"]).arg(&directory);
        let made = command
            .args(more)
            .output()
            .expect("the binary can be started");
        assert!(made.status.success(), "{made:?}");
        Self(directory)
    }

    fn path(&self, file: &str) -> String {
        self.0.join(file).display().to_string()
    }

    fn tls(&self) -> Tls {
        let tls = Tls::with_ca_file(self.path("ca.pem"));
        tls.with_identity_files(self.path("client.pem"), self.path("client.key"))
    }

    fn connector(&self) -> Connector {
        let tls = ClientTls::new(self.tls()).expect("they can be used");
        tls.connector()
    }

    /// The node serves with them.
    fn serve(&self, node: Node) -> Node {
        node.with_flag("--tls-cert", &self.path("server.pem"))
            .with_flag("--tls-key", &self.path("server.key"))
            .with_flag("--tls-client-ca", &self.path("ca.pem"))
            .connected_by(self.connector())
    }

    /// What `rdbctl` is given before a command.
    fn flags(&self) -> Vec<String> {
        let flags = CLIENT_FILES.iter();
        flags
            .flat_map(|(flag, file)| [(*flag).to_owned(), self.path(file)])
            .collect()
    }

    /// Puts the certificate of servers, and its key, in place of those in `others`.
    fn replace(&self, others: &Path) {
        for file in ["server.key", "server.pem"] {
            fs::copy(self.0.join(file), others.join(file)).expect("it can be copied");
        }
    }
}

struct Encrypted {
    pd: Node,
    stores: Vec<Node>,
    certificates: Certificates,
    directory: TempDir,
}

impl Encrypted {
    async fn start(store_count: usize) -> Self {
        let directory = TempDir::new().expect("the temporary directory can be written");
        let certificates = Certificates::make(directory.path().join("tls"), &[]);
        let pd = Node::placement_driver(directory.path().join("pd"));
        let pd = pd.with_flag("--initial-replicas", &store_count.to_string());
        let mut pd = certificates.serve(pd).with_status();
        pd.start_serving().await;
        let stores = (1..=store_count).map(|number| {
            let store = Node::store(directory.path().join(number.to_string()), &pd.address());
            let mut store = certificates.serve(store);
            store.start();
            store
        });
        let mut stores: Vec<_> = stores.collect();
        for store in &mut stores {
            store.wait_for_health(ServingStatus::Serving).await;
        }
        Self {
            pd,
            stores,
            certificates,
            directory,
        }
    }

    async fn client(&self) -> Client {
        let config = Config::default().with_tls(self.certificates.tls());
        let client = Client::connect_with([self.pd.address()], config.with_timeout(HANG_GUARD));
        client.await.expect("it lets the client in")
    }

    /// Runs `rdbctl` with these flags before the command. Returns its exit code, and what it said.
    async fn rdbctl(&self, flags: &[String], command: &[&str]) -> (Option<i32>, String) {
        let arguments = flags.iter().map(String::as_str);
        let arguments = arguments.chain(command.iter().copied());
        let output = Rdbctl::at(self.pd.address()).run(arguments).await;
        let told = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&told).into_owned(),
        )
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_stores_replicate_and_restart_and_rdbctl_works_with_a_certificate() {
    let mut cluster = Encrypted::start(STORES).await;
    let client = cluster.client().await;
    for number in 0..100 {
        let key = format!("k{number}");
        client.raw_put(&key, key.clone()).await.expect("put");
    }
    let flags = cluster.certificates.flags();
    let (code, told) = cluster.rdbctl(&flags, &["region", "check"]).await;
    assert_eq!(code, Some(0), "{told}");
    let (code, told) = cluster.rdbctl(&flags, &["health"]).await;
    assert_eq!(code, Some(0), "{told}");

    for index in 0..STORES {
        let store = &mut cluster.stores[index];
        store.terminate();
        assert!(store.exited().await.success());
        client.raw_put("while", "one is away").await.expect("put");
        store.start_serving().await;
    }
    assert_eq!(
        client.raw_get("k7").await.expect("get").as_deref(),
        Some(&b"k7"[..])
    );
    let (code, told) = cluster.rdbctl(&flags, &["region", "check"]).await;
    assert_eq!(code, Some(0), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_certificate_or_speaks_plain_text_is_told_what_is_missing() {
    let cluster = Encrypted::start(1).await;
    let impatient = |flags: &[String]| {
        let timeout = ["--timeout", "3s"].map(str::to_owned);
        [flags, &timeout].concat()
    };
    let all = cluster.certificates.flags();
    let (code, told) = cluster
        .rdbctl(&impatient(&[]), &["raw", "put", "k", "v"])
        .await;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("this port speaks TLS: give the CA"), "{told}");
    let (code, told) = cluster
        .rdbctl(&impatient(&all[..2]), &["raw", "get", "k"])
        .await;
    assert_eq!(code, Some(1), "{told}");
    let missing = "the server requires a certificate of this client";
    assert!(told.contains(missing), "{told}");
    let others = Certificates::make(cluster.directory.path().join("others"), &[]);
    let (code, told) = cluster
        .rdbctl(&impatient(&others.flags()), &["raw", "get", "k"])
        .await;
    assert_eq!(code, Some(1), "{told}");
    assert!(
        told.contains("no CA that is trusted here has signed it"),
        "{told}"
    );

    // A store of plain text is not let in, and says why.
    let mut plain = Node::store(
        cluster.directory.path().join("plain"),
        &cluster.pd.address(),
    );
    plain.start();
    plain.wait_for_log("this port speaks TLS").await;
    cluster
        .pd
        .wait_for_log("the client speaks plain text")
        .await;

    // Nor does one with TLS find a placement driver of plain text.
    let pd = Node::placement_driver(cluster.directory.path().join("plain-pd"));
    let mut pd = pd;
    pd.start_serving().await;
    let rdbctl = Rdbctl::at(pd.address());
    let arguments = impatient(&all);
    let output = rdbctl.run(
        arguments
            .iter()
            .map(String::as_str)
            .chain(["raw", "get", "k"]),
    );
    let told = String::from_utf8_lossy(&output.await.stderr).into_owned();
    assert!(told.contains("this port speaks plain text"), "{told}");
    pd.wait_for_log("this port speaks plain text").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_replaced_while_it_serves_and_broken_ones_are_not_used() {
    let mut cluster = Encrypted::start(1).await;
    let client = cluster.client().await;
    client.raw_put("k", "v").await.expect("put");
    let tls = cluster.directory.path().join("tls");
    let by_the_same = ["--ca-dir", &tls.display().to_string()].map(str::to_owned);
    let by_the_same = by_the_same.each_ref().map(String::as_str);
    let renewed = Certificates::make(cluster.directory.path().join("renewed"), &by_the_same);
    renewed.replace(&tls);
    // Without a word it looks by itself, some seconds later.
    cluster.pd.signal(Signal::HUP);
    for node in [&cluster.pd, &cluster.stores[0]] {
        node.wait_for_log("the certificates were read again: new connections")
            .await;
    }
    client
        .raw_put("k", "w")
        .await
        .expect("put over the old connection");
    let new = cluster.client().await;
    assert_eq!(
        new.raw_get("k").await.expect("get").as_deref(),
        Some(&b"w"[..])
    );

    fs::write(tls.join("server.pem"), "broken").expect("it can be written");
    cluster.pd.signal(Signal::HUP);
    cluster
        .pd
        .wait_for_log("that were read before are used on")
        .await;
    let status = cluster.pd.status_address().await;
    let told = "there is no certificate in it";
    found("the health tells", async || {
        let health = http_get(&status, "/health").await;
        (health.status == 200 && health.body.contains(told)).then_some(())
    })
    .await;
    let new = cluster.client().await;
    new.raw_put("k", "x").await.expect("put");

    renewed.replace(&tls);
    cluster.pd.signal(Signal::HUP);
    found("the health is good", async || {
        let health = http_get(&status, "/health").await;
        (health.body == "serving\n").then_some(())
    })
    .await;
    cluster.pd.terminate();
    assert!(cluster.pd.exited().await.success());
}
