//! A placement driver and stores that ask who calls.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use prost::Message;
use rdb_client::Tls;
use rdb_proto::authpb::Role;
use rdb_proto::kvrpc::{RawGetRequest, RawPutResponse};
use rdb_proto::transport::endpoint;
use rdb_proto::transport::tls::ClientTls;
use serde_json::{Map, Value};
use tempfile::TempDir;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::administrator::{Administrator, over_all};
use crate::audit::{MARK, lines, marks, refusals};
use crate::certificates::{Ca, Files, Issued, Validity};
use crate::harness::{HANG_GUARD, HttpAnswer, Node, connect, found, http_get};
use crate::wire::{Answer, bearer, call};

/// Whether the placement driver enforces rights, as its environment says it.
const ENFORCED: &str = "RDB_PD_AUTH";

/// Whether a store's audit log has writes, too.
const WRITES_AUDITED: &str = "RDB_SERVER_AUDIT_WRITES";

/// Where a store has its token from.
const TOKEN_FILE: &str = "--auth-token-file";

/// The name in the certificate of servers.
pub(crate) const SERVER_SUBJECT: &str = "CN=server";

/// Most replicas of the region. Stores beyond that are there to take others' places.
pub(crate) const REPLICAS_MAX: usize = 3;

/// What a cluster is made of.
pub(crate) struct Setup {
    pub(crate) stores: usize,
    pub(crate) is_enforced: bool,
    /// Whether all have to show a certificate. Then stores have no tokens.
    pub(crate) is_encrypted: bool,
    /// Other CAs whose certificates are good, as PEM.
    pub(crate) also_trusts: String,
    pub(crate) store_flags: &'static [(&'static str, &'static str)],
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            stores: 2,
            is_enforced: true,
            is_encrypted: false,
            also_trusts: String::new(),
            store_flags: &[],
        }
    }
}

/// A cluster whose stores have replicas of one region, and which has one admin, and a user for each store.
pub(crate) struct Enforcing {
    pub(crate) pd: Node,
    pub(crate) stores: Vec<Node>,
    pub(crate) admin: Administrator,
    /// Of each store, if it has one.
    pub(crate) store_tokens: Vec<String>,
    encryption: Option<Encryption>,
    marks: AtomicUsize,
    directory: TempDir,
}

/// The user that the store of this position is.
pub(crate) fn store_user(index: usize) -> String {
    format!("store-{}", index + 1)
}

impl Enforcing {
    /// Starts one, which serves then.
    pub(crate) async fn start() -> Self {
        Self::start_as(Setup::default()).await
    }

    /// Starts one with a single store.
    pub(crate) async fn of_one_store() -> Self {
        Self::start_as(Setup {
            stores: 1,
            ..Setup::default()
        })
        .await
    }

    pub(crate) async fn start_as(setup: Setup) -> Self {
        let directory = TempDir::new().expect("the temporary directory can be written");
        let encryption = setup
            .is_encrypted
            .then(|| Encryption::make(&directory.path().join("tls"), &setup.also_trusts));
        let pd = Node::placement_driver(directory.path().join("pd"));
        let replicas = setup.stores.min(REPLICAS_MAX);
        let pd = pd.with_flag("--initial-replicas", &replicas.to_string());
        let pd = audited(pd.with_status(), directory.path());
        let mut pd = secured(pd, encryption.as_ref());
        enforce(&mut pd, setup.is_enforced);
        pd.start_serving().await;
        let to_pd = channel(&pd.address(), encryption.as_ref().map(Encryption::nobodys)).await;
        let (admin, enabled) = Administrator::first(to_pd).await;
        assert_eq!(enabled.enforced, setup.is_enforced);
        let mut cluster = Self {
            pd,
            stores: Vec::new(),
            admin,
            store_tokens: Vec::new(),
            encryption,
            marks: AtomicUsize::new(0),
            directory,
        };
        if setup.is_encrypted {
            let admin = &cluster.admin;
            admin.add_certificate("stores", SERVER_SUBJECT).await;
            admin.grant("stores", &over_all(Role::Store)).await;
        }
        for index in 0..setup.stores {
            cluster.start_store(index, setup.store_flags).await;
        }
        for store in &mut cluster.stores {
            store.wait_for_health(ServingStatus::Serving).await;
        }
        cluster
    }

    async fn start_store(&mut self, index: usize, flags: &[(&str, &str)]) {
        let directory = self.directory.path().join(format!("store-{index}"));
        let mut store = Node::store(&directory, &self.pd.address()).with_status();
        for (flag, value) in flags {
            store = store.with_flag(flag, value);
        }
        if self.encryption.is_none() {
            let user = store_user(index);
            let token = self.admin.add(&user).await;
            self.admin.grant(&user, &over_all(Role::Store)).await;
            let file = self.token_file(index);
            write_token(&file, &token);
            self.store_tokens.push(token);
            store = store.with_flag(TOKEN_FILE, &file.display().to_string());
        }
        let store = audited(store, self.directory.path());
        let mut store = secured(store, self.encryption.as_ref());
        store.set_environment(WRITES_AUDITED, "true");
        store.start();
        self.stores.push(store);
    }

    /// Where the store of this position has its token from.
    pub(crate) fn token_file(&self, index: usize) -> PathBuf {
        self.directory.path().join(format!("store-{index}.token"))
    }

    /// The CA that signs the certificates that all have to show.
    pub(crate) fn ca(&self) -> &Ca {
        let encryption = self.encryption.as_ref();
        &encryption.expect("it is encrypted").ca
    }

    /// Whether the placement driver enforces rights from its next start on.
    pub(crate) fn enforce(&mut self, is_enforced: bool) {
        enforce(&mut self.pd, is_enforced);
    }

    /// A connection of somebody without rights: a certificate is shown only where there is no connection without one.
    pub(crate) async fn channel(&self, node: &Node) -> Channel {
        let nobody = self.encryption.as_ref().map(Encryption::nobodys);
        channel(&node.address(), nobody).await
    }

    /// The connection of somebody with this certificate.
    pub(crate) async fn channel_of(&self, node: &Node, issued: &Issued) -> Channel {
        channel(&node.address(), Some(tls(self.ca(), issued))).await
    }

    pub(crate) async fn to_pd(&self) -> Channel {
        self.channel(&self.pd).await
    }

    pub(crate) async fn to_stores(&self) -> Vec<Channel> {
        let mut channels = Vec::new();
        for store in &self.stores {
            channels.push(self.channel(store).await);
        }
        channels
    }

    /// Waits until all stores know of what was changed until now.
    pub(crate) async fn settle(&self) {
        let mark = self.marks.fetch_add(1, Ordering::Relaxed);
        let name = format!("mark-{mark}");
        let token = bearer(&self.admin.add(&name).await);
        self.admin.grant(&name, &over_all(Role::Reader)).await;
        for store in self.to_stores().await {
            found("a store has learned of a user", async || {
                let answer = get(&store, "k", Some(&token)).await;
                (answer.code == Code::Ok).then_some(())
            })
            .await;
        }
    }

    /// Calls the store that leads, whichever that is, and returns what it answers.
    pub(crate) async fn at_leader(
        &self,
        path: &str,
        authorization: &str,
        request: &impl Message,
    ) -> Answer {
        let body = Bytes::from(request.encode_to_vec());
        let stores = self.to_stores().await;
        found("a store leads", async || {
            for store in &stores {
                let answer = call(store, path, Some(authorization), vec![body.clone()]).await;
                if answer.code != Code::Unavailable && !is_misrouted(&answer) {
                    return Some(answer);
                }
            }
            None
        })
        .await
    }

    /// How many refusals the audit logs tell of. Marks do not count.
    pub(crate) fn audited_refusals(&self) -> u64 {
        let audited = self.audited();
        audited.map(|log| refusals(&log) - marks(&log)).sum()
    }

    /// The same, once the audit logs have all that was noted until now. Lines are written in the order of their events, so a call that each
    /// process refuses shows that: a mark.
    pub(crate) async fn refusals_until_now(&self) -> u64 {
        let mut processes = self.to_stores().await;
        processes.push(self.to_pd().await);
        let marked = || self.audited().map(|log| marks(&log)).sum::<u64>();
        let before = marked();
        for process in &processes {
            let refused = call(process, MARK, None, vec![Bytes::new()]).await;
            assert_eq!(refused.code, Code::Unauthenticated, "{refused:?}");
        }
        found("each audit log has the mark", async || {
            (marked() == before + processes.len() as u64).then_some(())
        })
        .await;
        self.audited_refusals()
    }

    /// How often the audit logs tell of each call of a user, by path.
    pub(crate) fn audited_calls_of(&self, user: &str) -> BTreeMap<String, usize> {
        let mut calls = BTreeMap::<String, usize>::new();
        for line in self.audited().flatten() {
            let member = |name| line.get(name).and_then(Value::as_str);
            if let (Some(call), true) = (member("call"), member("user") == Some(user)) {
                *calls.entry(format!("/{call}")).or_default() += 1;
            }
        }
        calls
    }

    /// The lines of each audit log. No key and no token is in them.
    fn audited(&self) -> impl Iterator<Item = Vec<Map<String, Value>>> {
        let logs = self.stores.iter().chain([&self.pd]);
        logs.map(move |node| {
            let secrets = ["flaredb_", self.admin.token_digits(), "/k1"];
            lines(&audit_log(node, self.directory.path()), &secrets)
        })
    }

    /// All processes run, none of them has panicked, and none has logged a token.
    pub(crate) fn assert_sound(&mut self) {
        self.audited().for_each(drop);
        for node in self.stores.iter_mut().chain([&mut self.pd]) {
            assert!(!node.has_ended(), "a process has ended");
            let log = node.log();
            for text in ["panicked", "flaredb_", self.admin.token_digits()] {
                assert!(!log.contains(text), "{text} is in a log");
            }
        }
    }
}

fn enforce(pd: &mut Node, is_enforced: bool) {
    pd.set_environment(ENFORCED, is_enforced.to_string());
}

/// Where a process keeps its audit log.
fn audit_log(node: &Node, directory: &Path) -> PathBuf {
    let name = node.data_dir().file_name().expect("it has a name");
    directory.join(name).with_extension("audit")
}

fn audited(node: Node, directory: &Path) -> Node {
    let log = audit_log(&node, directory);
    node.with_flag("--audit-log", &log.display().to_string())
}

/// A certificate that names somebody.
pub(crate) fn certificate(ca: &Ca, name: &str) -> Issued {
    ca.issue(&[], name, Validity::Now)
}

/// What is needed for connections with certificates.
struct Encryption {
    ca: Ca,
    /// Of servers.
    files: Files,
    /// Names somebody who is no user.
    nobody: Issued,
}

impl Encryption {
    fn make(directory: &Path, also_trusts: &str) -> Self {
        fs::create_dir(directory).expect("it can be made");
        let ca = Ca::new();
        let files = Files::write(directory, &ca.server(), &ca);
        let trusted = [&*ca.pem, also_trusts].concat();
        fs::write(&files.ca, trusted).expect("it can be written");
        Self {
            files,
            nobody: certificate(&ca, "nobody"),
            ca,
        }
    }

    fn nobodys(&self) -> ClientTls {
        tls(&self.ca, &self.nobody)
    }
}

/// The node with certificates, if there are any.
fn secured(node: Node, encryption: Option<&Encryption>) -> Node {
    let Some(encryption) = encryption else {
        return node;
    };
    let files = &encryption.files;
    node.with_flag("--tls-cert", &files.certificate.display().to_string())
        .with_flag("--tls-key", &files.key.display().to_string())
        .with_flag("--tls-client-ca", &files.ca.display().to_string())
        .connected_by(encryption.nobodys().connector())
}

fn tls(ca: &Ca, issued: &Issued) -> ClientTls {
    let tls = Tls::with_ca_pem(ca.pem.clone());
    let tls = tls.with_identity_pem(issued.certificate.clone(), issued.key.clone());
    ClientTls::new(tls).expect("they can be used")
}

async fn channel(address: &str, tls: Option<ClientTls>) -> Channel {
    found("it can be connected to", async || match &tls {
        Some(tls) => {
            let endpoint = endpoint(address, HANG_GUARD).expect("an address");
            let connected = endpoint.connect_with_connector(tls.connector());
            connected.await.ok()
        }
        None => connect(address).await.ok(),
    })
    .await
}

/// Whether a response to a data request is a routing answer: that is the first field of each.
pub(crate) fn is_misrouted(answer: &Answer) -> bool {
    let body = answer.bodies.first().cloned().unwrap_or_default();
    let response = RawPutResponse::decode(body);
    response.is_ok_and(|response| response.region_error.is_some())
}

/// As an operator does it.
pub(crate) fn write_token(file: &Path, token: &str) {
    use std::os::unix::fs::PermissionsExt;

    fs::write(file, format!("{token}\n")).expect("it can be written");
    let own = fs::Permissions::from_mode(0o600);
    fs::set_permissions(file, own).expect("it is ours");
}

/// Reads a raw key.
pub(crate) async fn get(store: &Channel, key: &str, authorization: Option<&str>) -> Answer {
    let request = RawGetRequest {
        context: None,
        key: Bytes::copy_from_slice(key.as_bytes()),
    };
    let request = vec![request.encode_to_vec().into()];
    call(store, "/kvrpc.KvRaw/RawGet", authorization, request).await
}

/// What a process says of its health.
pub(crate) async fn health(node: &Node) -> HttpAnswer {
    http_get(&node.status_address().await, "/health").await
}
