//! Snapshots that are positions.
//!
//! A state machine keeps its own state. So openraft needs a snapshot of the local replica only to know how far the log may be purged: up
//! to the state that survives a crash without the log.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::RaftSnapshotBuilder;

use super::{Applied, SnapshotData};
use crate::types::{Snapshot, SnapshotMeta, TypeConfig};

/// Presents the flushed state of a state machine as a snapshot. Its position is never one that is only applied, since
/// openraft purges up to it.
///
/// It reads nothing. An error would end the group, although a log that is not purged harms nobody.
#[derive(Clone)]
pub(crate) struct PositionBuilder(Arc<Mutex<Positions>>);

struct Positions {
    flushed: SnapshotMeta,
    /// Whether a snapshot was built or installed since the start.
    has_built: bool,
}

impl PositionBuilder {
    pub(crate) fn new(flushed: Applied) -> Self {
        Self(Arc::new(Mutex::new(Positions {
            flushed: meta(flushed),
            has_built: false,
        })))
    }

    /// Notes what the next snapshot is.
    pub(crate) fn set_flushed(&self, flushed: Applied) {
        self.lock().flushed = meta(flushed);
    }

    /// Notes what was installed, and is flushed so.
    pub(super) fn set_installed(&self, installed: SnapshotMeta) {
        let mut positions = self.lock();
        positions.flushed = installed;
        positions.has_built = true;
    }

    /// Whether a snapshot was built or installed since the start.
    pub(super) fn has_built(&self) -> bool {
        self.lock().has_built
    }

    fn lock(&self) -> MutexGuard<'_, Positions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn meta(applied: Applied) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: applied.position,
        last_membership: applied.membership,
    }
}

impl RaftSnapshotBuilder<TypeConfig> for PositionBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot<SnapshotData>> {
        let mut positions = self.lock();
        let meta = positions.flushed.clone();
        positions.has_built = true;
        let snapshot = SnapshotData::Position;
        Ok(Snapshot { meta, snapshot })
    }
}
