//! The bytes of what a log keeps. All integers are big-endian.
//!
//! Every value begins with its format. A release reads every older format and refuses a newer one. The bytes of a format
//! never change. openraft's own serialization makes no such promise and is not used.
//!
//! Decoding is total: bytes that the module of their kind cannot have written are refused, and none makes it panic. What is
//! read encodes to the same bytes again.

pub mod entry;
pub mod log_id;
pub mod membership;
pub mod peer;
pub mod stored_membership;
pub mod vote;

pub use rdb_storage::keys::DecodeError;
use rdb_storage::keys::fields::{Problem, decode_all};
