//! The items of an urgent stream, each served by itself.

use std::pin::Pin;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{self, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use rdb_proto::batch::Messages;
use rdb_proto::raftpb::answer::Outcome;
use rdb_proto::raftpb::item::Request;
use rdb_proto::raftpb::{Answer, Envelope, Item, Refusal, Reply, Transferred};
use rdb_proto::transport::CallBudget;
use tokio::select;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::service::{Accepted, Replies};
use super::wire;
use crate::group::Group;
use crate::node::Node;

/// Items under way at which no further envelope is taken.
const REQUESTS_MAX: usize = 1024;

struct Requests {
    node: Arc<Node>,
    call: Arc<CallBudget>,
    messages: Messages<Envelope>,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    under_way: FuturesUnordered<BoxFuture<'static, Answer>>,
}

/// Serves an urgent stream.
pub(super) fn requests(accepted: Accepted) -> Replies {
    let Accepted {
        node,
        call,
        messages,
    } = accepted;
    let requests = Requests {
        node,
        closing: Box::pin(call.closing().clone().cancelled_owned()),
        call,
        messages,
        under_way: FuturesUnordered::new(),
    };
    let replies = stream::unfold(requests, |mut requests| async move {
        let answers = requests.next_answers().await?;
        Some((answers.map(|answers| Reply { answers }), requests))
    });
    replies.boxed()
}

impl Requests {
    /// The next answers. `None`: the other store has ended the stream, or the server drains.
    async fn next_answers(&mut self) -> Option<Result<Vec<Answer>, Status>> {
        loop {
            let takes = self.under_way.len() < REQUESTS_MAX;
            select! {
                biased;
                () = &mut self.closing => return None,
                Some(first) = self.under_way.next() => {
                    let mut answers = vec![first];
                    while let Some(Some(answer)) = self.under_way.next().now_or_never() {
                        answers.push(answer);
                    }
                    return Some(Ok(answers));
                }
                message = self.messages.next(), if takes => match message? {
                    Ok(message) => self.take(message.message, message.message_bytes),
                    Err(status) => return Some(Err(status)),
                },
            }
        }
    }

    fn take(&mut self, envelope: Envelope, message_bytes: usize) {
        for item in envelope.items {
            let node = Arc::clone(&self.node);
            let served = async move {
                let (session, sequence) = (item.session, item.sequence);
                let outcome = serve(&node, item, message_bytes).await;
                let outcome = outcome.unwrap_or_else(|cause| Outcome::Refusal(Refusal { cause }));
                Answer {
                    session,
                    sequence,
                    outcome: Some(outcome),
                }
            };
            self.under_way.push(served.boxed());
        }
        self.call.release_arrived();
    }
}

async fn serve(node: &Node, item: Item, message_bytes: usize) -> Result<Outcome, String> {
    let from_peer = item.from_peer;
    let group = peer(node, item.group_id, from_peer, item.to_peer)?;
    match item.request.ok_or("nothing is asked for")? {
        Request::Append(append) => {
            let append = wire::read_append(from_peer, append, message_bytes).map_err(text)?;
            let (previous, last) = (append.prev_log_id, wire::last_log_id(&append));
            let response = group.append_entries(append).await.map_err(text)?;
            if response.is_conflict() && previous.is_none() {
                return Err("nothing can conflict".to_owned());
            }
            Ok(wire::appended(response.into_stream_result(previous, last)))
        }
        Request::Vote(campaign) => {
            let campaign = wire::read_campaign(from_peer, &campaign);
            let voted = group.vote(campaign).await.map_err(text)?;
            Ok(wire::voted(&voted))
        }
        Request::PreVote(campaign) => {
            let campaign = wire::read_campaign(from_peer, &campaign);
            let voted = group.pre_vote(campaign).await.map_err(text)?;
            Ok(wire::voted(&voted))
        }
        Request::Transfer(transfer) => {
            let transfer = wire::read_transfer(from_peer, &transfer);
            let noted = group.take_over(transfer).await.map_err(text)?;
            noted.map_err(text)?;
            Ok(Outcome::Transferred(Transferred {}))
        }
    }
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

/// The group of an item, if the peer that the item is for is here.
pub(super) fn peer(
    node: &Node,
    group_id: u64,
    from_peer: u64,
    to_peer: u64,
) -> Result<Group, String> {
    let group = node.group(group_id);
    let group = group.ok_or_else(|| format!("this store has no group {group_id}"))?;
    if group.peer_id() != to_peer || from_peer == to_peer {
        return Err(format!(
            "this store has another peer of group {group_id} than {to_peer}"
        ));
    }
    Ok(group)
}
