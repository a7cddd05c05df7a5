//! Answers are charged until they are sent, and nobody can keep them from being sent for ever.

use rdb_proto::kvrpc::{BatchCommand, BatchRequest, batch_command};
use rdb_proto::transport::limits::CONNECTION_BYTES_GUARANTEED;
use rdb_proto::transport::{ByteBudget, ServeOptions};

use crate::fixture::{TestServer, get, guarded, until};
use crate::peer::{BATCH, Peer, RAW_GET, SHORT, framed, reset_reason};

const BUDGET_BYTES: usize = 4 << 20;
const VALUE_BYTES: usize = 1 << 20;

async fn start() -> TestServer {
    TestServer::start(ServeOptions {
        bytes_in_flight: ByteBudget::new(BUDGET_BYTES),
        send_stall_timeout: SHORT,
        ..ServeOptions::default()
    })
    .await
}

#[tokio::test]
async fn an_answer_of_any_length_arrives_whole_and_is_given_back() {
    let server = start().await;
    let mut client = server.client().await;
    for value_bytes in [
        0,
        1,
        8_000,
        9_000,
        16_384,
        16_385,
        40_000,
        VALUE_BYTES,
        3 << 20,
    ] {
        let response = client.raw_get(get(value_bytes)).await.expect("served");
        assert_eq!(
            response.into_inner().value.expect("a value").len(),
            value_bytes
        );
    }
    server.all_is_given_back().await;
}

#[tokio::test]
async fn answers_that_are_not_read_stay_within_the_budget_and_are_reset() {
    let server = start().await;
    let mut peer = Peer::connect(&server, 0).await;
    let mut calls = Vec::new();
    for _ in 0..3 {
        calls.push(peer.call(RAW_GET, framed(&get(VALUE_BYTES)), true).await);
    }
    until("answers wait", || {
        server.budget.bytes_taken() >= 3 * VALUE_BYTES
    })
    .await;
    assert!(server.budget.bytes_taken() <= BUDGET_BYTES + CONNECTION_BYTES_GUARANTEED);
    server
        .client()
        .await
        .raw_get(get(100))
        .await
        .expect("others are served");
    for call in calls {
        let body = call.unread().await.expect("it begins");
        assert_eq!(reset_reason(body).await, Some(h2::Reason::CANCEL));
    }
    server.all_is_given_back().await;
    // The connection is fine.
    let call = peer.call(RAW_GET, framed(&get(0)), true).await;
    let _begins = call.unread().await.expect("it begins");
}

#[tokio::test]
async fn a_stream_whose_answers_are_not_read_is_reset() {
    let server = start().await;
    let mut peer = Peer::connect(&server, 100_000).await;
    let command = BatchCommand {
        request: Some(batch_command::Request::RawGet(get(VALUE_BYTES))),
        ..BatchCommand::default()
    };
    let message = BatchRequest {
        commands: vec![command],
        ..BatchRequest::default()
    };
    let stream = peer.call(BATCH, framed(&message), false).await;
    let body = stream.unread().await.expect("it begins");
    assert_eq!(reset_reason(body).await, Some(h2::Reason::CANCEL));
    server.all_is_given_back().await;
}

#[tokio::test]
async fn a_stream_that_has_nothing_to_answer_is_not_reset() {
    let server = start().await;
    let mut peer = Peer::connect(&server, 100_000).await;
    let mut stream = peer
        .call(BATCH, framed(&BatchRequest::default()), false)
        .await;
    tokio::time::sleep(3 * SHORT).await;
    stream
        .sending
        .send_data(framed(&BatchRequest::default()), true)
        .expect("open");
    let answer = stream.read().await.expect("it was left alone");
    assert_eq!(answer.trailers["grpc-status"], "0");
}

/// The transport takes the last chunk of an answer when the window has room for a byte; nothing is left then that a call
/// could be reset by.
#[tokio::test]
async fn a_peer_that_leaves_the_end_of_an_answer_unread_loses_its_connection() {
    let server = start().await;
    let mut peer = Peer::connect(&server, 1).await;
    let call = peer.call(RAW_GET, framed(&get(1_000)), true).await;
    let _body = call.unread().await.expect("it begins");
    guarded("the connection ends", peer.connection)
        .await
        .expect("no panic")
        .ok();
    server.all_is_given_back().await;
}

#[tokio::test]
async fn a_peer_that_does_not_read_its_socket_loses_its_connection() {
    let server = start().await;
    let mut peer = Peer::connect(&server, 1 << 30).await;
    // Far more than the buffers of the kernel hold. The peer stops reading once the first of it has arrived.
    let mut calls = Vec::new();
    for _ in 0..64 {
        calls.push(peer.call(RAW_GET, framed(&get(VALUE_BYTES)), true).await);
    }
    let first = calls.remove(0).unread().await;
    peer.deaf.cancel();
    drop(first);
    until("answers wait", || {
        server.budget.bytes_taken() >= VALUE_BYTES
    })
    .await;
    server.all_is_given_back().await;
}
