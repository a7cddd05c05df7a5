//! A line of the log that a flood does not repeat.

use std::time::{Duration, Instant};

/// A line of the log that is written at most once in an interval, by default a second: for floods, and for what fails again and again.
#[derive(Debug)]
pub struct RareLine {
    interval: Duration,
    written_at: Option<Instant>,
    left_out: u64,
}

impl Default for RareLine {
    fn default() -> Self {
        Self::every(Duration::from_secs(1))
    }
}

impl RareLine {
    /// One that is written at most once in `interval`.
    pub fn every(interval: Duration) -> Self {
        Self {
            interval,
            written_at: None,
            left_out: 0,
        }
    }

    /// Takes the turn to write the line, if there is one. Returns how many lines were left out since the last turn.
    pub fn take_turn(&mut self, now: Instant) -> Option<u64> {
        let is_recent = |at| now.saturating_duration_since(at) < self.interval;
        if self.written_at.is_some_and(is_recent) {
            self.leave_out(1);
            return None;
        }
        self.written_at = Some(now);
        Some(std::mem::take(&mut self.left_out))
    }

    /// Counts lines that are not written. The next turn tells of them.
    pub fn leave_out(&mut self, lines: u64) {
        self.left_out += lines;
    }

    /// What the line tells of is over. The next line is about something new, and is written at once.
    pub fn start_over(&mut self) {
        *self = Self::every(self.interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_flood_is_one_line_a_second_with_the_count_of_the_others() {
        let mut line = RareLine::default();
        let begun = Instant::now();
        let written = (0..25).filter_map(|tenth| line.take_turn(begun + tenth * SECOND / 10));
        assert_eq!(written.collect::<Vec<_>>(), [0, 9, 9]);
    }

    #[test]
    fn a_lasting_failure_is_a_line_an_interval_and_a_new_one_is_told_of_at_once() {
        let mut line = RareLine::every(10 * SECOND);
        let begun = Instant::now();
        let written = (0..21).filter_map(|second| line.take_turn(begun + second * SECOND));
        assert_eq!(written.collect::<Vec<_>>(), [0, 9, 9]);
        line.start_over();
        assert_eq!(line.take_turn(begun + 21 * SECOND), Some(0));
    }

    #[test]
    fn lines_that_are_left_out_on_purpose_are_told_of_at_the_next_turn() {
        let mut line = RareLine::default();
        let begun = Instant::now();
        assert_eq!(line.take_turn(begun), Some(0));
        line.leave_out(7);
        assert_eq!(line.take_turn(begun), None);
        assert_eq!(line.take_turn(begun + SECOND), Some(8));
    }
}
