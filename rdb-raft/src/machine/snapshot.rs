//! What a snapshot holds.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::holds::Hold;
use super::{Applied, StateMachine, User, Users};
use crate::simulation::spawn_blocking;

/// The content of a snapshot, as openraft passes it on.
pub enum SnapshotData {
    /// Nothing: it says up to where the log may be purged.
    Position,
    /// The state of this replica, for another one.
    Outgoing(Outgoing),
    /// The state of another replica, which has arrived in full.
    Received(Box<dyn ReceivedSnapshot>),
}

/// A snapshot for another replica, taken when that replica is ready for it. It has at least what openraft was told. While this exists,
/// the log is kept from there on.
pub struct Outgoing {
    machine: Arc<dyn StateMachine>,
    users: Arc<Users>,
    _hold: Hold,
}

impl Outgoing {
    pub(super) fn new(machine: Arc<dyn StateMachine>, users: Arc<Users>, hold: Hold) -> Self {
        Self {
            machine,
            users,
            _hold: hold,
        }
    }

    /// Takes it. Returns its position and membership, and the reader.
    pub(crate) async fn take(&self) -> io::Result<(Applied, Reading)> {
        // Added before it is looked at: the end of the group waits for it, or it has begun and is seen.
        let user = self.users.add();
        if user.should_stop() {
            return Err(io::Error::other("the group has ended"));
        }
        let machine = Arc::clone(&self.machine);
        let taken = spawn_blocking(move || {
            let (applied, source) = machine.snapshot()?;
            Ok((applied, Reading::new(source, user)))
        });
        taken.await.map_err(io::Error::other)?
    }
}

/// Reads a snapshot. The group does not end before this is dropped.
pub(crate) struct Reading(Option<(Box<dyn SnapshotSource>, User)>);

impl Reading {
    fn new(source: Box<dyn SnapshotSource>, user: User) -> Self {
        Self(Some((source, user)))
    }

    /// The next chunk. Blocks.
    pub(crate) fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        match &mut self.0 {
            Some((source, _)) => source.next_chunk(),
            None => Ok(None),
        }
    }
}

/// Letting go of a snapshot may block.
impl Drop for Reading {
    fn drop(&mut self) {
        let read = self.0.take();
        if Handle::try_current().is_ok() {
            spawn_blocking(move || drop(read));
        }
    }
}

/// Takes in a snapshot. The group does not end before this is dropped.
pub(crate) struct Incoming {
    pub(crate) sink: Box<dyn SnapshotSink>,
    pub(crate) user: User,
}

/// A snapshot of a state machine, to be read once.
pub trait SnapshotSource: Send {
    /// The next chunk, of a few MiB at most. `None`: that was all. May block.
    ///
    /// # Errors
    ///
    /// When it cannot be read. There are no more chunks then.
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>>;
}

/// Takes the snapshot of another replica. What has arrived goes away with it.
pub trait SnapshotSink: Send {
    /// Takes the next chunk. May block.
    ///
    /// # Errors
    ///
    /// When it is damaged, is not the next one, or cannot be kept. The snapshot cannot be received then.
    fn add(&mut self, chunk: Bytes) -> io::Result<()>;

    /// Checks that all has arrived, and that it is as of this position. May block.
    ///
    /// # Errors
    ///
    /// When it is not.
    fn complete(self: Box<Self>, applied: &Applied) -> io::Result<Box<dyn ReceivedSnapshot>>;
}

/// A snapshot of another replica, which has arrived in full.
pub trait ReceivedSnapshot: Send {
    /// Replaces the state with it, durably. May block.
    ///
    /// # Errors
    ///
    /// When it cannot be written. That is a failure of the store, and ends its part in the group.
    fn install(self: Box<Self>) -> io::Result<()>;
}
