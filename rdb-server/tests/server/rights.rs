//! What a store makes of the rights that the placement driver hands out.

use std::fs;
use std::time::Instant;

use futures::stream;
use rdb_proto::auth::Token;
use rdb_proto::authpb::{Grant, Keyspace, Role, User};
use rdb_proto::batch;
use rdb_proto::error::details;
use rdb_proto::errorpb::Fate;
use rdb_proto::kvrpc::batch_answer::Response;
use rdb_proto::kvrpc::batch_command::Request as Command;
use rdb_proto::kvrpc::kv_batch_client::KvBatchClient;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::kvrpc::{BatchCommand, BatchRequest, RawPutRequest};
use rdb_proto::metapb::Peer;
use rdb_proto::pdpb::RegionStep;
use rdb_proto::pdpb::region_step::Step;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::{Code, Request, Status};

use crate::configuration::program;
use crate::harness::{Metrics, Node, connect_when_listening, found, guarded, http_get};
use crate::scripted_pd::{REGION_ID, ScriptedPd};

/// The file that says that rights are enforced.
const MARK: &str = "rights-enforced";

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

    /// The same, which asks this one first.
    fn store_asking_first(&self, other: &ScriptedPd) -> Node {
        let placement_drivers = format!("{},{}", other.address(), self.pd.address());
        let data_dir = self.directory.path().join("store");
        self.with_token(Node::store(data_dir, &placement_drivers).with_status())
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

    /// Waits until the first store says that it leads.
    async fn first_leads(&self) {
        found("the store leads its region", async || {
            let (heartbeat, _) = self.pd.heartbeat_of(1)?;
            (!heartbeat.leads.is_empty()).then_some(())
        })
        .await;
    }

    /// Waits until the first store has sent another heartbeat.
    async fn heartbeats_go_on(&self) {
        let (_, before) = self.pd.heartbeat_of(1).expect("it has sent some");
        found("it sends heartbeats", async || {
            let (_, count) = self.pd.heartbeat_of(1)?;
            (count > before).then_some(())
        })
        .await;
    }

    async fn ada_puts(&self, store: &Node, key: &str) -> Result<(), Status> {
        put(store, Some(&self.ada), key).await
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

/// Waits until a store takes a put of this key from a caller without a token.
async fn everybody_is_served(store: &Node, key: &str) {
    found("everybody is served", async || {
        put(store, None, key).await.ok()
    })
    .await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_told_serves_nobody_after_a_restart_until_it_has_a_copy() {
    let setting = Setting::new().await;
    let mut store = setting.start_enforcing().await;
    assert_eq!(code(setting.ada_puts(&store, "own/k").await), Code::Ok);
    let outside = setting.ada_puts(&store, "other").await;
    assert_eq!(code(outside), Code::PermissionDenied);
    assert_eq!(
        code(put(&store, None, "own/k").await),
        Code::Unauthenticated
    );
    let stranger = Token::random();
    let wrong = put(&store, Some(&stranger), "own/k").await;
    assert_eq!(code(wrong), Code::Unauthenticated);
    let mark = store.data_dir().join(MARK);
    found("the mark is there", async || mark.exists().then_some(())).await;

    let address = store.status_address().await;
    let status = http_get(&address, "/status").await.body;
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let auth = &status["auth"];
    assert_eq!(auth["enforced"], true, "{auth}");
    assert_eq!(auth["version"], 1, "{auth}");
    assert!(auth["age_s"].is_u64(), "{auth}");
    assert_eq!(auth["refused"]["denied"], 1, "{auth}");
    let metrics = Metrics::of(&address).await;
    assert_eq!(metrics.get("flaredb_auth_enforced"), 1.0);
    assert_eq!(metrics.get("flaredb_auth_rights_version"), 1.0);
    let refused = |reason| {
        metrics.get(&format!(
            "flaredb_auth_refusals_total{{reason=\"{reason}\"}}"
        ))
    };
    assert_eq!(refused("denied"), 1.0);
    assert!(refused("unauthenticated") >= 2.0, "{}", metrics.text);
    let denied = "flaredb_commands_total{kind=\"raw_put\",outcome=\"denied\"}";
    assert_eq!(metrics.get(denied), 1.0);

    setting.pd.set_away(true);
    store.kill();
    store.start();
    let refused = setting.ada_gets(&store, Code::Unavailable).await;
    let refused = refused.expect("it is no success");
    assert!(
        refused.message().contains("no copy of the rights"),
        "{refused:?}"
    );
    assert_eq!(code(Err(refused)), Code::Unavailable);
    assert_eq!(code(put(&store, None, "own/k").await), Code::Unavailable);
    says_in_health(&store, "no copy of the rights").await;
    let address = store.status_address().await;
    assert_eq!(http_get(&address, "/ready").await.status, 503);

    setting.pd.set_away(false);
    setting.ada_gets(&store, Code::Ok).await;
    setting.pd.enforce_nothing();
    everybody_is_served(&store, "other").await;
    found("the mark is gone", async || (!mark.exists()).then_some(())).await;
    setting.pd.set_away(true);
    store.kill();
    store.start();
    // It has a token, so rights may have been switched on again meanwhile.
    assert_eq!(code(put(&store, None, "other").await), Code::Unavailable);
    setting.pd.set_away(false);
    everybody_is_served(&store, "other").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_placement_driver_does_not_open_a_store_that_was_told() {
    let setting = Setting::new().await;
    let mut store = setting.start_enforcing().await;
    let mark = store.data_dir().join(MARK);
    found("the mark is there", async || mark.exists().then_some(())).await;
    setting.pd.forget_rights();
    store.kill();
    store.start();
    store
        .wait_for_log("registered with the placement driver")
        .await;
    says_in_health(&store, "its release knows no rights").await;
    setting.ada_gets(&store, Code::Unavailable).await;
    assert!(mark.exists());
}

/// How long it takes is printed. The 10 s that are promised are tried on request, by `rdb-client/tests/auth/revoked`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_is_revoked_is_refused_on_an_open_stream() {
    let setting = Setting::new().await;
    let store = setting.start_enforcing().await;
    let channel = connect_when_listening(&store.address()).await;
    let (sender, receiver) = mpsc::channel(1);
    let messages = stream::unfold(receiver, |mut receiver| async move {
        let message: BatchRequest = receiver.recv().await?;
        Some((batch::Request::from(message), receiver))
    });
    let mut client = KvBatchClient::new(channel);
    let opened = client.batch(request(Some(&setting.ada), messages));
    let opened = guarded("the stream is open", opened).await;
    let mut answers = opened.expect("served").into_inner();
    // A put in each message, one after the other.
    let mut put = async |key: &str| {
        let command = BatchCommand {
            request: Some(Command::RawPut(put_of(key))),
            ..BatchCommand::default()
        };
        let message = BatchRequest {
            commands: vec![command],
            ..BatchRequest::default()
        };
        // A stream that has ended says why.
        let _ = sender.send(message).await;
        let answer = guarded("an answer", answers.message()).await?;
        let mut answers = answer.expect("it ends with a failure").message.answers;
        Ok::<_, Status>(match answers.pop().expect("one").response {
            Some(Response::RawPut(_)) => Code::Ok,
            Some(Response::Fault(fault)) => Code::from_i32(fault.code as i32),
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(put("own/k").await.expect("served"), Code::Ok);
    let outside = put("other/k").await.expect("served");
    assert_eq!(outside, Code::PermissionDenied);

    setting.enforce("other/");
    let revoked = Instant::now();
    let refused = found("it is refused", async || {
        let code = put("own/k").await.expect("the stream goes on");
        (code != Code::Ok).then_some(code)
    })
    .await;
    assert_eq!(refused, Code::PermissionDenied);
    let took = revoked.elapsed();
    println!("what was revoked is refused {took:?} later");
    let granted = put("other/k").await.expect("the stream goes on");
    assert_eq!(granted, Code::Ok, "what was granted counts, too");

    // Who is no user any more has no stream either.
    let store = user("store", &setting.store_token, vec![grant(Role::Store, "")]);
    setting.pd.enforce(vec![store]);
    let ended = found("the stream ends", async || put("other/k").await.err()).await;
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_too_old_refuses_everything_until_it_is_renewed() {
    let setting = Setting::new().await;
    setting.enforce("own/");
    let store = setting.store("store").with_flag("--auth-stale-max-s", "15");
    let store = start_holding(store).await;
    setting.ada_gets(&store, Code::Ok).await;
    setting.pd.set_away(true);
    let refused = setting.ada_gets(&store, Code::Unavailable).await;
    let refused = refused.expect("it is no success");
    assert!(
        refused.message().contains("--auth-stale-max-s"),
        "{refused:?}"
    );
    says_in_health(&store, "older than --auth-stale-max-s, 15 s").await;
    store
        .wait_for_log("the copy of the rights is not renewed")
        .await;
    store
        .wait_for_log("older than --auth-stale-max-s: all calls are refused")
        .await;
    setting.pd.set_away(false);
    setting.ada_gets(&store, Code::Ok).await;
    store
        .wait_for_log("the copy of the rights is renewed again")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_loses_its_right_says_so_and_goes_on_with_its_copy() {
    let setting = Setting::new().await;
    let store = setting.start_enforcing().await;
    setting.enforce_with("other/", Vec::new());
    says_in_health(&store, "--auth-token-file").await;
    assert_eq!(code(setting.ada_puts(&store, "own/k").await), Code::Ok);
    setting.enforce("own/");
    let address = store.status_address().await;
    found("nothing is wrong any more", async || {
        let health = http_get(&address, "/health").await;
        (health.body.trim() == "serving").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_may_not_register_waits_until_it_may() {
    let setting = Setting::new().await;
    setting.enforce_with("own/", Vec::new());
    let mut store = setting.store("store");
    store.start();
    store
        .wait_for_log("waiting for the placement driver to register this store")
        .await;
    let log = store.log();
    assert!(log.contains("--auth-token-file"), "{log}");
    assert!(!store.has_ended());
    setting.enforce("own/");
    setting.ada_gets(&store, Code::Ok).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_store_serves_nobody_before_it_was_told_whether_rights_are_enforced() {
    let setting = Setting::new().await;
    setting.enforce("own/");
    setting.pd.keep_rights(true);
    let mut store = setting.store("store");
    store.start();
    // It does not wait for them to say that it is there.
    let heartbeat = found("the store sends heartbeats", async || {
        setting.pd.heartbeat_of(1).map(|(heartbeat, _)| heartbeat)
    });
    assert_eq!(heartbeat.await.region_count, Some(0));
    let asked = setting.pd.questions();
    found("it asks again", async || {
        (setting.pd.questions() > asked).then_some(())
    })
    .await;
    assert_eq!(code(put(&store, None, "own/k").await), Code::Unavailable);
    setting.pd.keep_rights(false);
    setting.ada_gets(&store, Code::Ok).await;
    let nobody = put(&store, None, "own/k").await;
    assert_eq!(code(nobody), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_with_regions_and_without_a_token_needs_to_be_told_nothing() {
    let setting = Setting::new().await;
    let mut store = setting.store_without_token("store");
    store.start_serving().await;
    setting.first_leads().await;
    setting.pd.keep_rights(true);
    store.kill();
    store.start();
    store
        .wait_for_log("registered with the placement driver")
        .await;
    setting.heartbeats_go_on().await;
    everybody_is_served(&store, "k").await;
}

/// Rights may have been switched on while it was down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_with_regions_and_a_token_serves_nobody_before_it_was_told() {
    let setting = Setting::new().await;
    let mut store = setting.store("store");
    store.start_serving().await;
    setting.first_leads().await;
    assert_eq!(code(put(&store, None, "k").await), Code::Ok);
    setting.pd.keep_rights(true);
    store.kill();
    let asked = setting.pd.questions();
    store.start();
    found("it asks again", async || {
        (setting.pd.questions() >= asked + 2).then_some(())
    })
    .await;
    setting.heartbeats_go_on().await;
    assert_eq!(code(put(&store, None, "k").await), Code::Unavailable);
    setting.pd.keep_rights(false);
    everybody_is_served(&store, "k").await;
    assert!(!store.data_dir().join(MARK).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_that_cannot_be_used_close_a_store_that_was_never_told() {
    let setting = Setting::new().await;
    let mut store = setting.store("store");
    store.start_serving().await;
    assert_eq!(code(put(&store, None, "k").await), Code::Ok);
    setting.pd.enforce_unusable();
    setting.ada_gets(&store, Code::Unavailable).await;
    says_in_health(&store, "cannot be used").await;
    assert!(store.data_dir().join(MARK).exists());
    setting.pd.set_away(true);
    store.kill();
    store.start();
    setting.ada_gets(&store, Code::Unavailable).await;
}

/// The other one is of another cluster: it does not take this store in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_rights_are_not_enforced_is_believed_only_of_who_has_taken_the_store_in() {
    let (setting, other) = (Setting::new().await, ScriptedPd::start("", "").await);
    other.register_nobody();
    setting.enforce("own/");
    let mut store = start_holding(setting.store_asking_first(&other)).await;
    setting.pd.set_away(true);
    store.kill();
    let before = other.questions();
    store.start();
    // When it asks again, it has made something of the answer before.
    found("it has asked the other one", async || {
        (other.questions() >= before + 2).then_some(())
    })
    .await;
    assert_eq!(code(put(&store, None, "own/k").await), Code::Unavailable);
    assert!(store.data_dir().join(MARK).exists());
    setting.pd.set_away(false);
    setting.ada_gets(&store, Code::Ok).await;
}

/// Neither of one that enforces nothing, nor of one that knows no rights.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_store_is_told_nothing_by_who_does_not_take_it_in() {
    for knows_rights in [true, false] {
        let (setting, other) = (Setting::new().await, ScriptedPd::start("", "").await);
        other.register_nobody();
        if !knows_rights {
            other.forget_rights();
        }
        setting.enforce("own/");
        setting.pd.keep_rights(true);
        setting.pd.set_away(true);
        let mut store = setting.store_asking_first(&other);
        store.start();
        found("it has asked the other one", async || {
            (other.questions() >= 2).then_some(())
        })
        .await;
        setting.pd.set_away(false);
        let heartbeat = found("the store sends heartbeats", async || {
            setting.pd.heartbeat_of(1).map(|(heartbeat, _)| heartbeat)
        });
        assert_eq!(heartbeat.await.region_count, Some(0));
        assert_eq!(code(put(&store, None, "own/k").await), Code::Unavailable);
        setting.pd.keep_rights(false);
        setting.ada_gets(&store, Code::Ok).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_store_of_an_older_placement_driver_serves_everybody() {
    let setting = Setting::new().await;
    setting.pd.forget_rights();
    let mut store = setting.store("store");
    store.start_serving().await;
    assert_eq!(code(put(&store, None, "k").await), Code::Ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_of_a_backup_count_though_they_have_a_version_that_is_known() {
    let setting = Setting::new().await;
    let store = setting.start_enforcing().await;
    setting.ada_gets(&store, Code::Ok).await;
    setting.pd.set_away(true);
    store
        .wait_for_log("the copy of the rights is not renewed")
        .await;
    setting.pd.forget_versions();
    setting.enforce("other/");
    setting.pd.set_away(false);
    setting.ada_gets(&store, Code::PermissionDenied).await;
}

/// The others have a copy that holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_refuses_everything_for_want_of_rights_has_others_lead() {
    let setting = Setting::new().await;
    setting.enforce("own/");
    let first = setting.store("first").with_flag("--auth-stale-max-s", "15");
    let first = start_holding(first).await;
    let (second, third) = (setting.store("second"), setting.store("third"));
    let second = start_holding(second).await;
    setting.add_voter(2).await;
    let third = start_holding(third).await;
    setting.add_voter(3).await;
    setting.ada_gets(&first, Code::Ok).await;
    setting.pd.set_away(true);
    found("another one takes the write", async || {
        for store in [&second, &third] {
            if setting.ada_puts(store, "own/k").await.is_ok() {
                return Some(());
            }
        }
        None
    })
    .await;
    let refused = setting.ada_puts(&first, "own/k").await;
    assert_eq!(code(refused), Code::Unavailable);
}

/// The placement driver enforces rights, and the store was never told which.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_not_let_in_serves_nobody_though_it_was_never_told() {
    let setting = Setting::new().await;
    let mut store = setting.store_without_token("store");
    store.start_serving().await;
    assert_eq!(code(put(&store, None, "k").await), Code::Ok);
    setting.enforce("own/");
    setting.ada_gets(&store, Code::Unavailable).await;
    says_in_health(&store, "--auth-token-file").await;
    store.kill();
    store.start();
    setting.ada_gets(&store, Code::Unavailable).await;
    setting.pd.enforce_nothing();
    everybody_is_served(&store, "k").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stores_replicate_with_their_tokens() {
    let setting = Setting::new().await;
    let first = setting.start_enforcing().await;
    let second = start_holding(setting.store("second")).await;
    setting.add_voter(2).await;
    // Either one needs the other for it.
    found("a store takes the write", async || {
        for store in [&first, &second] {
            let channel = connect_when_listening(&store.address()).await;
            let call = request(Some(&setting.ada), put_of("own/k"));
            let put = KvRawClient::new(channel).raw_put(call).await;
            if put.is_ok_and(|put| put.into_inner().region_error.is_none()) {
                return Some(());
            }
        }
        None
    })
    .await;
    for log in [first.log(), second.log()] {
        assert!(!log.contains("does not take this store"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_not_taken_leaves_the_one_from_before_in_use() {
    let setting = Setting::new().await;
    let store = setting.start_enforcing().await;
    let file = setting.directory.path().join("token");
    let write = |token: String| fs::write(&file, token).expect("it can be written");
    write(setting.ada.to_string());
    says_in_health(&store, "user ada lacks the right: store").await;
    let learns = async |prefix: &str| {
        setting.enforce(prefix);
        let key = format!("{prefix}k");
        found("the store learns of changes", async || {
            setting.ada_puts(&store, &key).await.ok()
        })
        .await;
    };
    learns("one/").await;
    write("no token".to_owned());
    says_in_health(&store, "has something else").await;
    learns("two/").await;

    let next = Token::random();
    let mut rotated = user("store", &setting.store_token, vec![grant(Role::Store, "")]);
    rotated.token_hashes.push(next.hash().to_vec().into());
    let ada = |prefix| user("ada", &setting.ada, vec![grant(Role::Writer, prefix)]);
    setting.pd.enforce(vec![ada("own/"), rotated.clone()]);
    write(next.to_string());
    found("the health has no warning", async || {
        let health = http_get(&store.status_address().await, "/health").await;
        (health.body == "serving\n").then_some(())
    })
    .await;
    rotated.token_hashes.remove(0);
    setting.pd.enforce(vec![ada("last/"), rotated]);
    found("it shows the next one", async || {
        setting.ada_puts(&store, "last/k").await.ok()
    })
    .await;
}

/// The port may speak TLS: whoever listens on the way would read the token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_not_sent_to_a_port_that_does_not_answer() {
    const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let setting = Setting::new().await;
    let silent = TcpListener::bind("127.0.0.1:0").await;
    let silent = silent.expect("a free port");
    let address = silent.local_addr().expect("it listens").to_string();
    let data_dir = setting.directory.path().join("store");
    let mut store = setting.with_token(Node::store(data_dir, &address));
    store.start();
    let accepted = guarded("it connects", silent.accept()).await;
    let (mut stream, _) = accepted.expect("it listens");
    let mut sent = Vec::new();
    let ended = guarded("it gives up", stream.read_to_end(&mut sent)).await;
    ended.expect("it closes");
    assert_eq!(sent, GREETING);
}

#[test]
fn a_file_without_a_token_is_refused_as_a_setting_and_not_shown() {
    let directory = TempDir::new().expect("the temporary directory can be written");
    let file = directory.path().join("token");
    fs::write(&file, "flaredb_5ec2e7").expect("it can be written");
    let output = program("rdb-server")
        .arg("--auth-token-file")
        .arg(&file)
        .arg("--data-dir")
        .arg(directory.path().join("store"))
        .output();
    let output = output.expect("the binary can be started");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(told.contains("--auth-token-file"), "{told}");
    assert!(told.contains("flaredb_ and 64 digits"), "{told}");
    assert!(!told.contains("5ec2e7"), "{told}");
}
