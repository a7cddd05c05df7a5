//! An accepted stream of another store.
//!
//! # Who is heard
//!
//! A peer that was away may be needed by members that came meanwhile: they need its vote, and it gets the log from them. So appends,
//! snapshots, votes and pre-votes are also taken from peers that this store does not know as members, if their store has greeted. Raft
//! compares what they say as always:
//!
//! - A *removed* peer no longer leads, so its appends have an earlier term.
//! - It does not disturb the group either. Votes and pre-votes do not count while there is a leader: followers refuse them for a lease,
//!   and a leader for as long as a quorum answers it. Without a leader its log lacks the entry that removed it, which a quorum of the
//!   others has. And it raises no term: it campaigns only when a quorum of the members that it knows of would vote for it.
//! - A vote that a leader has asked for overrides the lease. But it counts only in the next term, and that leader has suspended its
//!   own lease. A *transfer*, which asks for such a vote, is taken only from members.

use std::sync::Arc;

use futures::future::{self, BoxFuture};
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt, stream};
use rdb_proto::batch::Messages;
use rdb_proto::raftpb::{Answer, Envelope, Reply};
use rdb_proto::transport::{Call, Reservation};
use tokio::select;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Status};

use super::greeting::StoreIdentity;
use super::starts::Starts;
use super::{ANSWERS_MAX, CONNECTION_BYTES_MAX};
use crate::group::Group;
use crate::node::{MissingPeer, Node};

/// What is answered on a stream.
pub(super) type Replies = BoxStream<'static, Result<Reply, Status>>;

pub(super) fn replies(
    answers: impl Stream<Item = Result<Vec<Answer>, Status>> + Send + 'static,
) -> Replies {
    let replies = answers.flat_map(|answers| match answers {
        Ok(answers) => stream::iter(in_replies(answers)).left_stream(),
        Err(status) => stream::iter([Err(status)]).right_stream(),
    });
    replies.boxed()
}

/// Answers in replies that are as large as one may be.
fn in_replies(mut answers: Vec<Answer>) -> Vec<Result<Reply, Status>> {
    let mut replies = Vec::new();
    while !answers.is_empty() {
        let rest = answers.split_off(answers.len().min(ANSWERS_MAX));
        let start = None;
        replies.push(Ok(Reply { answers, start }));
        answers = rest;
    }
    replies
}

/// KiB of received and unanswered data that a stream may hold, beside the last envelope. Our stores send less.
const HELD_KIB_MAX: usize = CONNECTION_BYTES_MAX >> 10;

/// The messages of a stream, after its greeting.
///
/// What was received is counted until it is answered: in the bytes in flight for other stores, and per stream. Nothing more
/// is taken from a stream that has reached its limit.
pub(super) struct Incoming {
    node: Arc<Node>,
    /// The store that has opened it.
    from_store: u64,
    call: Arc<Call>,
    messages: Messages<Envelope>,
    /// Ready when the connection closes, or a later start of the store was met.
    closing: BoxFuture<'static, ()>,
    /// The least that an item counts, in bytes.
    item_bytes_min: usize,
    /// What the stream may still hold, in KiB.
    room: Arc<Semaphore>,
    /// An envelope that waits for room.
    arrived: Option<Arrived>,
}

/// An envelope, and what it counts until the last of its items is answered.
pub(super) struct Received {
    pub(super) envelope: Envelope,
    pub(super) message_bytes: usize,
    pub(super) held: Arc<Held>,
}

pub(super) struct Held {
    _room: Option<OwnedSemaphorePermit>,
    _bytes: Reservation,
}

struct Arrived {
    envelope: Envelope,
    message_bytes: usize,
    bytes: Reservation,
    room: BoxFuture<'static, Option<OwnedSemaphorePermit>>,
}

impl Incoming {
    /// Waits for the greeting, and checks it.
    ///
    /// # Errors
    ///
    /// The status that the stream is refused with.
    pub(super) async fn accept(
        request: Request<Messages<Envelope>>,
        identity: StoreIdentity,
        node: Arc<Node>,
        starts: &Starts,
        item_bytes_min: usize,
    ) -> Result<Self, Status> {
        let call = Call::of(&request);
        let mut incoming = Self {
            node,
            from_store: 0,
            closing: call.closing().clone().cancelled_owned().boxed(),
            item_bytes_min,
            room: Arc::new(Semaphore::new(HELD_KIB_MAX)),
            arrived: None,
            call,
            messages: request.into_inner(),
        };
        let first = incoming.received().await?;
        let first = first.ok_or_else(|| Status::unavailable("the stream has ended"))?;
        let first = first.envelope;
        let timing = *incoming.node.timing();
        let hello = identity.check(first, &timing, starts).await?;
        let (from_store, start) = (hello.from_store, hello.start);
        tracing::debug!(from_store, start, "another store has opened a stream");
        incoming.from_store = from_store;
        let superseded = starts.superseded(from_store, start).boxed();
        incoming.closing = future::select(incoming.closing, superseded)
            .map(drop)
            .boxed();
        Ok(incoming)
    }

    /// The next envelope after the greeting. `None`: the other store has ended the stream, or it closes. It may be dropped and
    /// called again.
    pub(super) async fn envelope(&mut self) -> Result<Option<Received>, Status> {
        let received = self.received().await?;
        if received
            .as_ref()
            .is_some_and(|received| received.envelope.hello.is_some())
        {
            return Err(Status::invalid_argument("the stream begins a second time"));
        }
        Ok(received)
    }

    async fn received(&mut self) -> Result<Option<Received>, Status> {
        let arrived = match self.arrived.take() {
            Some(arrived) => arrived,
            None => {
                let message = select! {
                    biased;
                    () = &mut self.closing => None,
                    message = self.messages.next() => message,
                };
                match message.transpose()? {
                    Some(message) => self.hold(message.message, message.message_bytes),
                    None => return Ok(None),
                }
            }
        };
        let arrived = self.arrived.insert(arrived);
        let room = select! {
            biased;
            () = &mut self.closing => return Ok(None),
            room = &mut arrived.room => room,
        };
        Ok(self.arrived.take().map(|arrived| Received {
            envelope: arrived.envelope,
            message_bytes: arrived.message_bytes,
            held: Arc::new(Held {
                _room: room,
                _bytes: arrived.bytes,
            }),
        }))
    }

    fn hold(&self, envelope: Envelope, message_bytes: usize) -> Arrived {
        let held_bytes = message_bytes.max(envelope.items.len() * self.item_bytes_min);
        let bytes = self.call.hold_message(message_bytes, held_bytes);
        let kib = held_bytes.div_ceil(1 << 10).min(HELD_KIB_MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(kib as u32);
        Arrived {
            envelope,
            message_bytes,
            bytes,
            // The semaphore is never closed.
            room: room.map(Result::ok).boxed(),
        }
    }

    /// See [`peer`].
    pub(super) fn peer(
        &self,
        group_id: u64,
        from_peer: u64,
        to_peer: u64,
    ) -> Result<Group, String> {
        peer(&self.node, self.from_store, group_id, from_peer, to_peer)
    }

    /// The same if the peer that sends is a member of the group as this store knows it.
    pub(super) fn member(
        &self,
        group_id: u64,
        from_peer: u64,
        to_peer: u64,
    ) -> Result<Group, String> {
        let group = self.peer(group_id, from_peer, to_peer)?;
        match group.store_of(from_peer) {
            Some(_) => Ok(group),
            None => Err(stranger(self.from_store, group_id, from_peer)),
        }
    }
}

/// The group of a request, if the addressed peer is here. The sending peer may be unknown here; but if it is known as a member, the
/// request must come from its store.
///
/// # Errors
///
/// Why the request is refused.
pub(super) fn peer(
    node: &Node,
    from_store: u64,
    group_id: u64,
    from_peer: u64,
    to_peer: u64,
) -> Result<Group, String> {
    let Some(group) = node.group(group_id) else {
        let peer_id = to_peer;
        node.is_missing(MissingPeer { group_id, peer_id });
        return Err(format!("this store has no group {group_id}"));
    };
    if group.peer_id() != to_peer || from_peer == to_peer {
        return Err(format!(
            "this store has another peer of group {group_id} than {to_peer}"
        ));
    }
    if group
        .store_of(from_peer)
        .is_some_and(|store| store != from_store)
    {
        return Err(stranger(from_store, group_id, from_peer));
    }
    // openraft would write a line for each request.
    group.check_running().map_err(|ended| ended.to_string())?;
    group.has_heard();
    Ok(group)
}

fn stranger(from_store: u64, group_id: u64, from_peer: u64) -> String {
    format!("peer {from_peer} of store {from_store} is no member of group {group_id}")
}
