//! The beats of a store: when its groups send heartbeats, and when they need a timer.
//!
//! openraft gives each group a timer that wakes its core ten times a second. Each time the core checks whether a heartbeat is
//! due, or whether it has to campaign because the leader has been silent for too long. For groups that nobody writes to, this
//! takes more of the processor than all the heartbeats. So a timer is off while it would find nothing:
//!
//! - *A leader* does not campaign. Its beat asks openraft for heartbeats, once per [`Timing::heartbeat_ms`]. openraft sends them as if
//!   the timer had gone off: not to followers that have acknowledged something a short time ago, and only now and then while a quorum is
//!   lost.
//! - *A peer that has heard of its leader* within [`Timing::leader_patience`] does not campaign either. openraft waits for the lease
//!   of the leader, and for an election timeout after that.
//! - *Any other peer* has its timer on, and openraft does what it always does.
//!
//! So beats decide when openraft looks at the clock, never what it sees there. The start of a lease, who may vote, and when a peer
//! has to campaign are the same as without beats.
//!
//! - When a store dies, the followers of its leaders have their timers on before they miss three heartbeats. The earliest campaign
//!   comes after the shortest election timeout, which is at least three heartbeats, and mostly after a lease, too.
//! - A peer hears of a leader when it answers that it follows it. Messages from a leader of an earlier term are refused, so they keep
//!   no timer off. An answer may wait for the disk. That can delay the campaign only of a peer whose own vote waits for the same disk.
//! - A group without beats has its timer on. It gets the timer back however the beats end. A group that has lost its leader, or its
//!   leadership, gets it back with its next beat.
//!
//! Groups take turns within an interval, and those of one turn send together. So heartbeats to a store share messages, and turns are short.

use std::ops::Range;
use std::time::Duration;

use futures::FutureExt;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep_until};

use super::Group;
use crate::timing::Timing;

/// Turns in a heartbeat interval. An interval of at least 10 ms has whole milliseconds for each.
const TURNS: u64 = 10;

/// Whose turn it is.
pub(crate) struct Beats {
    turn_length: Duration,
    /// When the next turn is due.
    due_at: Instant,
    /// Counts the turns.
    turn: u64,
}

/// Turns that are due: one for each group at most.
pub(crate) struct Turns(Range<u64>);

impl Beats {
    pub(crate) fn start(timing: &Timing) -> Self {
        let turn_length = Duration::from_millis(timing.heartbeat_ms) / TURNS as u32;
        Self {
            turn_length,
            due_at: Instant::now() + turn_length,
            turn: 0,
        }
    }

    /// Waits for the next turn. What was missed meanwhile is due at once.
    pub(crate) async fn next(&mut self) -> Turns {
        sleep_until(self.due_at).await;
        self.due(Instant::now())
    }

    /// The turns since the last call, but no more than all groups once.
    fn due(&mut self, now: Instant) -> Turns {
        let late =
            now.saturating_duration_since(self.due_at).as_micros() / self.turn_length.as_micros();
        let late = u32::try_from(late).unwrap_or(u32::MAX);
        let begun = self.turn;
        self.turn += 1 + u64::from(late).min(TURNS - 1);
        self.due_at += self.turn_length + self.turn_length * late;
        Turns(begun..self.turn)
    }
}

impl Turns {
    /// Whether it is the turn of a group.
    pub(crate) fn include(&self, group_id: u64) -> bool {
        // Ids may be multiples of the number of turns.
        let mixed = group_id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let mut turns = self.0.clone();
        turns.any(|turn| turn % TURNS == mixed % TURNS)
    }
}

impl Group {
    /// Leaves the clock to openraft, as it is without beats.
    pub(crate) fn end_beats(&self) {
        self.raft.runtime_config().tick(true);
    }

    /// Sends heartbeats if this peer leads, and turns openraft's timer on or off. Call it once per heartbeat interval. It never waits.
    pub(crate) fn beat(&self, timing: &Timing) {
        let (leads, has_others) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            if metrics.running_state.is_err() {
                return;
            }
            let leads = metrics.state == ServerState::Leader;
            let mut nodes = metrics.membership_config.nodes();
            (leads, nodes.any(|(peer_id, _)| *peer_id != metrics.id))
        };
        let is_led = leads || self.heard.leader_within(timing.leader_patience());
        self.raft.runtime_config().tick(!is_led);
        if leads && has_others {
            let raft = self.raft.clone();
            let asked = self.lasting(async move {
                // It fails when the group has ended.
                let _ = raft.trigger().heartbeat().await;
            });
            let _ = unconstrained(asked).now_or_never();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_has_one_turn_in_an_interval_and_one_at_most_after_a_stall() {
        const GROUPS: usize = 1000;
        let timing = Timing::default();
        let interval = Duration::from_millis(timing.heartbeat_ms);
        let mut beats = Beats::start(&timing);
        let mut turns_of = [0; GROUPS];
        let mut count = |turns: &Turns| {
            for (group_id, of_group) in (0..).zip(&mut turns_of) {
                *of_group += u32::from(turns.include(group_id));
            }
            turns_of
        };
        for _ in 0..TURNS {
            let at = beats.due_at;
            count(&beats.due(at));
        }
        assert_eq!(count(&Turns(0..0)), [1; GROUPS]);
        let stalled_until = beats.due_at + 100 * interval;
        assert_eq!(count(&beats.due(stalled_until)), [2; GROUPS]);
        let ahead = beats.due_at - stalled_until;
        assert!(!ahead.is_zero() && ahead <= interval / TURNS as u32);
        // No turn has more than a share of the groups.
        for turn in 0..TURNS {
            let turns = Turns(turn..turn + 1);
            let groups = (0..GROUPS as u64)
                .map(|id| 4 * id)
                .filter(|id| turns.include(*id));
            assert!((50..200).contains(&groups.count()));
        }
    }
}
