//! Receiving a snapshot.

use std::io;
use std::sync::Arc;

use futures::future::{self, BoxFuture};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, stream};
use rdb_proto::batch::Messages;
use rdb_proto::raftpb::snapshot_part::Part;
use rdb_proto::raftpb::{Envelope, SnapshotPart, SnapshotReply, SnapshotStart, SnapshotTaken};
use rdb_proto::transport::Call;
use tokio::select;
use tokio::time::timeout;
use tonic::{Request, Status};

use super::greeting::StoreIdentity;
use super::incoming::peer;
use super::snapshot::{PATIENCE, REPLY_INTERVAL, is_for};
use super::starts::Starts;
use super::wire;
use crate::encoding::stored_membership;
use crate::figures::NodeFigures;
use crate::group::Group;
use crate::machine::{Applied, Incoming};
use crate::node::Node;
use crate::simulation::spawn_blocking;
use crate::types::Vote;

/// What is answered.
pub(super) type Replies = BoxStream<'static, Result<SnapshotReply, Status>>;

/// Accepts a snapshot for a peer of this store. It is received while the replies are taken.
///
/// # Errors
///
/// The refusal.
pub(super) async fn receive(
    request: Request<Messages<SnapshotPart>>,
    identity: StoreIdentity,
    node: Arc<Node>,
    starts: Arc<Starts>,
) -> Result<Replies, Status> {
    let call = Call::of(&request);
    let mut parts = Parts {
        closing: call.closing().clone().cancelled_owned().boxed(),
        call,
        messages: request.into_inner(),
    };
    let Part::Start(start) = parts.next().await? else {
        let cause = "a snapshot does not begin with what it is";
        return Err(Status::invalid_argument(cause));
    };
    let greeting = Envelope {
        hello: start.hello,
        items: Vec::new(),
    };
    let hello = identity.check(greeting, node.timing(), &starts).await?;
    let superseded = starts.superseded(hello.from_store, hello.start);
    parts.closing = future::select(parts.closing, superseded.boxed())
        .map(drop)
        .boxed();
    let group = peer(
        &node,
        hello.from_store,
        start.group_id,
        start.from_peer,
        start.to_peer,
    );
    let group = group.map_err(Status::failed_precondition)?;
    let place = node.place_to_receive();
    let place = place.ok_or_else(|| Status::unavailable("other snapshots are being received"))?;
    let incoming = group.receive().await.map_err(unavailable)?;
    let own_store = identity.store_id;
    let received = async move {
        let _place = place;
        let figures = node.figures();
        parts
            .receive(&start, own_store, &group, incoming, figures)
            .await
    };
    Ok(replies(received.boxed()))
}

/// Says now and then that the snapshot is still being received, and at the end the result.
fn replies(received: BoxFuture<'static, Result<Vote, Status>>) -> Replies {
    let replies = stream::unfold(Some(received), |received| async {
        let mut received = received?;
        match timeout(REPLY_INTERVAL, &mut received).await {
            Err(_) => Some((Ok(SnapshotReply { vote: None }), Some(received))),
            Ok(outcome) => {
                let reply = outcome.map(|vote| SnapshotReply {
                    vote: Some(wire::vote(&vote)),
                });
                Some((reply, None))
            }
        }
    });
    replies.boxed()
}

struct Parts {
    call: Arc<Call>,
    messages: Messages<SnapshotPart>,
    /// Ready when the connection closes, or a later start of the store was met.
    closing: BoxFuture<'static, ()>,
}

impl Parts {
    async fn next(&mut self) -> Result<Part, Status> {
        let message = select! {
            biased;
            () = &mut self.closing => return Err(Status::unavailable("the store is shutting down")),
            message = timeout(PATIENCE, self.messages.next()) => message,
        };
        // One message is here at a time.
        self.call.release_arrived();
        let stalled = |_| Status::deadline_exceeded("nothing has arrived for a while");
        let message = message.map_err(stalled)?.transpose()?;
        let part = message.and_then(|message| message.message.part);
        part.ok_or_else(|| Status::unavailable("the snapshot was given up"))
    }

    /// Receives and installs a snapshot.
    async fn receive(
        &mut self,
        start: &SnapshotStart,
        own_store: u64,
        group: &Group,
        mut incoming: Incoming,
        figures: &NodeFigures,
    ) -> Result<Vote, Status> {
        let vote = Vote::new_committed(start.term, start.from_peer);
        if let Some(later) = group.later_vote(&vote) {
            return Ok(later);
        }
        let group_id = start.group_id;
        tracing::info!(
            group_id,
            from_peer = start.from_peer,
            "receiving a snapshot"
        );
        let Part::Taken(taken) = self.next().await? else {
            let cause = "a snapshot does not say what it is as of";
            return Err(Status::invalid_argument(cause));
        };
        let applied = read_taken(start.term, &taken)?;
        if !is_for(&applied.membership, start.to_peer, own_store) {
            let cause = "the snapshot is as of when this store had another peer, or none";
            return Err(Status::unavailable(cause));
        }
        while let Some(chunk) = match self.next().await? {
            Part::Chunk(chunk) => Some(chunk),
            Part::End(_) => None,
            Part::Start(_) | Part::Taken(_) => {
                return Err(Status::invalid_argument("a snapshot begins twice"));
            }
        } {
            if let Some(later) = group.later_vote(&vote) {
                return Ok(later);
            }
            let added = blocking(move || {
                if incoming.user.should_stop() {
                    return Err(io::Error::other("the group has ended"));
                }
                incoming.sink.add(chunk)?;
                Ok(incoming)
            });
            incoming = added.await?;
        }
        let position = applied.clone();
        let received = blocking(move || incoming.sink.complete(&position)).await?;
        let answered = group.install(vote, applied, received).await;
        let answered = answered.map_err(unavailable)?;
        tracing::info!(group_id, "a snapshot was received");
        if answered == vote {
            figures.snapshots_received.increment();
        }
        Ok(answered)
    }
}

/// What a snapshot of a leader of that term is as of.
fn read_taken(term: u64, taken: &SnapshotTaken) -> Result<Applied, Status> {
    let membership = stored_membership::decode(&taken.membership);
    let membership = membership.map_err(|error| Status::invalid_argument(error.to_string()))?;
    let last = taken.last.map(wire::read_log_id);
    // openraft would panic.
    let last = last.filter(|last| last.leader_id.term <= term);
    let position = last.ok_or_else(|| Status::invalid_argument("it is as of a later term"))?;
    Ok(Applied {
        position: Some(position),
        membership,
    })
}

async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Status> {
    let ran = spawn_blocking(run).await.map_err(unavailable)?;
    ran.map_err(unavailable)
}

fn unavailable(error: impl ToString) -> Status {
    Status::unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use rdb_proto::raftpb::LogId;

    use super::*;
    use crate::types::Membership;

    #[test]
    fn a_snapshot_is_never_as_of_a_later_term_than_that_of_its_leader() {
        let log_id = crate::types::LogId::new_term_index(2, 3);
        let membership = Membership::default();
        let taken = |last| SnapshotTaken {
            last,
            membership: stored_membership::encode(&log_id, &membership).into(),
        };
        let last = Some(LogId { term: 2, index: 9 });
        assert!(read_taken(2, &taken(last)).is_ok());
        for (term, refused) in [
            (1, taken(last)),
            (2, taken(None)),
            (2, SnapshotTaken::default()),
        ] {
            assert!(read_taken(term, &refused).is_err());
        }
    }
}
