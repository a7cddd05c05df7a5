//! What a store makes of the rights that the placement driver hands out.

mod copy;
mod token;
mod told;

use std::fs;

use rdb_proto::auth::Token;
use rdb_proto::authpb::{Grant, Keyspace, Role, User};
use rdb_proto::error::details;
use rdb_proto::errorpb::Fate;
use rdb_proto::kvrpc::RawPutRequest;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::metapb::Peer;
use rdb_proto::pdpb::RegionStep;
use rdb_proto::pdpb::region_step::Step;
use tempfile::TempDir;
use tonic::{Code, Request, Status};

use crate::harness::{Node, connect_when_listening, found, http_get};
use crate::scripted_pd::{REGION_ID, ScriptedPd};

/// A placement driver, and two users: `ada`, who writes what begins with `own/`, and `store`, which is one.
struct Setting {
    pd: ScriptedPd,
    ada: Token,
    store_token: Token,
    directory: TempDir,
}

impl Setting {
    async fn new() -> Self {
        Self {
            pd: ScriptedPd::start("", "").await,
            ada: Token::random(),
            store_token: Token::random(),
            directory: TempDir::new().expect("the temporary directory can be written"),
        }
    }

    /// A store with the token of one, not started yet.
    fn store(&self, name: &str) -> Node {
        self.with_token(self.store_without_token(name))
    }

    fn with_token(&self, store: Node) -> Node {
        let file = self.directory.path().join("token");
        fs::write(&file, format!("{}\n", self.store_token)).expect("it can be written");
        store.with_flag("--auth-token-file", file.to_str().expect("text"))
    }

    fn store_without_token(&self, name: &str) -> Node {
        let data_dir = self.directory.path().join(name);
        Node::store(data_dir, &self.pd.address()).with_status()
    }

    /// Enforces rights. `ada` writes what begins with this, and the store is one.
    fn enforce(&self, prefix: &str) {
        self.enforce_with(prefix, vec![grant(Role::Store, "")]);
    }

    fn enforce_with(&self, prefix: &str, of_store: Vec<Grant>) {
        let ada = user("ada", &self.ada, vec![grant(Role::Writer, prefix)]);
        let store = user("store", &self.store_token, of_store);
        self.pd.enforce(vec![ada, store]);
    }

    /// A store that serves and enforces rights.
    async fn start_enforcing(&self) -> Node {
        self.enforce("own/");
        start_holding(self.store("store")).await
    }

    /// Has the region of the first store have this voter, too.
    async fn add_voter(&self, id: u64) {
        let peer = Peer {
            id,
            store_id: id,
            learner: true,
        };
        for step in [Step::AddLearner(peer), Step::Promote(id)] {
            let is_voter = matches!(step, Step::Promote(_));
            found("the region has another peer", async || {
                let (heartbeat, _) = self.pd.heartbeat_of(1)?;
                let report = heartbeat.leads.into_iter().next()?;
                let added = report.peers.iter().find(|peer| peer.id == id);
                if added.is_some_and(|peer| peer.learner != is_voter) {
                    return Some(());
                }
                self.pd.hand_out(Some(RegionStep {
                    region_id: REGION_ID,
                    conf_version: report.epoch?.conf_version,
                    step: Some(step),
                }));
                None
            })
            .await;
            self.pd.hand_out(None);
        }
    }

    async fn ada_puts(&self, store: &Node, key: &str) -> Result<(), Status> {
        put(store, Some(&self.ada), key).await
    }

    /// Waits until one of these takes a put of `ada`.
    async fn ada_puts_on_one_of(&self, stores: [&Node; 2]) {
        found("a store takes the write", async || {
            for store in stores {
                if self.ada_puts(store, "own/k").await.is_ok() {
                    return Some(());
                }
            }
            None
        })
        .await;
    }

    /// Waits until a put of `ada` is answered with this code.
    async fn ada_gets(&self, store: &Node, code: Code) -> Option<Status> {
        let what = format!("a put is answered with {code}");
        found(&what, async || match self.ada_puts(store, "own/k").await {
            Ok(()) => (code == Code::Ok).then_some(None),
            Err(status) => (status.code() == code).then_some(Some(status)),
        })
        .await
    }
}

/// What a store logs that has a copy of the rights.
const HOLD: &str = "the rights of this version hold here now";

fn user(name: &str, token: &Token, grants: Vec<Grant>) -> User {
    User {
        name: name.to_owned(),
        token_hashes: vec![token.hash().to_vec().into()],
        subject: String::new(),
        grants,
    }
}

fn grant(role: Role, prefix: &str) -> Grant {
    Grant {
        role: role.into(),
        keyspace: Keyspace::All.into(),
        prefix: prefix.to_owned().into(),
    }
}

fn request<T>(token: Option<&Token>, message: T) -> Request<T> {
    match token {
        Some(token) => token.request(message),
        None => Request::new(message),
    }
}

fn put_of(key: &str) -> RawPutRequest {
    RawPutRequest {
        context: None,
        key: key.to_owned().into(),
        value: "v".into(),
    }
}

async fn put(store: &Node, token: Option<&Token>, key: &str) -> Result<(), Status> {
    let channel = connect_when_listening(&store.address()).await;
    let call = request(token, put_of(key));
    let called = KvRawClient::new(channel).raw_put(call).await;
    match called?.into_inner().region_error {
        Some(misrouted) => Err(Status::aborted(format!("{misrouted:?}"))),
        None => Ok(()),
    }
}

/// Starts a store, and waits until it serves and has a copy of the rights.
async fn start_holding(mut store: Node) -> Node {
    store.start_serving().await;
    store.wait_for_log(HOLD).await;
    store
}

fn code(outcome: Result<(), Status>) -> Code {
    let Err(status) = outcome else {
        return Code::Ok;
    };
    let fate = details(&status).map(|error| error.fate());
    assert_eq!(fate, Some(Fate::NotApplied), "{status:?}");
    status.code()
}

/// Waits until `/health` says this.
async fn says_in_health(store: &Node, text: &str) {
    let address = store.status_address().await;
    let what = format!("the health says {text:?}");
    found(&what, async || {
        let health = http_get(&address, "/health").await;
        health.body.contains(text).then_some(())
    })
    .await;
}
