//! One peer of a group: it starts, takes proposals, permits reads, changes the members, and ends.

mod alone;
mod beat;
mod heard;
mod inbound;
mod lasting;
mod lease;
mod machine_sleep;
mod membership;
mod proposal;
mod purge;
mod quarantine;
mod slow_streams;
mod state;
#[cfg(test)]
mod tests;
mod transfer;

use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use openraft::async_runtime::WatchReceiver;
use openraft::network::NetSnapshot;
use openraft::storage::RaftLogStorage;
use openraft::{RaftLogReader, RaftNetworkFactory, ServerState};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::unconstrained;

pub use alone::Alone;
pub(crate) use beat::Beats;
pub use inbound::VoteError;
pub use lease::ReadError;
pub use membership::{ChangeError, Member};
pub use proposal::ProposeError;
pub use purge::{LOG_BYTES_MAX, PurgeError};
pub use state::GroupState;
pub use transfer::TransferError;

use crate::log::{Backlog, LogStore};
use crate::machine::{
    Holds, Machine, PositionBuilder, Shared, SnapshotData, StateMachine, Strides, Users,
};
use crate::mutant::{Hasty, Mutant};
use crate::timing::{Timing, TimingError};
use crate::types::{Answer, LogId, Payload, TypeConfig, Vote};
use heard::Heard;
use lasting::Lasting;
use lease::{Lease, is_sole_voter};
use proposal::Proposal;
use purge::Purging;
use quarantine::{Quarantine, Release};
use slow_streams::{EndingStreams, SlowStreams};

type Raft = openraft::Raft<TypeConfig, Machine>;
type Fatal = openraft::errors::Fatal<TypeConfig>;
type RaftMetrics = openraft::RaftMetrics<TypeConfig>;
type RaftState = openraft::RaftState<TypeConfig>;

/// One peer of a group. Cheap to clone; it runs until [`Group::shut_down`].
///
/// The log has to hold all entries after the position of the state machine, or be empty. A state machine without a membership
/// makes a peer that waits for a leader.
///
/// A restarted peer takes part in no election for a little longer than [`Timing::election_timeout_max_ms`] after its start, or than
/// what that was before it.
#[derive(Clone)]
pub struct Group {
    raft: Raft,
    runtime: Handle,
    machine: Arc<dyn StateMachine>,
    lease: Arc<Lease>,
    backlog: Backlog,
    quarantine: Quarantine,
    _release: Arc<Release>,
    shared: Shared,
    purging: Arc<Mutex<Purging>>,
    /// Held while the members are changed.
    changing: Arc<Mutex<()>>,
    heard: Arc<Heard>,
    slow_streams: SlowStreams,
    hasty: Option<Arc<Hasty>>,
}

/// Who leads a group, as far as a peer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    /// The latest term that the peer knows of.
    pub term: u64,
    /// The peer that leads in it, if there is one.
    pub peer_id: Option<u64>,
}

/// Why a group did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// An interval cannot be.
    #[error(transparent)]
    Timing(#[from] TimingError),
    /// The log is missing, even its vote, but entries of it were applied. A voter that forgets its promises breaks Raft.
    #[error(
        "the log of the group is missing: the state machine has applied entries up to index {index}"
    )]
    LogMissing {
        /// The last entry that was applied.
        index: u64,
    },
    /// There is a log, but not the state that it began behind. A peer that waits for its first snapshot has neither.
    #[error("the state of the group is missing: its log reaches up to index {index}")]
    StateMissing {
        /// The last entry of the log.
        index: u64,
    },
    /// The vote is older than what was applied. A voter that forgets what it has promised breaks Raft.
    #[error(
        "the log of the group is older than its state: the vote is of term {vote_term}, and the state machine has applied \
         entries of term {term}"
    )]
    LogOutdated {
        /// The term of the vote.
        vote_term: u64,
        /// The term of the last entry that was applied.
        term: u64,
    },
    /// The log goes on beyond what was applied, with entries of an earlier term. So it has another entry in the place of the last one that
    /// was applied.
    #[error(
        "the log of the group contradicts its state: the log ends with entry {last_index} of term {last_term}, and the state machine has \
         applied entry {index} of term {term}"
    )]
    LogContradicts {
        /// The last entry of the log.
        last_index: u64,
        /// Its term.
        last_term: u64,
        /// The last entry that was applied.
        index: u64,
        /// Its term.
        term: u64,
    },
    /// The log does not have what the state machine needs next.
    #[error(
        "the log of the group is purged up to index {purged_index}, and the state machine has applied entries up to index {index}"
    )]
    LogPurged {
        /// The last entry that was purged.
        purged_index: u64,
        /// The last entry that was applied.
        index: u64,
    },
    /// The log, or what the state machine has applied, is damaged.
    #[error("the log of the group or its state is damaged: {cause}")]
    Damaged {
        /// What is.
        cause: String,
    },
    /// The log or the state machine cannot be read, or they contradict each other.
    #[error("the group cannot start: {cause}")]
    Failed {
        /// What openraft or the system said.
        cause: String,
    },
}

/// Why a peer does not lead alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeadError {
    /// The group has other voters, or this peer is none.
    #[error("the peer is not the only voter of its group")]
    NotSoleVoter,
    /// The group has ended.
    #[error(transparent)]
    Ended(#[from] Ended),
}

/// The group has ended: it was shut down, or its log or its state machine failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the group has ended: {cause}")]
pub struct Ended {
    /// What it ended with.
    pub cause: String,
    /// Whether it failed. Otherwise it was shut down.
    pub has_failed: bool,
}

impl Group {
    /// Starts a peer on its log and its state machine, with a way to the other peers.
    ///
    /// `promised_ms` is the longest [`Timing::election_timeout_max_ms`] by which the peer may have promised something to a leader before
    /// it started. 0: not longer than that of `timing`.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn start<Network>(
        peer_id: u64,
        timing: Timing,
        promised_ms: u64,
        mut log: LogStore,
        machine: Arc<dyn StateMachine>,
        network: Network,
    ) -> Result<Self, StartError>
    where
        Network: RaftNetworkFactory<TypeConfig>,
        Network::Network: NetSnapshot<TypeConfig, SnapshotData = SnapshotData>,
    {
        timing.validate()?;
        let hasty = Mutant::ApplyBeforeCommit
            .is_on()
            .then(|| Hasty::new(Arc::clone(&machine)));
        let machine = hasty.clone().map_or(machine, |hasty| hasty);
        let mut reader = log.reader();
        let vote = reader.read_vote().await.map_err(StartError::unread)?;
        let flushed = machine.flushed().map_err(StartError::unread)?;
        let is_sole_voter = flushed.membership.voter_ids().eq([peer_id]);
        let log_state = log.get_log_state().await.map_err(StartError::unread)?;
        check_start(
            vote,
            log_state.last_log_id,
            log_state.last_purged_log_id,
            flushed.position,
        )?;
        let shared = Shared {
            strides: Arc::<Strides>::default(),
            snapshots: PositionBuilder::new(flushed),
            holds: Holds::default(),
            users: Arc::new(Users::new()),
        };
        let runtime = Handle::current();
        let lease = Lease::new(&timing, &runtime);
        let adapter = Machine::new(
            Arc::clone(&machine),
            &log,
            lease.apply_has_failed(),
            shared.clone(),
        );
        let config = Arc::new(timing.config());
        let slow_streams = SlowStreams::default();
        let backlog = log.backlog(timing.log_patience());
        let network = EndingStreams {
            network,
            streams: slow_streams.clone(),
        };
        let raft = Raft::build(peer_id, config, network, log, adapter).await;
        let raft = raft.map_err(|fatal| match reader.damage() {
            Some(damage) => StartError::damaged(damage),
            None => StartError::failed(fatal),
        })?;
        let promised = timing.or_longer(promised_ms);
        let quarantine = Quarantine::begin(&promised, vote.is_some(), is_sole_voter);
        raft.run();
        Ok(Self {
            lease: Arc::new(lease),
            backlog,
            quarantine,
            _release: Arc::new(quarantine.release(raft.clone())),
            raft,
            runtime,
            machine,
            shared,
            purging: Arc::default(),
            changing: Arc::default(),
            heard: Arc::new(Heard::now()),
            slow_streams,
            hasty,
        })
    }

    /// Campaigns at once, and waits until this peer leads and has applied all that earlier leaders left.
    ///
    /// Only for the sole voter of a group. Any other voter's campaign would disturb a leader that others count on, and break
    /// this peer's promise to that leader.
    ///
    /// # Errors
    ///
    /// See [`LeadError`].
    pub async fn lead_alone(&self) -> Result<(), LeadError> {
        let (raft, peer_id) = (self.raft.clone(), self.peer_id());
        let campaigns = self.lasting(async move {
            let is_sole_voter = move |state: &RaftState| {
                let effective = state.membership_state.effective();
                effective.voter_ids().eq([peer_id])
            };
            if raft.with_raft_state(is_sole_voter).await? {
                raft.trigger().elect(false).await?;
                return Ok(());
            }
            Err(LeadError::NotSoleVoter)
        });
        campaigns.await?;
        let leads = |metrics: &RaftMetrics| {
            let applied = metrics.last_applied.as_ref();
            let applied_term = applied.map(|applied| applied.leader_id.term);
            metrics.state == ServerState::Leader && applied_term == Some(metrics.current_term)
        };
        let is_over = |metrics: &RaftMetrics| leads(metrics) || !is_sole_voter(metrics);
        let metrics = self.wait_until(is_over).await?;
        if !leads(&metrics) {
            return Err(LeadError::NotSoleVoter);
        }
        self.lease.serve(metrics.current_term);
        Ok(())
    }

    /// Who leads, as far as this peer knows.
    pub fn leader(&self) -> Leader {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        state::leader(&metrics.vote, metrics.current_leader)
    }

    /// Proposes a payload. `complete` is called once, with the state machine's answer or with what is known instead. It runs
    /// here or on a task of the group, and must neither block nor panic.
    ///
    /// A group that has ended, whose log is far behind, or whose vote waits for its log, refuses at once. So a `complete` that always
    /// proposes again would recurse without end.
    ///
    /// It never waits. Proposals are in the log in the order of these calls, as long as openraft's queue has room for them.
    pub fn propose(
        &self,
        payload: Bytes,
        complete: impl FnOnce(Result<Answer, ProposeError>) + Send + 'static,
    ) {
        if let Err(refused) = self.check_takes_proposals() {
            return complete(Err(refused));
        }
        let early = self
            .hasty
            .as_ref()
            .and_then(|hasty| hasty.apply_early(&payload));
        let proposal = match early {
            Some(answer) => {
                complete(Ok(answer));
                Proposal::new(|_| {})
            }
            None => Proposal::new(complete),
        };
        let raft = self.raft.clone();
        let queued = self.lasting(async move {
            let completion = Some(proposal.completion());
            match raft.client_write_ff(Payload(payload), completion).await {
                Ok(()) => proposal.queued(),
                Err(fatal) => proposal.refused(fatal.to_string()),
            }
        });
        // Otherwise tokio would sometimes make it wait although there is room, and another proposal would come earlier. A
        // proposal that still waits goes on without this call, until there is room or the group ends.
        let _ = unconstrained(queued).now_or_never();
    }

    /// Refuses proposals of a group that has ended, whose log is far behind, or whose vote waits for its log.
    fn check_takes_proposals(&self) -> Result<(), ProposeError> {
        if let Err(Ended { cause, .. }) = self.check_running() {
            return Err(ProposeError::NotQueued { cause });
        }
        // The proposal would wait in openraft's queue, and nobody could say what becomes of it.
        if self.backlog.awaits_vote() {
            let cause = "the peer's vote waits to be written to the Raft log".to_owned();
            return Err(ProposeError::NotQueued { cause });
        }
        if !self.backlog.is_full() {
            return Ok(());
        }
        // Once it hands over, another peer leads, or will soon.
        if self.lease.is_suspended(self.leader().term) {
            return Err(ProposeError::NotLeader);
        }
        Err(ProposeError::Busy)
    }

    /// Whether a linearizable read may look at the state now. It never waits; `false` means that
    /// [`Group::permit_read`] has to be asked.
    pub fn try_permit_read(&self) -> bool {
        self.lease.permits(&self.raft)
    }

    /// Waits until a linearizable read may look at the state. Reads that wait at the same time share the requests to other peers.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub async fn permit_read(&self) -> Result<(), ReadError> {
        self.lease.permit(&self.raft).await
    }

    /// Ends this peer, and waits until nothing works on its state machine. Proposals that have no answer by then are
    /// [`ProposeError::Unknown`].
    pub async fn shut_down(&self) {
        let (raft, users) = (self.raft.clone(), Arc::clone(&self.shared.users));
        let ended = self.lasting(async move {
            let ended = raft.shutdown().await;
            // The core does not wait for the task that applies, nor does it know of flushes.
            users.stop().await;
            ended
        });
        if let Err(error) = ended.await {
            tracing::error!(%error, "a task of a group failed while the group ended");
        }
    }

    /// A call into openraft that its caller may drop.
    fn lasting<T: Send + 'static>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Lasting<T> {
        Lasting::new(&self.runtime, call)
    }

    /// The store of another peer. `None`: this peer does not know it as a member.
    pub(crate) fn store_of(&self, peer_id: u64) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let mut nodes = metrics.membership_config.nodes();
        let node = nodes.find(|(id, _)| **id == peer_id);
        node.map(|(_, node)| node.store_id)
    }

    /// Notes that another peer has sent something.
    pub(crate) fn has_heard(&self) {
        self.heard.note_peer();
    }

    /// How long no other peer has sent anything to this one, since its start.
    pub fn silent_for(&self) -> Duration {
        self.heard.silent_for()
    }

    /// Whether it is the same start of the same peer.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.heard, &other.heard)
    }

    /// Whether this peer leads, and proposals are likely to be committed: it has heard of a quorum within the lease, and no vote for another
    /// leader waits for the log.
    pub fn is_live(&self) -> bool {
        !self.backlog.awaits_vote() && self.lease.is_live_leader(&self.raft)
    }

    /// Whether somebody leads the group, as far as this peer can tell: itself, as [`is_live`](Self::is_live) says, or another peer that it
    /// has heard of within the lease.
    pub fn is_led(&self) -> bool {
        self.is_live() || self.heard.leader_within(self.lease.read_lease())
    }

    /// Refuses what only a group that runs can do.
    pub(crate) fn check_running(&self) -> Result<(), Ended> {
        let running = self.raft.metrics().borrow_watched().running_state.clone();
        running.map_err(Ended::from)
    }

    pub(crate) fn peer_id(&self) -> u64 {
        *self.raft.node_id()
    }

    async fn wait_until(
        &self,
        condition: impl Fn(&RaftMetrics) -> bool + Send,
    ) -> Result<RaftMetrics, Ended> {
        let wait = self.raft.wait(None);
        let waited = wait.metrics(condition, "a group").await;
        waited.map_err(|_| self.end())
    }
}

/// Whether a log and a state machine can belong together. A log that ends before the position is fine: a crash may leave
/// less of the log than of the state, and the missing entries have been applied.
///
/// The entry at the position need not be read. A log whose last entry has the term of the position, or a later one, has the same entry there
/// as all logs of the group, since that entry was committed, and was applied only after others in its place were durably gone.
fn check_start(
    vote: Option<Vote>,
    last: Option<LogId>,
    purged: Option<LogId>,
    position: Option<LogId>,
) -> Result<(), StartError> {
    if position.is_none()
        && let Some(last) = last
    {
        let index = last.index;
        return Err(StartError::StateMissing { index });
    }
    let (term, index) =
        position.map_or((0, 0), |position| (position.leader_id.term, position.index));
    let Some(vote) = vote else {
        return match index {
            0 => Ok(()),
            _ => Err(StartError::LogMissing { index }),
        };
    };
    let vote_term = vote.leader_id.term;
    if vote_term < term {
        return Err(StartError::LogOutdated { vote_term, term });
    }
    if let Some(last) = last
        && last.leader_id.term < term
        && last.index >= index
    {
        return Err(StartError::LogContradicts {
            last_index: last.index,
            last_term: last.leader_id.term,
            index,
            term,
        });
    }
    match purged {
        Some(purged) if purged.index > index => Err(StartError::LogPurged {
            purged_index: purged.index,
            index,
        }),
        _ => Ok(()),
    }
}

impl StartError {
    /// Whether the log and the state machine do not belong together, or one of them is damaged. Starting again does not help.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::LogMissing { .. }
            | Self::StateMissing { .. }
            | Self::LogOutdated { .. }
            | Self::LogContradicts { .. }
            | Self::LogPurged { .. }
            | Self::Damaged { .. } => true,
            Self::Timing(_) | Self::Failed { .. } => false,
        }
    }

    /// Why the log or the state machine cannot be read.
    pub(crate) fn unread(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::InvalidData => Self::damaged(error),
            _ => Self::failed(error),
        }
    }

    fn damaged(damage: impl Display) -> Self {
        let cause = damage.to_string();
        Self::Damaged { cause }
    }

    fn failed(error: impl Display) -> Self {
        let cause = error.to_string();
        Self::Failed { cause }
    }
}

impl From<Fatal> for LeadError {
    fn from(fatal: Fatal) -> Self {
        Self::Ended(fatal.into())
    }
}

impl From<Fatal> for Ended {
    fn from(fatal: Fatal) -> Self {
        Self {
            cause: fatal.to_string(),
            has_failed: fatal != Fatal::Stopped,
        }
    }
}
