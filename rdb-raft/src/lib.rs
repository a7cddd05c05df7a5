//! FlareDB's replication: Raft groups on openraft.
//!
//! A payload is bytes, and a state machine is whatever applies them: nothing here knows of keys, values or regions.
//! Consensus is openraft's. This crate binds its types to ours ([`TypeConfig`]) and says what a log
//! looks like on the disk ([`encoding`]).

#![forbid(unsafe_code)]

mod completion;
pub mod encoding;
mod types;

pub use completion::{Completion, Dropped};
pub use types::{
    Answer, CommittedLeaderId, Content, Entry, LeaderId, LogId, Membership, Payload, StoreNode,
    StoredMembership, TypeConfig, Vote,
};
