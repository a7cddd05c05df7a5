//! How fast a group notices that its leader is gone.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy, StepDownPolicy};

use crate::mutant::Mutant;

/// Most entries of one append to a follower. Bytes are bounded where entries are read.
pub(crate) const APPEND_ENTRIES_MAX: u64 = 1024;

/// Shorter heartbeats would only keep the clock busy.
const HEARTBEAT_MS_MIN: u64 = 10;

/// Intervals of a group. They must be the same on all its peers: a leader permits reads for most of its own
/// [`Timing::election_timeout_max_ms`], and a follower elects another leader after its own. If the follower's is shorter, the
/// first leader permits reads that miss what the second has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How often a leader says that it is there, in milliseconds; at least 10.
    pub heartbeat_ms: u64,
    /// Shortest time without a leader after which a peer campaigns, in milliseconds. At least three heartbeats:
    /// two of them can be apart by two intervals and a tick.
    pub election_timeout_min_ms: u64,
    /// The longest such time, and how long a leader may count on its followers after it has heard of them, in milliseconds.
    pub election_timeout_max_ms: u64,
}

/// An interval of [`Timing`] that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {value_ms} ms, and {problem}")]
pub struct TimingError {
    /// The field.
    pub setting: &'static str,
    /// Its value.
    pub value_ms: u64,
    /// Which relation does not hold.
    pub problem: &'static str,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat_ms: 500,
            election_timeout_min_ms: 2000,
            election_timeout_max_ms: 3000,
        }
    }
}

impl Timing {
    /// Checks the relations between the intervals.
    ///
    /// # Errors
    ///
    /// The first relation that does not hold.
    pub fn validate(&self) -> Result<(), TimingError> {
        let refuse = |setting, value_ms, problem| {
            Err(TimingError {
                setting,
                value_ms,
                problem,
            })
        };
        let Self {
            heartbeat_ms,
            election_timeout_min_ms: min_ms,
            election_timeout_max_ms: max_ms,
        } = *self;
        if heartbeat_ms < HEARTBEAT_MS_MIN {
            return refuse("heartbeat_ms", heartbeat_ms, "it should be at least 10");
        }
        if min_ms < heartbeat_ms.saturating_mul(3) {
            let problem = "it should be at least three heartbeats";
            return refuse("election_timeout_min_ms", min_ms, problem);
        }
        if max_ms <= min_ms {
            let problem = "it should be greater than election_timeout_min_ms";
            return refuse("election_timeout_max_ms", max_ms, problem);
        }
        Ok(())
    }

    /// How long a leader permits reads after it sent something that a quorum then acknowledged. Followers wait for the whole
    /// lease by their own clocks, which may run up to a quarter faster.
    pub(crate) fn read_lease(&self) -> Duration {
        let tenths = if Mutant::WholeLease.is_on() { 10 } else { 8 };
        Duration::from_millis(self.election_timeout_max_ms / 10 * tenths)
    }

    /// How long a group may be without a leader in an ordinary election: the lease of a leader that has died, the longest timeout,
    /// and as much again, since votes may be split.
    pub fn leaderless_after(&self) -> Duration {
        Duration::from_millis(self.election_timeout_max_ms.saturating_mul(4))
    }

    /// How long a write of the log may take before the log counts as standing still.
    pub(crate) fn log_patience(&self) -> Duration {
        Duration::from_millis(self.election_timeout_max_ms)
    }

    /// How long a leader waits for a quorum before it gives up a read.
    pub(crate) fn quorum_wait(&self) -> Duration {
        Duration::from_millis(self.election_timeout_min_ms)
    }

    /// The same with a longest timeout that is not shorter than `max_ms`.
    pub(crate) fn or_longer(mut self, max_ms: u64) -> Self {
        self.election_timeout_max_ms = self.election_timeout_max_ms.max(max_ms);
        self
    }

    /// How long a voter keeps out of elections after its start: the lease, and a margin for a leader's clock that runs slower.
    pub(crate) fn quarantine(&self) -> Duration {
        Duration::from_millis(self.election_timeout_max_ms.saturating_mul(11) / 10)
    }

    /// How long a peer takes it for granted that its leader is there, after it has heard of it.
    pub(crate) fn leader_patience(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms.saturating_mul(2))
    }

    /// The settings of a group. What is not named here is openraft's default.
    pub(crate) fn config(&self) -> Config {
        Config {
            heartbeat_interval: self.heartbeat_ms,
            // Less than the interval: what is acknowledged meanwhile was sent a little later than it was due.
            heartbeat_min_interval: Some(self.heartbeat_ms / 4 * 3),
            election_timeout_min: self.election_timeout_min_ms,
            election_timeout_max: self.election_timeout_max_ms,
            // At least the lease and the longest timeout.
            quorum_loss_probe_interval: Some(self.election_timeout_max_ms.saturating_mul(2)),
            // A voter may not campaign before its quarantine is over.
            enable_elect: false,
            enable_pre_vote: Some(true),
            // A restarted leader has not applied its log yet. It has to win an election like others.
            enable_leader_restore: Some(false),
            // It would hand its leadership over by itself, and followers drop its lease then.
            removed_leader_step_down: StepDownPolicy::Never,
            // The owner of a group decides when to purge, see `Group::purge`.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            max_payload_entries: APPEND_ENTRIES_MAX,
            allow_log_reversion: Some(false),
            // For openraft's own measurements. They take memory even when they are not compiled in.
            log_stage_capacity: Some(1),
            ..Config::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relation_that_does_not_hold_is_named() {
        let timing = |heartbeat_ms, election_timeout_min_ms, election_timeout_max_ms| Timing {
            heartbeat_ms,
            election_timeout_min_ms,
            election_timeout_max_ms,
        };
        let setting = |timing: Timing| timing.validate().map_err(|error| error.setting);
        assert_eq!(setting(Timing::default()), Ok(()));
        assert_eq!(setting(timing(9, 30, 40)), Err("heartbeat_ms"));
        assert_eq!(setting(timing(10, 29, 40)), Err("election_timeout_min_ms"));
        assert_eq!(setting(timing(10, 30, 30)), Err("election_timeout_max_ms"));
        let message = "election_timeout_max_ms is 30 ms, and it should be greater than election_timeout_min_ms";
        let error = timing(10, 30, 30).validate().unwrap_err();
        assert_eq!(error.to_string(), message);
    }

    #[test]
    fn a_leader_counts_on_less_than_followers_promise_and_a_restart_keeps() {
        for election_timeout_max_ms in [31, 3000, 600_000] {
            let timing = Timing {
                heartbeat_ms: 10,
                election_timeout_min_ms: 30,
                election_timeout_max_ms,
            };
            // openraft's lease of a follower.
            let lease = Duration::from_millis(timing.config().election_timeout_max);
            assert!(timing.read_lease() * 5 <= lease * 4);
            assert!(timing.quarantine() > lease);
        }
    }

    #[test]
    fn openraft_takes_what_is_valid() {
        let shortest = Timing {
            heartbeat_ms: 10,
            election_timeout_min_ms: 30,
            election_timeout_max_ms: 31,
        };
        for timing in [Timing::default(), shortest] {
            timing.validate().unwrap();
            timing.config().validate().unwrap();
        }
    }
}
