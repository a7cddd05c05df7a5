//! What a group replicates: the contract of a state machine, and how openraft drives one.

mod adapter;
mod holds;
mod position;
mod snapshot;
mod strides;
mod users;

use std::io;

pub(crate) use adapter::{Machine, Shared};
pub(crate) use holds::Holds;
pub(crate) use position::PositionBuilder;
pub(crate) use snapshot::{Incoming, Outgoing, Reading};
pub use snapshot::{ReceivedSnapshot, SnapshotData, SnapshotSink, SnapshotSource};
pub(crate) use strides::Strides;
pub(crate) use users::{User, Users};

use crate::types::{Answer, Entry, LogId, StoredMembership};

/// The state machine that the entries of a group's log are applied to.
///
/// All replicas apply the same entries in the same order. So the effect of an entry may depend only on the entry and the
/// state: not on the time, a limit of this store, or whether somebody waits for an answer.
///
/// One thread applies or installs a snapshot at a time. All other methods may run concurrently.
///
/// # What a crash may leave
///
/// The state after some entry, together with its log id and the membership as of it. It is at least the state that
/// [`StateMachine::flushed`] last returned: the log below that is purged. What comes after it is applied again. A crash while a snapshot
/// is installed leaves the state before or that of the snapshot.
///
/// # Failures
///
/// An entry that cannot be carried out, such as a swap whose version does not match, gets an answer. An error of [`StateMachine::apply`],
/// or a panic, is a failure of the store, and ends its part in the group: the entry is committed, other replicas have it, and this one
/// can neither skip nor repeat it. The sole voter of a group goes on permitting reads after [`ApplyError::Refused`].
pub trait StateMachine: Send + Sync + 'static {
    /// Applies entries in order, and answers each. After a failure, a first part of them may be applied. The state machine may answer anything to entries that nobody waits for.
    ///
    /// # Errors
    ///
    /// [`ApplyError::Blocks`] only if not `may_block`.
    fn apply(&self, entries: &[Committed], may_block: bool) -> Result<Vec<Answer>, ApplyError>;

    /// What a crash would leave at least. Before the first apply it is all that there is. The default: there is no state, and the peer
    /// waits for a snapshot.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    fn flushed(&self) -> io::Result<Applied>;

    /// Called when an entry that is to be applied is damaged in the log. The group ends then.
    fn log_is_damaged(&self, _cause: &io::Error) {}

    /// Makes all that is applied survive a crash.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    fn flush(&self) -> io::Result<()>;

    /// Takes a snapshot for another replica, and says which position it has. It has all that is applied, and stays as it is while
    /// more is applied. May block.
    ///
    /// # Errors
    ///
    /// When it cannot be taken, which harms nobody here.
    fn snapshot(&self) -> io::Result<(Applied, Box<dyn SnapshotSource>)>;

    /// Begins to receive the snapshot of another replica. What is applied stays, until [`ReceivedSnapshot::install`]. May block.
    ///
    /// # Errors
    ///
    /// When there is no place for one.
    fn receive(&self) -> io::Result<Box<dyn SnapshotSink>>;
}

/// An entry that a quorum holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// The entry.
    pub entry: Entry,
    /// Whether a caller of this replica waits for the answer.
    pub is_awaited: bool,
}

/// How far a state machine has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last entry that was applied, of any kind.
    pub position: Option<LogId>,
    /// The membership as of it.
    pub membership: StoredMembership,
}

/// Why entries were not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Something has to be read from the disk. Nothing was applied.
    #[error("applying would have to read the disk")]
    Blocks,
    /// The store takes no more. Nothing was applied.
    #[error(transparent)]
    Refused(io::Error),
    /// The store has failed. The entries may or may not be applied.
    #[error(transparent)]
    Failed(#[from] io::Error),
}
