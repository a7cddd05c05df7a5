//! Timestamps of the placement driver's oracle.

use std::fmt;
use std::iter::FusedIterator;

/// How many of a timestamp's bits count within a millisecond.
const LOGICAL_BITS: u32 = 18;

/// A point in the cluster's one order of events: greater than every timestamp that was handed out before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The whole number: 46 bits of Unix milliseconds, then 18 bits of counter.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// Milliseconds since the Unix epoch, near the placement driver's clock.
    pub fn physical_ms(self) -> u64 {
        self.0 >> LOGICAL_BITS
    }

    /// The counter that tells timestamps of one millisecond apart.
    pub fn logical(self) -> u32 {
        (self.0 & ((1 << LOGICAL_BITS) - 1)) as u32
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Consecutive timestamps, at least one. Iterate over it, or keep `first()` and `len()`.
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
        let timestamp = Timestamp((1_700_000_000_000 << 18) | 5);
        assert_eq!(timestamp.physical_ms(), 1_700_000_000_000);
        assert_eq!(timestamp.logical(), 5);
        assert_eq!(timestamp.to_string(), timestamp.as_u64().to_string());
    }

    #[test]
    fn a_batch_yields_exactly_its_consecutive_timestamps() {
        let batch = Timestamps::new(7, 3).expect("valid");
        let all: Vec<u64> = batch.into_iter().map(Timestamp::as_u64).collect();
        assert_eq!(all, [7, 8, 9]);
        assert_eq!((batch.first(), batch.len()), (Timestamp(7), 3));
    }

    #[test]
    fn a_batch_that_is_empty_or_overflows_is_refused() {
        assert_eq!(Timestamps::new(7, 0), None);
        assert_eq!(Timestamps::new(u64::MAX, 2), None);
        assert!(Timestamps::new(u64::MAX, 1).is_some());
    }
}
