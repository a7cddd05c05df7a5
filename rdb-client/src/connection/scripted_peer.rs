//! A peer that reacts to requests as a test says, frame by frame (RFC 9113).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rdb_proto::transport::limits::CONCURRENT_STREAMS_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

const CLIENT_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A setting (section 6.5.2).
const MAX_CONCURRENT_STREAMS: u16 = 3;

const NO_ERROR: u32 = 0;
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const REFUSED_STREAM: u32 = 7;

/// `:status: 200`, from the static table of HPACK.
const STATUS_200: &[u8] = &[0x88];

/// `grpc-status: 0`, without any table.
const GRPC_STATUS_0: &[u8] = b"\x00\x0bgrpc-status\x010";

/// An empty message, with the prefix that gRPC gives it.
const EMPTY_MESSAGE: &[u8] = &[0; 5];

/// What the peer does when it gets the headers of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reaction {
    /// Answers with an empty message.
    Answer,
    Ignore,
    /// Answers, and has told before that it accepts this many concurrent streams.
    Settle(u32),
    Reset(u32),
    /// Goes away. It has processed all streams up to this request's, which it leaves open.
    GoAwayAfter,
    /// Goes away, and has not processed this request.
    GoAwayBefore,
}

/// Plays one script for each connection: a reaction to each request. Tells its settings when it reacts for the first time,
/// as late as it may. Closes a connection when its script is over, and one without a script at once.
#[derive(Debug)]
pub(crate) struct ScriptedPeer {
    pub(crate) address: String,
    accepted: Arc<AtomicUsize>,
    _serving: AbortOnDropHandle<()>,
}

impl ScriptedPeer {
    pub(crate) async fn start(scripts: Vec<Vec<Reaction>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let accepted = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&accepted);
        let serving = async move {
            let mut connections = Vec::new();
            let mut scripts = scripts.into_iter();
            loop {
                let (stream, _) = listener.accept().await.expect("a client");
                counter.fetch_add(1, Ordering::Relaxed);
                let script = scripts.next().unwrap_or_default();
                let playing = tokio::spawn(play(stream, script));
                connections.push(AbortOnDropHandle::new(playing));
            }
        };
        Self {
            address,
            accepted,
            _serving: AbortOnDropHandle::new(tokio::spawn(serving)),
        }
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

async fn play(mut stream: TcpStream, script: Vec<Reaction>) {
    let mut preface = [0; CLIENT_PREFACE.len()];
    stream.read_exact(&mut preface).await.expect("a preface");
    assert_eq!(preface, CLIENT_PREFACE);
    let mut has_settled = false;
    for reaction in script {
        let Some(stream_id) = next_request(&mut stream).await else {
            return;
        };
        let streams_max = match reaction {
            Reaction::Ignore => None,
            Reaction::Settle(streams_max) => Some(streams_max),
            _ => Some(CONCURRENT_STREAMS_MAX),
        };
        if let Some(streams_max) = streams_max
            && !has_settled
        {
            settle(&mut stream, streams_max).await;
            has_settled = true;
        }
        match reaction {
            Reaction::Answer | Reaction::Settle(_) => answer(&mut stream, stream_id).await,
            Reaction::Ignore => {}
            Reaction::Reset(code) => {
                write_frame(&mut stream, RST_STREAM, 0, stream_id, &code.to_be_bytes()).await;
            }
            Reaction::GoAwayAfter => go_away(&mut stream, stream_id).await,
            Reaction::GoAwayBefore => go_away(&mut stream, stream_id - 1).await,
        }
    }
    // All that was written arrives only if all that comes is read.
    let _ = stream.shutdown().await;
    while next_request(&mut stream).await.is_some() {}
}

/// The stream of the next request. `None`: the client has gone.
async fn next_request(stream: &mut TcpStream) -> Option<u32> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.ok()?;
        if head[3] == HEADERS {
            return Some(u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
        }
    }
}

async fn settle(stream: &mut TcpStream, streams_max: u32) {
    let setting = [
        &MAX_CONCURRENT_STREAMS.to_be_bytes()[..],
        &streams_max.to_be_bytes(),
    ];
    write_frame(stream, SETTINGS, 0, 0, &setting.concat()).await;
}

async fn answer(stream: &mut TcpStream, stream_id: u32) {
    write_frame(stream, HEADERS, END_HEADERS, stream_id, STATUS_200).await;
    write_frame(stream, DATA, 0, stream_id, EMPTY_MESSAGE).await;
    let last = END_HEADERS | END_STREAM;
    write_frame(stream, HEADERS, last, stream_id, GRPC_STATUS_0).await;
}

async fn go_away(stream: &mut TcpStream, last_stream_id: u32) {
    let payload = [last_stream_id.to_be_bytes(), NO_ERROR.to_be_bytes()].concat();
    write_frame(stream, GOAWAY, 0, 0, &payload).await;
}

async fn write_frame(stream: &mut TcpStream, kind: u8, flags: u8, stream_id: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("short");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream_id.to_be_bytes());
    frame.extend(payload);
    stream.write_all(&frame).await.expect("the client listens");
}
