//! What a process counts and measures of itself: plain atomics, read by whoever shows them.
//!
//! Each crate owns the figures of what it does and knows nothing of how they are shown. The metrics modules of the two servers give
//! them names at the time of a scrape.
//!
//! Invariants:
//! - Nothing here takes a lock or waits. A figure costs one or two relaxed additions each time it is noted.
//! - All atomics are relaxed. A reader may see one figure newer than another; each for itself only grows.
//! - Whoever works in batches notes a batch at once, so that cores do not contend for a line more than once for each batch.

mod counter;
mod histogram;

pub use counter::Counter;
pub use histogram::{Histogram, HistogramSnapshot};
