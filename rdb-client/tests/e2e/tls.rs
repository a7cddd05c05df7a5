//! A cluster whose connections are encrypted, and which lets only clients with a certificate in.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::{fs, io};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rdb_client::{Client, Config, StoreState, Tls};
use rdb_proto::transport::tls::ClientTls;
use rdb_proto::transport::{Connector, Secured, endpoint};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{HANG_GUARD, Node, found, guarded, http_get};
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

    fn client_tls(&self) -> ClientTls {
        ClientTls::new(self.tls()).expect("they can be used")
    }

    fn connector(&self) -> Connector {
        self.client_tls().connector()
    }

    /// The certificate of servers, as it is sent.
    fn of_server(&self) -> Vec<u8> {
        let pem = fs::read_to_string(self.path("server.pem")).expect("it was made");
        let lines = pem.lines().filter(|line| !line.starts_with('-'));
        let body = STANDARD.decode(lines.collect::<String>());
        body.expect("it is PEM")
    }

    /// The certificate that a node presents to a client with these.
    async fn presented_by(&self, node: &Node) -> io::Result<Vec<u8>> {
        let address = node.address();
        let stream = TcpStream::connect(&address).await?;
        match self.client_tls().connect(&address, stream).await? {
            Secured::Tls(stream) => {
                let (_, session) = stream.get_ref();
                let presented = session.peer_certificates().and_then(<[_]>::first);
                Ok(presented.expect("there is one").to_vec())
            }
            Secured::Plain(_) => panic!("it is not encrypted"),
        }
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

    /// Puts the certificate of servers, and its key, in place of those in `others`, by rename.
    fn replace(&self, others: &Path) {
        let copy = others.join("copy");
        for file in ["server.key", "server.pem"] {
            fs::copy(self.0.join(file), &copy).expect("it can be copied");
            fs::rename(&copy, others.join(file)).expect("it can be renamed");
        }
    }
}

/// A channel that counts how often it has connected.
struct CountedConnections {
    client: HealthClient<Channel>,
    count: Arc<AtomicUsize>,
}

impl CountedConnections {
    async fn to(node: &Node, certificates: &Certificates) -> Self {
        let count = Arc::<AtomicUsize>::default();
        let (counted, tls) = (Arc::clone(&count), certificates.client_tls());
        let connector = Connector::new(move |address: String| {
            counted.fetch_add(1, Ordering::Relaxed);
            let tls = tls.clone();
            async move {
                let stream = TcpStream::connect(&address).await?;
                tls.connect(&address, stream).await
            }
        });
        let endpoint = endpoint(&node.address(), HANG_GUARD).expect("an address");
        let channel = endpoint.connect_with_connector(connector).await;
        let client = HealthClient::new(channel.expect("it lets the client in"));
        Self { client, count }
    }

    async fn check(&mut self) {
        let answer = self.client.check(HealthCheckRequest::default()).await;
        answer.expect("answered");
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
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
        let mut cluster = Self {
            pd,
            stores: Vec::new(),
            certificates,
            directory,
        };
        for _ in 0..store_count {
            cluster.start_store();
        }
        for store in &mut cluster.stores {
            store.wait_for_health(ServingStatus::Serving).await;
        }
        cluster
    }

    /// Starts one more store, which may not serve yet.
    fn start_store(&mut self) {
        let directory = self.directory.path();
        let data_dir = directory.join((self.stores.len() + 1).to_string());
        let store = Node::store(data_dir, &self.pd.address());
        let mut store = self.certificates.serve(store);
        store.start();
        self.stores.push(store);
    }

    /// Others of the same CA.
    fn renewed(&self, directory: &str) -> Certificates {
        let by = self.certificates.0.display().to_string();
        let directory = self.directory.path().join(directory);
        Certificates::make(directory, &["--ca-dir", &by])
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.stores.iter().chain([&self.pd])
    }

    /// All servers have certificates that clients accept, and these are of `issued`.
    async fn all_present(&self, issued: &Certificates) {
        for node in self.nodes() {
            node.signal(Signal::HUP);
        }
        for node in self.nodes() {
            found("it presents the new one", async || {
                let presented = self.certificates.presented_by(node).await.ok()?;
                (presented == issued.of_server()).then_some(())
            })
            .await;
        }
    }

    async fn client(&self) -> Client {
        let config = Config::default().with_tls(self.certificates.tls());
        let client = Client::connect_with([self.pd.address()], config.with_timeout(HANG_GUARD));
        client.await.expect("it lets the client in")
    }

    /// Runs a command until it is done and says `told`: stores may just have been silent.
    async fn says(&self, command: &[&str], told: &str) {
        let flags = self.certificates.flags();
        let says = async || {
            let (code, said) = self.rdbctl(&flags, command).await;
            (code == Some(0) && said.contains(told)).then_some(())
        };
        found(&format!("{command:?} says {told:?}"), says).await;
    }

    async fn refuses(&self, flags: &[String], told: &str) {
        refused_at(&Rdbctl::at(self.pd.address()), flags, told).await;
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

/// A command with these flags fails at its deadline, and says `told`. The deadline may be before that is known, if this machine is busy:
/// then it is run again.
async fn refused_at(rdbctl: &Rdbctl, flags: &[String], told: &str) {
    let arguments = flags.iter().map(String::as_str);
    let arguments: Vec<_> = arguments
        .chain(["--timeout", "3s", "raw", "get", "k"])
        .collect();
    found(told, async || {
        let output = rdbctl.run(&arguments).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        said.contains(told).then_some(())
    })
    .await;
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

/// That of the README. A new replica comes as a snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tour_works_over_tls() {
    let mut cluster = Encrypted::start(STORES).await;
    let client = cluster.client().await;
    client.raw_put("greeting", "hello").await.expect("put");
    let transfer = ["operator", "transfer-leader", "1", "3"];
    cluster.says(&transfer, "store 3 leads region 1").await;
    cluster.says(&["region", "check"], "equal").await;
    let stores = client.stores().await.expect("they are known");
    let first = stores.into_iter().find(|store| store.id == 1);
    let leaving = first.expect("ids begin there").address;

    cluster.start_store();
    let moved = ["operator", "move-peer", "1", "2", "4"];
    cluster.says(&moved, "region 1: move-peer 2 to 4").await;
    let received = "a snapshot was received";
    cluster.stores[STORES].wait_for_log(received).await;
    let list = ["operator", "list", "-o", "json"];
    cluster.says(&list, r#""state":"done""#).await;
    let remove = ["store", "remove", "1"];
    cluster.says(&remove, "store 1 has left").await;
    let mut nodes = cluster.stores.iter_mut();
    let node = nodes.find(|node| node.address() == leaving);
    let ended = node.expect("one of them").exited().await;
    assert_eq!(ended.code(), Some(3));
    cluster.says(&["region", "check"], "equal").await;
    let got = client.raw_get("greeting").await.expect("get");
    assert_eq!(got.as_deref(), Some(&b"hello"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_certificate_or_speaks_plain_text_is_told_what_is_missing() {
    let cluster = Encrypted::start(1).await;
    let all = cluster.certificates.flags();
    let told = "this port speaks TLS: give the CA";
    cluster.refuses(&[], told).await;
    let told = "the server requires a certificate of this client";
    cluster.refuses(&all[..2], told).await;
    let others = Certificates::make(cluster.directory.path().join("others"), &[]);
    let told = "no CA that is trusted here has signed it";
    cluster.refuses(&others.flags(), told).await;

    // A store of plain text is not let in, and says why.
    let mut plain = Node::store(
        cluster.directory.path().join("plain"),
        &cluster.pd.address(),
    );
    plain.start();
    plain
        .wait_for_log("this port speaks TLS: give this store --tls-cert")
        .await;
    cluster
        .pd
        .wait_for_log("the client speaks plain text")
        .await;

    // Nor does one with TLS find a placement driver of plain text.
    let mut pd = Node::placement_driver(cluster.directory.path().join("plain-pd"));
    pd.start_serving().await;
    let told = "this port speaks plain text";
    refused_at(&Rdbctl::at(pd.address()), &all, told).await;
    pd.wait_for_log("this port speaks plain text").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_replaced_while_it_serves_and_broken_ones_are_not_used() {
    let mut cluster = Encrypted::start(1).await;
    let client = cluster.client().await;
    client.raw_put("k", "v").await.expect("put");
    let tls = cluster.directory.path().join("tls");
    let mut open = CountedConnections::to(&cluster.pd, &cluster.certificates).await;
    open.check().await;
    // Only a signal is answered so.
    cluster.pd.signal(Signal::HUP);
    cluster.pd.wait_for_log("again: they are the same").await;

    let renewed = cluster.renewed("renewed");
    renewed.replace(&tls);
    // The store looks by itself, some seconds later.
    cluster.pd.signal(Signal::HUP);
    for node in [&cluster.pd, &cluster.stores[0]] {
        node.wait_for_log("the certificates were read again: new connections")
            .await;
        let presented = cluster.certificates.presented_by(node).await;
        assert_eq!(
            presented.expect("it lets the client in"),
            renewed.of_server()
        );
    }
    open.check().await;
    assert_eq!(open.count(), 1, "the old connection goes on");
    client.raw_put("k", "w").await.expect("put");
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

async fn put_and_get(client: &Client, key: &str, value: String) {
    client.raw_put(key, value.clone()).await.expect("put");
    let got = client.raw_get(key).await.expect("get");
    assert_eq!(got.as_deref(), Some(value.as_bytes()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_replaced_a_hundred_times_under_load_and_no_call_fails() {
    const REPLACEMENTS: usize = 100;
    const CALLERS: usize = 8;
    let cluster = Encrypted::start(1).await;
    let issued = [cluster.renewed("even"), cluster.renewed("odd")];
    let nodes = [&cluster.pd, &cluster.stores[0]];
    let client = cluster.client().await;
    let is_over = Arc::<AtomicBool>::default();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (client, is_over) = (client.clone(), Arc::clone(&is_over));
        callers.spawn(async move {
            let key = format!("k{caller}");
            let mut number = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                put_and_get(&client, &key, number.to_string()).await;
                number += 1;
            }
        });
    }
    let new_clients = AtomicUsize::new(0);
    let connecting = async {
        while !is_over.load(Ordering::Relaxed) {
            let new = cluster.client().await;
            let count = new_clients.load(Ordering::Relaxed);
            put_and_get(&new, "new", count.to_string()).await;
            new_clients.fetch_add(1, Ordering::Relaxed);
        }
    };
    let replacing = async {
        for number in 0..REPLACEMENTS {
            let before = new_clients.load(Ordering::Relaxed);
            let next = &issued[number % 2];
            next.replace(&cluster.certificates.0);
            cluster.all_present(next).await;
            found("new clients come", async || {
                (new_clients.load(Ordering::Relaxed) > before).then_some(())
            })
            .await;
        }
        is_over.store(true, Ordering::Relaxed);
    };
    tokio::join!(connecting, replacing);
    guarded("the callers end", callers.join_all()).await;
    let last = issued[(REPLACEMENTS - 1) % 2].of_server();
    for node in nodes {
        let presented = cluster.certificates.presented_by(node).await;
        assert_eq!(presented.expect("it lets the client in"), last);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ca_is_replaced_as_the_docs_say_and_signs_the_next_certificate() {
    let mut cluster = Encrypted::start(2).await;
    let client = cluster.client().await;
    client.raw_put("k", "v").await.expect("put");
    let tls = &cluster.certificates.0;
    let next = Certificates::make(cluster.directory.path().join("next"), &[]);
    let read = |path: &Path| fs::read_to_string(path).expect("it was made");
    let (ca, next_ca) = (tls.join("ca.pem"), next.0.join("ca.pem"));
    fs::write(&ca, read(&ca) + &read(&next_ca)).expect("it can be written");
    for node in cluster.nodes() {
        node.signal(Signal::HUP);
        node.wait_for_log("the certificates were read again: new connections")
            .await;
    }
    next.replace(tls);
    for file in ["client.pem", "client.key", "ca.key"] {
        fs::rename(next.0.join(file), tls.join(file)).expect("it can be moved");
    }
    cluster.all_present(&next).await;
    fs::copy(&next_ca, &ca).expect("it can be copied");
    cluster.all_present(&next).await;
    let renewed = cluster.renewed("renewed");
    renewed.replace(tls);
    cluster.all_present(&renewed).await;
    let new = cluster.client().await;
    new.raw_put("k", "w").await.expect("put");
    let got = client.raw_get("k").await.expect("get");
    assert_eq!(got.as_deref(), Some(&b"w"[..]));

    // Stores that run on connect again: they trust the next CA, and are trusted.
    cluster.pd.terminate();
    assert!(cluster.pd.exited().await.success());
    cluster.pd.start_serving().await;
    found("both stores are up", async || {
        let stores = new.stores().await.expect("they are known");
        let up = stores.iter().filter(|store| store.state == StoreState::Up);
        (up.count() == 2).then_some(())
    })
    .await;
    let second = &mut cluster.stores[1];
    second.terminate();
    assert!(second.exited().await.success());
    second.start_serving().await;
    // It needs both stores.
    new.raw_put("k", "x").await.expect("put");
}
