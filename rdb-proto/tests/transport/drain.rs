//! A drain answers what is in flight, and waits for nobody who does not read.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use rdb_proto::error::details;
use rdb_proto::errorpb::Fate;
use rdb_proto::kvrpc::RawPutRequest;
use rdb_proto::transport::{ServeOptions, endpoint};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

use crate::fixture::{HANG_GUARD, TestServer, get, guarded, is_not_served};
use crate::lazy_peer::LazyPeer;
use crate::peer::{BATCH, Peer, RAW_DELETE, RAW_GET, SHORT, begun, framed};

const WINDOW_BYTES: u32 = 1 << 20;

/// A server that soon gives up peers that stand still.
async fn start() -> TestServer {
    start_with(10 * SHORT).await
}

async fn start_with(send_stall_timeout: Duration) -> TestServer {
    TestServer::start(ServeOptions {
        send_stall_timeout,
        call_timeout: 10 * HANG_GUARD,
        drain_timeout: 10 * HANG_GUARD,
        ..ServeOptions::default()
    })
    .await
}

#[tokio::test]
async fn a_call_in_flight_is_answered() {
    let server = start().await;
    let mut peer = Peer::connect(&server, WINDOW_BYTES).await;
    let call = peer.call(RAW_DELETE, framed(&get(10)), true).await;
    let other = peer.call(RAW_GET, framed(&get(10)), true).await;
    other.read().await.expect("served");
    server.drain.cancel();
    server.deletes.notify_one();
    let answer = call.read().await.expect("an answer, not a reset");
    assert_eq!(answer.trailers["grpc-status"], "0");
    guarded("the drain ends", server.serving)
        .await
        .expect("in good order");
}

#[tokio::test]
async fn all_is_served_until_the_process_has_handed_over_what_others_go_on_with() {
    let handed_over = CancellationToken::new();
    let server = TestServer::start(ServeOptions {
        handed_over: Some(handed_over.clone()),
        drain_timeout: 10 * HANG_GUARD,
        ..ServeOptions::default()
    })
    .await;
    let mut earlier = server.client().await;
    server.drain.cancel();
    for _ in 0..3 {
        earlier.raw_get(get(10)).await.expect("served");
        let mut newcomer = server.client().await;
        newcomer.raw_get(get(10)).await.expect("served");
    }
    handed_over.cancel();
    guarded("the drain ends", server.serving)
        .await
        .expect("in good order");
}

#[tokio::test]
async fn the_drain_timeout_begins_with_the_drain() {
    let handed_over = CancellationToken::new();
    let server = TestServer::start(ServeOptions {
        handed_over: Some(handed_over.clone()),
        drain_timeout: SHORT,
        ..ServeOptions::default()
    })
    .await;
    let mut peer = Peer::connect(&server, WINDOW_BYTES).await;
    // It is never answered.
    let _call = peer.call(RAW_DELETE, framed(&get(10)), true).await;
    server.drain.cancel();
    tokio::time::sleep(2 * SHORT).await;
    handed_over.cancel();
    guarded("the drain ends", server.serving)
        .await
        .expect("in good order");
}

/// From the drain on, time passes only while everybody waits: a busy machine does not use it up.
#[tokio::test]
async fn answers_that_nobody_reads_do_not_hold_it_up() {
    const STALL_TIMEOUT: Duration = Duration::from_secs(10);
    let server = start_with(STALL_TIMEOUT).await;
    let mut peer = Peer::connect(&server, 0).await;
    let unread = peer.call(RAW_GET, framed(&get(1 << 20)), true).await;
    let unread = unread.unread().await.expect("it begins");
    // With a window of a byte, the transport takes an answer that is never sent.
    let mut slow = Peer::connect(&server, 1).await;
    let small = slow.call(RAW_GET, framed(&get(1_000)), true).await;
    let small = small.unread().await.expect("it begins");
    let mut idle = Peer::connect(&server, WINDOW_BYTES).await;
    let stream = idle.call(BATCH, framed(&get(0)), false).await;
    let stream = stream.unread().await.expect("it begins");
    tokio::time::pause();
    server.drain.cancel();
    timeout(STALL_TIMEOUT / 2, server.serving)
        .await
        .expect("before their calls and connections are given up otherwise")
        .expect("in good order");
    drop((unread, small, stream));
}

#[tokio::test]
async fn requests_that_stop_arriving_do_not_hold_it_up() {
    let server = start().await;
    let mut peer = Peer::connect(&server, WINDOW_BYTES).await;
    let mut calls = Vec::new();
    for body in [Bytes::new(), begun(1000, &[0; 10]), framed(&get(10))] {
        calls.push(peer.call(RAW_GET, body, false).await);
    }
    // An answer to a later call shows that these have begun.
    let other = peer.call(RAW_GET, framed(&get(10)), true).await;
    other.read().await.expect("served");
    server.drain.cancel();
    guarded("the drain ends", server.serving)
        .await
        .expect("in good order");
    for call in calls {
        let answer = call.read().await.expect("an answer, not a reset");
        let status = Status::from_header_map(&answer.trailers).expect("a status");
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(details(&status).expect("details").fate(), Fate::NotApplied);
    }
}

#[tokio::test]
async fn a_peer_that_does_not_go_away_holds_it_up_only_with_a_call() {
    let server = TestServer::start(ServeOptions {
        send_stall_timeout: SHORT,
        drain_timeout: 10 * HANG_GUARD,
        ..ServeOptions::default()
    })
    .await;
    let peer = LazyPeer::connect(&server, true).await;
    server.drain.cancel();
    guarded("the drain ends", server.serving)
        .await
        .expect("in good order");
    let ended = guarded("the connection ends", peer.connection).await;
    ended.expect("no panic");
}

#[tokio::test]
async fn a_reflection_stream_that_stays_open_does_not_hold_it_up() {
    let server = start().await;
    let endpoint = endpoint(&server.address, HANG_GUARD).expect("an address");
    let channel = endpoint.connect().await.expect("it listens");
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let requests = stream::iter([list]).chain(stream::pending());
    let answers = ServerReflectionClient::new(channel)
        .server_reflection_info(requests)
        .await;
    let mut answers = answers.expect("served").into_inner();
    answers.message().await.expect("served").expect("an answer");
    server.drain.cancel();
    guarded("the drain ends", server.serving)
        .await
        .expect("in good order");
    let end = guarded("the stream ends", answers.message()).await;
    assert!(end.expect("in good order").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unary_calls_that_meet_it_are_answered_or_certainly_not_served() {
    const CALLERS: usize = 32;
    const ROUNDS: usize = 20;
    for round in 0..ROUNDS {
        // On a busy machine the client may stand still for long, which must not end its connection.
        let server = start_with(10 * HANG_GUARD).await;
        let client = server.client().await;
        let callers = (0..CALLERS).map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let mut served = 0;
                loop {
                    let put = RawPutRequest {
                        value: vec![0; 1000].into(),
                        ..RawPutRequest::default()
                    };
                    match client.raw_put(put).await {
                        Ok(_) => served += 1,
                        Err(status) => return (served, status),
                    }
                }
            })
        });
        let callers: Vec<_> = callers.collect();
        let enough = CALLERS * (round + 1);
        crate::fixture::until("calls are served", || {
            server.puts.load(Ordering::SeqCst) >= enough
        })
        .await;
        server.drain.cancel();
        guarded("the drain ends", server.serving)
            .await
            .expect("in good order");
        let mut served = 0;
        for caller in callers {
            let (count, status) = guarded("a caller ends", caller).await.expect("no panic");
            served += count;
            assert!(is_not_served(&status), "{status:?}");
        }
        assert_eq!(
            served,
            server.puts.load(Ordering::SeqCst),
            "each was answered"
        );
    }
}
