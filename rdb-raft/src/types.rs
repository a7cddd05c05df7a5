//! openraft's types bound to ours, once for all groups of a process.
//!
//! A payload is bytes that only the state machine reads, and the type of the answer is the state machine's choice. So one
//! [`TypeConfig`] serves every kind of state machine.

use std::any::Any;
use std::fmt;

use bytes::Bytes;
use openraft::impls::{BoxedErrorSource, InlineBatch, leader_id_std};
use openraft::{EntryPayload, OptionalSend, RaftTypeConfig};
use openraft_rt_tokio::TokioRuntime;

use crate::completion::Completion;

/// A term together with the peer that was voted for in it. There is at most one leader in a term, so a term alone orders
/// leaders.
pub type LeaderId = leader_id_std::LeaderId<u64, u64>;
/// The term of a leader that a quorum has voted for.
pub type CommittedLeaderId = openraft::vote::leader_id_std::CommittedLeaderId<u64>;
/// The place of an entry in the log, and the term it was proposed in.
pub type LogId = openraft::LogId<CommittedLeaderId>;
/// Whom a peer has voted for, and whether that one has become leader.
pub type Vote = openraft::Vote<LeaderId>;
/// What an entry holds.
pub type Content = EntryPayload<Payload, u64, StoreNode>;
/// An entry of a log.
pub type Entry = openraft::Entry<CommittedLeaderId, Content>;
/// The peers of a group, voters and learners.
pub type Membership = openraft::Membership<u64, StoreNode>;
/// A membership, and the entry that it came with.
pub type StoredMembership = openraft::StoredMembership<CommittedLeaderId, u64, StoreNode>;
/// What openraft knows of a snapshot.
pub type SnapshotMeta = openraft::SnapshotMeta<CommittedLeaderId, u64, StoreNode>;
/// A snapshot with its content.
pub type Snapshot<Content> = openraft::Snapshot<CommittedLeaderId, u64, StoreNode, Content>;

/// The types that openraft works with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeConfig;

// `declare_raft_types!` cannot name a responder that is generic.
impl RaftTypeConfig for TypeConfig {
    type D = Payload;
    type R = Answer;
    type NodeId = u64;
    type Node = StoreNode;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Content;
    type Entry = Entry;
    type AsyncRuntime = TokioRuntime;
    type Responder<T>
        = Completion<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

/// What is proposed to a group. Only its length is shown: values never get into logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(pub Bytes);

impl fmt::Display for Payload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes", self.0.len())
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// About what an entry takes in memory and on the disk.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    const OVERHEAD_BYTES: usize = 64;
    let payload_bytes = match &entry.payload {
        Content::Normal(payload) => payload.0.len(),
        Content::Blank | Content::Membership(_) => 0,
    };
    OVERHEAD_BYTES + payload_bytes
}

/// Where a peer lives. The address of a store may change, its id does not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreNode {
    /// The store's id.
    pub store_id: u64,
}

/// What the state machine answers to an entry. Entries that nobody waits for have none.
#[derive(Default)]
pub struct Answer(Option<Box<dyn Any + Send + Sync>>);

impl Answer {
    /// The answer `value`.
    pub fn new(value: impl Any + Send + Sync) -> Self {
        Self(Some(Box::new(value)))
    }

    /// The answer, if there is one and it is a `T`.
    pub fn into_inner<T: Any>(self) -> Option<T> {
        let value = self.0?.downcast().ok()?;
        Some(*value)
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.is_some() {
            "Answer"
        } else {
            "no answer"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_shows_its_length_and_not_its_bytes() {
        let payload = Payload(Bytes::from_static(b"secret"));
        assert_eq!(format!("{payload} {payload:?}"), "6 bytes 6 bytes");
    }

    #[test]
    fn an_answer_is_only_read_as_what_it_is() {
        assert_eq!(Answer::new(7_u64).into_inner::<u64>(), Some(7));
        assert_eq!(Answer::new(7_u64).into_inner::<u32>(), None);
        assert_eq!(Answer::default().into_inner::<u64>(), None);
    }
}
