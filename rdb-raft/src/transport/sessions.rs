//! The sessions of a bulk stream: appends that are given to the log of a peer as they come, and answered once they are
//! durable.

use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream;
use openraft::raft::AppendEntriesRequest;
use rdb_proto::batch::Messages;
use rdb_proto::raftpb::answer::Outcome;
use rdb_proto::raftpb::item::Request;
use rdb_proto::raftpb::{Answer, Envelope, Item, Refusal, Reply};
use rdb_proto::transport::CallBudget;
use tokio::select;
use tokio::sync::mpsc;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::requests::peer;
use super::service::{Accepted, Replies};
use super::{SESSION_ITEMS_MAX, wire};
use crate::group::Group;
use crate::node::Node;
use crate::types::TypeConfig;

/// Most answers of a reply, and most that wait for one.
const ANSWERS_MAX: usize = 1024;

/// A group has one session on a stream, the latest. An earlier one ends, and what still comes of it is ignored. So there are no
/// more sessions than groups.
struct Sessions {
    node: Arc<Node>,
    call: Arc<CallBudget>,
    messages: Messages<Envelope>,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    /// By group.
    sessions: HashMap<u64, Session>,
    answers: mpsc::Receiver<Answer>,
    /// For those that answer sessions.
    answer: mpsc::Sender<Answer>,
    /// Answers to items of the last message that were not served.
    refused: Vec<Answer>,
}

struct Session {
    number: u64,
    next_sequence: u64,
    /// Its end is the end of the session. Closed when openraft takes nothing more.
    appends: mpsc::Sender<AppendEntriesRequest<TypeConfig>>,
}

/// Serves a bulk stream.
pub(super) fn sessions(accepted: Accepted) -> Replies {
    let Accepted {
        node,
        call,
        messages,
    } = accepted;
    let (answer, answers) = mpsc::channel(ANSWERS_MAX);
    let sessions = Sessions {
        node,
        closing: Box::pin(call.closing().clone().cancelled_owned()),
        call,
        messages,
        sessions: HashMap::new(),
        answers,
        answer,
        refused: Vec::new(),
    };
    let replies = stream::unfold(sessions, |mut sessions| async move {
        let answers = sessions.next_answers().await?;
        Some((answers.map(|answers| Reply { answers }), sessions))
    });
    replies.boxed()
}

impl Sessions {
    /// The next answers. `None`: the other store has ended the stream, or the server drains.
    async fn next_answers(&mut self) -> Option<Result<Vec<Answer>, Status>> {
        loop {
            if !self.refused.is_empty() {
                return Some(Ok(std::mem::take(&mut self.refused)));
            }
            let mut answers = Vec::new();
            select! {
                biased;
                () = &mut self.closing => return None,
                // It is not closed, since there is a sender here.
                _ = self.answers.recv_many(&mut answers, ANSWERS_MAX) => return Some(Ok(answers)),
                message = self.messages.next() => match message? {
                    Ok(message) => self.take(message.message, message.message_bytes),
                    Err(status) => return Some(Err(status)),
                },
            }
        }
    }

    fn take(&mut self, envelope: Envelope, message_bytes: usize) {
        for item in envelope.items {
            let (group_id, session, sequence) = (item.group_id, item.session, item.sequence);
            if let Err(cause) = self.append(item, message_bytes) {
                self.sessions.remove(&group_id);
                let outcome = Some(Outcome::Refusal(Refusal { cause }));
                self.refused.push(Answer {
                    session,
                    sequence,
                    outcome,
                });
            }
        }
        // From here on the window of each session bounds what is kept of it.
        self.call.release_arrived();
    }

    /// Gives an append to its session.
    ///
    /// # Errors
    ///
    /// Why the session ends.
    fn append(&mut self, item: Item, message_bytes: usize) -> Result<(), String> {
        let Some(Request::Append(append)) = item.request else {
            return Err("a session consists of appends".to_owned());
        };
        let latest = self.sessions.get(&item.group_id);
        if latest.is_none_or(|latest| latest.number < item.session) {
            let group = peer(&self.node, item.group_id, item.from_peer, item.to_peer)?;
            let begun = self.begin(group, item.session);
            self.sessions.insert(item.group_id, begun);
        }
        let Some(session) = self
            .sessions
            .get_mut(&item.group_id)
            .filter(|latest| latest.number == item.session)
        else {
            // A late item of an earlier one.
            return Ok(());
        };
        if session.next_sequence != item.sequence {
            return Err("an append is missing".to_owned());
        }
        session.next_sequence += 1;
        let append = wire::read_append(item.from_peer, append, message_bytes);
        let append = append.map_err(|malformed| malformed.to_string())?;
        match session.appends.try_send(append) {
            // One that has ended has answered why.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err("there are too many appends without an answer".to_owned())
            }
        }
    }

    fn begin(&self, group: Group, number: u64) -> Session {
        let (appends, received) = mpsc::channel(SESSION_ITEMS_MAX);
        tokio::spawn(answer_session(group, number, received, self.answer.clone()));
        Session {
            number,
            next_sequence: 0,
            appends,
        }
    }
}

/// Ends after the last append. Those that are with openraft then are still waited for, though nobody hears of them.
async fn answer_session(
    group: Group,
    session: u64,
    received: mpsc::Receiver<AppendEntriesRequest<TypeConfig>>,
    answers: mpsc::Sender<Answer>,
) {
    let appends = stream::unfold(received, |mut received| async move {
        let append = received.recv().await?;
        Some((append, received))
    });
    let mut results = pin!(group.stream_append(appends));
    for sequence in 0.. {
        let Some(result) = results.next().await else {
            return;
        };
        let outcome = match result {
            Ok(result) => wire::appended(result),
            Err(ended) => Outcome::Refusal(Refusal {
                cause: ended.to_string(),
            }),
        };
        let answer = Answer {
            session,
            sequence,
            outcome: Some(outcome),
        };
        let _ = answers.send(answer).await;
    }
}
