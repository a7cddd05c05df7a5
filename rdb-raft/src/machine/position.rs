//! Snapshots that are positions.
//!
//! A state machine keeps its own state, so openraft needs a snapshot only to know how far the log may be purged: up to what
//! survives a crash without it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::RaftSnapshotBuilder;

use super::Applied;
use crate::types::{Snapshot, SnapshotMeta, TypeConfig};

/// The content of a snapshot. A follower that needs the data itself cannot be helped yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position;

/// Takes what a state machine has flushed for a snapshot: its position is never what is only applied, since openraft purges
/// up to it.
///
/// It reads nothing. An error would end the group, although a log that is not purged harms nobody.
#[derive(Clone)]
pub(crate) struct PositionBuilder(Arc<Mutex<Positions>>);

struct Positions {
    flushed: SnapshotMeta,
    last_built: Option<SnapshotMeta>,
}

impl PositionBuilder {
    pub(crate) fn new(flushed: Applied) -> Self {
        Self(Arc::new(Mutex::new(Positions {
            flushed: meta(flushed),
            last_built: None,
        })))
    }

    /// Notes what the next snapshot is.
    pub(crate) fn set_flushed(&self, flushed: Applied) {
        self.lock().flushed = meta(flushed);
    }

    /// The last snapshot that was built since the start.
    pub(super) fn last_built(&self) -> Option<Snapshot<Position>> {
        let meta = self.lock().last_built.clone()?;
        let snapshot = Position;
        Some(Snapshot { meta, snapshot })
    }

    fn lock(&self) -> MutexGuard<'_, Positions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn meta(applied: Applied) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: applied.position,
        last_membership: applied.membership,
    }
}

impl RaftSnapshotBuilder<TypeConfig> for PositionBuilder {
    type SnapshotData = Position;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot<Position>> {
        let mut positions = self.lock();
        let meta = positions.flushed.clone();
        positions.last_built = Some(meta.clone());
        let snapshot = Position;
        Ok(Snapshot { meta, snapshot })
    }
}
