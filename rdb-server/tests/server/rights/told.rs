//! Whom a store serves before and after it was told whether rights are enforced, and of whom it believes that.

use rdb_proto::auth::Token;
use serde_json::Value;
use tonic::Code;

use super::{Setting, code, put, says_in_health, start_holding};
use crate::harness::{Metrics, Node, found, http_get};
use crate::scripted_pd::ScriptedPd;

/// The file that says that rights are enforced.
const MARK: &str = "rights-enforced";

impl Setting {
    /// A store with the token of one, not started yet, which asks this one first.
    fn store_asking_first(&self, other: &ScriptedPd) -> Node {
        let placement_drivers = format!("{},{}", other.address(), self.pd.address());
        let data_dir = self.directory.path().join("store");
        self.with_token(Node::store(data_dir, &placement_drivers).with_status())
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

    /// Waits until the first store has sent a heartbeat: it has no regions.
    async fn first_has_no_regions(&self) {
        let heartbeat = found("the store sends heartbeats", async || {
            self.pd.heartbeat_of(1).map(|(heartbeat, _)| heartbeat)
        });
        assert_eq!(heartbeat.await.region_count, Some(0));
    }
}

/// Waits until a placement driver was asked for rights so often.
async fn is_asked(pd: &ScriptedPd, times: usize) {
    let what = format!("it is asked {times} times");
    found(&what, async || (pd.questions() >= times).then_some(())).await;
}

/// Waits until a store takes a put of this key from a caller without a token.
async fn everybody_is_served(store: &Node, key: &str) {
    found("everybody is served", async || {
        put(store, None, key).await.ok()
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_store_serves_nobody_before_it_was_told_whether_rights_are_enforced() {
    let setting = Setting::new().await;
    setting.enforce("own/");
    setting.pd.keep_rights(true);
    let mut store = setting.store("store");
    store.start();
    // It does not wait for them to say that it is there.
    setting.first_has_no_regions().await;
    is_asked(&setting.pd, setting.pd.questions() + 1).await;
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
    is_asked(&setting.pd, asked + 2).await;
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
    is_asked(&other, before + 2).await;
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
        is_asked(&other, 2).await;
        setting.pd.set_away(false);
        setting.first_has_no_regions().await;
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
