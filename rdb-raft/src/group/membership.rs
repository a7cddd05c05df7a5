//! Changing who belongs to a group.
//!
//! A peer comes in as a *learner*: it gets the log, or a snapshot and then the log, and has no vote. When it has caught up it is
//! promoted to a voter. A change of voters goes through a joint membership, in which both the old and the new voters have to agree. A
//! leader that is lost in between leaves the joint membership; the next change finishes that first.

use std::collections::{BTreeMap, BTreeSet};

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};

use super::{Ended, Group, RaftMetrics};
use crate::types::{StoreNode, TypeConfig};

/// How many entries a learner may lack that is promoted.
const LACKS_MAX: u64 = 1024;

/// Why the members of a group are not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// This peer does not lead the group.
    #[error("the peer does not lead the group")]
    NotLeader,
    /// Another change is under way, or the leader has not yet committed anything in its term.
    #[error("the group is not ready for a change: {cause}")]
    NotReady {
        /// What openraft said.
        cause: String,
    },
    /// The peer, or another peer on its store, is a member.
    #[error("peer {peer_id} of the group is a member, on store {store_id}")]
    IsMember {
        /// The member.
        peer_id: u64,
        /// Its store.
        store_id: u64,
    },
    /// The peer is no member of the group.
    #[error("peer {peer_id} is no member of the group")]
    NotMember {
        /// Who was to be changed.
        peer_id: u64,
    },
    /// The learner would make the group wait for it.
    #[error("peer {peer_id} has not caught up: it lacks {lacks} entries")]
    NotCaughtUp {
        /// The learner.
        peer_id: u64,
        /// What the leader does not know it to have.
        lacks: u64,
    },
    /// A leader that removed itself would leave its group without one.
    #[error("the peer leads the group: hand its leadership over first")]
    Leads,
    /// The leadership was lost in the middle. The change may have been made, or a part of it.
    #[error("the members may have been changed or not: {cause}")]
    Unknown {
        /// What openraft said.
        cause: String,
    },
    /// The group has ended.
    #[error(transparent)]
    Ended(#[from] Ended),
}

/// A member of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The peer.
    pub peer_id: u64,
    /// Where it lives.
    pub store_id: u64,
    /// Whether it votes, now or once the change under way is made.
    pub is_voter: bool,
}

impl Group {
    /// The members of the group, as far as this peer knows.
    pub fn members(&self) -> Vec<Member> {
        let metrics = self.raft.metrics();
        members(&metrics.borrow_watched())
    }

    /// Adds a peer without a vote, and does not wait until it has anything. Its store has to have, or make, a peer with this id and an
    /// empty log. A peer id is never used again.
    ///
    /// # Errors
    ///
    /// See [`ChangeError`].
    pub async fn add_learner(&self, peer_id: u64, store_id: u64) -> Result<(), ChangeError> {
        let is_same = |member: &Member| member.peer_id == peer_id || member.store_id == store_id;
        if let Some(member) = self.members().into_iter().find(is_same) {
            let Member {
                peer_id, store_id, ..
            } = member;
            return Err(ChangeError::IsMember { peer_id, store_id });
        }
        let node = BTreeMap::from([(peer_id, StoreNode { store_id })]);
        self.change(ChangeMembers::AddNodes(node)).await
    }

    /// Gives a learner that has caught up a vote.
    ///
    /// # Errors
    ///
    /// See [`ChangeError`].
    pub async fn promote(&self, peer_id: u64) -> Result<(), ChangeError> {
        let lacks = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            find(&metrics, peer_id)?;
            let replication = metrics.replication.as_ref();
            let replication = replication.ok_or(ChangeError::NotLeader)?;
            let matched = replication.get(&peer_id).copied().flatten();
            let matched = matched.map_or(0, |matched| matched.index);
            metrics.last_log_index.unwrap_or(0).saturating_sub(matched)
        };
        if lacks > LACKS_MAX {
            return Err(ChangeError::NotCaughtUp { peer_id, lacks });
        }
        let voters = BTreeSet::from([peer_id]);
        self.change(ChangeMembers::AddVoterIds(voters)).await
    }

    /// Removes another peer. It is told nothing more, not even that.
    ///
    /// # Errors
    ///
    /// See [`ChangeError`].
    pub async fn remove(&self, peer_id: u64) -> Result<(), ChangeError> {
        if peer_id == self.peer_id() {
            return Err(ChangeError::Leads);
        }
        let metrics = self.raft.metrics().borrow_watched().clone();
        let removed = BTreeSet::from([peer_id]);
        let change = if find(&metrics, peer_id)?.is_voter {
            ChangeMembers::RemoveVoters(removed)
        } else {
            ChangeMembers::RemoveNodes(removed)
        };
        self.change(change).await
    }

    async fn change(&self, change: ChangeMembers<u64, StoreNode>) -> Result<(), ChangeError> {
        let is_joint = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics
                .membership_config
                .membership()
                .get_joint_config()
                .len()
                > 1
        };
        let raft = self.raft.clone();
        let changed = self.lasting(async move {
            if is_joint {
                let nothing = ChangeMembers::AddVoterIds(BTreeSet::new());
                raft.change_membership(nothing, false).await?;
            }
            raft.change_membership(change, false).await
        });
        changed.await.map(drop).map_err(failed)
    }
}

fn members(metrics: &RaftMetrics) -> Vec<Member> {
    let membership = metrics.membership_config.membership();
    let voters = membership.get_joint_config().last();
    let nodes = membership.nodes();
    let members = nodes.map(|(&peer_id, &StoreNode { store_id })| Member {
        peer_id,
        store_id,
        is_voter: voters.is_some_and(|voters| voters.contains(&peer_id)),
    });
    members.collect()
}

fn find(metrics: &RaftMetrics, peer_id: u64) -> Result<Member, ChangeError> {
    let mut members = members(metrics).into_iter();
    let found = members.find(|member| member.peer_id == peer_id);
    found.ok_or(ChangeError::NotMember { peer_id })
}

fn failed(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> ChangeError {
    let cause = error.to_string();
    match error {
        RaftError::Fatal(fatal) => ChangeError::Ended(fatal.into()),
        RaftError::APIError(error) => match error {
            ClientWriteError::ForwardToLeader(_) => ChangeError::NotLeader,
            // The second step is taken only if nothing else has changed the members since the first.
            ClientWriteError::LogEntryDiscarded(_) | ClientWriteError::PreconditionFailed(_) => {
                ChangeError::Unknown { cause }
            }
            ClientWriteError::ChangeMembershipError(ChangeMembershipError::LearnerNotFound(
                missing,
            )) => ChangeError::NotMember {
                peer_id: missing.node_id,
            },
            ClientWriteError::ChangeMembershipError(_) => ChangeError::NotReady { cause },
        },
    }
}
