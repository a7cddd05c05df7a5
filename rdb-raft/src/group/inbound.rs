//! Requests from other peers of a group.

use std::io;
use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::RaftError;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::{Ended, Group};
use crate::machine::{Applied, Incoming, ReceivedSnapshot, SnapshotData};
use crate::simulation::spawn_blocking;
use crate::types::{Snapshot, SnapshotMeta, TypeConfig, Vote};

/// Why a request for a vote is neither granted nor denied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VoteError {
    /// This peer has started a short time ago. It may still have promised to elect nobody else.
    #[error("the peer takes part in no election until its promises from before its start are over")]
    Quarantined,
    /// The group has ended.
    #[error(transparent)]
    Ended(#[from] Ended),
}

impl Group {
    /// Takes what a leader sends.
    ///
    /// # Errors
    ///
    /// When the group has ended.
    pub async fn append_entries(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> Result<AppendEntriesResponse<TypeConfig>, Ended> {
        let raft = self.raft.clone();
        let appended = self.lasting(async move { raft.append_entries(request).await });
        let appended = appended.await.map_err(fatal)?;
        if !matches!(appended, AppendEntriesResponse::HigherVote(_)) {
            self.heard.note_leader();
        }
        Ok(appended)
    }

    /// Takes the requests of a leader one after the other, without waiting for the device. Answers come in the order of
    /// the requests; the first failure is the last answer.
    ///
    /// Poll it to its end, which comes after the end of `requests`. openraft would panic in later calls if it were dropped
    /// while the group ends.
    pub(crate) fn stream_append(
        &self,
        requests: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 'static,
    ) -> BoxStream<'static, Result<StreamAppendResult<TypeConfig>, Ended>> {
        let (answers, heard) = (self.raft.stream_append(requests), Arc::clone(&self.heard));
        let answers = answers.inspect(move |answer| {
            if let Ok(Ok(_) | Err(StreamAppendError::Conflict(_))) = answer {
                heard.note_leader();
            }
        });
        answers.map(|answer| answer.map_err(Ended::from)).boxed()
    }

    /// Votes for or against a peer that campaigns.
    ///
    /// # Errors
    ///
    /// See [`VoteError`].
    pub async fn vote(
        &self,
        request: VoteRequest<TypeConfig>,
    ) -> Result<VoteResponse<TypeConfig>, VoteError> {
        if !request.leadership_transfer && self.quarantine.refuses_votes() {
            return Err(VoteError::Quarantined);
        }
        let raft = self.raft.clone();
        let earlier_term = request.vote.leader_id.term.saturating_sub(1);
        let voted = self.lasting(async move { raft.vote(request).await });
        let voted = voted.await.map_err(fatal)?;
        if voted.vote_granted {
            // The metrics may still say that it leads. The other one leads as soon as it hears of this vote.
            self.lease.suspend(earlier_term);
        }
        Ok(voted)
    }

    /// Says how it would vote for a peer.
    ///
    /// # Errors
    ///
    /// See [`VoteError`].
    pub async fn pre_vote(
        &self,
        request: VoteRequest<TypeConfig>,
    ) -> Result<VoteResponse<TypeConfig>, VoteError> {
        if self.quarantine.refuses_votes() {
            return Err(VoteError::Quarantined);
        }
        let raft = self.raft.clone();
        let voted = self.lasting(async move { raft.pre_vote(request).await });
        Ok(voted.await.map_err(fatal)?)
    }

    /// Installs the snapshot of a leader, unless it is not needed. Returns the vote of this peer: if it differs from the leader's,
    /// nothing was installed.
    pub(crate) async fn install(
        &self,
        vote: Vote,
        applied: Applied,
        received: Box<dyn ReceivedSnapshot>,
    ) -> Result<Vote, Ended> {
        let snapshot = Snapshot {
            meta: SnapshotMeta {
                last_log_id: applied.position,
                last_membership: applied.membership,
            },
            snapshot: SnapshotData::Received(received),
        };
        let raft = self.raft.clone();
        let installed =
            self.lasting(async move { raft.install_full_snapshot(vote, snapshot).await });
        Ok(installed.await?.vote)
    }

    /// The vote of this peer, if it is later than that of a leader.
    pub(crate) fn later_vote(&self, leader: &Vote) -> Option<Vote> {
        let own = self.raft.metrics().borrow_watched().vote;
        (own > *leader).then_some(own)
    }

    /// Begins to receive the snapshot of a leader.
    pub(crate) async fn receive(&self) -> io::Result<Incoming> {
        let user = self.shared.users.add();
        let machine = Arc::clone(&self.machine);
        let began = spawn_blocking(move || {
            let sink = machine.receive()?;
            Ok(Incoming { sink, user })
        });
        began.await.map_err(io::Error::other)?
    }

    /// Notes that a leader hands its leadership over, and campaigns if this peer is the next leader.
    ///
    /// # Errors
    ///
    /// When the group has ended.
    pub async fn take_over(
        &self,
        request: TransferLeaderRequest<TypeConfig>,
    ) -> Result<TransferLeaderResponse<TypeConfig>, Ended> {
        let raft = self.raft.clone();
        let taken = self.lasting(async move { raft.handle_transfer_leader(request).await });
        Ok(taken.await?)
    }
}

fn fatal(error: RaftError<TypeConfig>) -> Ended {
    match error {
        RaftError::APIError(never) => match never {},
        RaftError::Fatal(fatal) => fatal.into(),
    }
}
