//! Timestamps of the placement driver's oracle.

use std::fmt;
use std::iter::FusedIterator;
use std::time::{Duration, SystemTime};

/// Bits of the counter within a millisecond.
const LOGICAL_BITS: u32 = 18;

/// A timestamp of the cluster: greater than every timestamp that was handed out before it.
///
/// It is a number of 64 bits, so that it can be stored and read back:
///
/// ```
/// # use rdb_client::Timestamp;
/// let stored: u64 = Timestamp::from(442_106_624_409_600_007).into();
/// assert_eq!(Timestamp::from(stored).logical(), 7);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The whole number: 46 bits of Unix milliseconds, then 18 bits of counter.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// When it was handed out: the placement driver's time, in milliseconds, which stays close to its clock.
    pub fn physical(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.physical_ms())
    }

    /// [`physical`](Self::physical) in milliseconds since the Unix epoch.
    pub fn physical_ms(self) -> u64 {
        self.0 >> LOGICAL_BITS
    }

    /// The counter that tells timestamps of one millisecond apart.
    pub fn logical(self) -> u32 {
        (self.0 & ((1 << LOGICAL_BITS) - 1)) as u32
    }
}

impl From<u64> for Timestamp {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl From<Timestamp> for u64 {
    fn from(timestamp: Timestamp) -> Self {
        timestamp.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Consecutive timestamps, at least one. Iterate over them, or keep `first()` and `len()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamps {
    first: u64,
    count: u32,
}

impl Timestamps {
    /// `count` timestamps from `first` on; `None` when there are none or they do not fit into 64 bits.
    pub(crate) fn new(first: u64, count: u32) -> Option<Self> {
        first.checked_add(u64::from(count.checked_sub(1)?))?;
        Some(Self { first, count })
    }

    /// The lowest.
    pub fn first(&self) -> Timestamp {
        Timestamp(self.first)
    }

    /// How many there are; never 0.
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.count as usize
    }
}

impl IntoIterator for Timestamps {
    type Item = Timestamp;
    type IntoIter = TimestampsIter;

    fn into_iter(self) -> TimestampsIter {
        TimestampsIter {
            first: self.first,
            offsets: 0..self.count,
        }
    }
}

/// Yields the timestamps of [`Timestamps`] in order.
#[derive(Debug, Clone)]
pub struct TimestampsIter {
    first: u64,
    offsets: std::ops::Range<u32>,
}

impl Iterator for TimestampsIter {
    type Item = Timestamp;

    fn next(&mut self) -> Option<Timestamp> {
        let offset = self.offsets.next()?;
        Some(Timestamp(self.first + u64::from(offset)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.offsets.size_hint()
    }
}

impl ExactSizeIterator for TimestampsIter {}
impl FusedIterator for TimestampsIter {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_46_bits_of_milliseconds_and_18_of_counter() {
        let timestamp = Timestamp::from((1_700_000_000_000 << 18) | 5);
        assert_eq!(timestamp.physical_ms(), 1_700_000_000_000);
        let since_epoch = Duration::from_secs(1_700_000_000);
        assert_eq!(timestamp.physical(), SystemTime::UNIX_EPOCH + since_epoch);
        assert_eq!(timestamp.logical(), 5);
        assert_eq!(timestamp.to_string(), timestamp.as_u64().to_string());
    }

    #[test]
    fn three_timestamps_from_the_first_are_consecutive() {
        let timestamps = Timestamps::new(7, 3).expect("valid");
        let all: Vec<u64> = timestamps.into_iter().map(Timestamp::as_u64).collect();
        assert_eq!(all, [7, 8, 9]);
        assert_eq!((timestamps.first(), timestamps.len()), (Timestamp(7), 3));
    }

    #[test]
    fn none_and_more_than_there_are_numbers_are_refused() {
        assert_eq!(Timestamps::new(7, 0), None);
        assert_eq!(Timestamps::new(u64::MAX, 2), None);
        assert!(Timestamps::new(u64::MAX, 1).is_some());
    }
}
