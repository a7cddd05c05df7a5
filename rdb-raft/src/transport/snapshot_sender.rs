//! Sending a snapshot.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use futures::{Stream, stream};
use rdb_proto::raftpb::raft_peer_client::RaftPeerClient;
use rdb_proto::raftpb::snapshot_part::Part;
use rdb_proto::raftpb::{SnapshotEnd, SnapshotPart, SnapshotReply, SnapshotStart, SnapshotTaken};
use rdb_proto::transport::limits::MESSAGE_BYTES_MAX;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::Channel;

use super::dial::{CONNECT_TIMEOUT, Dialer, refusal};
use super::link::Link;
use super::snapshot::{PATIENCE, Sending, is_for};
use super::wire;
use crate::encoding::stored_membership;
use crate::machine::{Applied, Outgoing, Reading};
use crate::simulation::spawn_blocking;
use crate::types::{StoredMembership, Vote};

/// The first delay between attempts. Each later one is twice as long.
const BACKOFF_MIN: Duration = Duration::from_millis(500);

/// The longest delay after an attempt that was not accepted, which costs nothing.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// The longest delay after an attempt that was given up on its way.
const BACKOFF_BEGUN_MAX: Duration = Duration::from_secs(60);

/// How long the other store may install what it has got.
const INSTALL_MAX: Duration = Duration::from_secs(600);

/// A way for snapshots, from a peer to another one of its group.
pub(super) struct SnapshotRoute<'a> {
    pub(super) dialer: &'a Dialer,
    pub(super) sending: &'a Sending,
    pub(super) link: &'a Link,
    pub(super) group_id: u64,
    pub(super) from_peer: u64,
    pub(super) to_peer: u64,
}

/// A snapshot that the other store accepts: the connection, what is sent on it, and what is answered.
type Begun = (
    RaftPeerClient<Channel>,
    mpsc::Sender<SnapshotPart>,
    Streaming<SnapshotReply>,
);

/// Why a snapshot was not sent.
#[derive(Debug)]
pub(super) struct NotSent {
    pub(super) cause: String,
    /// Whether the other store had accepted it. Then the log has a line about it.
    pub(super) had_begun: bool,
}

/// How long to wait before the next attempt to send a peer a snapshot. Clones share that.
#[derive(Clone, Default)]
pub(super) struct Attempts(Arc<Mutex<LastAttempt>>);

#[derive(Default)]
struct LastAttempt {
    wait: Duration,
    cause: String,
}

impl Attempts {
    /// Returns whether it has failed otherwise than the one before.
    pub(super) fn note(&self, failure: &NotSent) -> bool {
        let longest = if failure.had_begun {
            BACKOFF_BEGUN_MAX
        } else {
            BACKOFF_MAX
        };
        let mut last = self.last();
        last.wait = (last.wait * 2).clamp(BACKOFF_MIN, longest);
        let is_new = last.cause != failure.cause;
        last.cause.clone_from(&failure.cause);
        is_new
    }

    fn last(&self) -> MutexGuard<'_, LastAttempt> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The wait before each attempt but the first.
    pub(super) fn waits(&self) -> impl Iterator<Item = Duration> + Send + use<> {
        let attempts = self.clone();
        std::iter::repeat_with(move || {
            let wait = attempts.last().wait;
            wait.mul_f64(0.5 + fastrand::f64() / 2.0)
        })
    }
}

impl SnapshotRoute<'_> {
    /// Sends a snapshot, and waits until it is installed. Returns the vote of the peer. The snapshot is taken once the other store has
    /// accepted it, and is not earlier than this membership.
    pub(super) async fn send(
        &self,
        vote: Vote,
        membership: &StoredMembership,
        outgoing: Outgoing,
    ) -> Result<Vote, NotSent> {
        let not_begun = |cause| NotSent {
            cause,
            had_begun: false,
        };
        let (group_id, to_peer) = (self.group_id, self.to_peer);
        let fits = |as_of: &StoredMembership| is_for(as_of, to_peer, self.link.store_id);
        if !fits(membership) {
            let cause = "what has added the peer is not applied yet".to_owned();
            return Err(not_begun(cause));
        }
        let (_place, begun) = self.accepted(vote).await.map_err(not_begun)?;
        let sent = match outgoing.take().await {
            Ok((applied, _)) if !fits(&applied.membership) => {
                let cause = "the peer was removed meanwhile".to_owned();
                return Err(not_begun(cause));
            }
            Ok((applied, reading)) => self.send_accepted(vote, &applied, reading, begun).await,
            Err(error) => Err(error.to_string()),
        };
        sent.map_err(|cause| {
            tracing::warn!(group_id, to_peer, cause, "a snapshot was not sent");
            NotSent {
                cause,
                had_begun: true,
            }
        })
    }

    async fn accepted(&self, vote: Vote) -> Result<(OwnedSemaphorePermit, Begun), String> {
        // The log is kept meanwhile, so not for long.
        let place = timeout(PATIENCE, self.sending.place()).await;
        let place = place.map_err(|_| "other snapshots are being sent")?;
        // A store that appends do not reach is not reached by a snapshot either. The link has logged that.
        let connected = self.link.connection().await;
        connected.map_err(|cause| cause.to_string())?;
        Ok((place, self.begin(vote).await?))
    }

    async fn send_accepted(
        &self,
        vote: Vote,
        applied: &Applied,
        reading: Reading,
        begun: Begun,
    ) -> Result<Vote, String> {
        // Without the client the connection would close.
        let (_client, parts, replies) = begun;
        let (group_id, to_peer) = (self.group_id, self.to_peer);
        let index = applied.position.map(|position| position.index);
        tracing::info!(group_id, to_peer, index, "sending a snapshot");
        let sending = self.send_parts(taken(applied)?, reading, parts);
        let answer = pin!(answer(replies));
        let answered = match select(pin!(sending), answer).await {
            Either::Left((Ok(()), answer)) => {
                let installed = timeout(INSTALL_MAX, answer).await;
                installed.map_err(|_| "the other store does not get done with it")?
            }
            Either::Left((Err(cause), _)) => Err(cause),
            Either::Right((answer, _)) => answer,
        }?;
        // With a later vote the other store has not installed it.
        if answered == vote {
            tracing::info!(group_id, to_peer, index, "a snapshot was sent");
            self.sending.sent.increment();
        }
        Ok(answered)
    }

    /// Connects, and waits until the other store accepts a snapshot.
    async fn begin(&self, vote: Vote) -> Result<Begun, String> {
        let start = part(Part::Start(SnapshotStart {
            hello: self.dialer.greeting(self.link.store_id).hello,
            group_id: self.group_id,
            from_peer: self.from_peer,
            to_peer: self.to_peer,
            term: vote.leader_id.term,
        }));
        let channel = timeout(CONNECT_TIMEOUT, self.dialer.connect(self.link.store_id)).await;
        let channel = channel.map_err(|_| "it did not answer in time")??;
        let mut client = RaftPeerClient::new(channel).max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (parts, sent) = mpsc::channel(1);
        parts.try_send(start).map_err(text)?;
        let request = self.dialer.request(stream_of(sent));
        let replies = timeout(PATIENCE, client.snapshot(request)).await;
        let replies = replies.map_err(|_| STALLED)?;
        let replies = replies.map_err(|refused| refusal(&refused))?;
        Ok((client, parts, replies.into_inner()))
    }

    async fn send_parts(
        &self,
        taken: SnapshotTaken,
        mut reading: Reading,
        parts: mpsc::Sender<SnapshotPart>,
    ) -> Result<(), String> {
        let send = async |part_of: Part| {
            let sent = timeout(PATIENCE, parts.send(part(part_of))).await;
            let sent = sent.map_err(|_| STALLED)?;
            sent.map_err(|_| "the other store takes no more".to_owned())
        };
        send(Part::Taken(taken)).await?;
        loop {
            let (rest, chunk) = next_chunk(reading).await?;
            let Some(chunk) = chunk else {
                break;
            };
            reading = rest;
            self.sending.pace(chunk.len()).await;
            send(Part::Chunk(chunk)).await?;
        }
        send(Part::End(SnapshotEnd {})).await
    }
}

/// What a snapshot is as of.
fn taken(applied: &Applied) -> Result<SnapshotTaken, String> {
    let membership = &applied.membership;
    let came_with = membership.log_id().as_ref();
    let came_with = came_with.ok_or("the snapshot has no membership")?;
    Ok(SnapshotTaken {
        last: applied.position.map(wire::log_id),
        membership: stored_membership::encode(came_with, membership.membership()).into(),
    })
}

const STALLED: &str = "nothing has moved for a while";

/// What is being read goes away with its thread if nobody waits for it.
async fn next_chunk(mut reading: Reading) -> Result<(Reading, Option<Bytes>), String> {
    let read = spawn_blocking(move || {
        let chunk = reading.next_chunk();
        chunk.map(|chunk| (reading, chunk))
    });
    read.await.map_err(text)?.map_err(text)
}

fn stream_of(parts: mpsc::Receiver<SnapshotPart>) -> impl Stream<Item = SnapshotPart> + Send {
    stream::unfold(parts, |mut parts| async move {
        let part = parts.recv().await?;
        Some((part, parts))
    })
}

/// Waits for the last reply.
async fn answer(mut replies: Streaming<SnapshotReply>) -> Result<Vote, String> {
    loop {
        let reply = timeout(PATIENCE, replies.message()).await;
        let reply = reply.map_err(|_| STALLED)?;
        let reply = reply.map_err(|status| status.message().to_owned())?;
        match reply {
            Some(SnapshotReply { vote: Some(vote) }) => return Ok(wire::read_vote(vote)),
            Some(SnapshotReply { vote: None }) => {}
            None => return Err("the other store has ended it".to_owned()),
        }
    }
}

fn part(part: Part) -> SnapshotPart {
    SnapshotPart { part: Some(part) }
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_new_once() {
        let attempts = Attempts::default();
        let is_new = |cause: &str| {
            attempts.note(&NotSent {
                cause: cause.to_owned(),
                had_begun: false,
            })
        };
        let noted = ["one", "one", "other", "one"].map(is_new);
        assert_eq!(noted, [true, false, true, true]);
    }

    #[test]
    fn attempts_that_were_on_their_way_are_repeated_later_and_later() {
        let attempts = Attempts::default();
        let mut waits = attempts.waits();
        let mut after = |had_begun| {
            attempts.note(&NotSent {
                cause: String::new(),
                had_begun,
            });
            waits.next().unwrap()
        };
        for (had_begun, longest) in [
            (false, BACKOFF_MAX),
            (true, BACKOFF_BEGUN_MAX),
            (false, BACKOFF_MAX),
        ] {
            let mut before = Duration::ZERO;
            for _ in 0..20 {
                before = after(had_begun);
                assert!(before <= longest, "{before:?}");
            }
            assert!(before >= longest / 2, "{before:?}");
        }
    }
}
