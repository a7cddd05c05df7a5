//! What a connection says of a request, by what the peer does with it.

use std::time::Duration;

use futures::future::join_all;
use rdb_proto::kvrpc::RawGetRequest;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;

const CLIENT_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of HTTP/2 frames (RFC 9113, 6).
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// A setting (RFC 9113, 6.5.2).
const MAX_CONCURRENT_STREAMS: u16 = 3;

const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;

/// What a peer does when it gets the headers of a request.
#[derive(Debug, Clone, Copy)]
enum Reaction {
    Reset(u32),
    /// Goes away, and has processed the streams up to this one.
    GoAway {
        last_stream: u32,
    },
    Close,
    /// As a server with that many calls under way that drains: they are processed, and none beyond them.
    DrainAfter {
        calls: u32,
    },
}

async fn write_frame(stream: &mut TcpStream, kind: u8, stream_id: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("short");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, 0]);
    frame.extend(stream_id.to_be_bytes());
    frame.extend(payload);
    stream.write_all(&frame).await.expect("the client listens");
}

/// Serves one connection: no request is ever answered.
async fn serve(listener: TcpListener, reaction: Reaction) {
    let (mut stream, _) = listener.accept().await.expect("a client");
    let mut preface = [0; CLIENT_PREFACE.len()];
    stream.read_exact(&mut preface).await.expect("a preface");
    assert_eq!(preface, CLIENT_PREFACE);
    let streams_max = [
        &MAX_CONCURRENT_STREAMS.to_be_bytes()[..],
        &CONCURRENT_STREAMS_MAX.to_be_bytes(),
    ];
    write_frame(&mut stream, SETTINGS, 0, &streams_max.concat()).await;
    let mut calls_begun = 0;
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream_id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.expect("a payload");
        if head[3] != HEADERS {
            continue;
        }
        match reaction {
            Reaction::Reset(code) => {
                write_frame(&mut stream, RST_STREAM, stream_id, &code.to_be_bytes()).await;
            }
            Reaction::GoAway { last_stream } => {
                let payload = [last_stream.to_be_bytes(), NO_ERROR.to_be_bytes()].concat();
                write_frame(&mut stream, GOAWAY, 0, &payload).await;
                return;
            }
            Reaction::Close => return,
            Reaction::DrainAfter { calls } => {
                calls_begun += 1;
                if calls_begun == calls {
                    let payload = [stream_id.to_be_bytes(), NO_ERROR.to_be_bytes()].concat();
                    write_frame(&mut stream, GOAWAY, 0, &payload).await;
                    return;
                }
            }
        }
    }
}

/// The status of a call to such a peer, and of the next one over the same connection.
async fn called(reaction: Reaction) -> [Status; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let serving = tokio::spawn(serve(listener, reaction));
    let mut client = KvRawClient::new(Channel::connect(&address).await.expect("it listens"));
    let first = client.raw_get(RawGetRequest::default()).await;
    if !matches!(reaction, Reaction::Reset(_)) {
        serving.await.expect("no panic");
    }
    let next = client.raw_get(RawGetRequest::default()).await;
    [first, next].map(|result| result.expect_err("nobody answers"))
}

/// Whether a failure of the connection is certain that nothing was processed.
fn is_unprocessed(status: &Status) -> bool {
    let error = ConnectionError::of(status).expect("the connection failed");
    error.is_unprocessed()
}

#[tokio::test]
async fn only_what_was_refused_or_never_written_was_certainly_not_processed() {
    for (reaction, expected) in [
        (Reaction::Reset(REFUSED_STREAM), true),
        (Reaction::Reset(INTERNAL_ERROR), false),
        (Reaction::GoAway { last_stream: 0 }, true),
        (Reaction::GoAway { last_stream: 1 }, false),
        (Reaction::Close, false),
    ] {
        let called = timeout(Duration::from_secs(60), called(reaction)).await;
        let [status, next] = called.expect("calls end");
        assert_eq!(
            is_unprocessed(&status),
            expected,
            "{reaction:?}: {status:?}"
        );
        if !matches!(reaction, Reaction::Reset(_)) {
            assert!(is_unprocessed(&next), "the connection is gone: {next:?}");
        }
    }
}

#[tokio::test]
async fn a_call_beyond_what_the_peer_takes_at_once_is_certainly_not_processed_when_it_drains() {
    let calls = CONCURRENT_STREAMS_MAX;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let serving = tokio::spawn(serve(listener, Reaction::DrainAfter { calls }));
    let client = KvRawClient::new(Channel::connect(&address).await.expect("it listens"));
    let all = (0..=calls).map(|_| {
        let mut client = client.clone();
        async move { client.raw_get(RawGetRequest::default()).await }
    });
    let ended = timeout(Duration::from_secs(60), join_all(all)).await;
    serving.await.expect("no panic");
    let ended = ended.expect("calls end").into_iter();
    let failed = ended.map(|result| result.expect_err("nobody answers"));
    let unprocessed = failed.filter(is_unprocessed).count();
    assert_eq!(unprocessed, 1, "the one that had to wait");
}

#[tokio::test]
async fn a_status_of_the_peer_is_not_the_connections() {
    for status in [Status::unavailable("drained"), Status::unknown("")] {
        assert!(ConnectionError::of(&status).is_none());
    }
}
