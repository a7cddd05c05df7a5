//! Keeping a restarted voter out of elections for a while.
//!
//! A follower that acknowledges its leader promises to elect nobody else for a lease. openraft keeps that promise in memory
//! only: a restarted voter would vote at once, while the leader still counts on it and permits reads. So a voter that may
//! have promised something before it started refuses votes, and does not campaign, until any such lease is over. The lease is that of
//! the intervals by which it promised. They may have been longer than those of this start.
//!
//! - A peer that has never voted has never acknowledged anybody.
//! - A leader that hands its leadership over releases its followers from their promise.
//! - The sole voter of a group campaigns by [`super::Group::lead_alone`], which does not wait: nobody else counts on it.

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::Raft;
use crate::mutant::Mutant;
use crate::timing::Timing;

/// When a voter that has started may take part in elections.
#[derive(Clone, Copy)]
pub(super) struct Quarantine {
    /// When it may vote.
    pub(super) votes_from: Instant,
    /// When it may campaign by the clock.
    campaigns_from: Instant,
}

impl Quarantine {
    /// The quarantine of a peer that starts now, and may have promised something by these intervals. A sole voter that has never voted
    /// does not campaign by the clock either: it is told to campaign, and two campaigns at once would cost a term.
    pub(super) fn begin(promised: &Timing, has_voted: bool, is_sole_voter: bool) -> Self {
        let now = Instant::now();
        let is_kept = !Mutant::VoteAtOnce.is_on();
        let over = if is_kept {
            now + promised.quarantine()
        } else {
            now
        };
        Self {
            votes_from: if has_voted { over } else { now },
            campaigns_from: if has_voted || is_sole_voter {
                over
            } else {
                now
            },
        }
    }

    /// Whether to refuse votes.
    pub(super) fn refuses_votes(self) -> bool {
        Instant::now() < self.votes_from
    }

    /// Lets a peer campaign when it may.
    pub(super) fn release(self, raft: Raft) -> Release {
        Release(tokio::spawn(async move {
            sleep_until(self.campaigns_from).await;
            raft.runtime_config().elect(true);
        }))
    }
}

/// The task that waits for the end of a quarantine. It ends with its owner.
pub(super) struct Release(JoinHandle<()>);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.abort();
    }
}
