//! The audit log: who has asked for what, and with which outcome, as lines of JSON in a file.
//!
//! - [`AuditEvent`] is what a line is about. `line` writes it, `outcome` names the outcome of a call.
//! - [`AuditLog`] takes events. They wait in a `queue` for the one thread of `writer`, which [`AuditWriter`] ends.
//! - `file` is the file: rotation, and what happens when somebody renames it. `key_hash` makes the hashes of keys.
//!
//! Invariants:
//! - It has no keys, values or tokens. A key is shown by its length and a hash that nobody can make without the file beside the log.
//! - Noting an event never waits for the disk. There is room for `QUEUE_EVENTS_MAX` of them; further ones are dropped and
//!   counted, and a line says so once there is room. Refusals never take all the room of writes, and neither of the two takes all
//!   the room of administrative calls ([`AuditRank`]).
//! - A line is whole, or the last one before a crash. Each parses as a JSON object, whatever characters names contain.
//! - A disk that is full or away stops nothing: the last write is tried again, and `/health` says so.
//!
//! A killed process loses what it has not written yet, a power cut also what was written within the last second.

mod error;
mod event;
mod file;
mod key_hash;
mod line;
mod log;
mod outcome;
mod queue;
mod time;
mod writer;

pub use error::AuditError;
pub use event::{AuditCaller, AuditEvent, AuditRank, EVENT_KEYS_MAX};
pub use key_hash::AuditKey;
pub use log::{AuditLog, AuditOptions, DEFAULT_FILE_MIB_MAX, FILE_MIB};
pub use outcome::outcome_of;
pub use writer::{AuditWriter, end};
