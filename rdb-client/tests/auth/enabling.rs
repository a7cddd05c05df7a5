//! A cluster that begins to ask who calls while it is in use, and stops again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rdb_client::{Client, Config, Error};
use rdb_proto::authpb::Role;
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;

use crate::administrator::over_all;
use crate::cluster::{Enforcing, Setup, get};
use crate::harness::{HANG_GUARD, found, guarded};
use crate::identities::unknown_token;
use crate::wire::{bearer, call};

/// Callers of a client with a token.
const CALLERS: usize = 8;

/// What a store keeps of having been told that rights are enforced.
const MARK: &str = "rights-enforced";

/// Somebody who writes and must not notice anything.
struct Writers {
    written: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    tasks: Vec<AbortOnDropHandle<()>>,
}

impl Writers {
    fn start(client: &Client) -> Self {
        let (written, ends) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let tasks = (0..CALLERS).map(|caller| {
            let client = client.clone();
            let (written, ends) = (Arc::clone(&written), Arc::clone(&ends));
            AbortOnDropHandle::new(tokio::spawn(async move {
                while !ends.load(Ordering::Relaxed) {
                    let put = client.raw_put(format!("key-{caller}"), "v").await;
                    put.unwrap_or_else(|error| panic!("a user's write: {error:?}"));
                    written.fetch_add(1, Ordering::Relaxed);
                }
            }))
        });
        Self {
            tasks: tasks.collect(),
            written,
            ends,
        }
    }

    /// Waits until more were written.
    async fn go_on(&self) {
        let before = self.written.load(Ordering::Relaxed);
        let more = before + 4 * CALLERS as u64;
        found("the user goes on", async || {
            self.assert_running();
            (self.written.load(Ordering::Relaxed) > more).then_some(())
        })
        .await;
    }

    fn assert_running(&self) {
        let has_ended = self.tasks.iter().any(AbortOnDropHandle::is_finished);
        assert!(!has_ended, "a user's write has failed");
    }

    async fn end(self) {
        self.ends.store(true, Ordering::Relaxed);
        for task in self.tasks {
            guarded("writers end", task).await.expect("no failed write");
        }
    }
}

impl Enforcing {
    /// Waits until every process refuses who shows nothing, or lets them in.
    async fn is_open(&self, is_open: bool) {
        let code = if is_open {
            Code::Ok
        } else {
            Code::Unauthenticated
        };
        for store in self.to_stores().await {
            found("a store has learned it", async || {
                let answer = get(&store, "key-0", None).await;
                (answer.code == code).then_some(())
            })
            .await;
            let wrong = get(&store, "key-0", Some(&bearer(&unknown_token()))).await;
            assert_eq!(wrong.code, code, "{wrong:?}");
        }
        let pd = self.to_pd().await;
        let stores = call(&pd, "/pdpb.Pd/GetStores", None, vec![Default::default()]).await;
        assert_eq!(stores.code, code, "{stores:?}");
        // What strangers may learn of users before is another matter.
        if !is_open {
            let users = call(&pd, "/authpb.Auth/GetUsers", None, vec![Default::default()]).await;
            assert_eq!(users.code, code, "{users:?}");
        }
    }

    /// Waits until every store keeps for its next start whether rights are enforced.
    async fn is_marked(&self, is_marked: bool) {
        for store in &self.stores {
            found("the mark is right", async || {
                let is_there = store.data_dir().join(MARK).exists();
                (is_there == is_marked).then_some(())
            })
            .await;
        }
    }

    async fn restart_pd(&mut self, is_enforced: bool) {
        self.pd.terminate();
        assert!(self.pd.exited().await.success());
        self.enforce(is_enforced);
        self.pd.start_serving().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_go_on_while_rights_are_enforced_and_lifted_and_others_are_refused_meanwhile() {
    let mut cluster = Enforcing::start_as(Setup {
        is_enforced: false,
        ..Setup::default()
    })
    .await;
    let token = cluster.admin.add("ada").await;
    cluster.admin.grant("ada", &over_all(Role::Writer)).await;
    let client = async |config: Config| {
        let config = config.with_timeout(HANG_GUARD);
        let client = Client::connect_with([cluster.pd.address()], config).await;
        client.expect("everybody is let in")
    };
    let nobody = client(Config::default()).await;
    let ada = Config::default().with_token(token.parse().expect("a token"));
    let ada = client(ada).await;
    nobody.raw_put("nobodys", "v").await.expect("it is open");
    let writers = Writers::start(&ada);
    writers.go_on().await;
    cluster.is_open(true).await;
    cluster.is_marked(false).await;

    cluster.restart_pd(true).await;
    cluster.is_open(false).await;
    writers.go_on().await;
    cluster.is_marked(true).await;
    // Over connections and streams that were open before.
    for refused in [
        nobody.raw_get("nobodys").await.err(),
        nobody.raw_put("nobodys", "w").await.err(),
        nobody.tso().await.err(),
    ] {
        let is_told = matches!(refused, Some(Error::Unauthenticated { .. }));
        assert!(is_told, "{refused:?}");
    }
    ada.tso().await.expect("a user");

    cluster.restart_pd(false).await;
    cluster.is_open(true).await;
    writers.go_on().await;
    cluster.is_marked(false).await;
    let got = nobody.raw_get("nobodys").await.expect("it is open");
    assert_eq!(got.as_deref(), Some(&b"v"[..]));
    nobody.tso().await.expect("it is open");
    writers.end().await;
    cluster.assert_sound();
}
