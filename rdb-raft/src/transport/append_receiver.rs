//! The sessions of a bulk stream: appends go to the log of a peer as they arrive, and are answered once they are durable.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{StreamExt, stream};
use openraft::raft::AppendEntriesRequest;
use rdb_proto::raftpb::item::Request;
use rdb_proto::raftpb::{Answer, Item};
use tokio::select;
use tokio::sync::mpsc;
use tonic::Status;

use super::incoming::{Held, Incoming, Received, Replies, replies};
use super::{ANSWERS_MAX, SESSION_ITEMS_MAX, wire};
use crate::group::Group;
use crate::types::TypeConfig;

/// A group has one session on a stream, the latest. An earlier one ends, and its later messages are ignored. The appends that it has taken
/// are waited for, and counted until then. An earlier session that has not yet ended has at least one such append, so the number of these
/// sessions is bounded, too.
struct AppendReceiver {
    incoming: Incoming,
    /// By group.
    sessions: HashMap<u64, AppendSession>,
    answers: mpsc::Receiver<Answer>,
    /// For those that answer sessions.
    answer: mpsc::Sender<Answer>,
}

struct AppendSession {
    number: u64,
    /// Who sends, and who is sent to.
    peers: (u64, u64),
    next_sequence: u64,
    /// Its end is the end of the session. Closed when openraft takes nothing more.
    appends: mpsc::Sender<(AppendEntriesRequest<TypeConfig>, Arc<Held>)>,
}

/// Serves a bulk stream.
pub(super) fn receive_appends(incoming: Incoming) -> Replies {
    let (answer, answers) = mpsc::channel(ANSWERS_MAX);
    let receiver = AppendReceiver {
        incoming,
        sessions: HashMap::new(),
        answers,
        answer,
    };
    replies(stream::unfold(receiver, |mut receiver| async move {
        let answers = receiver.next_answers().await.transpose()?;
        Some((answers, receiver))
    }))
}

impl AppendReceiver {
    async fn next_answers(&mut self) -> Result<Option<Vec<Answer>>, Status> {
        loop {
            let mut answers = Vec::new();
            select! {
                biased;
                // First, so that a store that keeps sending gets its answers, and reads them. The channel is not
                // closed, since there is a sender here.
                _ = self.answers.recv_many(&mut answers, ANSWERS_MAX) => return Ok(Some(answers)),
                envelope = self.incoming.envelope() => {
                    let Some(received) = envelope? else {
                        return Ok(None);
                    };
                    let refused = self.take(received);
                    if !refused.is_empty() {
                        return Ok(Some(refused));
                    }
                }
            }
        }
    }

    /// Returns the answers to items that are not served.
    fn take(&mut self, received: Received) -> Vec<Answer> {
        let Received {
            envelope,
            message_bytes,
            held,
        } = received;
        let mut refused = Vec::new();
        for item in envelope.items {
            let (group_id, session, sequence) = (item.group_id, item.session, item.sequence);
            if let Err(cause) = self.append(item, message_bytes, &held) {
                self.sessions.remove(&group_id);
                refused.push(wire::answer(session, sequence, Err(cause)));
            }
        }
        refused
    }

    /// Gives an append to its session.
    ///
    /// # Errors
    ///
    /// Why the session ends.
    fn append(&mut self, item: Item, message_bytes: usize, held: &Arc<Held>) -> Result<(), String> {
        let Some(Request::Append(append)) = item.request else {
            return Err("a session consists of appends".to_owned());
        };
        let latest = self.sessions.get(&item.group_id);
        if latest.is_none_or(|latest| latest.number < item.session) {
            let group = self
                .incoming
                .peer(item.group_id, item.from_peer, item.to_peer);
            let begun = self.begin(group?, (item.from_peer, item.to_peer), item.session);
            self.sessions.insert(item.group_id, begun);
        }
        let session = self.sessions.get_mut(&item.group_id);
        let Some(session) = session.filter(|latest| latest.number == item.session) else {
            // A late item of an earlier one.
            return Ok(());
        };
        if session.peers != (item.from_peer, item.to_peer) {
            return Err("the session is that of other peers".to_owned());
        }
        if session.next_sequence != item.sequence {
            return Err("an append is missing".to_owned());
        }
        session.next_sequence += 1;
        let append = wire::read_append(item.from_peer, append, message_bytes);
        let append = append.map_err(|malformed| malformed.to_string())?;
        match session.appends.try_send((append, Arc::clone(held))) {
            // One that has ended has answered why.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err("there are too many appends without an answer".to_owned())
            }
        }
    }

    fn begin(&self, group: Group, peers: (u64, u64), number: u64) -> AppendSession {
        let (appends, received) = mpsc::channel(SESSION_ITEMS_MAX);
        let answer = self.answer.clone();
        tokio::spawn(answer_session(group, number, received, answer));
        AppendSession {
            number,
            peers,
            next_sequence: 0,
            appends,
        }
    }
}

/// Ends after the last append. Those that are with openraft then are still waited for, though nobody hears of them.
async fn answer_session(
    group: Group,
    session: u64,
    received: mpsc::Receiver<(AppendEntriesRequest<TypeConfig>, Arc<Held>)>,
    answers: mpsc::Sender<Answer>,
) {
    let (hold, mut held) = mpsc::unbounded_channel();
    let is_over = Arc::<AtomicBool>::default();
    let ends = Arc::clone(&is_over);
    let appends = stream::unfold((received, hold), move |(mut received, hold)| {
        let ends = Arc::clone(&ends);
        async move {
            let Some((append, held)) = received.recv().await else {
                ends.store(true, Ordering::Relaxed);
                return None;
            };
            let _ = hold.send(held);
            Some((append, (received, hold)))
        }
    });
    let mut results = pin!(group.stream_append(appends));
    let mut sequence = 0;
    while let Some(result) = results.next().await {
        let goes_on = matches!(result, Ok(Ok(_)));
        let outcome = result.map(wire::appended);
        let outcome = outcome.map_err(|ended| ended.to_string());
        let _ = answers.send(wire::answer(session, sequence, outcome)).await;
        drop(held.try_recv());
        sequence += 1;
        if !goes_on {
            is_over.store(true, Ordering::Relaxed);
        }
    }
    // openraft says nothing when the group has ended.
    if !is_over.load(Ordering::Relaxed) {
        let ended = Err("the group has ended".to_owned());
        let _ = answers.send(wire::answer(session, sequence, ended)).await;
    }
}
