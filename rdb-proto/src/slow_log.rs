//! Which commands or calls are slow, how many there were, and which of them the log names.
//!
//! The two servers write the lines, since they know where the time of a command went.
//!
//! Invariants:
//! - A command that is not slow costs one comparison; each call or batch of writes also costs the tag of one key. The lock is taken only
//!   for slow ones.
//! - A key is never in the log. The seed of its hash is known only to the process, so nobody can find the key by trying candidates.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crate::figures::Counter;
use crate::rare_line::RareLine;

/// From when on something is slow, in milliseconds, unless a flag says otherwise.
pub const DEFAULT_THRESHOLD_MS: u64 = 500;

/// Counts what is slow, and lets a line of it be written now and then.
#[derive(Debug, Default)]
pub struct SlowLog {
    /// `None`: nothing is slow.
    threshold: Option<Duration>,
    hashes: RandomState,
    slow: Counter,
    line: Mutex<RareLine>,
    /// Held by the thread that writes the line. Nobody waits for it, since a slow reader of the log may block that thread.
    writing: Mutex<()>,
}

/// How many bytes of a key's beginning, and of its end, go into its hash. So a key that breaks every limit costs no more.
const HASHED_BYTES: usize = 64;

/// What the log tells of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyTag {
    /// Its length in bytes.
    pub bytes: usize,
    /// A hash of the length and both ends of the key, the same for one key while the process runs. `None`: it is not known.
    pub hash: Option<u32>,
}

impl SlowLog {
    /// What takes `threshold_ms` or longer is slow. 0: nothing is.
    pub fn of_threshold_ms(threshold_ms: u64) -> Self {
        Self {
            threshold: (threshold_ms > 0).then(|| Duration::from_millis(threshold_ms)),
            ..Self::default()
        }
    }

    /// Whether a command or call that took this long is slow.
    pub fn is_slow(&self, took: Duration) -> bool {
        self.threshold.is_some_and(|threshold| took >= threshold)
    }

    /// What the log would tell of `key`. It is not hashed where nothing is slow.
    pub fn tag(&self, key: &[u8]) -> KeyTag {
        let beginning = &key[..key.len().min(HASHED_BYTES)];
        let end = &key[key.len().saturating_sub(HASHED_BYTES)..];
        let hashed = (beginning, end, key.len());
        let hash = self.threshold.map(|_| self.hashes.hash_one(hashed) as u32);
        KeyTag {
            bytes: key.len(),
            hash,
        }
    }

    /// Counts `count` commands that were slow together. If a line is due, calls `write` with the number of those left out since
    /// the last line; the line names one of `count`. While another thread writes, all are left out.
    pub fn tell(&self, now: Instant, count: u64, write: impl FnOnce(u64)) {
        self.slow.add(count);
        let writing = self.writing.try_lock();
        let left_out = {
            let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
            if matches!(writing, Err(TryLockError::WouldBlock)) {
                line.leave_out(count);
                return;
            }
            let left_out = line.take_turn(now);
            line.leave_out(count.saturating_sub(1));
            left_out
        };
        if let Some(left_out) = left_out {
            write(left_out);
        }
    }

    /// How many were slow.
    pub fn count(&self) -> u64 {
        self.slow.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_takes_as_long_as_the_threshold_is_slow_and_with_0_nothing_is() {
        let log = SlowLog::of_threshold_ms(500);
        assert!(!log.is_slow(Duration::from_micros(499_999)));
        assert!(log.is_slow(Duration::from_millis(500)));
        for off in [SlowLog::of_threshold_ms(0), SlowLog::default()] {
            assert!(!off.is_slow(Duration::MAX));
        }
    }

    #[test]
    fn one_a_second_is_told_of_and_the_others_are_counted_in_the_next_line() {
        let log = SlowLog::of_threshold_ms(1);
        let begun = Instant::now();
        let mut lines = Vec::new();
        for tenth in 0..25 {
            let now = begun + tenth * SECOND / 10;
            log.tell(now, 1, |left_out| lines.push(left_out));
        }
        log.tell(begun + 3 * SECOND, 100, |left_out| lines.push(left_out));
        log.tell(begun + 4 * SECOND, 1, |left_out| lines.push(left_out));
        assert_eq!(lines, [0, 9, 9, 4, 99]);
        assert_eq!(log.count(), 126);
    }

    #[test]
    fn a_line_that_cannot_be_written_holds_up_nobody_else() {
        let log = SlowLog::of_threshold_ms(1);
        let begun = Instant::now();
        let mut lines = Vec::new();
        log.tell(begun, 1, |_| {
            // The log is full, and meanwhile others are slow, too.
            std::thread::scope(|scope| {
                scope.spawn(|| log.tell(begun + 2 * SECOND, 3, |_| panic!("it is not its turn")));
            });
        });
        log.tell(begun + 3 * SECOND, 1, |left_out| lines.push(left_out));
        assert_eq!((lines, log.count()), (vec![3], 5));
    }

    #[test]
    fn a_key_has_the_same_tag_each_time_and_another_in_another_process() {
        let log = SlowLog::of_threshold_ms(1);
        let tag = log.tag(b"key");
        assert_eq!((tag, tag.bytes), (log.tag(b"key"), 3));
        assert_ne!(tag, log.tag(b"kez"));
        let others = (0..4).map(|_| SlowLog::of_threshold_ms(1).tag(b"key"));
        assert!(others.into_iter().any(|other| other != tag));
        assert_eq!(SlowLog::default().tag(b"key").hash, None);
    }
}
