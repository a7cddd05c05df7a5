//! What a process counts and measures of itself: plain atomics.
//!
//! Each crate owns the figures of its work and does not know how they are shown. The metrics modules of the two servers name them
//! at the time of a scrape.
//!
//! Invariants:
//! - Nothing here takes a lock or waits. A figure costs one or two relaxed additions each time it is noted.
//! - All atomics are relaxed. A reader may see one figure newer than another; each for itself only grows.
//! - Code that works in batches notes a whole batch at once, so that cores contend for a cache line at most once per batch.

mod counter;
mod histogram;
mod labelled;

pub use counter::Counter;
pub use histogram::{Histogram, HistogramSnapshot};

/// Whether histograms and the counts of commands stay at 0. Only a build that shows what counting costs is so: one with this variable set.
/// A [`Counter`] counts there, too: some of them have others act.
pub const OFF: bool = match option_env!("FLAREDB_WITHOUT_FIGURES") {
    Some(value) => !value.is_empty(),
    None => false,
};
