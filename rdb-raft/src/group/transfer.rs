//! Handing leadership over to another voter.

use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::WaitError;
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::type_config::TypeConfigExt;
use openraft_rt_tokio::TokioInstant;

use super::membership::{LACKS_MAX, lacks, stays_voter};
use super::{Ended, Fatal, Group, RaftMetrics, RaftState};
use crate::types::TypeConfig;

/// Once one that may lead has answered, others that may have more get this part of the time that was there for the first.
const GRACE_PARTS: u32 = 10;

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
    /// if the other one does not become leader.
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
    /// Hands leadership over as [`Group::transfer_leader`] does, to the voter with the most complete log among those that were heard of a
    /// short time ago and that answer from now on. `None`: this peer does not lead, or there is no such voter. Then it leads on.
    ///
    /// A leader that has handed over before in its term, and still leads, asks nobody: it picks a voter that was heard of.
    ///
    /// # Errors
    ///
    /// See [`TransferError`].
    pub async fn hand_over(&self) -> Result<Option<u64>, TransferError> {
        let metrics = self.published();
        let candidates = self.lease.successors(&metrics);
        if candidates.is_empty() {
            return Ok(None);
        }
        let successor = if self.lease.is_suspended(metrics.current_term) {
            most_complete(&metrics, candidates.into_iter())
        } else {
            self.successor(&candidates).await?
        };
        let Some(successor) = successor else {
            return Ok(None);
        };
        self.transfer_leader(successor).await?;
        Ok(Some(successor))
    }

    /// Hands leadership over as [`Group::hand_over`] does, if the others can elect a leader without this peer: voters that were heard of a
    /// short time ago are a quorum. For a peer that takes nothing from others at the moment. If too many peers are like that, nobody could
    /// take over, and this one would become leader again and again.
    ///
    /// # Errors
    ///
    /// See [`TransferError`].
    pub async fn hand_over_without_vote(&self) -> Result<Option<u64>, TransferError> {
        let metrics = self.published();
        let voter_count = metrics.membership_config.membership().voter_ids().count();
        if self.lease.successors(&metrics).len() <= voter_count / 2 {
            return Ok(None);
        }
        self.hand_over().await
    }

    /// The candidate with the most complete log among those that answer now. If that one has not caught up, this waits for a while, in
    /// which a better one may answer. The chosen candidate gets the rest of the log before it campaigns, if that does not take long.
    async fn successor(&self, candidates: &[u64]) -> Result<Option<u64>, TransferError> {
        let asked_at = self.ask_all();
        let answered = |metrics: &RaftMetrics| {
            let all = candidates.iter().copied();
            let answered = all.filter(|&peer_id| has_answered(metrics, peer_id, asked_at));
            answered.collect::<Vec<_>>()
        };
        let best = |metrics: &RaftMetrics| most_complete(metrics, answered(metrics).into_iter());
        let missing =
            |metrics: &RaftMetrics| best(metrics).and_then(|peer_id| lacks(metrics, peer_id));
        // Somebody may wait for the end of this, such as a store that is to end.
        let patience = self.lease.quorum_wait() / 2;
        let has_caught_up =
            |metrics: &RaftMetrics| missing(metrics).is_some_and(|count| count <= LACKS_MAX);
        self.watch(has_caught_up, patience).await?;
        let is_best = |metrics: &RaftMetrics| {
            missing(metrics) == Some(0) || answered(metrics).len() == candidates.len()
        };
        let metrics = self.watch(is_best, patience / GRACE_PARTS).await?;
        Ok(best(&metrics))
    }

    /// Hands leadership over as [`Group::transfer_leader`] does, to a voter that was heard of a short time ago, and that answers what is
    /// sent to it from now on. A leader that has handed over before in its term does not ask.
    ///
    /// # Errors
    ///
    /// See [`TransferError`].
    pub async fn hand_over_to(&self, peer_id: u64) -> Result<(), TransferError> {
        let metrics = self.published();
        let membership = metrics.membership_config.membership();
        let heard_at = metrics.heartbeat.as_ref();
        // This peer does not hear of itself, and it is refused otherwise, as others that are no voters.
        let heard_at = heard_at
            .filter(|_| peer_id != metrics.id && stays_voter(membership, peer_id))
            .and_then(|heard_at| heard_at.get(&peer_id).copied());
        match heard_at {
            Some(None) => return Err(TransferError::NotHeardOf { peer_id }),
            Some(at) if !self.lease.is_recent(at) => {
                return Err(TransferError::Silent { peer_id });
            }
            Some(_) if !self.lease.is_suspended(metrics.current_term) => {
                self.hear_of(peer_id).await?;
            }
            Some(_) | None => {}
        }
        self.transfer_leader(peer_id).await
    }

    /// Waits until another peer has answered a message sent from now on, or this one no longer leads. A voter that has died within the
    /// lease would not take over, and this peer would no longer lead either.
    async fn hear_of(&self, peer_id: u64) -> Result<(), TransferError> {
        let asked_at = self.ask_all();
        let has_answered = |metrics: &RaftMetrics| has_answered(metrics, peer_id, asked_at);
        let metrics = self.watch(has_answered, self.lease.quorum_wait()).await?;
        if metrics.state == ServerState::Leader && !has_answered(&metrics) {
            return Err(TransferError::Silent { peer_id });
        }
        Ok(())
    }

    /// Asks all other peers whether they are there. Returns the time before that.
    ///
    /// This uses the request of a read that relies on no lease. Triggered heartbeats would skip peers that have answered something a
    /// short time ago.
    fn ask_all(&self) -> TokioInstant {
        let now = TypeConfig::now();
        let raft = self.raft.clone();
        let option = LinearizerOption::new(Some(Duration::ZERO), true)
            .with_wait_timeout(self.lease.quorum_wait());
        self.runtime.spawn(async move {
            // A quorum may not answer, and the one that matters may.
            let _ = raft.get_read_linearizer(option).await;
        });
        now
    }

    /// Waits until `is_so`, this peer no longer leads, or `patience` is over. Returns the state at that time.
    async fn watch(
        &self,
        is_so: impl Fn(&RaftMetrics) -> bool + Send,
        patience: Duration,
    ) -> Result<RaftMetrics, TransferError> {
        let is_over =
            move |metrics: &RaftMetrics| metrics.state != ServerState::Leader || is_so(metrics);
        let wait = self.raft.wait(Some(patience));
        match wait.metrics(is_over, "answers of other peers").await {
            Ok(metrics) => Ok(metrics),
            Err(WaitError::Timeout(..)) => Ok(self.published()),
            Err(WaitError::ShuttingDown) => Err(self.end().into()),
        }
    }

    /// What the group has published last.
    fn published(&self) -> RaftMetrics {
        self.raft.metrics().borrow_watched().clone()
    }
}

/// The peer that lacks the fewest entries, as far as the leader knows.
fn most_complete(metrics: &RaftMetrics, peers: impl Iterator<Item = u64>) -> Option<u64> {
    peers.min_by_key(|&peer_id| lacks(metrics, peer_id))
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
