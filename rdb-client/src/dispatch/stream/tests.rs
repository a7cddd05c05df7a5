//! What happens to calls when their lane's stream is lost or never opens.

use std::future::pending;
use std::time::Duration;

use futures::stream::{BoxStream, Pending};
use futures::{FutureExt, StreamExt};
use rdb_proto::batch::{KvBatch, KvBatchServer, Messages};
use rdb_proto::error::Fault;
use rdb_proto::errorpb::Fate;
use rdb_proto::kvrpc::{RawGetRequest, batch_command::Request};
use rdb_proto::transport::{ServeOptions, Services, health, serve};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::super::lane::Lane;
use super::super::queue::{AddressedCommand, MESSAGE_COMMANDS_MAX, Next};
use super::super::slot::{Answer, Slot};
use super::*;
use crate::connection::scripted_peer::{INTERNAL_ERROR, Reaction, ScriptedPeer};
use crate::connection::{ConnectionPool, Security};

/// Far above what anything here takes.
const HANG_GUARD: Duration = Duration::from_secs(60);

fn target(address: &str) -> Target {
    let pool = ConnectionPool::new(HANG_GUARD, Security::default(), Arc::default());
    let connections = Arc::new(pool);
    Target::new(address, connections, Arc::default(), MESSAGE_COMMANDS_MAX)
}

/// A lane to a store that is not there.
fn shared() -> SharedQueue {
    SharedQueue::new(Arc::new(target("127.0.0.1:1")))
}

fn command() -> AddressedCommand {
    AddressedCommand {
        context: Default::default(),
        request: Request::RawGet(RawGetRequest::default()),
        trace: None,
    }
}

fn push(shared: &SharedQueue) -> (Next, Answer) {
    let (slot, answer) = Slot::new();
    (shared.queue().push(command(), slot, 0), answer)
}

#[test]
fn a_task_that_is_ended_ends_the_calls_of_its_lane() {
    let shared = shared();
    let (next, answer) = push(&shared);
    assert!(matches!(next, Next::Start));
    shared.abandon();
    let ended = answer.now_or_never().expect("ended");
    assert!(matches!(ended, Err(Interrupted::NotProcessed { .. })));
    let (next, _answer) = push(&shared);
    assert!(matches!(next, Next::Start), "a new one is needed");
}

#[test]
fn a_task_stops_only_when_nothing_waits() {
    let shared = shared();
    let (_, answer) = push(&shared);
    assert!(!shared.stop_when_idle());
    drop(answer);
    shared.lose(Loss::Ended("no stream".into()), false);
    assert!(shared.stop_when_idle());
    assert!(matches!(push(&shared).0, Next::Start));
}

/// Serves streams of commands at the address that it returns.
async fn start(store: impl KvBatch) -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let serving = tokio::spawn(async move {
        let drain = CancellationToken::new();
        let (_health, service) = health(&[], drain.clone());
        let services = Services::default()
            .add_service(KvBatchServer::new(store))
            .add_service(service);
        let served = serve(listener, services, ServeOptions::default(), drain).await;
        served.expect("it listens");
    });
    (address, AbortOnDropHandle::new(serving))
}

async fn ended(answer: Answer) -> Interrupted {
    let ended = timeout(HANG_GUARD, answer).await.expect("the call ends");
    ended.expect_err("nobody answers")
}

/// Takes streams of commands and never says so.
struct Mute;

#[tonic::async_trait]
impl KvBatch for Mute {
    type BatchStream = Pending<Result<batch::Response, Status>>;

    async fn batch(&self, _: tonic::Request<Messages>) -> Result<Self::BatchStream, Status> {
        pending().await
    }
}

#[tokio::test]
async fn a_store_that_does_not_accept_a_stream_in_time_is_given_up() {
    let (address, _serving) = start(Mute).await;
    let mut target = target(&address);
    target.silence_max = Duration::from_millis(100);
    let lane = Lane::new(Arc::new(target));
    let ended = ended(lane.submit(command()).await).await;
    assert!(
        matches!(&ended, Interrupted::Lost { cause } if cause.contains("no answer")),
        "{ended:?}"
    );
}

/// Refuses every stream, at once or when it has a message, and says what became of the commands.
struct Refusing {
    accepts: bool,
    code: Code,
    fate: Fate,
}

#[tonic::async_trait]
impl KvBatch for Refusing {
    type BatchStream = BoxStream<'static, Result<batch::Response, Status>>;

    async fn batch(&self, request: tonic::Request<Messages>) -> Result<Self::BatchStream, Status> {
        let refusal = Fault::new(self.code, "because").with_fate(self.fate);
        if !self.accepts {
            return Err(refusal.into());
        }
        let message = request.into_inner().take(1);
        Ok(message.map(move |_| Err(refusal.clone().into())).boxed())
    }
}

#[tokio::test]
async fn commands_are_lost_with_a_stream_unless_the_store_says_that_it_left_them_undone() {
    for accepts in [false, true] {
        for (fate, is_certain) in [(Fate::NotApplied, true), (Fate::Unknown, false)] {
            let code = Code::ResourceExhausted;
            let refusing = Refusing {
                accepts,
                code,
                fate,
            };
            let (address, _serving) = start(refusing).await;
            let lane = Lane::new(Arc::new(target(&address)));
            let ended = ended(lane.submit(command()).await).await;
            let not_processed = matches!(ended, Interrupted::NotProcessed { .. });
            assert_eq!(not_processed, is_certain, "{accepts} {ended:?}");
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_reset_leaves_the_connection_to_the_next() {
    let script = [Reaction::Answer, Reaction::Reset(INTERNAL_ERROR)];
    let next = [Reaction::Reset(INTERNAL_ERROR), Reaction::Ignore];
    let peer = ScriptedPeer::start(vec![[script, next].concat()]).await;
    let lane = Lane::new(Arc::new(target(&peer.address)));
    for _ in 0..2 {
        ended(lane.submit(command()).await).await;
    }
    assert_eq!(peer.connections(), 1);
}

#[tokio::test]
async fn calls_are_told_that_the_client_may_not_have_a_stream_and_whether_that_is_the_last_word() {
    for accepts in [false, true] {
        for code in [Code::Unauthenticated, Code::PermissionDenied] {
            let refusing = Refusing {
                accepts,
                code,
                fate: Fate::NotApplied,
            };
            let (address, _serving) = start(refusing).await;
            let lane = Lane::new(Arc::new(target(&address)));
            let ended = ended(lane.submit(command()).await).await;
            let cause = "because".into();
            let error = match code {
                Code::Unauthenticated => Error::Unauthenticated { cause },
                _ => Error::PermissionDenied { cause },
            };
            let at_opening = !accepts;
            assert_eq!(ended, Interrupted::Refused { error, at_opening });
        }
    }
}
