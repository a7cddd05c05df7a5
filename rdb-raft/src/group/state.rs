//! What a peer reports of its group, now and at every change.

use futures::{Stream, stream};
use openraft::async_runtime::WatchReceiver;

use super::{Ended, Fatal, Group, Leader, Raft};
use crate::types::Vote;

/// What is known of a group of this store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupState {
    /// It runs.
    Running(Leader),
    /// It does not.
    Ended(Ended),
}

impl Group {
    /// The states of this group from now on. The last one is that it has ended.
    pub(crate) fn states(&self) -> impl Stream<Item = GroupState> + Send + use<> {
        let metrics = self.raft.server_metrics();
        let first = Some((self.clone(), metrics, true));
        stream::unfold(first, |state| async move {
            let (group, mut metrics, is_first) = state?;
            if !is_first && metrics.changed().await.is_err() {
                return Some((GroupState::Ended(group.end()), None));
            }
            let leader = {
                let metrics = metrics.borrow_watched();
                leader(&metrics.vote, metrics.current_leader)
            };
            Some((GroupState::Running(leader), Some((group, metrics, false))))
        })
    }

    /// What this group ended with, if it has.
    pub(super) fn end(&self) -> Ended {
        ending(&self.raft)
    }
}

/// It is published in any case but a panic.
pub(super) fn ending(raft: &Raft) -> Ended {
    let metrics = raft.metrics();
    let running = metrics.borrow_watched().running_state.clone();
    running.err().unwrap_or(Fatal::Panicked).into()
}

/// A leader is reported only together with its own term. The vote is published once it is durable; until then it may be of another term.
pub(super) fn leader(vote: &Vote, leader: Option<u64>) -> Leader {
    Leader {
        term: vote.leader_id.term,
        peer_id: leader.filter(|leader| vote.committed && vote.leader_id.voted_for == *leader),
    }
}
