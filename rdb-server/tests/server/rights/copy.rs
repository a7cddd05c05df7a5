//! The copy of the rights that a store holds: changes that count in it, and what becomes of it without a placement driver.

use std::time::Instant;

use futures::stream;
use rdb_proto::authpb::Role;
use rdb_proto::batch;
use rdb_proto::kvrpc::batch_answer::Response;
use rdb_proto::kvrpc::batch_command::Request as Command;
use rdb_proto::kvrpc::kv_batch_client::KvBatchClient;
use rdb_proto::kvrpc::{BatchCommand, BatchRequest};
use tokio::sync::mpsc;
use tonic::{Code, Status};

use super::{Setting, code, grant, put_of, request, says_in_health, start_holding, user};
use crate::harness::{connect_when_listening, found, guarded};

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
    setting.ada_puts_on_one_of([&second, &third]).await;
    let refused = setting.ada_puts(&first, "own/k").await;
    assert_eq!(code(refused), Code::Unavailable);
}
