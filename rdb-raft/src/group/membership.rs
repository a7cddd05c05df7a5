//! Changing who belongs to a group.
//!
//! A peer comes in as a *learner*: it gets the log, or a snapshot and then the log, and has no vote. When it has caught up it is
//! promoted to a voter. A change of voters goes through a joint membership, in which both the old and the new voters have to agree.
//! If the leader is lost in between, the joint membership stays, and the next leader finishes the change by itself.
//!
//! Each change of the members names the membership that it was decided for. Under any other membership nothing is done, so a change
//! is made at most once, and two never run together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, PreconditionFailed, RaftError};
use openraft::{ChangeMembers, Precondition, ServerState};

use super::{Ended, Group, RaftMetrics};
use crate::types::{LogId, Membership, StoreNode, StoredMembership, TypeConfig};

/// How many entries a peer may lack that has caught up.
pub(super) const LACKS_MAX: u64 = 1024;

/// Why the members of a group are not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// This peer does not lead the group.
    #[error("the peer does not lead the group")]
    NotLeader,
    /// Another change is under way or was made since, or the leader has not yet committed anything in its term.
    #[error("the group is not ready for a change: {cause}")]
    NotReady {
        /// What is in the way.
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
    #[error("peer {peer_id} has not caught up")]
    NotCaughtUp {
        /// The learner.
        peer_id: u64,
        /// How many entries the leader does not know it to have.
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
    /// The membership that is in force, as far as this peer knows. It may be one that is not committed.
    pub fn membership(&self) -> StoredMembership {
        let metrics = self.raft.metrics();
        StoredMembership::clone(&metrics.borrow_watched().membership_config)
    }

    /// The members of the group, as far as this peer knows.
    pub fn members(&self) -> Vec<Member> {
        members(&self.membership())
    }

    /// The live members, as far as this peer knows: itself, and if it leads, those that it has heard of within the lease and that have
    /// caught up.
    pub fn live_peers(&self) -> BTreeSet<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let has_caught_up =
            |peer_id| lacks(&metrics, peer_id).is_some_and(|lacks| lacks <= LACKS_MAX);
        let nodes = metrics.membership_config.nodes();
        let peers = nodes.map(|(&peer_id, _)| peer_id);
        let live = peers.filter(|&peer_id| {
            let is_there = || self.lease.has_heard_of(&metrics, peer_id) && has_caught_up(peer_id);
            peer_id == metrics.id || is_there()
        });
        live.collect()
    }

    /// Adds a peer without a vote to the members of `under`, and does not wait until the peer has any data. Its store must have, or
    /// make, a peer with this id and an empty log. A peer id is never used again.
    ///
    /// # Errors
    ///
    /// See [`ChangeError`].
    pub async fn add_learner(
        &self,
        peer_id: u64,
        store_id: u64,
        under: &StoredMembership,
    ) -> Result<(), ChangeError> {
        let is_same = |member: &Member| member.peer_id == peer_id || member.store_id == store_id;
        if let Some(member) = members(under).into_iter().find(is_same) {
            let Member {
                peer_id, store_id, ..
            } = member;
            return Err(ChangeError::IsMember { peer_id, store_id });
        }
        let node = BTreeMap::from([(peer_id, StoreNode { store_id })]);
        self.change(ChangeMembers::AddNodes(node), under).await
    }

    /// Gives a learner that has caught up a vote. So a voter always has a state, and has acknowledged it.
    ///
    /// # Errors
    ///
    /// See [`ChangeError`].
    pub async fn promote(&self, peer_id: u64, under: &StoredMembership) -> Result<(), ChangeError> {
        find(under, peer_id)?;
        let lacks = {
            let metrics = self.raft.metrics();
            lacks(&metrics.borrow_watched(), peer_id).ok_or(ChangeError::NotLeader)?
        };
        if lacks > LACKS_MAX {
            return Err(ChangeError::NotCaughtUp { peer_id, lacks });
        }
        let voters = BTreeSet::from([peer_id]);
        self.change(ChangeMembers::AddVoterIds(voters), under).await
    }

    /// Removes another peer. Nothing more is sent to it, not even that.
    ///
    /// # Errors
    ///
    /// See [`ChangeError`].
    pub async fn remove(&self, peer_id: u64, under: &StoredMembership) -> Result<(), ChangeError> {
        if peer_id == self.peer_id() {
            return Err(ChangeError::Leads);
        }
        let removed = BTreeSet::from([peer_id]);
        let change = if find(under, peer_id)?.is_voter {
            ChangeMembers::RemoveVoters(removed)
        } else {
            ChangeMembers::RemoveNodes(removed)
        };
        self.change(change, under).await
    }

    /// Whether a membership is the one in force, and not one of a change that is under way.
    ///
    /// # Errors
    ///
    /// [`ChangeError::NotReady`] if it is not.
    pub fn check_membership(&self, under: &StoredMembership) -> Result<(), ChangeError> {
        let is_in_force = self.membership().log_id() == under.log_id();
        if !is_in_force || is_joint(under) {
            return Err(under_way());
        }
        Ok(())
    }

    /// Ends a joint membership that an earlier leader has left, if this peer leads now. It does not wait. If the new membership
    /// excludes this peer, it hands over instead: otherwise it would lead on without being a member.
    pub(crate) fn finish_change(&self) {
        let (joint, stays) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let joint = *metrics.membership_config.log_id();
            let is_applied = metrics.last_applied >= joint;
            let is_joint = is_joint(&metrics.membership_config);
            if metrics.state != ServerState::Leader || !is_joint || !is_applied {
                return;
            }
            let membership = metrics.membership_config.membership();
            (joint, stays_voter(membership, metrics.id))
        };
        // A change of this leader goes on to its end.
        let Ok(changing) = Arc::clone(&self.changing).try_lock_owned() else {
            return;
        };
        if !stays {
            let group = self.clone();
            self.runtime.spawn(async move {
                let _changing = changing;
                match group.hand_over().await {
                    Ok(Some(peer_id)) => {
                        tracing::info!(peer_id, "a peer that is being removed hands over");
                    }
                    // It is tried again.
                    Ok(None) => {}
                    Err(error) => tracing::debug!(%error, "not handed over"),
                }
            });
            return;
        }
        let raft = self.raft.clone();
        self.runtime.spawn(async move {
            let _changing = changing;
            let nothing = ChangeMembers::AddVoterIds(BTreeSet::new());
            match raft
                .change_membership_if(nothing, false, [only(joint)])
                .await
            {
                Ok(_) => tracing::info!(
                    "a change of members that an earlier leader has left was finished"
                ),
                // It is tried again.
                Err(error) => tracing::debug!(%error, "a change of members is not finished"),
            }
        });
    }

    async fn change(
        &self,
        change: ChangeMembers<u64, StoreNode>,
        under: &StoredMembership,
    ) -> Result<(), ChangeError> {
        self.check_membership(under)?;
        let changing = Arc::clone(&self.changing).try_lock_owned();
        let changing = changing.map_err(|_| under_way())?;
        let (raft, under) = (self.raft.clone(), *under.log_id());
        let changed = self.lasting(async move {
            let _changing = changing;
            raft.change_membership_if(change, false, [only(under)])
                .await
        });
        changed
            .await
            .map(drop)
            .map_err(|error| failed(error, under))
    }
}

/// How many entries the leader does not know a peer to have. `None`: this peer does not lead.
pub(super) fn lacks(metrics: &RaftMetrics, peer_id: u64) -> Option<u64> {
    let replication = metrics.replication.as_ref()?;
    let last_index = metrics.last_log_index.unwrap_or(0);
    // A peer that has acknowledged nothing has no state, however short the log is.
    let matched = replication.get(&peer_id).copied().flatten();
    Some(matched.map_or(u64::MAX, |matched| last_index.saturating_sub(matched.index)))
}

/// The condition that nothing has changed the members since an entry.
fn only(last_membership_log_id: Option<LogId>) -> Precondition<TypeConfig> {
    Precondition::LastMembershipLogId {
        last_membership_log_id,
    }
}

fn under_way() -> ChangeError {
    let cause = "another change is under way, or was made since".to_owned();
    ChangeError::NotReady { cause }
}

fn is_joint(membership: &StoredMembership) -> bool {
    membership.membership().get_joint_config().len() > 1
}

/// Whether a peer votes, also once the change under way is made.
pub(super) fn stays_voter(membership: &Membership, peer_id: u64) -> bool {
    let voters = membership.get_joint_config().last();
    voters.is_some_and(|voters| voters.contains(&peer_id))
}

fn members(membership: &StoredMembership) -> Vec<Member> {
    let membership = membership.membership();
    let nodes = membership.nodes();
    let members = nodes.map(|(&peer_id, &StoreNode { store_id })| Member {
        peer_id,
        store_id,
        is_voter: stays_voter(membership, peer_id),
    });
    members.collect()
}

fn find(membership: &StoredMembership, peer_id: u64) -> Result<Member, ChangeError> {
    let mut members = members(membership).into_iter();
    let found = members.find(|member| member.peer_id == peer_id);
    found.ok_or(ChangeError::NotMember { peer_id })
}

/// Why a change was not made that is only made under the membership of an entry.
fn failed(
    error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>,
    under: Option<LogId>,
) -> ChangeError {
    let cause = error.to_string();
    match error {
        RaftError::Fatal(fatal) => ChangeError::Ended(fatal.into()),
        RaftError::APIError(error) => match error {
            ClientWriteError::ForwardToLeader(_) => ChangeError::NotLeader,
            ClientWriteError::PreconditionFailed(
                PreconditionFailed::LastMembershipLogIdMismatch { expected, .. },
            ) if expected == under => ChangeError::NotReady { cause },
            // The second step is only taken under the membership of the first.
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
