//! Transport limits, each set on purpose on both ends.
//!
//! h2 counts small DATA frames that the application has not read yet and closes a connection whose count passes half of
//! its connection window; hence the large connection window, [`WINDOW_RATIO`], [`CALL_WINDOW_BYTES`], and the floor on h2's
//! version in the manifest.

use std::time::Duration;

/// Largest gRPC message in either direction, in bytes. Holds the largest batch (6 MiB) with room for its framing.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Most entries of one batch, written or read.
pub const BATCH_ENTRIES_MAX: usize = 4096;

/// Most commands of one `kvrpc.BatchRequest`.
pub const BATCH_COMMANDS_MAX: usize = 4096;

/// Most items of one `raftpb.Envelope`.
pub const RAFT_ITEMS_MAX: usize = 4096;

/// Most entries of all appends of one `raftpb.Envelope`. Stores count at least 64 bytes for each, and fill envelopes up to
/// 1 MiB.
pub const RAFT_ENTRIES_MAX: usize = 64 << 10;

/// Most region reports of a store's heartbeat.
pub const REGION_REPORTS_MAX: usize = 4096;

/// Longest region report, in bytes. One of 16 peers has up to 473.
pub const REGION_REPORT_BYTES_MAX: usize = 512;

/// Most replicas that a store's heartbeat names beside those that it leads.
pub const HELD_PEERS_MAX: usize = 8;

/// What every call is charged from its headers until its answer is sent, beside its headers, in bytes: its task, and the
/// buffers that tonic makes for it.
pub const CALL_BYTES: usize = 16 << 10;

/// What each header field of a call is charged beside its text, in bytes: its place in the map.
pub const HEADER_FIELD_BYTES: usize = 128;

/// What is left of that for a unary request whose answer has begun and waits for us, as a health watch does.
pub const WATCH_BYTES: usize = 8 << 10;

/// Size of the buffers that tonic makes for a message of the request and one of the answer. A first message that fits is not
/// charged beside [`CALL_BYTES`].
pub const CALL_BUFFER_BYTES: usize = 8 << 10;

/// Longest request of a method of `authpb.Auth` that anybody may call, in bytes. Two keys fit.
pub const ANYBODY_BYTES_MAX: usize = 20 << 10;

/// How much is read of a request that is refused before it is served, in bytes.
pub const REFUSED_BODY_BYTES_MAX: usize = 64 << 10;

/// How long that may take.
pub const REFUSED_BODY_WAIT: Duration = Duration::from_secs(1);

/// Most bytes of requests and answers that are in flight on one connection.
pub const CONNECTION_BYTES_IN_FLIGHT_MAX: usize = 32 << 20;

/// The part of them that a connection always gets, however much others have taken.
pub const CONNECTION_BYTES_GUARANTEED: usize = 256 << 10;

/// Most `kvrpc.KvBatch` streams of one connection.
pub const BATCH_STREAMS_MAX: usize = 16;

/// Most `raftpb.RaftPeer` streams of one connection. A store needs two, and some for what is as large as a region.
pub const STORE_STREAMS_MAX: usize = 8;

/// Most `pdpb.Pd.Tso` streams of one connection. A client needs one: it can hold thousands of requests.
pub const TSO_STREAMS_MAX: usize = 4;

/// Most `grpc.health.v1.Health/Watch` calls of one connection. They last, and anybody may make them.
pub const WATCHES_MAX: usize = 4;

/// Most streams of gRPC reflection of one connection.
pub const REFLECTION_STREAMS_MAX: usize = 4;

/// What such a stream is charged beside [`CALL_BYTES`], in bytes: tonic makes the next answer before the last one is sent.
pub const REFLECTION_ANSWER_BYTES: usize = 64 << 10;

/// Most bytes of requests and answers that are in flight in one process, unless configured otherwise.
pub const PROCESS_BYTES_IN_FLIGHT_MAX: usize = 256 << 20;

/// What other stores send has separate bytes in flight, beside these: their number divided by this, and at least room for two messages.
pub const STORES_BYTES_PART: usize = 4;

/// Most connections of a store that are open beyond its places for connections, since other stores have none left. Only
/// `raftpb.RaftPeer` can be called over them.
pub const STORE_CONNECTIONS_MAX: usize = 64;

/// How long a request that does not fit into the bytes in flight waits for room before it is refused as busy.
pub const ADMISSION_WAIT: Duration = Duration::from_secs(1);

/// Most calls of a process that wait for their first bytes in flight, for each of three kinds: of users, of anybody, and of other stores. And
/// most that are refused as busy and whose answers are not sent yet. Nothing is charged for them. Each takes some 7 KiB.
pub const UNCHARGED_CALLS_MAX: usize = 4096;

/// How fast a request has to arrive while others wait for the bytes of the process that it holds beyond its connection's
/// [`CONNECTION_BYTES_GUARANTEED`]. A slower one is refused as busy. Less is enough if the window is small.
pub const ARRIVAL_BYTES_PER_SECOND_MIN: usize = 1 << 20;

/// How long a client waits at least after a refusal for lack of bytes in flight.
pub const BYTES_BACKOFF: Duration = Duration::from_millis(100);

/// How long a server that drains waits for the client of a `kvrpc.KvBatch` stream to close its side.
pub const BATCH_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// HTTP/2 flow-control window of a connection, in bytes. A server with many connections gives later ones less.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// This part of the bytes in flight of the process is what the windows of a server's connections take together, beside
/// [`CONNECTION_WINDOW_BYTES_LOW`] and [`CONNECTION_WINDOW_BYTES_MIN`]. The sum is about what peers can make it hold in
/// requests that it has not read: 110 MiB of a store with 1,024 connections.
pub const WINDOWS_PART: usize = 8;

/// The least that a server gives to about [`LOW_WINDOWS`] connections when that sum is used up, in bytes.
pub const CONNECTION_WINDOW_BYTES_LOW: u32 = 256 << 10;

/// How many connections get at least [`CONNECTION_WINDOW_BYTES_LOW`].
pub const LOW_WINDOWS: usize = 64;

/// The least that a server gives to all others, in bytes. HTTP/2 has no smaller one.
pub const CONNECTION_WINDOW_BYTES_MIN: u32 = 64 << 10;

/// A server's window of a stream is this part of that of its connection. h2 bounds unread small frames by half of the
/// connection's window, and one stream of messages with a single command each must not get there before its own window ends.
pub const WINDOW_RATIO: u32 = 8;

/// For this many bytes of a connection's window a server takes one concurrent call. With each call that a peer begins, its HTTP/2 connection
/// grows by more than 1 KiB, charged to nothing. The smallest window still has more calls than the streams that a connection may keep open.
/// h2 counts an unread small frame as up to 256 bytes of half of the window, and one such frame of each call must not get there.
pub const CALL_WINDOW_BYTES: u32 = 1024;

/// A client's HTTP/2 flow-control window of one stream, in bytes.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// Most concurrent streams (calls in flight) that a server accepts on one connection.
pub const CONCURRENT_STREAMS_MAX: u32 = 256;

/// As many it accepts on one with the smallest window.
pub const CONCURRENT_STREAMS_MIN: u32 = CONNECTION_WINDOW_BYTES_MIN / CALL_WINDOW_BYTES;

/// How long a call may take until its answer begins, the arrival of its request included.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Most connections that a server keeps open at once, unless configured otherwise.
pub const CONNECTIONS_MAX: usize = 1024;

/// How long a connection may have no traffic on any call before a server closes it, unless configured otherwise.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a server waits for silent streams of a connection that it closes for a reason other than its drain. Longer than
/// [`BATCH_CLOSE_TIMEOUT`]. Unary calls are waited for in any case.
pub const CONNECTION_CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a peer may keep a server from sending an answer before the call is reset.
pub const SEND_STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest header list that a client takes, in bytes. A fault's details (under 4 KiB, as base64) have to fit.
pub const HEADER_LIST_BYTES_MAX: u32 = 16 << 10;

/// Largest header list that a server takes, in bytes: the usual one of gRPC. HTTP/2 counts 32 bytes a field beside its text.
/// If trailers are larger, h2 drops the rest. What it takes of them is not charged: h2 keeps it until the request is read to
/// its end.
pub const REQUEST_HEADER_LIST_BYTES_MAX: u32 = 8 << 10;

/// How long a connection may be silent before it is probed with an HTTP/2 ping.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long the answer to such a ping may take before the connection is given up.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a new connection may take to send its HTTP/2 preface before the server closes it. A TLS handshake before it may
/// take the same time.
pub const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);

// docs/security.md promises it.
const _: () = assert!(PREFACE_TIMEOUT.as_secs() == 5);

/// How long a server waits, once asked to stop, for the work in flight. This, [`CLOSE_TIMEOUT`], [`AUDIT_END_TIMEOUT`] and
/// [`EXIT_TIMEOUT`] together stay below 10 s.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(6);

/// How long it then waits for its storage to close. What is not flushed by then is replayed at the next start.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long it waits beyond that for the last lines of the audit log.
pub const AUDIT_END_TIMEOUT: Duration = Duration::from_millis(300);

/// How long the process then waits for its threads, e.g. for one that reads from a disk that does not answer.
pub const EXIT_TIMEOUT: Duration = Duration::from_millis(500);
