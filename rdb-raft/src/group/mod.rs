//! One peer of a group: it starts, takes proposals, permits reads, and ends.

mod alone;
mod inbound;
mod lease;
mod proposal;
mod purge;
mod quarantine;
mod state;

use std::fmt::Display;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use openraft::network::NetSnapshot;
use openraft::{RaftLogReader, RaftNetworkFactory, ServerState};
use tokio::sync::Mutex;
use tokio::task::unconstrained;

pub use alone::Alone;
pub use inbound::VoteError;
pub use lease::ReadError;
pub use proposal::ProposeError;
pub use purge::PurgeError;
pub use state::GroupState;

use crate::log::LogStore;
use crate::machine::{Machine, Position, StateMachine, Strides};
use crate::timing::{Timing, TimingError};
use crate::types::{Answer, Payload, TypeConfig};
use lease::Lease;
use proposal::Proposal;
use quarantine::{Quarantine, Release};

type Raft = openraft::Raft<TypeConfig, Machine>;
type Fatal = openraft::errors::Fatal<TypeConfig>;
type RaftMetrics = openraft::RaftMetrics<TypeConfig>;

/// One peer of a group. Cheap to clone; it runs until [`Group::shut_down`].
///
/// The log has to hold all entries after the position of the state machine, or be empty. A state machine without a membership
/// makes a peer that waits for a leader.
///
/// A peer that was there before takes part in no election for a little longer than
/// [`Timing::election_timeout_max_ms`] after its start.
#[derive(Clone)]
pub struct Group {
    raft: Raft,
    machine: Arc<dyn StateMachine>,
    lease: Arc<Lease>,
    quarantine: Quarantine,
    _release: Arc<Release>,
    strides: Arc<Strides>,
    purging: Arc<Mutex<()>>,
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
    /// There is nothing of the log, not even a vote, but entries of it were applied. A voter that forgets what it has promised
    /// breaks Raft.
    #[error(
        "the log of the group is missing: the state machine has applied entries up to index {index}"
    )]
    LogMissing {
        /// The last entry that was applied.
        index: u64,
    },
    /// The log or the state machine cannot be read, or they contradict each other.
    #[error("the group cannot start: {cause}")]
    Failed {
        /// What openraft said.
        cause: String,
    },
}

/// The group has ended: it was shut down, or its log or its state machine failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the group has ended: {cause}")]
pub struct Ended {
    /// What it ended with.
    pub cause: String,
}

impl Group {
    /// Starts a peer on its log and its state machine, with a way to the other peers.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn start<Network>(
        peer_id: u64,
        timing: Timing,
        log: LogStore,
        machine: Arc<dyn StateMachine>,
        network: Network,
    ) -> Result<Self, StartError>
    where
        Network: RaftNetworkFactory<TypeConfig>,
        Network::Network: NetSnapshot<TypeConfig, SnapshotData = Position>,
    {
        timing.validate()?;
        let vote = log.reader().read_vote().await.map_err(StartError::failed)?;
        let flushed = machine.flushed().map_err(StartError::failed)?;
        let is_sole_voter = flushed.membership.voter_ids().eq([peer_id]);
        let index = flushed.position.map_or(0, |position| position.index);
        if vote.is_none() && index > 0 {
            return Err(StartError::LogMissing { index });
        }
        let strides = Arc::<Strides>::default();
        let adapter = Machine::new(Arc::clone(&machine), log.reader(), Arc::clone(&strides));
        let config = Arc::new(timing.config());
        let raft = Raft::build(peer_id, config, network, log, adapter).await;
        let raft = raft.map_err(StartError::failed)?;
        let quarantine = Quarantine::begin(&timing, vote.is_some(), is_sole_voter);
        raft.run();
        Ok(Self {
            lease: Arc::new(Lease::new(&timing)),
            quarantine,
            _release: Arc::new(quarantine.release(raft.clone())),
            raft,
            machine,
            strides,
            purging: Arc::default(),
        })
    }

    /// Campaigns at once, and waits until this peer leads and has applied all that earlier leaders left. For a group whose
    /// only voter it is: a peer of others would disturb them.
    ///
    /// # Errors
    ///
    /// When the group has ended.
    pub async fn lead_alone(&self) -> Result<(), Ended> {
        self.raft.trigger().elect(false).await?;
        let leads = |metrics: &RaftMetrics| {
            let applied = metrics.last_applied.as_ref();
            let applied_term = applied.map(|applied| applied.leader_id.term);
            metrics.state == ServerState::Leader && applied_term == Some(metrics.current_term)
        };
        let metrics = self.wait_until(leads).await?;
        self.lease.serve(metrics.current_term);
        Ok(())
    }

    /// Who leads, as far as this peer knows.
    pub fn leader(&self) -> Leader {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        Leader {
            term: metrics.current_term,
            peer_id: metrics.current_leader,
        }
    }

    /// Proposes a payload. `complete` is called once, with the state machine's answer or with what is known instead. It runs
    /// here or on a task of the group, and must neither block nor panic.
    ///
    /// It never waits: proposals are in the log in the order of these calls.
    pub fn propose(
        &self,
        payload: Bytes,
        complete: impl FnOnce(Result<Answer, ProposeError>) + Send + 'static,
    ) {
        let proposal = Proposal::new(complete);
        let completion = proposal.completion();
        let written = self
            .raft
            .client_write_ff(Payload(payload), Some(completion));
        // tokio would let it wait now and then although there is room, and then another proposal would be earlier.
        let polled = {
            let mut written = pin!(unconstrained(written));
            written
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
        };
        match polled {
            Poll::Ready(Ok(())) => proposal.queued(),
            Poll::Ready(Err(fatal)) => proposal.refused(fatal.to_string()),
            // It waits for room, or for the end of a group that took nothing. Either way nothing was queued.
            Poll::Pending => {
                proposal.refused("too many proposals wait, or it has ended".to_owned())
            }
        }
    }

    /// Whether a linearizable read may look at the state now. It never waits; `false` means that
    /// [`Group::permit_read`] has to be asked.
    pub fn try_permit_read(&self) -> bool {
        self.lease.permits(&self.raft)
    }

    /// Waits until a linearizable read may look at the state. Reads that wait at the same time share what is asked of the
    /// other peers.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub async fn permit_read(&self) -> Result<(), ReadError> {
        self.lease.permit(&self.raft).await
    }

    /// Lets another voter campaign at once, if this peer leads. From then on this peer takes no proposals and permits no reads
    /// in its term, even if the other one does not come to lead.
    ///
    /// # Errors
    ///
    /// When the group has ended.
    pub async fn transfer_leader(&self, peer_id: u64) -> Result<(), Ended> {
        let (term, leads) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.current_term, metrics.state == ServerState::Leader)
        };
        if leads {
            self.lease.suspend(term);
            self.raft.trigger().transfer_leader(peer_id).await?;
        }
        Ok(())
    }

    /// Ends this peer. Proposals that have no answer by then are [`ProposeError::Unknown`].
    pub async fn shut_down(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(%error, "a task of a group failed while the group ended");
        }
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

impl StartError {
    fn failed(error: impl Display) -> Self {
        let cause = error.to_string();
        Self::Failed { cause }
    }
}

impl From<Fatal> for Ended {
    fn from(fatal: Fatal) -> Self {
        let cause = fatal.to_string();
        Self { cause }
    }
}
