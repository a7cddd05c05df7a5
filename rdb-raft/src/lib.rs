//! FlareDB's replication: Raft groups on openraft.
//!
//! A payload is bytes, and a state machine applies them: nothing here knows of keys, values or regions. Consensus is
//! openraft's. This crate binds its types to ours ([`TypeConfig`]), keeps the logs of all groups of a process ([`log`]),
//! drives the state machines that they are applied to ([`machine`]), and runs the peers of groups ([`group`]). One
//! [`Node`] has all peers of a store. Peers on other stores are reached by the [`transport`].

#![forbid(unsafe_code)]

mod completion;
pub mod encoding;
mod figures;
pub mod group;
pub mod log;
pub mod machine;
#[doc(hidden)]
pub mod mutant;
mod node;
#[doc(hidden)]
pub mod simulation;
mod supervisor;
mod timing;
pub mod transport;
mod types;

pub use completion::{Completion, Dropped};
pub use figures::{LogFigures, NodeFigures};
pub use node::{MissingPeer, Node, NodeError, OpenError};
pub use timing::{Timing, TimingError};
pub use types::{
    Answer, CommittedLeaderId, Content, Entry, LeaderId, LogId, Membership, Payload, Snapshot,
    SnapshotMeta, StoreNode, StoredMembership, TypeConfig, Vote,
};
