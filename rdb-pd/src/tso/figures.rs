//! What the allocator counts.

use rdb_proto::figures::{Counter, Histogram};

use super::WaitFor;

/// Figures of an allocator, since its start.
#[derive(Debug)]
pub struct TsoFigures {
    /// Timestamps that were handed out.
    pub timestamps: Counter,
    /// Allocations that had to wait until the bound was moved.
    pub waits_for_bound: Counter,
    /// Allocations that had to wait for the clock.
    pub waits_for_clock: Counter,
    /// Allocations that waited without success.
    pub failures: Counter,
    /// How long each move of the bound took until it was durable.
    pub bound_moves: Histogram,
}

impl Default for TsoFigures {
    fn default() -> Self {
        Self {
            timestamps: Counter::default(),
            waits_for_bound: Counter::default(),
            waits_for_clock: Counter::default(),
            failures: Counter::default(),
            bound_moves: Histogram::of_durations(),
        }
    }
}

impl TsoFigures {
    pub(super) fn note_wait(&self, waits_for: WaitFor) {
        match waits_for {
            WaitFor::Bound => self.waits_for_bound.increment(),
            WaitFor::Clock => self.waits_for_clock.increment(),
        }
    }
}

/// The position of an allocator, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TsoPosition {
    /// How far the durable bound is ahead of the present time and of the last timestamp.
    pub to_bound_ms: u64,
    /// How far the time of timestamps is ahead of the wall clock. Negative: it is behind, and does not follow.
    pub ahead_of_clock_ms: i64,
}
