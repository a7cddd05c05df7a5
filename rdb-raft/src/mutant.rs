//! Promises that a store can be made to break, to show that the fault suite notices: `scripts/mutants.sh`.
//!
//! A mutant is switched on by `RDB_MUTANT=NAME` in the environment, and only in a build with debug assertions: no release has
//! them. It is not a cargo feature, since everything is always built with all features.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;

use crate::machine::{Applied, ApplyError, Committed, SnapshotSink, SnapshotSource, StateMachine};
use crate::types::{Answer, Content, Entry, LogId, Payload};

/// A broken promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Appends and votes are told to be durable before they are synced.
    AcknowledgeBeforeSync,
    /// A leader permits reads however long it has heard nothing from a quorum.
    ReadWithoutLease,
    /// A leader permits reads for the whole lease by its own clock, which may be slow.
    WholeLease,
    /// A voter that restarts votes at once.
    VoteAtOnce,
    /// The applied position is not in the batch that applies the entry.
    DropPosition,
    /// A leader applies and answers a proposal before a quorum has it.
    ApplyBeforeCommit,
    /// A proposal that was lost from sight is told to be certainly not applied.
    NotLeaderAfterProposal,
}

const NAMES: [(&str, Mutant); 7] = [
    ("acknowledge-before-sync", Mutant::AcknowledgeBeforeSync),
    ("read-without-lease", Mutant::ReadWithoutLease),
    ("whole-lease", Mutant::WholeLease),
    ("vote-at-once", Mutant::VoteAtOnce),
    ("drop-position", Mutant::DropPosition),
    ("apply-before-commit", Mutant::ApplyBeforeCommit),
    ("not-leader-after-proposal", Mutant::NotLeaderAfterProposal),
];

impl Mutant {
    /// Whether this process breaks this promise.
    pub fn is_on(self) -> bool {
        static CHOSEN: OnceLock<Option<Mutant>> = OnceLock::new();
        cfg!(debug_assertions) && *CHOSEN.get_or_init(chosen) == Some(self)
    }
}

fn chosen() -> Option<Mutant> {
    let name = std::env::var("RDB_MUTANT").ok()?;
    let mutant = NAMES.into_iter().find(|(known, _)| *known == name);
    let (_, mutant) =
        mutant.unwrap_or_else(|| panic!("RDB_MUTANT is {name:?}, which is no mutant"));
    tracing::warn!(?mutant, "THIS PROCESS BREAKS A PROMISE");
    Some(mutant)
}

/// A state machine for [`Mutant::ApplyBeforeCommit`]: it applies what is proposed at once, and nothing when that is committed.
pub(crate) struct Hasty {
    machine: Arc<dyn StateMachine>,
    state: Mutex<Early>,
}

#[derive(Default)]
struct Early {
    /// Payloads that were applied before they were committed.
    payloads: Vec<Bytes>,
    position: Option<LogId>,
}

impl Hasty {
    pub(crate) fn new(machine: Arc<dyn StateMachine>) -> Arc<Self> {
        let state = Mutex::default();
        Arc::new(Self { machine, state })
    }

    /// `None`: nothing was committed yet.
    pub(crate) fn apply_early(&self, payload: &Bytes) -> Option<Answer> {
        let mut early = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = Entry {
            log_id: early.position?,
            payload: Content::Normal(Payload(payload.clone())),
        };
        let is_awaited = true;
        let applied = self.machine.apply(&[Committed { entry, is_awaited }], true);
        early.payloads.push(payload.clone());
        applied.ok()?.pop()
    }
}

impl StateMachine for Hasty {
    fn apply(&self, entries: &[Committed], _: bool) -> Result<Vec<Answer>, ApplyError> {
        let mut early = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries = entries.to_vec();
        for committed in &mut entries {
            if let Content::Normal(Payload(payload)) = &committed.entry.payload
                && let Some(index) = early
                    .payloads
                    .iter()
                    .position(|early| early.as_ptr() == payload.as_ptr())
            {
                early.payloads.swap_remove(index);
                committed.entry.payload = Content::Blank;
            }
        }
        early.position = entries
            .last()
            .map(|last| last.entry.log_id)
            .or(early.position);
        self.machine.apply(&entries, true)
    }

    fn flushed(&self) -> io::Result<Applied> {
        self.machine.flushed()
    }

    fn flush(&self) -> io::Result<()> {
        self.machine.flush()
    }

    fn snapshot(&self) -> io::Result<(Applied, Box<dyn SnapshotSource>)> {
        self.machine.snapshot()
    }

    fn receive(&self) -> io::Result<Box<dyn SnapshotSink>> {
        self.machine.receive()
    }
}
