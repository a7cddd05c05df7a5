//! Stores that cannot ask the placement driver who may do what.

use rdb_proto::authpb::{Keyspace, Role};
use rdb_proto::kvrpc::batch_command::Request;
use rdb_proto::kvrpc::{RawGetRequest, RawPutRequest};
use tonic::Code;

use crate::administrator::over;
use crate::cluster::{Enforcing, Setup, get, health, is_misrouted};
use crate::harness::found;
use crate::identities::unknown_token;
use crate::requests::command;
use crate::wire::{Answer, CommandStream, bearer};

/// The smallest one.
const STALE_MAX_S: &str = "15";

/// What a store logs when it could not ask, and when it can again.
const NOT_RENEWED: &str = "the copy of the rights is not renewed";
const RENEWED_AGAIN: &str = "the copy of the rights is renewed again";

/// A cluster with a user who may write to keys that begin with `in/`.
struct Away {
    cluster: Enforcing,
    writer: String,
}

impl Away {
    async fn start(setup: Setup) -> Self {
        let cluster = Enforcing::start_as(setup).await;
        let writer = bearer(&cluster.admin.add("ada").await);
        let granted = over(Role::Writer, Keyspace::All, "in/");
        cluster.admin.grant("ada", &granted).await;
        cluster.settle().await;
        Self { cluster, writer }
    }

    /// Waits until each store has logged this as often.
    async fn stores_log(&self, text: &str, times: usize) {
        for store in &self.cluster.stores {
            found(text, async || {
                (store.log().matches(text).count() >= times).then_some(())
            })
            .await;
        }
    }

    /// Everybody has the rights that they had, at each store.
    async fn rights_hold(&self) {
        let path = "/kvrpc.KvRaw/RawPut";
        for (key, code) in [("in/k", Code::Ok), ("out/k", Code::PermissionDenied)] {
            let put = RawPutRequest {
                context: None,
                key: key.into(),
                value: "v".into(),
            };
            let answer = self.cluster.at_leader(path, &self.writer, &put).await;
            assert_eq!(answer.code, code, "{answer:?}");
        }
        let unknown = bearer(&unknown_token());
        for store in self.cluster.to_stores().await {
            let code = async |key, token| get(&store, key, token).await.code;
            let writer = Some(&*self.writer);
            assert_eq!(code("in/k", writer).await, Code::Ok);
            assert_eq!(code("out/k", writer).await, Code::PermissionDenied);
            assert_eq!(code("in/k", Some(&unknown)).await, Code::Unauthenticated);
            assert_eq!(code("in/k", None).await, Code::Unauthenticated);
        }
    }

    /// What a store answers to everybody who asks for keys, over both ways to it.
    async fn answers(&self, index: usize) -> Vec<Answer> {
        let store = self.cluster.channel(&self.cluster.stores[index]).await;
        let admin = self.cluster.admin.authorization();
        let mut answers = Vec::new();
        for authorization in [None, Some(&*self.writer), Some(&*admin)] {
            answers.push(get(&store, "in/k", authorization).await);
            answers.push(match CommandStream::open(&store, authorization).await {
                Ok(mut stream) => read(&mut stream).await,
                Err(refused) => refused,
            });
        }
        answers
    }
}

/// Reads over an open stream.
async fn read(stream: &mut CommandStream) -> Answer {
    let read = Request::RawGet(RawGetRequest {
        context: None,
        key: "in/k".into(),
    });
    match stream.commands(vec![command(read)]).await {
        Ok(mut answers) => answers.remove(0),
        Err(end) => end,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_go_on_with_their_rights_and_one_that_is_started_again_without_any_refuses_all() {
    let mut away = Away::start(Setup::default()).await;
    away.rights_hold().await;
    away.cluster.pd.pause();
    away.stores_log(NOT_RENEWED, 1).await;
    away.rights_hold().await;
    away.cluster.pd.resume();
    away.stores_log(RENEWED_AGAIN, 1).await;
    away.cluster.pd.kill();
    away.stores_log(NOT_RENEWED, 2).await;
    away.rights_hold().await;

    let leader = found("a store leads", async || {
        for (index, store) in away.cluster.to_stores().await.iter().enumerate() {
            let answer = get(store, "in/k", Some(&away.writer)).await;
            if answer.code == Code::Ok && !is_misrouted(&answer) {
                return Some(index);
            }
        }
        None
    })
    .await;
    let restarted = 1 - leader;
    let store = &mut away.cluster.stores[restarted];
    store.terminate();
    assert!(store.exited().await.success());
    store.start();
    store.wait_for_log("waiting for the placement driver").await;
    let store = &away.cluster.stores[restarted];
    found("it says that it has no rights", async || {
        let health = health(store).await;
        let is_told = health.body.contains("no copy of the rights");
        is_told.then_some(())
    })
    .await;
    let answers = away.answers(restarted).await;
    for answer in &answers {
        assert_eq!(answer.code, Code::Unavailable, "{answer:?}");
        answer.assert_not_applied();
        assert!(
            answer.message.contains("no copy of the rights"),
            "{answer:?}"
        );
    }

    away.cluster.pd.start_serving().await;
    found("it serves again", async || {
        let answers = away.answers(restarted).await;
        let are_answered = |answer: &Answer| answer.code != Code::Unavailable;
        answers.iter().all(are_answered).then_some(())
    })
    .await;
    away.rights_hold().await;
    found("it is well", async || {
        let body = health(&away.cluster.stores[restarted]).await.body;
        (body == "serving\n").then_some(())
    })
    .await;
    away.cluster.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_that_are_too_old_let_nobody_in_until_they_are_renewed() {
    let mut away = Away::start(Setup {
        stores: 1,
        store_flags: &[("--auth-stale-max-s", STALE_MAX_S)],
        ..Setup::default()
    })
    .await;
    // A stream that was opened before is no way around it.
    let store = away.cluster.channel(&away.cluster.stores[0]).await;
    let stream = CommandStream::open(&store, Some(&away.writer)).await;
    let mut stream = stream.unwrap_or_else(|refused| panic!("{refused:?}"));
    assert_eq!(read(&mut stream).await.code, Code::Ok);
    away.cluster.pd.pause();
    let refused = found("the open stream is refused", async || {
        let answer = read(&mut stream).await;
        (answer.code != Code::Ok).then_some(answer)
    })
    .await;
    assert_eq!(refused.code, Code::Unavailable, "{refused:?}");
    refused.assert_not_applied();
    for answer in away.answers(0).await {
        assert_eq!(answer.code, Code::Unavailable, "{answer:?}");
        answer.assert_not_applied();
        assert!(answer.message.contains("--auth-stale-max"), "{answer:?}");
    }
    found("it says so", async || {
        let health = health(&away.cluster.stores[0]).await;
        let is_told = health.body.contains("--auth-stale-max-s");
        is_told.then_some(())
    })
    .await;

    away.cluster.pd.resume();
    found("it serves again", async || {
        let answers = away.answers(0).await;
        let are_answered = |answer: &Answer| answer.code != Code::Unavailable;
        answers.iter().all(are_answered).then_some(())
    })
    .await;
    away.rights_hold().await;
    away.cluster.assert_sound();
}
