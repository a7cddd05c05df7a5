//! The longest time in which no operation succeeded.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How exactly a gap is known, in microseconds. A success that follows another one more closely is not noted, so that threads rarely
/// write to what all of them read.
const RESOLUTION_US: u64 = 1000;

/// When operations of all callers succeeded.
///
/// A gap may be too long by what a thread is held up before it notes a success; it is never too short.
///
/// Relaxed ordering is enough: nothing else depends on these numbers, and the longest gap is asked for once the callers have ended.
pub(crate) struct Gap {
    begin: Instant,
    /// When an operation succeeded last, in microseconds since `begin`.
    last_us: AtomicU64,
    longest_us: AtomicU64,
}

impl Gap {
    /// The first gap begins at `begin`.
    pub(crate) fn new(begin: Instant) -> Self {
        Self {
            begin,
            last_us: AtomicU64::new(0),
            longest_us: AtomicU64::new(0),
        }
    }

    /// An operation succeeded at `ended`.
    pub(crate) fn note_success(&self, ended: Instant) {
        let ended_us = self.microseconds(ended);
        if ended_us < self.last_us.load(Ordering::Relaxed) + RESOLUTION_US {
            return;
        }
        let last_us = self.last_us.fetch_max(ended_us, Ordering::Relaxed);
        let gap_us = ended_us.saturating_sub(last_us);
        self.longest_us.fetch_max(gap_us, Ordering::Relaxed);
    }

    /// The longest gap; the last one ends at `end`.
    pub(crate) fn longest(&self, end: Instant) -> Duration {
        let last_us = self.last_us.load(Ordering::Relaxed);
        let last_gap_us = self.microseconds(end).saturating_sub(last_us);
        let longest_us = self.longest_us.load(Ordering::Relaxed);
        Duration::from_micros(longest_us.max(last_gap_us))
    }

    fn microseconds(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.begin);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// The longest gap of a second in which operations succeeded at these milliseconds.
    fn longest(successes_ms: &[u64]) -> Duration {
        let begin = Instant::now();
        let gap = Gap::new(begin);
        for success_ms in successes_ms {
            gap.note_success(begin + ms(*success_ms));
        }
        gap.longest(begin + ms(1000))
    }

    #[test]
    fn the_longest_gap_may_be_at_the_beginning_between_two_successes_or_at_the_end() {
        assert_eq!(longest(&[500, 700, 900]), ms(500));
        assert_eq!(longest(&[200, 800, 900]), ms(600));
        assert_eq!(longest(&[100, 200, 300]), ms(700));
        assert_eq!(longest(&[]), ms(1000));
    }

    #[test]
    fn a_success_that_is_noted_late_makes_no_gap() {
        assert_eq!(longest(&[300, 600, 400, 900]), ms(300));
    }
}
