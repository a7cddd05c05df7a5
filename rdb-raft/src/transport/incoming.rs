//! A stream of another store that was accepted.

use std::sync::Arc;

use futures::future::{self, BoxFuture};
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use rdb_proto::batch::Messages;
use rdb_proto::raftpb::{Answer, Envelope, Reply};
use rdb_proto::transport::CallBudget;
use tokio::select;
use tonic::{Request, Status};

use super::greeting::StoreIdentity;
use super::starts::Starts;
use crate::group::Group;
use crate::node::Node;

/// What is answered on a stream.
pub(super) type Replies = BoxStream<'static, Result<Reply, Status>>;

pub(super) fn replies(
    answers: impl Stream<Item = Result<Vec<Answer>, Status>> + Send + 'static,
) -> Replies {
    let replies = answers.map(|answers| {
        let start = None;
        answers.map(|answers| Reply { answers, start })
    });
    replies.boxed()
}

/// What comes on a stream, after its greeting.
pub(super) struct Incoming {
    node: Arc<Node>,
    /// The store that has opened it.
    from_store: u64,
    call: Arc<CallBudget>,
    messages: Messages<Envelope>,
    /// Ready when the connection closes, or a later start of the store was met.
    closing: BoxFuture<'static, ()>,
}

impl Incoming {
    /// Waits for the greeting, and checks it.
    ///
    /// # Errors
    ///
    /// What the stream is refused with.
    pub(super) async fn accept(
        request: Request<Messages<Envelope>>,
        identity: StoreIdentity,
        node: Arc<Node>,
        starts: &Starts,
    ) -> Result<Self, Status> {
        let call = CallBudget::of(&request);
        let mut incoming = Self {
            node,
            from_store: 0,
            closing: call.closing().clone().cancelled_owned().boxed(),
            call,
            messages: request.into_inner(),
        };
        let first = incoming.envelope().await?;
        let (first, _) = first.ok_or_else(|| Status::unavailable("the stream has ended"))?;
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

    /// The next envelope, with the size of its message. `None`: the other store has ended the stream, or the server drains.
    pub(super) async fn envelope(&mut self) -> Result<Option<(Envelope, usize)>, Status> {
        let message = select! {
            biased;
            () = &mut self.closing => None,
            message = self.messages.next() => message,
        };
        // What is kept of a message is bounded by the windows of sessions from here on.
        self.call.release_arrived();
        let message = message.transpose()?;
        Ok(message.map(|message| (message.message, message.message_bytes)))
    }

    /// The group of an item, if the peer that the item is for is here, and the other one is a member on the store that has
    /// opened the stream.
    ///
    /// # Errors
    ///
    /// Why the item is refused.
    pub(super) fn peer(
        &self,
        group_id: u64,
        from_peer: u64,
        to_peer: u64,
    ) -> Result<Group, String> {
        let group = self.node.group(group_id);
        let group = group.ok_or_else(|| format!("this store has no group {group_id}"))?;
        if group.peer_id() != to_peer || from_peer == to_peer {
            return Err(format!(
                "this store has another peer of group {group_id} than {to_peer}"
            ));
        }
        if !group.has_member(from_peer, self.from_store) {
            return Err(format!(
                "peer {from_peer} of store {} is no member of group {group_id}",
                self.from_store
            ));
        }
        Ok(group)
    }
}
