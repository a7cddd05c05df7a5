//! Handing leadership over to another voter.

use std::sync::Arc;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::WaitError;
use openraft::type_config::TypeConfigExt;
use openraft_rt_tokio::TokioInstant;

use super::membership::{LACKS_MAX, lacks, stays_voter};
use super::{Ended, Fatal, Group, RaftMetrics, RaftState};
use crate::types::TypeConfig;

/// Why leadership is not handed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// This peer does not lead the group.
    #[error("the peer does not lead the group")]
    NotLeader,
    /// There is nobody to hand over to. A leader that tried would take no more proposals.
    #[error("peer {peer_id} is not another voter of the group")]
    NotAnotherVoter {
        /// Who was to lead.
        peer_id: u64,
    },
    /// It was not heard of since this peer leads, and may not take over.
    #[error("peer {peer_id} was not heard of yet")]
    NotHeardOf {
        /// Who was to lead.
        peer_id: u64,
    },
    /// It was not heard of for a while, or does not answer now, and may not take over.
    #[error("peer {peer_id} was not heard of a short time ago")]
    Silent {
        /// Who was to lead.
        peer_id: u64,
    },
    /// The group has ended.
    #[error(transparent)]
    Ended(#[from] Ended),
}

impl Group {
    /// Lets another voter campaign at once. From then on this peer takes no proposals and permits no reads in its term, even
    /// if the other one does not come to lead.
    ///
    /// # Errors
    ///
    /// See [`TransferError`].
    pub async fn transfer_leader(&self, peer_id: u64) -> Result<(), TransferError> {
        let (raft, lease) = (self.raft.clone(), Arc::clone(&self.lease));
        let own_id = self.peer_id();
        let transferred = self.lasting(async move {
            // openraft takes these in order. It may have come to lead in a later term when it hands over.
            let may = move |state: &RaftState| may_transfer(state, own_id, peer_id);
            raft.with_raft_state(may).await??;
            let hand_over = lease.hand_over();
            raft.trigger().transfer_leader(peer_id).await?;
            let term = |state: &RaftState| state.vote_ref().leader_id.term;
            hand_over.end(raft.with_raft_state(term).await?);
            Ok(())
        });
        transferred.await
    }
}

impl Group {
    /// Hands leadership over as [`Group::transfer_leader`] does: of the voters that were heard of a short time ago and that answer what is
    /// sent from now on, to the one whose log is the most complete. `None`: this peer does not lead, or there is no such voter. Then it
    /// leads on.
    ///
    /// # Errors
    ///
    /// See [`TransferError`].
    pub async fn hand_over(&self) -> Result<Option<u64>, TransferError> {
        let candidates = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            self.lease.successors(&metrics)
        };
        if candidates.is_empty() {
            return Ok(None);
        }
        let Some(successor) = self.successor(&candidates).await? else {
            return Ok(None);
        };
        self.transfer_leader(successor).await?;
        Ok(Some(successor))
    }

    /// The first of these voters that answers now and has caught up; if none does for a while, of those that answer the one whose log is
    /// the most complete. It gets the rest before it campaigns, if that does not take long.
    async fn successor(&self, candidates: &[u64]) -> Result<Option<u64>, TransferError> {
        let asked_at = self.ask_all().await?;
        let best = |metrics: &RaftMetrics| {
            let alive = candidates.iter().copied();
            let alive = alive.filter(|&peer_id| has_answered(metrics, peer_id, asked_at));
            alive.min_by_key(|&peer_id| lacks(metrics, peer_id))
        };
        let is_over = |metrics: &RaftMetrics| {
            let missing = best(metrics).and_then(|peer_id| lacks(metrics, peer_id));
            metrics.state != ServerState::Leader || missing.is_some_and(|count| count <= LACKS_MAX)
        };
        // Somebody may wait for the end of this, such as a store that is to end.
        let wait = self.raft.wait(Some(self.lease.quorum_wait() / 2));
        match wait.metrics(is_over, "an answer of who may lead").await {
            Ok(metrics) => Ok(best(&metrics)),
            Err(WaitError::Timeout(..)) => {
                let metrics = self.raft.metrics();
                let metrics = metrics.borrow_watched();
                Ok(best(&metrics))
            }
            Err(WaitError::ShuttingDown) => Err(self.end().into()),
        }
    }

    /// Hands leadership over as [`Group::transfer_leader`] does, to a voter that was heard of a short time ago, and that answers what is
    /// sent to it from now on.
    ///
    /// # Errors
    ///
    /// See [`TransferError`].
    pub async fn hand_over_to(&self, peer_id: u64) -> Result<(), TransferError> {
        let heard_at = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let heard_at = metrics.heartbeat.as_ref();
            // This peer does not hear of itself, and it is refused otherwise, as others that are no voters.
            let heard_at = heard_at.filter(|_| peer_id != metrics.id);
            heard_at.and_then(|heard_at| heard_at.get(&peer_id).copied())
        };
        match heard_at {
            Some(None) => Err(TransferError::NotHeardOf { peer_id }),
            Some(at) if !self.lease.is_recent(at) => Err(TransferError::Silent { peer_id }),
            Some(_) => {
                self.hear_of(peer_id).await?;
                self.transfer_leader(peer_id).await
            }
            None => self.transfer_leader(peer_id).await,
        }
    }

    /// Waits until another peer has answered what is sent from now on, or this one leads no more. A voter that has died within the lease
    /// would not take over, and this peer would not lead any more either.
    async fn hear_of(&self, peer_id: u64) -> Result<(), TransferError> {
        let asked_at = self.ask_all().await?;
        let is_over = |metrics: &RaftMetrics| {
            metrics.state != ServerState::Leader || has_answered(metrics, peer_id, asked_at)
        };
        let wait = self.raft.wait(Some(self.lease.quorum_wait()));
        match wait.metrics(is_over, "an answer of who is to lead").await {
            Ok(_) => Ok(()),
            Err(WaitError::Timeout(..)) => Err(TransferError::Silent { peer_id }),
            Err(WaitError::ShuttingDown) => Err(self.end().into()),
        }
    }

    /// Asks all others whether they are there. Returns the time before.
    async fn ask_all(&self) -> Result<TokioInstant, TransferError> {
        let now = TypeConfig::now();
        let raft = self.raft.clone();
        let asked = self.lasting(async move { raft.trigger().heartbeat().await });
        asked.await?;
        Ok(now)
    }
}

/// Whether another peer has answered what was sent to it since. The time of an answer is that at which what it answers was sent.
fn has_answered(metrics: &RaftMetrics, peer_id: u64, since: TokioInstant) -> bool {
    let heard_at = metrics.heartbeat.as_ref();
    let heard_at = heard_at.and_then(|heard_at| heard_at.get(&peer_id).copied());
    heard_at
        .flatten()
        .is_some_and(|at| at.into_inner() >= since)
}

fn may_transfer(state: &RaftState, own_id: u64, peer_id: u64) -> Result<(), TransferError> {
    let vote = state.vote_ref();
    if !vote.committed || vote.leader_id.voted_for != own_id {
        return Err(TransferError::NotLeader);
    }
    let membership = state.membership_state.effective().membership();
    if peer_id == own_id || !stays_voter(membership, peer_id) {
        return Err(TransferError::NotAnotherVoter { peer_id });
    }
    Ok(())
}

impl From<Fatal> for TransferError {
    fn from(fatal: Fatal) -> Self {
        Self::Ended(fatal.into())
    }
}
