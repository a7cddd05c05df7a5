//! The items of an urgent stream, each served independently.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{self, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use rdb_proto::raftpb::answer::Outcome;
use rdb_proto::raftpb::item::Request;
use rdb_proto::raftpb::{Answer, Transferred};
use tokio::select;
use tonic::Status;

use super::incoming::{Incoming, Received, Replies, replies};
use super::wire;
use crate::group::Group;

/// Items under way at which no further envelope is taken.
const REQUESTS_MAX: usize = 1024;

/// The least that a request counts, in bytes: about what serving it takes.
pub(super) const REQUEST_BYTES_MIN: usize = 1 << 10;

struct Requests {
    incoming: Incoming,
    under_way: FuturesUnordered<BoxFuture<'static, Answer>>,
}

/// Serves an urgent stream.
pub(super) fn requests(incoming: Incoming) -> Replies {
    let requests = Requests {
        incoming,
        under_way: FuturesUnordered::new(),
    };
    replies(stream::unfold(requests, |mut requests| async move {
        let answers = requests.next_answers().await.transpose()?;
        Some((answers, requests))
    }))
}

impl Requests {
    async fn next_answers(&mut self) -> Result<Option<Vec<Answer>>, Status> {
        loop {
            let takes = self.under_way.len() < REQUESTS_MAX;
            select! {
                biased;
                envelope = self.incoming.envelope(), if takes => {
                    let Some(received) = envelope? else {
                        return Ok(None);
                    };
                    let Received { envelope, message_bytes, held } = received;
                    for item in envelope.items {
                        let ids = (item.group_id, item.from_peer, item.to_peer);
                        let group = match item.request {
                            Some(Request::Transfer(_)) => self.incoming.member(ids.0, ids.1, ids.2),
                            _ => self.incoming.peer(ids.0, ids.1, ids.2),
                        };
                        let held = Arc::clone(&held);
                        let served = async move {
                            let _held = held;
                            let served = serve(group, item.from_peer, item.request, message_bytes);
                            wire::answer(item.session, item.sequence, served.await)
                        };
                        self.under_way.push(served.boxed());
                    }
                }
                Some(first) = self.under_way.next() => {
                    let mut answers = vec![first];
                    while let Some(Some(answer)) = self.under_way.next().now_or_never() {
                        answers.push(answer);
                    }
                    return Ok(Some(answers));
                }
            }
        }
    }
}

async fn serve(
    group: Result<Group, String>,
    from_peer: u64,
    request: Option<Request>,
    message_bytes: usize,
) -> Result<Outcome, String> {
    let group = group?;
    match request.ok_or("nothing is asked for")? {
        // They would pass the windows by.
        Request::Append(append) if !append.entries.is_empty() => {
            Err("entries are sent in sessions".to_owned())
        }
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
            let voted = group.vote(campaign).await;
            voted.map(|voted| wire::voted(&voted)).map_err(text)
        }
        Request::PreVote(campaign) => {
            let campaign = wire::read_campaign(from_peer, &campaign);
            let voted = group.pre_vote(campaign).await;
            voted.map(|voted| wire::voted(&voted)).map_err(text)
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
