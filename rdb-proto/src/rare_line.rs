//! A line of the log that a flood does not repeat.

use std::time::{Duration, Instant};

/// How often such a line is written.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// A line of the log that is written at most once a second: for a copy in a restart loop, and for floods.
#[derive(Debug, Default)]
pub struct RareLine {
    written_at: Option<Instant>,
    left_out: u64,
}

impl RareLine {
    /// Takes the turn to write the line, if there is one. Returns how many lines were left out since the last turn.
    pub fn take_turn(&mut self, now: Instant) -> Option<u64> {
        let is_recent = |at| now.saturating_duration_since(at) < LOG_INTERVAL;
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_a_second_with_the_count_of_the_others() {
        let mut line = RareLine::default();
        let begun = Instant::now();
        let written = (0..25).filter_map(|tenth| line.take_turn(begun + tenth * LOG_INTERVAL / 10));
        assert_eq!(written.collect::<Vec<_>>(), [0, 9, 9]);
    }

    #[test]
    fn lines_that_are_left_out_on_purpose_are_told_of_at_the_next_turn() {
        let mut line = RareLine::default();
        let begun = Instant::now();
        assert_eq!(line.take_turn(begun), Some(0));
        line.leave_out(7);
        assert_eq!(line.take_turn(begun), None);
        assert_eq!(line.take_turn(begun + LOG_INTERVAL), Some(8));
    }
}
