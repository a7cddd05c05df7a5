//! How the peers of a group reach each other on other stores.
//!
//! A store calls each other store on one HTTP/2 connection, which all its groups share, and serves the calls of the others.
//! A connection has two streams. The bulk stream carries appends in sessions. The urgent stream carries heartbeats, votes
//! and transfers, so that none of them waits behind a large append.
//!
//! ```text
//! openraft ─► Client ─► AppendSender ─┐                                              ┌─► AppendReceiver ─► Group::stream_append
//!               └────────── one item ─┴─► Connection ── bulk, urgent ──► PeerService ─┴─► requests ─► Group::vote, ...
//!                                         (one per other store, kept by its Link)
//! ```
//!
//! # What is promised
//!
//! - A stream begins with a `Hello` that names the cluster, both stores, their starts and the election timeout. If one of them differs,
//!   the stream is refused, and nothing else is sent. So another process that has taken over an address is sent nothing more.
//! - An item is given only to the peer that it names. An answer belongs to the item with the same session and sequence.
//! - Votes pass through the quarantine of the group, see [`Group::vote`](crate::group::Group::vote).
//! - Everything is bounded. A session has [`SESSION_ITEMS_MAX`] items or [`SESSION_BYTES_MAX`] unanswered, a connection
//!   [`CONNECTION_BYTES_MAX`]. Beyond that nothing is taken from openraft, so a stalled store costs its leader no memory. A
//!   store that answers nothing for an election timeout loses its sessions. The serving store counts what it has received
//!   until it has answered, in bytes in flight separate from those of clients: a store full of puts that wait for other
//!   stores still takes what those send. It takes no more from a stream that holds [`CONNECTION_BYTES_MAX`].
//! - Nothing is sent twice. What is lost is lost: openraft asks again.
//! - Snapshots go another way, see `snapshot.rs`.
//! - Tasks end with their owners: those that connect with the [`Transport`], those that answer a session with its stream.
//!
//! # Starts of stores
//!
//! A store that comes back with an older data directory has forgotten votes and acknowledged entries. So every start that the
//! placement driver accepts has a number, which the directory keeps, and both sides of a stream name theirs first. [`Starts`]
//! is what a store remembers of the others.
//!
//! - A store that has met a start of another takes nothing from an earlier one: no items and no answers, votes included. It
//!   remembers the start durably before it accepts the stream. Streams of the earlier one end.
//! - The calling store says which start of the other one it has met. So a store learns that its directory is old from the
//!   first store that knows better, no matter which of the two calls. It then ends for good, and its directory notes that.
//! - A store greets all others with which it has a group as soon as they can be reached: when it starts, and again when its
//!   start was accepted. So others know of a start soon after that, and an old directory mostly meets a store that knows before
//!   its quarantine is over.
//!
//! This does not rule out:
//!
//! - A copy of the directory as it was during the present start, such as a disk snapshot: it has the same number.
//! - An older directory that meets only stores that do not know better: all that met the later start are down, or are older
//!   themselves. Only the placement driver knows then; it refuses the store once it answers.
//! - Two processes with copies of one directory, neither of which has been accepted since the copy. The placement driver
//!   accepts one of them.
//!
//! A group does not delay its first vote until somebody has confirmed the start. Its votes only count where the start was compared,
//! so a confirmation by a third store would add little. Stores that start together while no placement driver answers cannot confirm
//! each other, and still have to come up. And the placement driver may take 20 s to accept an ordinary restart.
//!
//! # Pipelining and the lease
//!
//! A leader counts on its followers for a lease from when it *sent* what they acknowledged. openraft finds that time by log
//! id: an answer acknowledges every request up to its last log id, with the time of the latest. A request without entries has
//! the same last log id as the one before it. So an answer to an append would also acknowledge news of a commit that was sent
//! after it and has not arrived, and the lease would reach beyond the follower's promise.
//!
//! Therefore a session passes an answer on only if no later request with the same last log id is unanswered. Otherwise it
//! passes on that all entries but the last one are acknowledged, which is below that log id; the answer to the later request
//! says the rest. openraft notes a request at the moment the session takes it, so the session knows all of them. If the later
//! answer never comes, the rest is not passed on, and if it is a refusal, the refusal is passed on alone. So openraft takes
//! nothing for acknowledged that the follower has not answered. A heartbeat has a session to itself.

mod address_book;
mod append_receiver;
mod append_sender;
mod client;
mod connection;
mod dial;
mod greeting;
mod incoming;
mod lane;
mod link;
mod requests;
mod service;
mod snapshot;
mod snapshot_receiver;
mod snapshot_sender;
mod starts;
mod wire;

pub use address_book::AddressBook;
pub use client::{Client, PeerNetwork, Transport};
pub use dial::Dialing;
pub use greeting::StoreIdentity;
pub use service::PeerService;
pub use starts::{STARTS_MAX, Starts};

use openraft::errors::{NetworkError, RPCError, Unreachable};

use crate::types::TypeConfig;

/// Most items of a session that have no answer.
pub const SESSION_ITEMS_MAX: usize = 32;

/// Bytes of them at which nothing more is taken.
pub const SESSION_BYTES_MAX: usize = 8 << 20;

/// Most bytes of all sessions of a connection that have no answer.
pub const CONNECTION_BYTES_MAX: usize = 32 << 20;

/// Most answers of a reply.
const ANSWERS_MAX: usize = 1024;

/// Longest cause of a refusal, in bytes.
const CAUSE_BYTES_MAX: usize = 256;

/// Longest reply, in bytes. An empty answer has two bytes, and takes far more in memory.
const REPLY_BYTES_MAX: usize = 512 << 10;

const _: () = assert!(ANSWERS_MAX * (CAUSE_BYTES_MAX + 64) <= REPLY_BYTES_MAX);

type RpcError = RPCError<TypeConfig>;

/// There is no connection, or the other store does not serve the peer.
fn unreachable(cause: impl ToString) -> RpcError {
    Unreachable::from_string(cause).into()
}

/// A connection broke, or the other store does not keep to the protocol.
fn broken(cause: impl ToString) -> RpcError {
    NetworkError::from_string(cause).into()
}
