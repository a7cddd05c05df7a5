//! Snapshots that are positions.
//!
//! A state machine keeps its own state, so openraft needs a snapshot only to know how far the log may be purged: up to what
//! survives a crash without it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::RaftSnapshotBuilder;
use tokio::task::spawn_blocking;

use super::StateMachine;
use crate::types::{Snapshot, SnapshotMeta, TypeConfig};

/// The content of a snapshot. A follower that needs the data itself cannot be helped yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position;

/// Takes what a state machine has flushed for a snapshot.
#[derive(Clone)]
pub(crate) struct PositionBuilder {
    machine: Arc<dyn StateMachine>,
    last_built: Arc<Mutex<Option<SnapshotMeta>>>,
}

impl PositionBuilder {
    pub(super) fn new(machine: Arc<dyn StateMachine>) -> Self {
        Self {
            machine,
            last_built: Arc::default(),
        }
    }

    /// The last snapshot that was built since the start.
    pub(super) fn last_built(&self) -> Option<Snapshot<Position>> {
        let meta = self.lock().clone()?;
        let snapshot = Position;
        Some(Snapshot { meta, snapshot })
    }

    fn lock(&self) -> MutexGuard<'_, Option<SnapshotMeta>> {
        let last_built = self.last_built.lock();
        last_built.unwrap_or_else(PoisonError::into_inner)
    }
}

impl RaftSnapshotBuilder<TypeConfig> for PositionBuilder {
    type SnapshotData = Position;

    /// Its position is what is flushed, never what is applied: openraft purges up to it.
    async fn build_snapshot(&mut self) -> io::Result<Snapshot<Position>> {
        let machine = Arc::clone(&self.machine);
        let flushed = move || machine.flushed();
        let flushed = spawn_blocking(flushed).await.map_err(io::Error::other)??;
        let meta = SnapshotMeta {
            last_log_id: flushed.position,
            last_membership: flushed.membership,
        };
        *self.lock() = Some(meta.clone());
        let snapshot = Position;
        Ok(Snapshot { meta, snapshot })
    }
}
