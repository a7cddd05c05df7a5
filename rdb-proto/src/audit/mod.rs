//! The audit log: who has asked for what, and what became of it, as lines of JSON in a file.
//!
//! - [`AuditEvent`] is what a line is about. `line` writes it, `outcome` names what became of a call.
//! - [`AuditLog`] takes events. They wait in a `queue` for the one thread of `writer`, which [`AuditWriter`] ends.
//! - `file` is the file: rotation, and what becomes of it when somebody renames it. `key_hash` makes the hashes of keys.
//!
//! Invariants:
//! - Neither keys nor values nor tokens are in it: of a key its length and a hash that nobody can make without the file beside the log.
//! - Whoever notes an event never waits for the disk. There is room for `QUEUE_EVENTS_MAX` of them; what finds none is
//!   dropped and counted, and a line says so once there is room. Refusals take no room of writes, and neither take all of that of
//!   administrative calls ([`AuditRank`]).
//! - A line is whole, or the last one before a crash. Each parses as a JSON object, whatever names have in them.
//! - A disk that is full or away ends nothing: what is written last is tried again, and `/health` says so.
//!
//! What a killed process has not written yet is lost, and in a power cut what was written within the last second.

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
pub use event::{AuditCaller, AuditEvent, AuditRank};
pub use key_hash::AuditKey;
pub use log::{AuditLog, AuditOptions, DEFAULT_FILE_MIB_MAX, FILE_MIB};
pub use outcome::outcome_of;
pub use writer::{AuditWriter, end};
