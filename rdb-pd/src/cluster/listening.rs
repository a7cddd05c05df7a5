//! Since when this process can tell that a store is silent.

use std::time::{Duration, Instant};

/// A process that did nothing for longer than this was asleep: stopped, suspended or starved.
const ASLEEP_AFTER: Duration = Duration::from_secs(5);

/// The present stretch of time in which this process was awake and would have heard any store.
///
/// A sleeping process takes no heartbeats, so silence in that time says nothing about a store. After a sleep, as after a
/// start, a new stretch begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listening {
    since: Instant,
    awake_at: Instant,
}

impl Listening {
    pub(super) fn start(now: Instant) -> Self {
        Self {
            since: now,
            awake_at: now,
        }
    }

    /// Call it more often than every [`ASLEEP_AFTER`].
    pub(super) fn note_awake(&mut self, now: Instant) {
        *self = Self {
            since: self.since(now),
            awake_at: now,
        };
    }

    /// When the present stretch began. A sleep counts before it is noted.
    pub(super) fn since(&self, now: Instant) -> Instant {
        if now.saturating_duration_since(self.awake_at) > ASLEEP_AFTER {
            now
        } else {
            self.since
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_begins_a_new_stretch_whether_or_not_it_was_noted() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut listening = Listening::start(start);
        for second in 1..=30 {
            listening.note_awake(at(second));
        }
        assert_eq!(listening.since(at(31)), start);
        assert_eq!(listening.since(at(60)), at(60), "not noted yet");
        listening.note_awake(at(60));
        listening.note_awake(at(61));
        assert_eq!(listening.since(at(62)), at(60), "noted");
    }
}
