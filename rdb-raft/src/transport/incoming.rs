//! A stream of another store that was accepted.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use rdb_proto::batch::Messages;
use rdb_proto::raftpb::{Answer, Envelope, Reply};
use rdb_proto::transport::CallBudget;
use tokio::select;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Request, Status};

use super::greeting::StoreIdentity;
use crate::group::Group;
use crate::node::{MissingPeer, Node};

/// What is answered on a stream.
pub(super) type Replies = BoxStream<'static, Result<Reply, Status>>;

pub(super) fn replies(
    answers: impl Stream<Item = Result<Vec<Answer>, Status>> + Send + 'static,
) -> Replies {
    let replies = answers.map(|answers| answers.map(|answers| Reply { answers }));
    replies.boxed()
}

/// What comes on a stream, after its greeting.
pub(super) struct Incoming {
    node: Arc<Node>,
    /// The store that has opened it.
    from_store: u64,
    call: Arc<CallBudget>,
    messages: Messages<Envelope>,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
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
    ) -> Result<Self, Status> {
        let call = CallBudget::of(&request);
        let mut incoming = Self {
            node,
            from_store: 0,
            closing: Box::pin(call.closing().clone().cancelled_owned()),
            call,
            messages: request.into_inner(),
        };
        let first = incoming.envelope().await?;
        let (first, _) = first.ok_or_else(|| Status::unavailable("the stream has ended"))?;
        let from_store = first.hello.as_ref().map_or(0, |hello| hello.from_store);
        identity.check(first, incoming.node.timing())?;
        tracing::debug!(from_store, "another store has opened a stream");
        incoming.from_store = from_store;
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

    /// See [`peer`].
    pub(super) fn peer(
        &self,
        group_id: u64,
        from_peer: u64,
        to_peer: u64,
    ) -> Result<Group, String> {
        peer(&self.node, self.from_store, group_id, from_peer, to_peer)
    }
}

/// The group of a request, if the peer that it is for is here, and the other one is a member on the store that sends it.
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
    if !group.has_member(from_peer, from_store) {
        return Err(format!(
            "peer {from_peer} of store {from_store} is no member of group {group_id}"
        ));
    }
    Ok(group)
}
