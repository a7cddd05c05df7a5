//! Where a log may be cut.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Smallest stride, in bytes or in entries. A purge leaves a range tombstone in the log's database, so small purges would pile up.
const STRIDE_BYTES_MIN: usize = 16 << 20;
const STRIDE_ENTRIES_MIN: usize = 64 << 10;

/// How many strides are applied without being flushed before the state machine is told to flush. They are applied again after
/// a crash.
const UNFLUSHED_STRIDES_MAX: usize = 16;

/// The entries that were applied since the start, in strides. A log is purged by whole strides.
#[derive(Default)]
pub(crate) struct Strides(Mutex<State>);

#[derive(Default)]
struct State {
    /// The last index of each stride that is complete and not purged, in ascending order, and its bytes.
    ends: VecDeque<(u64, usize)>,
    /// What the next one has so far.
    bytes: usize,
    entries: usize,
}

impl Strides {
    /// Notes that entries were applied.
    pub(crate) fn add(&self, last_index: u64, entries: usize, bytes: usize) {
        let mut state = self.lock();
        state.entries += entries;
        state.bytes += bytes;
        if state.entries >= STRIDE_ENTRIES_MIN || state.bytes >= STRIDE_BYTES_MIN {
            let bytes = std::mem::take(&mut state.bytes);
            state.entries = 0;
            state.ends.push_back((last_index, bytes));
        }
    }

    /// Whether none is complete.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().ends.is_empty()
    }

    /// The end of the last one that lies below an index or ends with it.
    pub(crate) fn last_up_to(&self, index: u64) -> Option<u64> {
        let state = self.lock();
        let mut ends = state.ends.iter().rev().map(|(end, _)| *end);
        ends.find(|end| *end <= index)
    }

    /// Whether too many are not flushed, if all up to an index is.
    pub(crate) fn want_flush(&self, flushed_index: u64) -> bool {
        let state = self.lock();
        let unflushed = state.ends.iter().filter(|(end, _)| *end > flushed_index);
        unflushed.count() >= UNFLUSHED_STRIDES_MAX
    }

    /// Upper estimate of the bytes of the entries after an index: the stride that the index lies in counts in full.
    pub(crate) fn bytes_after(&self, index: u64) -> u64 {
        let state = self.lock();
        let strides = state.ends.iter().rev().take_while(|(end, _)| *end > index);
        let bytes: usize = strides.map(|(_, bytes)| bytes).sum();
        (bytes + state.bytes) as u64
    }

    /// The last end of a stride that has at least `bytes_min` bytes after it.
    pub(crate) fn last_before(&self, bytes_min: u64) -> Option<u64> {
        let state = self.lock();
        let mut bytes = state.bytes as u64;
        for (end, of_stride) in state.ends.iter().rev() {
            if bytes >= bytes_min {
                return Some(*end);
            }
            bytes += *of_stride as u64;
        }
        None
    }

    /// Notes that the log was purged up to an index.
    pub(crate) fn remove(&self, purged_index: u64) {
        self.lock().ends.retain(|(end, _)| *end > purged_index);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stride_has_enough_bytes_or_enough_entries() {
        let strides = Strides::default();
        strides.add(9, 9, STRIDE_BYTES_MIN - 1);
        assert!(strides.is_empty());
        strides.add(10, 1, 1);
        strides.add(11, STRIDE_ENTRIES_MIN - 1, 0);
        assert_eq!(strides.last_up_to(u64::MAX), Some(10));
        strides.add(12, 1, 0);
        assert_eq!(strides.last_up_to(u64::MAX), Some(12));
    }

    #[test]
    fn only_whole_strides_that_are_flushed_are_purged() {
        let strides = Strides::default();
        for last_index in [10, 20, 30] {
            strides.add(last_index, 10, STRIDE_BYTES_MIN);
        }
        assert_eq!(strides.last_up_to(9), None);
        assert_eq!(strides.last_up_to(29), Some(20));
        strides.remove(20);
        assert_eq!(strides.last_up_to(29), None);
        assert_eq!(strides.last_up_to(30), Some(30));
    }

    #[test]
    fn a_flush_is_wanted_when_many_strides_would_be_applied_again() {
        let strides = Strides::default();
        let mut last_index = 0;
        for _ in 0..UNFLUSHED_STRIDES_MAX {
            assert!(!strides.want_flush(0));
            last_index += 10;
            strides.add(last_index, 10, STRIDE_BYTES_MIN);
        }
        assert!(strides.want_flush(9));
        assert!(!strides.want_flush(10));
    }

    #[test]
    fn bytes_are_counted_from_the_end() {
        let strides = Strides::default();
        for last_index in [10, 20, 30] {
            strides.add(last_index, 10, STRIDE_BYTES_MIN);
        }
        strides.add(31, 1, 5);
        let stride = STRIDE_BYTES_MIN as u64;
        let after = [0, 9, 10, 15, 29, 30, 99].map(|index| strides.bytes_after(index));
        let expected = [3, 3, 2, 2, 1, 0, 0].map(|strides| strides * stride + 5);
        assert_eq!(after, expected);
        let before =
            [0, 5, 6, stride + 5, stride + 6, 3 * stride].map(|bytes| strides.last_before(bytes));
        assert_eq!(
            before,
            [Some(30), Some(30), Some(20), Some(20), Some(10), None]
        );
    }
}
