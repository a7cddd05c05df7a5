//! The permission to read.
//!
//! A read is linearizable if it looks at the state after it got a permission that was requested after the read began. A leader
//! permits reads only while nobody else can have acknowledged a write:
//!
//! - Followers elect nobody else until a lease has passed since they last heard of their leader. So a leader may count on
//!   a lease from the time it *sent* what a quorum has acknowledged. It uses [`Timing::read_lease`] of it.
//! - A leader acknowledges a write after it has applied it. What earlier leaders have acknowledged comes before its first
//!   entry. So once a leader has applied that entry, it *serves* its term, and no later read waits for an index.
//! - A lease from before the machine was suspended does not count, see [`super::machine_sleep`].
//! - The sole voter of a group needs no lease.
//! - A leader that hands its leadership over lets its followers elect another one at once. So its lease is *suspended*
//!   before that, for the rest of its term.
//!
//! So a permission usually needs only a look at what the group last published. If that is not enough, a *round* asks the
//! group, and a quorum if need be. Waiting reads share a round.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::Shared;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::metrics::{SerdeInstant, WaitError};
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::type_config::TypeConfigExt;
use openraft_rt_tokio::TokioInstant;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::lasting::Lasting;
use super::machine_sleep::MachineSleep;
use super::membership::stays_voter;
use super::state::ending;
use super::{Ended, Fatal, Raft, RaftMetrics};
use crate::mutant::Mutant;
use crate::timing::Timing;
use crate::types::{TypeConfig, Vote};

/// Why a read is not permitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This peer does not lead the group.
    #[error("the peer does not lead the group")]
    NotLeader,
    /// No quorum has answered in time. This peer may have been replaced as leader.
    #[error("too few peers of the group answer")]
    NoQuorum,
    /// What was acknowledged before this peer led is not committed or not applied in time.
    #[error("the peer has not applied in time what earlier leaders left")]
    NotApplied,
    /// The group has ended.
    #[error(transparent)]
    Ended(#[from] Ended),
}

/// What a peer needs to know to permit reads.
pub(super) struct Lease {
    read_lease: Duration,
    quorum_wait: Duration,
    /// The last term that this peer served, 0 before the first. Released after everything of earlier terms is applied, and
    /// acquired before the state is read.
    served_term: Arc<AtomicU64>,
    /// The last term in which a hand-over of leadership began, 0 before the first. Released before the followers are told. A
    /// read that does not see it yet comes before any election.
    suspended_term: AtomicU64,
    /// Hand-overs that have begun and are not yet known to have suspended their term.
    hand_overs: AtomicUsize,
    /// Whether an entry may be half applied.
    apply_has_failed: Arc<AtomicBool>,
    machine_sleep: Arc<MachineSleep>,
    round: Mutex<Option<Round>>,
    runtime: Handle,
}

/// Asks the group whether this peer leads it, and waits until it serves its term. Polled by all waiting reads.
type Round = Shared<Lasting<Result<(), ReadError>>>;

impl Lease {
    pub(super) fn new(timing: &Timing, runtime: &Handle) -> Self {
        Self {
            read_lease: timing.read_lease(),
            quorum_wait: timing.quorum_wait(),
            served_term: Arc::default(),
            suspended_term: AtomicU64::new(0),
            hand_overs: AtomicUsize::new(0),
            apply_has_failed: Arc::default(),
            machine_sleep: Arc::new(MachineSleep::new()),
            round: Mutex::default(),
            runtime: runtime.clone(),
        }
    }

    /// How long a leader permits reads after it sent what a quorum then acknowledged.
    pub(super) fn read_lease(&self) -> Duration {
        self.read_lease
    }

    /// How long another peer may take to answer.
    pub(super) fn quorum_wait(&self) -> Duration {
        self.quorum_wait
    }

    /// What is set when an apply fails. No read is permitted from then on.
    pub(super) fn apply_has_failed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.apply_has_failed)
    }

    /// Whether this peer permits a read right now. It never waits.
    pub(super) fn permits(&self, raft: &Raft) -> bool {
        let base = self.machine_sleep.base();
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let served_term = self.served_term.load(Ordering::Acquire);
        if served_term == 0
            || metrics.current_term != served_term
            || self.apply_has_failed.load(Ordering::Acquire)
        {
            return false;
        }
        match metrics.running_state {
            Ok(()) => {
                metrics.state == ServerState::Leader
                    && metrics.vote == Vote::new_committed(served_term, metrics.id)
                    && (is_sole_voter(&metrics)
                        || (self.is_live(&metrics) && !base.has_slept_since())
                        || Mutant::ReadWithoutLease.is_on())
                    && !self.is_suspended(served_term)
            }
            // Its log has failed. It can no longer write, and nobody else can lead.
            Err(Fatal::StorageError(_)) => is_sole_voter(&metrics),
            Err(Fatal::Panicked | Fatal::Stopped) => false,
        }
    }

    /// Notes that this peer leads in a term and has applied what earlier leaders left.
    pub(super) fn serve(&self, term: u64) {
        self.served_term.fetch_max(term, Ordering::Release);
    }

    /// Permits nothing more by lease in a term and those before it.
    pub(super) fn suspend(&self, term: u64) {
        self.suspended_term.fetch_max(term, Ordering::Release);
    }

    /// Permits nothing by lease until the hand-over is dropped.
    pub(super) fn hand_over(self: Arc<Self>) -> HandOver {
        self.hand_overs.fetch_add(1, Ordering::Release);
        HandOver(self)
    }

    /// The end of a hand-over is released after its term is suspended, so it is looked for first.
    pub(super) fn is_suspended(&self, term: u64) -> bool {
        self.hand_overs.load(Ordering::Acquire) > 0
            || self.suspended_term.load(Ordering::Acquire) >= term
    }

    /// Waits until this peer permits a read.
    pub(super) async fn permit(&self, raft: &Raft) -> Result<(), ReadError> {
        if self.permits(raft) {
            return Ok(());
        }
        // A round that began earlier asked too early for this read, and may have failed for a reason that no longer holds. But
        // its result may be enough by now.
        if let Some(round) = self.running_round() {
            let _ = round.await;
            if self.permits(raft) {
                return Ok(());
            }
        }
        self.next_round(raft).await
    }

    /// Whether this peer leads, alone or with a quorum that it has heard of within the lease.
    pub(super) fn is_live_leader(&self, raft: &Raft) -> bool {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.running_state.is_ok()
            && metrics.state == ServerState::Leader
            && (is_sole_voter(&metrics) || self.is_live(&metrics))
    }

    /// The other voters that stay and were heard of within the lease.
    pub(super) fn successors(&self, metrics: &RaftMetrics) -> Vec<u64> {
        let membership = metrics.membership_config.membership();
        let others = membership.voter_ids().filter(|&voter| {
            voter != metrics.id
                && stays_voter(membership, voter)
                && self.has_heard_of(metrics, voter)
        });
        others.collect()
    }

    fn is_live(&self, metrics: &RaftMetrics) -> bool {
        self.is_recent(metrics.last_quorum_acked)
    }

    /// Whether this peer leads, and has heard of another one within the lease.
    pub(super) fn has_heard_of(&self, metrics: &RaftMetrics, peer_id: u64) -> bool {
        let heard_at = metrics.heartbeat.as_ref();
        let heard_at = heard_at.and_then(|heard_at| heard_at.get(&peer_id).copied());
        self.is_recent(heard_at.flatten())
    }

    /// Whether a time is within the lease.
    pub(super) fn is_recent(&self, at: Option<SerdeInstant<TokioInstant>>) -> bool {
        at.is_some_and(|at| TypeConfig::now() < at.into_inner() + self.read_lease)
    }

    fn running_round(&self) -> Option<Round> {
        let round = self.round.lock().unwrap_or_else(PoisonError::into_inner);
        round.clone().filter(|round| round.peek().is_none())
    }

    /// A round that begins now, or that has begun since the caller last found none to be running.
    fn next_round(&self, raft: &Raft) -> Round {
        let mut slot = self.round.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(round) = &*slot
            && round.peek().is_none()
        {
            return round.clone();
        }
        let round = ask(
            raft.clone(),
            self.read_lease,
            self.quorum_wait,
            Arc::clone(&self.served_term),
            self.runtime.clone(),
            Arc::clone(&self.machine_sleep),
        );
        slot.insert(Lasting::new(&self.runtime, round).shared())
            .clone()
    }
}

/// A leader that may be handing its leadership over.
pub(super) struct HandOver(Arc<Lease>);

impl HandOver {
    /// The leader has handed over in a term, or before it.
    pub(super) fn end(self, term: u64) {
        self.0.suspend(term);
    }
}

impl Drop for HandOver {
    fn drop(&mut self) {
        self.0.hand_overs.fetch_sub(1, Ordering::Release);
    }
}

/// Runs a [`Round`]. Each wait is bounded by about `quorum_wait`: a leader without a quorum no longer learns what is committed.
async fn ask(
    raft: Raft,
    read_lease: Duration,
    quorum_wait: Duration,
    served_term: Arc<AtomicU64>,
    runtime: Handle,
    machine_sleep: Arc<MachineSleep>,
) -> Result<(), ReadError> {
    // openraft would log an error for each read of a group that has ended.
    let running = raft.metrics().borrow_watched().running_state.clone();
    running.map_err(|fatal| ReadError::Ended(fatal.into()))?;
    let base = machine_sleep.base();
    let mut next_base = None;
    let linearizer = loop {
        if base.has_slept_since() {
            next_base = Some(MachineSleep::now());
        }
        let lease = next_base.map_or(read_lease, |_| Duration::ZERO);
        let option = LinearizerOption::new(Some(lease), true).with_wait_timeout(quorum_wait);
        let asked = raft.clone();
        let asking = async move { asked.get_read_linearizer(option).await };
        // openraft's core does not even look at the time while it waits for a vote to be durable.
        let asked = timeout(2 * quorum_wait, Lasting::new(&runtime, asking)).await;
        let linearizer = asked.map_err(|_| ReadError::NoQuorum)??;
        // openraft may have counted on a lease from before the machine slept.
        if next_base.is_some() || !base.has_slept_since() {
            break linearizer;
        }
    };
    let read_log_id = *linearizer.read_log_id();
    let (term, index) = (read_log_id.committed_leader_id().term, read_log_id.index());
    let has_applied = |metrics: &RaftMetrics| {
        let applied = metrics.last_applied.as_ref();
        applied.is_some_and(|applied| applied.index >= index)
    };
    // The metrics may be older than the permission, and not know yet that this peer leads.
    let is_over = |metrics: &RaftMetrics| has_applied(metrics) || metrics.current_term > term;
    let wait = raft.wait(Some(quorum_wait));
    match wait.metrics(is_over, "a permission to read").await {
        Ok(metrics) if has_applied(&metrics) => {
            served_term.fetch_max(term, Ordering::Release);
            if let Some(base) = next_base {
                machine_sleep.set_base(base);
            }
            Ok(())
        }
        Ok(_) => Err(ReadError::NotLeader),
        Err(WaitError::Timeout(..)) => Err(ReadError::NotApplied),
        Err(WaitError::ShuttingDown) => Err(ReadError::Ended(ending(&raft))),
    }
}

pub(super) fn is_sole_voter(metrics: &RaftMetrics) -> bool {
    let membership = metrics.membership_config.membership();
    match membership.get_joint_config().as_slice() {
        [voters] => voters.len() == 1 && voters.contains(&metrics.id),
        _ => false,
    }
}

type NoLinearizer = RaftError<TypeConfig, LinearizableReadError<TypeConfig>>;

impl From<NoLinearizer> for ReadError {
    fn from(error: NoLinearizer) -> Self {
        match error {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(_)) => Self::NotLeader,
            RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => Self::NoQuorum,
            RaftError::Fatal(fatal) => Self::Ended(fatal.into()),
        }
    }
}
