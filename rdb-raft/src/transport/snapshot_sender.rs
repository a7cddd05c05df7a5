//! Sending a snapshot.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use futures::{Stream, stream};
use openraft::errors::{StreamingError, Unreachable};
use rdb_proto::raftpb::raft_peer_client::RaftPeerClient;
use rdb_proto::raftpb::snapshot_part::Part;
use rdb_proto::raftpb::{SnapshotEnd, SnapshotPart, SnapshotReply, SnapshotStart};
use rdb_proto::transport::limits::MESSAGE_BYTES_MAX;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::Channel;

use super::dial::{CONNECT_TIMEOUT, Dialer};
use super::link::Link;
use super::snapshot::{PATIENCE, Sending};
use super::wire;
use crate::encoding::stored_membership;
use crate::machine::{Outgoing, Reading};
use crate::types::{SnapshotMeta, TypeConfig, Vote};

/// Delays between attempts. Each attempt takes another snapshot of the state machine.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

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

/// How long to wait before each attempt but the first.
pub(super) fn backoff() -> impl Iterator<Item = Duration> + Send {
    let next = |wait: &Duration| Some((*wait * 2).min(BACKOFF_MAX));
    let waits = std::iter::successors(Some(BACKOFF_MIN), next);
    waits.map(|wait| wait.mul_f64(0.5 + fastrand::f64() / 2.0))
}

impl SnapshotRoute<'_> {
    /// Sends a snapshot, and waits until it is installed. Returns the vote of the peer.
    pub(super) async fn send(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        outgoing: Outgoing,
    ) -> Result<Vote, StreamingError<TypeConfig>> {
        let place = self.sending.place();
        let _place = place.ok_or_else(|| unreachable("other snapshots are being sent"))?;
        // Where appends do not get, a snapshot does not either. That was told of.
        self.link.connection().await.map_err(unreachable)?;
        let begun = self.begin(vote, &meta).await.map_err(unreachable)?;
        // Without the client the connection would close.
        let (_client, parts, replies) = begun;
        let (group_id, to_peer) = (self.group_id, self.to_peer);
        let index = meta.last_log_id.map(|last| last.index);
        tracing::info!(group_id, to_peer, index, "sending a snapshot");
        // The log is kept until the peer has the snapshot.
        let Outgoing {
            reading,
            hold: _hold,
        } = outgoing;
        let (sending, answer) = (self.send_chunks(reading, parts), answer(replies));
        let sent = match select(pin!(sending), pin!(answer)).await {
            Either::Left((Ok(()), answer)) => answer.await,
            Either::Left((Err(cause), _)) => Err(cause),
            Either::Right((answer, _)) => answer,
        };
        match &sent {
            Ok(_) => tracing::info!(group_id, to_peer, index, "a snapshot was sent"),
            Err(cause) => tracing::warn!(group_id, to_peer, cause, "a snapshot was not sent"),
        }
        sent.map_err(unreachable)
    }

    /// Connects, and waits until the other store accepts the snapshot.
    async fn begin(&self, vote: Vote, meta: &SnapshotMeta) -> Result<Begun, String> {
        let start = self.start(vote, meta)?;
        let channel = timeout(CONNECT_TIMEOUT, self.dialer.connect(self.link.store_id)).await;
        let channel = channel.map_err(|_| "it did not answer in time")??;
        let mut client = RaftPeerClient::new(channel).max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (parts, sent) = mpsc::channel(1);
        parts.try_send(start).map_err(text)?;
        let replies = timeout(PATIENCE, client.snapshot(stream_of(sent))).await;
        let replies = replies.map_err(|_| STALLED)?;
        let replies = replies.map_err(|refused| refused.message().to_owned())?;
        Ok((client, parts, replies.into_inner()))
    }

    fn start(&self, vote: Vote, meta: &SnapshotMeta) -> Result<SnapshotPart, String> {
        let membership = &meta.last_membership;
        let came_with = membership.log_id().as_ref();
        let came_with = came_with.ok_or("the snapshot has no membership")?;
        let start = SnapshotStart {
            hello: self.dialer.greeting(self.link.store_id).hello,
            group_id: self.group_id,
            from_peer: self.from_peer,
            to_peer: self.to_peer,
            term: vote.leader_id.term,
            last: meta.last_log_id.map(wire::log_id),
            membership: stored_membership::encode(came_with, membership.membership()).into(),
        };
        Ok(part(Part::Start(start)))
    }

    async fn send_chunks(
        &self,
        mut reading: Reading,
        parts: mpsc::Sender<SnapshotPart>,
    ) -> Result<(), String> {
        let send = async |part_of: Part| {
            let sent = timeout(PATIENCE, parts.send(part(part_of))).await;
            let sent = sent.map_err(|_| STALLED)?;
            sent.map_err(|_| "the other store takes no more".to_owned())
        };
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

fn unreachable(cause: impl ToString) -> StreamingError<TypeConfig> {
    Unreachable::from_string(cause).into()
}
