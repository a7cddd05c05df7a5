//! Requests are charged from their first byte.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::select_all;
use futures::stream::FuturesUnordered;
use prost::Message;
use rdb_proto::error::details;
use rdb_proto::errorpb::{Fate, region_error};
use rdb_proto::kvrpc::{RawBatchPutResponse, RawPutRequest};
use rdb_proto::transport::limits::{
    ADMISSION_WAIT, CALL_BYTES, CONNECTION_BYTES_GUARANTEED, REFLECTION_ANSWER_BYTES,
    REFLECTION_STREAMS_MAX, REFUSED_BODY_WAIT,
};
use rdb_proto::transport::{ByteBudget, ServeOptions, UnchargedCalls, UnservedCall, UnservedCalls};
use tonic::codegen::http::{HeaderName, HeaderValue, Request, StatusCode};
use tonic::{Code, Status};

use crate::fixture::{HANG_GUARD, TestServer, get, guarded, until};
use crate::peer::{
    Answer, BATCH, Peer, RAW_BATCH_PUT, RAW_DELETE, REFLECTION, SHORT, Stream, begun, framed, head,
};

const BUDGET_BYTES: usize = 4 << 20;
const MESSAGE_BYTES: usize = 1 << 20;
const WINDOW_BYTES: u32 = 1 << 20;

/// What a call costs beside its message: its base and headers.
const CALL_BYTES_MAX: usize = 2 * CALL_BYTES;

async fn start() -> TestServer {
    TestServer::start(ServeOptions {
        bytes_in_flight: ByteBudget::new(BUDGET_BYTES),
        ..ServeOptions::default()
    })
    .await
}

fn put(value_bytes: usize) -> RawPutRequest {
    RawPutRequest {
        context: None,
        key: "k".into(),
        value: vec![0; value_bytes].into(),
    }
}

#[tokio::test]
async fn half_sent_messages_stay_within_the_budget_and_the_rest_is_refused_as_busy() {
    const CALLS: usize = 10;
    let server = start().await;
    let mut peer = Peer::connect(&server, WINDOW_BYTES).await;
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        let half = begun(MESSAGE_BYTES, &vec![0; MESSAGE_BYTES / 2]);
        calls.push(peer.call(RAW_BATCH_PUT, half, false).await);
    }
    // Three messages fit beside what the calls cost.
    let taken = 3 * MESSAGE_BYTES;
    until("three are admitted", || {
        server.budget.bytes_taken() >= taken
    })
    .await;

    // Others are served all the same.
    let mut client = server.client().await;
    client.raw_put(put(100)).await.expect("served");
    client.raw_get(get(100)).await.expect("served");
    assert!(server.budget.bytes_taken() <= BUDGET_BYTES);

    // Some of those that wait get the room of some that gave way.
    let mut answers: FuturesUnordered<_> = calls.into_iter().map(Stream::read).collect();
    for _ in 3..CALLS {
        let answer = answers.next().await.expect("more are refused");
        let answer = answer.expect("an answer, not a reset");
        let response = RawBatchPutResponse::decode(answer.message).expect("a response");
        let kind = response.region_error.and_then(|error| error.kind);
        assert!(
            matches!(kind, Some(region_error::Kind::ServerBusy(_))),
            "{kind:?}"
        );
        assert_eq!(answer.trailers["grpc-status"], "0");
    }
    assert!(server.budget.bytes_taken() <= taken + CALLS * CALL_BYTES_MAX);
    drop((answers, peer));
    server.all_is_given_back().await;
}

#[tokio::test]
async fn a_message_that_waited_for_its_turn_is_served() {
    let server = start().await;
    let mut holder = Peer::connect(&server, WINDOW_BYTES).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let whole = begun(MESSAGE_BYTES, &unknown_field(MESSAGE_BYTES));
        held.push(holder.call(RAW_DELETE, whole, true).await);
    }
    let taken = 3 * MESSAGE_BYTES;
    until("the budget is taken", || {
        server.budget.bytes_taken() >= taken
    })
    .await;
    let mut client = server.client().await;
    let waiting = tokio::spawn(async move { client.raw_put(put(MESSAGE_BYTES)).await });
    // Room for it comes only when it has begun.
    let calls = held.len() + 1;
    until("the call has begun", || {
        server.budget.bytes_taken() >= taken + calls * CALL_BYTES
    })
    .await;
    held.pop()
        .expect("three")
        .sending
        .send_reset(h2::Reason::CANCEL);
    let response = waiting
        .await
        .expect("no panic")
        .expect("served")
        .into_inner();
    assert_eq!(response.region_error, None);
}

/// The options of a server on which a request may take for ever.
fn patient(budget_bytes: usize) -> ServeOptions {
    ServeOptions {
        bytes_in_flight: ByteBudget::new(budget_bytes),
        call_timeout: 10 * HANG_GUARD,
        send_stall_timeout: 10 * HANG_GUARD,
        ..ServeOptions::default()
    }
}

/// How long calls have waited that were not served.
#[derive(Debug, Default)]
struct Waits(Mutex<Vec<Duration>>);

impl Waits {
    fn noted(&self) -> Vec<Duration> {
        self.0.lock().expect("no panic").clone()
    }
}

impl UnservedCalls for Waits {
    fn note(&self, call: UnservedCall) {
        self.0.lock().expect("no panic").push(call.waited);
    }
}

/// A server with so many places for calls that are not charged, on which only the guaranteed part of a connection is left, and a peer that has
/// taken that of its own by calls without a message.
async fn filled(
    uncharged_calls: usize,
    window_bytes: u32,
) -> (Arc<Waits>, TestServer, Peer, Vec<Stream>) {
    let waits = Arc::new(Waits::default());
    let server = TestServer::start(ServeOptions {
        uncharged_calls: Arc::new(UnchargedCalls::new(uncharged_calls)),
        unserved: Some(waits.clone()),
        ..patient(0)
    })
    .await;
    let mut peer = Peer::connect(&server, window_bytes).await;
    let mut held = Vec::new();
    for _ in 0..CONNECTION_BYTES_GUARANTEED / CALL_BYTES {
        held.push(peer.call(RAW_BATCH_PUT, Bytes::new(), false).await);
    }
    until("one is refused", || !waits.noted().is_empty()).await;
    (waits, server, peer, held)
}

#[tokio::test]
async fn a_call_that_finds_neither_room_nor_a_place_to_wait_is_refused_at_once_and_needs_no_window()
{
    let (waits, _server, mut peer, _held) = filled(0, 0).await;
    let more = peer.call(RAW_BATCH_PUT, Bytes::new(), false).await;
    let answer = more.read().await.expect("an answer, not a reset");
    assert_certainly_busy(&answer);
    assert!(waits.noted().iter().all(Duration::is_zero));
}

#[tokio::test]
async fn a_call_that_has_waited_leaves_its_place() {
    let (waits, _server, mut peer, _held) = filled(1, WINDOW_BYTES).await;
    let waited = || waits.noted().iter().filter(|wait| !wait.is_zero()).count();
    until("the first was refused after a wait", || waited() == 1).await;
    let more = peer.call(RAW_BATCH_PUT, Bytes::new(), false).await;
    more.read().await.expect("an answer, not a reset");
    assert_eq!(waited(), 2);
}

#[tokio::test]
async fn refusals_that_are_not_taken_do_not_add_up() {
    const CALLS: usize = 5;
    let (waits, _server, mut peer, mut held) = filled(1, 0).await;
    let mut more = Vec::new();
    for _ in 0..CALLS {
        more.push(peer.call(RAW_BATCH_PUT, Bytes::new(), false).await);
    }
    held.append(&mut more);
    until("all are refused", || waits.noted().len() > CALLS).await;
    // The first of them waits for its window. The answer of the last is a status.
    let last = held.pop().expect("some");
    let answer = last.read().await.expect("an answer, not a reset");
    assert_certainly_busy(&answer);
}

/// A server on which a request may take for ever, and a peer that has taken the budget with a byte of each message.
async fn squatted(window_bytes: u32, path: &str) -> (TestServer, Peer, Vec<Stream>) {
    let server = TestServer::start(patient(BUDGET_BYTES)).await;
    let mut peer = Peer::connect(&server, window_bytes).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(peer.call(path, begun(MESSAGE_BYTES, &[0]), false).await);
    }
    until("the budget is taken", || {
        server.budget.bytes_taken() >= 3 * MESSAGE_BYTES
    })
    .await;
    (server, peer, held)
}

/// Puts a value for which there is no room, until it is served.
async fn served(server: &TestServer) {
    let mut client = server.client().await;
    let served = async {
        loop {
            let response = client.raw_put(put(MESSAGE_BYTES)).await.expect("an answer");
            if response.into_inner().region_error.is_none() {
                break;
            }
        }
    };
    guarded("room is made", served).await;
}

#[tokio::test]
async fn a_request_that_arrives_slowly_gives_way_as_busy_to_those_who_wait() {
    for path in [RAW_BATCH_PUT, BATCH] {
        let (server, peer, held) = squatted(WINDOW_BYTES, path).await;
        served(&server).await;
        let answers = held.into_iter().map(|call| Box::pin(call.read()));
        let (first, ..) = guarded("one gave way", select_all(answers)).await;
        let answer = first.expect("an answer, not a reset");
        if path == RAW_BATCH_PUT {
            let response = RawBatchPutResponse::decode(answer.message).expect("a response");
            let kind = response.region_error.and_then(|error| error.kind);
            assert!(matches!(kind, Some(region_error::Kind::ServerBusy(_))));
        } else {
            assert_certainly_busy(&answer);
        }
        drop(peer);
        server.all_is_given_back().await;
    }
}

#[tokio::test]
async fn who_gives_way_and_takes_no_answer_keeps_no_room() {
    for path in [RAW_BATCH_PUT, BATCH] {
        let (server, _peer, _held) = squatted(0, path).await;
        served(&server).await;
    }
}

#[tokio::test]
async fn a_request_that_arrives_slowly_while_nobody_waits_is_served() {
    let server = start().await;
    let mut peer = Peer::connect(&server, WINDOW_BYTES).await;
    let message = unknown_field(MESSAGE_BYTES);
    let (first, rest) = message.split_at(1);
    let begun = begun(MESSAGE_BYTES, first);
    let mut call = peer.call(RAW_BATCH_PUT, begun, false).await;
    tokio::time::sleep(ADMISSION_WAIT).await;
    let rest = rest.to_vec().into();
    call.sending.send_data(rest, true).expect("open");
    let answer = call.read().await.expect("an answer");
    let response = RawBatchPutResponse::decode(answer.message).expect("a response");
    assert_eq!(response.region_error, None);
}

#[tokio::test]
async fn a_stream_whose_message_finds_no_room_ends_with_a_status_that_says_not_applied() {
    let server = start().await;
    let mut peer = Peer::connect(&server, WINDOW_BYTES).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let whole = begun(MESSAGE_BYTES, &unknown_field(MESSAGE_BYTES));
        held.push(peer.call(RAW_DELETE, whole, true).await);
    }
    let taken = 3 * MESSAGE_BYTES;
    until("the budget is taken", || {
        server.budget.bytes_taken() >= taken
    })
    .await;
    let refused = peer.call(BATCH, begun(MESSAGE_BYTES, &[0]), false).await;
    let answer = refused.read().await.expect("an answer, not a reset");
    assert_certainly_busy(&answer);
}

fn assert_certainly_busy(answer: &Answer) {
    let status = Status::from_header_map(&answer.trailers).expect("a status");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(details(&status).expect("details").fate(), Fate::NotApplied);
}

#[tokio::test]
async fn many_small_calls_are_charged_too() {
    const PEERS: usize = 8;
    let server = start().await;
    let mut held = Vec::new();
    for _ in 0..PEERS {
        let mut peer = Peer::connect(&server, WINDOW_BYTES).await;
        let mut calls = Vec::new();
        for _ in 0..100 {
            // Nothing but headers and a part of a frame's header.
            calls.push(
                peer.call(RAW_BATCH_PUT, begun(0, &[]).slice(..2), false)
                    .await,
            );
        }
        held.push((peer, calls));
    }
    let guaranteed = PEERS * CONNECTION_BYTES_GUARANTEED;
    until("the budget is taken", || {
        server.budget.bytes_taken() + CALL_BYTES_MAX > BUDGET_BYTES
    })
    .await;
    assert!(server.budget.bytes_taken() <= BUDGET_BYTES + guaranteed);
    server
        .client()
        .await
        .raw_get(get(10))
        .await
        .expect("served");
    drop(held);
    server.all_is_given_back().await;
}

/// Header fields of four bytes each.
fn fields(count: usize) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    (100..100 + count).map(|number| {
        let name = format!("n{number}").parse().expect("a name");
        (name, HeaderValue::from_static(""))
    })
}

#[tokio::test]
async fn the_fields_of_a_header_and_the_uri_are_charged_with_what_they_take() {
    const FIELDS: usize = 100;
    /// A field of a `HeaderMap` takes a little more.
    const FIELD_BYTES: usize = 100;
    const QUERY_BYTES: usize = 4_000;
    let server = start().await;
    let mut peer = Peer::connect(&server, WINDOW_BYTES).await;
    let with_fields = fields(FIELDS).fold(head(RAW_BATCH_PUT), |head, (name, value)| {
        head.header(name, value)
    });
    let with_query = head(&format!("{RAW_BATCH_PUT}?{}", "q".repeat(QUERY_BYTES)));
    for (head, bytes) in [
        (with_fields, FIELDS * FIELD_BYTES),
        (with_query, QUERY_BYTES),
    ] {
        let call = peer.begin(head, Bytes::new(), false).await.expect("open");
        until("the call has begun", || server.budget.bytes_taken() > 0).await;
        let taken = server.budget.bytes_taken();
        assert!(taken >= CALL_BYTES + bytes, "{taken}");
        drop(call);
        server.all_is_given_back().await;
    }
}

#[tokio::test]
async fn a_call_with_a_large_header_does_not_wait_for_room() {
    const FIELDS: usize = 100;
    let server = start().await;
    let mut peer = Peer::connect(&server, WINDOW_BYTES).await;
    let mut held = Vec::new();
    for _ in 0..BUDGET_BYTES / CALL_BYTES - 2 {
        let part = begun(0, &[]).slice(..2);
        held.push(peer.call(RAW_BATCH_PUT, part, false).await);
    }
    until("the budget is taken", || {
        server.budget.bytes_taken() + CALL_BYTES_MAX > BUDGET_BYTES
    })
    .await;
    let refused_at_once = async {
        loop {
            let asked = Instant::now();
            let head = fields(FIELDS).fold(head(RAW_BATCH_PUT), |head, (name, value)| {
                head.header(name, value)
            });
            let call = peer.begin(head, Bytes::new(), true).await.expect("open");
            let answer = call.read().await.expect("an answer, not a reset");
            let response = RawBatchPutResponse::decode(answer.message).expect("a response");
            let kind = response.region_error.and_then(|error| error.kind);
            assert!(
                matches!(kind, Some(region_error::Kind::ServerBusy(_))),
                "{kind:?}"
            );
            // A busy machine may take that long, but not always.
            if asked.elapsed() < ADMISSION_WAIT {
                break;
            }
        }
    };
    guarded("it is refused at once", refused_at_once).await;
}

/// If it arrived after the answer, HTTP/2 would take it for an error of the server.
#[tokio::test]
async fn a_call_that_is_refused_after_its_wait_waits_for_the_rest_of_its_request() {
    let server = TestServer::start(ServeOptions {
        // A connection has what it is guaranteed, which nobody else waits for.
        bytes_in_flight: ByteBudget::new(0),
        ..ServeOptions::default()
    })
    .await;
    let mut peer = Peer::connect(&server, WINDOW_BYTES).await;
    let part = || begun(0, &[]).slice(..2);
    let mut held = Vec::new();
    for _ in 0..CONNECTION_BYTES_GUARANTEED / CALL_BYTES {
        held.push(peer.call(RAW_BATCH_PUT, part(), false).await);
    }
    let asked = Instant::now();
    let refused = peer.call(RAW_BATCH_PUT, part(), false).await;
    let answer = refused.read().await.expect("an answer, not a reset");
    assert!(asked.elapsed() >= ADMISSION_WAIT + REFUSED_BODY_WAIT);
    let response = RawBatchPutResponse::decode(answer.message).expect("a response");
    let kind = response.region_error.and_then(|error| error.kind);
    assert!(
        matches!(kind, Some(region_error::Kind::ServerBusy(_))),
        "{kind:?}"
    );
}

#[tokio::test]
async fn a_header_of_too_many_fields_is_refused() {
    const FIELDS: usize = 240;
    let server = start().await;
    let mut peer = Peer::connect(&server, WINDOW_BYTES).await;
    let head = fields(FIELDS).fold(head(RAW_BATCH_PUT), |head, (name, value)| {
        head.header(name, value)
    });
    let call = peer.begin(head, Bytes::new(), false).await.expect("open");
    let answer = guarded("an answer", call.answer).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    server.all_is_given_back().await;
}

#[tokio::test]
async fn a_connection_has_few_streams_of_reflection_and_each_is_charged_for_an_answer() {
    let server = start().await;
    let mut peer = Peer::connect(&server, WINDOW_BYTES).await;
    let mut held = Vec::new();
    for _ in 0..REFLECTION_STREAMS_MAX {
        held.push(peer.call(REFLECTION, Bytes::new(), false).await);
    }
    let taken = REFLECTION_STREAMS_MAX * (CALL_BYTES + REFLECTION_ANSWER_BYTES);
    until("all are charged", || server.budget.bytes_taken() >= taken).await;
    let refused = peer.call(REFLECTION, Bytes::new(), false).await;
    let answer = refused.read().await.expect("an answer, not a reset");
    let status = Status::from_header_map(&answer.trailers).expect("a status");
    assert_eq!(status.code(), Code::ResourceExhausted);
    let details = details(&status).expect("details");
    let limit = Some(REFLECTION_STREAMS_MAX as u64);
    assert_eq!((details.fate(), details.limit), (Fate::NotApplied, limit));

    held.pop();
    let left = taken - CALL_BYTES;
    until("one has ended", || server.budget.bytes_taken() < left).await;
    let next = peer.call(REFLECTION, Bytes::new(), false).await;
    let answer = guarded("an answer", next.answer).await.expect("served");
    assert!(!answer.headers().contains_key("grpc-status"));
    drop((held, peer, next.sending, answer));
    server.all_is_given_back().await;
}

#[tokio::test]
async fn a_stream_gives_its_message_back_when_it_is_taken() {
    let server = start().await;
    let mut peer = Peer::connect(&server, WINDOW_BYTES).await;
    let mut stream = peer.call(BATCH, begun(MESSAGE_BYTES, &[]), false).await;
    until("the message is charged", || {
        server.budget.bytes_taken() >= MESSAGE_BYTES
    })
    .await;
    stream
        .sending
        .send_data(unknown_field(MESSAGE_BYTES).into(), false)
        .expect("open");
    until("it is given back", || {
        server.budget.bytes_taken() <= CALL_BYTES_MAX
    })
    .await;
    stream
        .sending
        .send_data(framed(&RawPutRequest::default()), true)
        .expect("open");
    let answer = stream.read().await.expect("an answer");
    assert_eq!(answer.trailers["grpc-status"], "0");
    server.all_is_given_back().await;
}

#[tokio::test]
async fn a_second_message_of_a_unary_call_does_not_give_the_first_back() {
    let server = start().await;
    let mut peer = Peer::connect(&server, 2 * WINDOW_BYTES).await;
    let first = begun(MESSAGE_BYTES, &unknown_field(MESSAGE_BYTES));
    let mut call = peer.call(RAW_BATCH_PUT, first, false).await;
    until("the first is charged", || {
        server.budget.bytes_taken() >= MESSAGE_BYTES
    })
    .await;
    let second = begun(MESSAGE_BYTES, &[]);
    call.sending.send_data(second, false).expect("open");
    until("both are charged", || {
        server.budget.bytes_taken() >= 2 * MESSAGE_BYTES
    })
    .await;
    drop((call, peer));
    server.all_is_given_back().await;
}

#[tokio::test]
async fn a_stream_of_small_messages_ends_with_a_large_one() {
    let server = start().await;
    let mut peer = Peer::connect(&server, WINDOW_BYTES).await;
    let large = begun(MESSAGE_BYTES, &[]);
    let call = peer.call(REFLECTION, large, false).await;
    // The service that reads the stream decides on the status.
    call.read().await.expect("an end, not a reset");
    server.all_is_given_back().await;
}

#[tokio::test]
async fn a_request_that_does_not_arrive_in_time_is_ended_unary_or_streamed() {
    let server = TestServer::start(ServeOptions {
        call_timeout: SHORT,
        ..ServeOptions::default()
    })
    .await;
    let mut peer = Peer::connect(&server, WINDOW_BYTES).await;
    for path in [RAW_BATCH_PUT, BATCH] {
        let half = begun(MESSAGE_BYTES, &[0]);
        let answer = peer.call(path, half, false).await.read().await;
        let answer = answer.expect("an answer, not a reset");
        let status = Status::from_header_map(&answer.trailers).expect("a status");
        let in_time = [Code::Cancelled, Code::DeadlineExceeded];
        assert!(in_time.contains(&status.code()), "{path}: {status:?}");
    }
    drop(peer);
    server.all_is_given_back().await;
}

/// A message that means nothing: field 15, and a length that takes three bytes.
fn unknown_field(message_bytes: usize) -> Vec<u8> {
    let value_bytes = message_bytes - 4;
    let length = [
        value_bytes as u8 | 0x80,
        (value_bytes >> 7) as u8 | 0x80,
        (value_bytes >> 14) as u8,
    ];
    let mut message = [&[15 << 3 | 2][..], &length].concat();
    message.resize(message_bytes, 0);
    message
}

#[tokio::test]
async fn a_message_over_the_limit_is_out_of_range_as_before() {
    let server = start().await;
    let mut peer = Peer::connect(&server, WINDOW_BYTES).await;
    let call = peer
        .call(RAW_BATCH_PUT, begun(9 << 20, &[0; 100]), false)
        .await;
    let answer = call.read().await.expect("an answer");
    let status = Status::from_header_map(&answer.trailers).expect("a status");
    assert_eq!(status.code(), Code::OutOfRange);
    server.all_is_given_back().await;
}

#[tokio::test]
async fn what_is_no_call_of_grpc_is_refused_as_http_does_it_and_never_served() {
    const RAW_PUT: &str = "http://store/kvrpc.KvRaw/RawPut";
    let server = start().await;
    let mut peer = Peer::connect(&server, WINDOW_BYTES).await;
    let refused = [
        ("GET", Some("application/grpc"), 405),
        ("HEAD", None, 405),
        ("OPTIONS", None, 405),
        ("PUT", Some("application/grpc"), 405),
        ("post", Some("application/grpc"), 405),
        ("POST", None, 415),
        ("POST", Some(""), 415),
        ("POST", Some("text/plain;charset=UTF-8"), 415),
        ("POST", Some("text/plain;application/grpc"), 415),
        ("POST", Some("application/x-www-form-urlencoded"), 415),
        ("POST", Some("application/json"), 415),
        ("POST", Some("application/grpc-web"), 415),
        ("POST", Some("application/grpc+json"), 415),
    ];
    let served = [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc;charset=utf-8",
        "Application/GRPC ; x=y",
    ];
    let served = served.map(|content_type| ("POST", Some(content_type), 200));
    for (method, content_type, expected) in refused.into_iter().chain(served) {
        let head = Request::builder().method(method).uri(RAW_PUT);
        let head = content_type.into_iter().fold(head, |head, content_type| {
            head.header("content-type", content_type)
        });
        let puts = server.puts.load(Ordering::SeqCst);
        let begun = peer.begin(head, framed(&put(10)), true).await;
        let answer = guarded("an answer", begun.expect("open").answer).await;
        let answer = answer.expect("an answer, not a reset");
        let what = format!("{method} {content_type:?}");
        assert_eq!(answer.status(), expected, "{what}");
        let is_served = server.puts.load(Ordering::SeqCst) > puts;
        assert_eq!(is_served, expected == 200, "{what}");
        if is_served {
            continue;
        }
        let status = Status::from_header_map(answer.headers()).expect("a status");
        let told = status.message();
        let right = if expected == 405 {
            assert_eq!(answer.headers()["allow"], "POST", "{what}");
            "POST"
        } else {
            "application/grpc"
        };
        assert!(told.contains(right), "{what}: {told}");
    }
    drop(peer);
    server.all_is_given_back().await;
}
