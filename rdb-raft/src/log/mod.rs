//! The logs of all groups of a process, in one device with one writer. The device of a store is its
//! [`LogDatabase`](rdb_storage::LogDatabase).
//!
//! ```text
//! LogStore ──append, vote, truncate, purge──► queue ──► LogWriter's thread ──one batch, one sync──► LogDevice
//!    │ (one per group)                                        │                                        │
//!    └──► GroupLog ◄────────────── what is durable ───────────┘                                        │
//!            ▲  the end of a log, in memory                                                            │
//!         LogReader ◄──────────────────────────── older entries ───────────────────────────────────────┘
//! ```
//!
//! A [`LogStore`] changes its group's log in memory at once and queues the same change for the writer. The writer takes what
//! all groups have queued, writes it in order as one batch with one sync, and then completes the waiting changes. Nothing is
//! delayed to fill a batch.
//!
//! # What is promised
//!
//! - Changes of a group reach the device in the order in which they were made. So a vote is never less durable than an entry
//!   appended after it.
//! - An append or a vote completes only after it is durable.
//! - A failed write or sync stops the log for good: the batch in hand and all later changes fail, and [`LogHealth`] says
//!   why. A sync that failed is not tried again, since the next may succeed without what the first one lost.
//! - The owner of a log is noted before its first vote or entry. No other peer gets the log: it would forget its own promises, or keep
//!   another peer's.
//! - Entries that were appended can be read at once, before they are durable. Entries that are not durable are always read
//!   from memory, and so are entries that are not applied, up to a limit.
//!
//! # What a crash may leave
//!
//! Every completed change, and any number of the changes after it, in order. Truncating and purging complete at once and are
//! durable when they are written; openraft repeats either if it is lost. A group begins no apply before its truncations are durable.

mod batch;
mod cache;
mod database;
mod device;
mod group_log;
mod health;
#[cfg(test)]
pub(crate) mod held_device;
mod job;
mod keys;
mod memory_device;
mod queue;
mod reader;
mod store;
mod writer;

pub use batch::{Batch, Change};
pub use device::{LogDevice, Visit};
pub use health::LogHealth;
pub use memory_device::MemoryDevice;
pub use reader::LogReader;
pub use store::LogStore;
pub(crate) use store::{Backlog, Barrier};
pub use writer::LogWriter;

/// Most bytes of changes of all groups that wait for the device while all groups take proposals.
const UNWRITTEN_BYTES_MAX: usize = 64 << 20;
