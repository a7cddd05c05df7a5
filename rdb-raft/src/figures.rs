//! What the groups of a store count and measure.

use std::sync::atomic::AtomicUsize;

use rdb_proto::figures::{Counter, Histogram};

/// Figures of all groups of a store, since its start.
#[derive(Debug, Default)]
pub struct NodeFigures {
    /// Times that a group got a leader, or the same one in another term, as this store learned of it.
    pub leader_changes: Counter,
    /// Snapshots that were received from other stores and installed.
    pub snapshots_received: Counter,
}

/// Figures of the writer of the logs, since its start.
#[derive(Debug)]
pub struct LogFigures {
    /// How long each batch took to be written and synced.
    pub commit_durations: Histogram,
    /// How many entries each batch with entries had.
    pub commit_entries: Histogram,
    /// About how many bytes of changes were written.
    pub bytes: Counter,
    /// About how many bytes of changes wait or are being written. Relaxed: the count guards nothing but itself.
    pub unwritten_bytes: AtomicUsize,
}

impl Default for LogFigures {
    fn default() -> Self {
        Self {
            commit_durations: Histogram::of_durations(),
            commit_entries: Histogram::of_sizes(),
            bytes: Counter::default(),
            unwritten_bytes: AtomicUsize::new(0),
        }
    }
}
