//! The last entries of a group's log, in memory.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::types::{Entry, entry_bytes};

/// Up to where a group keeps entries that could be read from the device.
const GROUP_BYTES_MAX: usize = 1 << 20;

/// Most bytes of durable entries that a group keeps until they are applied. Beyond that they are read again from the device:
/// a follower may apply more slowly than its leader sends.
const UNAPPLIED_BYTES_MAX: usize = 16 << 20;

/// The same as the first for all groups together. A group that appends gives up its own entries only.
const BYTES_MAX: usize = 32 << 20;

/// What the caches of all groups hold, in bytes. Relaxed: the count guards nothing but itself.
pub(super) type CachedBytes = AtomicUsize;

/// Entries with consecutive indexes.
pub(super) struct Cache {
    entries: VecDeque<Entry>,
    bytes: usize,
    all_bytes: Arc<CachedBytes>,
}

impl Cache {
    pub(super) fn new(all_bytes: Arc<CachedBytes>) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            all_bytes,
        }
    }

    /// Adds the entry after the last one.
    pub(super) fn push(&mut self, entry: Entry) {
        let bytes = entry_bytes(&entry);
        self.bytes += bytes;
        self.all_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.entries.push_back(entry);
    }

    pub(super) fn first_index(&self) -> Option<u64> {
        Some(self.entries.front()?.log_id.index)
    }

    /// Drops the entries from an index on.
    pub(super) fn truncate(&mut self, end: u64) {
        let is_behind = |entry: &Entry| entry.log_id.index >= end;
        while self.entries.back().is_some_and(is_behind) {
            let dropped = self.entries.pop_back();
            self.uncount(dropped);
        }
    }

    /// Drops the entries before an index.
    pub(super) fn drop_before(&mut self, start: u64) {
        while self.first_index().is_some_and(|first| first < start) {
            let dropped = self.entries.pop_front();
            self.uncount(dropped);
        }
    }

    /// Drops the first entries until the limits hold, but none from `end` on.
    pub(super) fn trim(&mut self, end: u64) {
        while self.is_over_a_limit() && self.first_index().is_some_and(|first| first < end) {
            let dropped = self.entries.pop_front();
            self.uncount(dropped);
        }
    }

    /// Drops the first entries until there are not too many that are still to be applied, but none from `durable_end` on.
    pub(super) fn trim_unapplied(&mut self, durable_end: u64) {
        while self.has_many_unapplied()
            && self.first_index().is_some_and(|first| first < durable_end)
        {
            let dropped = self.entries.pop_front();
            self.uncount(dropped);
        }
    }

    /// Whether there are more than are kept until they are applied. After [`trim_unapplied`](Self::trim_unapplied) none of them is durable.
    pub(super) fn has_many_unapplied(&self) -> bool {
        self.bytes > UNAPPLIED_BYTES_MAX
    }

    /// The entries of a range, from the first on until they have `bytes_max`.
    pub(super) fn read(&self, range: Range<u64>, bytes_max: usize) -> Vec<Entry> {
        let Some(first_index) = self.first_index() else {
            return Vec::new();
        };
        let skipped = range.start.saturating_sub(first_index) as usize;
        let entries = self.entries.iter().skip(skipped);
        let mut bytes = 0;
        let mut read = Vec::new();
        for entry in entries.take_while(|entry| entry.log_id.index < range.end) {
            if bytes >= bytes_max {
                break;
            }
            bytes += entry_bytes(entry);
            read.push(entry.clone());
        }
        read
    }

    fn is_over_a_limit(&self) -> bool {
        self.bytes > GROUP_BYTES_MAX || self.all_bytes.load(Ordering::Relaxed) > BYTES_MAX
    }

    fn uncount(&mut self, dropped: Option<Entry>) {
        let bytes = dropped.as_ref().map_or(0, entry_bytes);
        self.bytes -= bytes;
        self.all_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.all_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Content, LogId, Payload};

    const PAYLOAD_BYTES: usize = 100_000;

    fn entry(index: u64) -> Entry {
        Entry {
            log_id: LogId::new_term_index(1, index),
            payload: Content::Normal(Payload(vec![0; PAYLOAD_BYTES].into())),
        }
    }

    fn indexes(cache: &Cache, range: Range<u64>, bytes_max: usize) -> Vec<u64> {
        let entries = cache.read(range, bytes_max);
        entries.iter().map(|entry| entry.log_id.index).collect()
    }

    fn filled(entries: Range<u64>, all_bytes: &Arc<CachedBytes>) -> Cache {
        let mut cache = Cache::new(Arc::clone(all_bytes));
        entries.for_each(|index| cache.push(entry(index)));
        cache
    }

    #[test]
    fn a_read_ends_with_the_range_or_with_the_entry_that_reaches_the_limit() {
        let cache = filled(5..10, &Arc::default());
        assert_eq!(indexes(&cache, 0..7, usize::MAX), [5, 6]);
        assert_eq!(indexes(&cache, 6..99, usize::MAX), [6, 7, 8, 9]);
        assert_eq!(indexes(&cache, 6..99, PAYLOAD_BYTES), [6]);
        assert_eq!(indexes(&cache, 6..99, PAYLOAD_BYTES * 2), [6, 7]);
        assert!(indexes(&cache, 10..99, usize::MAX).is_empty());
    }

    #[test]
    fn what_may_go_goes_until_the_limit_holds() {
        let mut cache = filled(0..30, &Arc::default());
        cache.trim(3);
        assert_eq!(cache.first_index(), Some(3));
        cache.trim(30);
        assert_eq!(cache.first_index(), Some(20));
        cache.trim(30);
        assert_eq!(cache.first_index(), Some(20));
    }

    #[test]
    fn what_is_durable_is_kept_for_its_apply_up_to_a_limit() {
        let mut cache = filled(0..200, &Arc::default());
        cache.trim_unapplied(20);
        assert_eq!(cache.first_index(), Some(20), "not beyond what is durable");
        cache.trim_unapplied(200);
        let kept = cache.bytes;
        let entry_bytes = entry_bytes(&entry(0));
        assert!(kept <= UNAPPLIED_BYTES_MAX && kept + entry_bytes > UNAPPLIED_BYTES_MAX);
    }

    #[test]
    fn a_group_gives_up_its_entries_while_all_groups_hold_too_much() {
        let all_bytes = Arc::default();
        let others = filled(0..400, &all_bytes);
        let mut cache = filled(0..5, &all_bytes);
        cache.trim(4);
        assert_eq!(cache.first_index(), Some(4));
        drop(others);
        cache.push(entry(5));
        cache.trim(6);
        assert_eq!(cache.first_index(), Some(4));
    }

    #[test]
    fn all_that_is_dropped_is_uncounted() {
        let all_bytes = Arc::default();
        let mut cache = filled(0..10, &all_bytes);
        cache.truncate(8);
        cache.drop_before(2);
        assert_eq!(indexes(&cache, 0..99, usize::MAX), [2, 3, 4, 5, 6, 7]);
        assert_eq!(
            all_bytes.load(Ordering::Relaxed),
            6 * entry_bytes(&entry(0))
        );
        drop(cache);
        assert_eq!(all_bytes.load(Ordering::Relaxed), 0);
    }
}
