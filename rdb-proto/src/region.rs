//! Questions to a region that need no knowledge of the cluster.
//!
//! A region is the half-open range `[start_key, end_key)`; an empty `end_key` means that there is no upper bound.

use std::cmp::Ordering;

use crate::metapb::{Region, RegionEpoch};

impl Region {
    /// Whether `key` lies in this region. The empty key is below every other.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start_key <= key && (self.end_key.is_empty() || self.end_key > key)
    }

    /// Whether all of `[start_key, end_key)` lies in this region; an empty `end_key` has no upper bound.
    pub fn contains_range(&self, start_key: &[u8], end_key: &[u8]) -> bool {
        let end_fits = self.end_key.is_empty() || (!end_key.is_empty() && self.end_key >= end_key);
        self.start_key <= start_key && end_fits
    }

    /// Whether `[start_key, end_key)` and this region share a key.
    pub fn overlaps(&self, start_key: &[u8], end_key: &[u8]) -> bool {
        (self.end_key.is_empty() || self.end_key > start_key)
            && (end_key.is_empty() || self.start_key < end_key)
    }

    /// The epoch's `version`, which counts changes of the key range. A missing epoch counts as 0, older than any other.
    pub fn version(&self) -> u64 {
        self.epoch.unwrap_or_default().version
    }

    /// The region's epoch; a missing one is the oldest.
    pub fn epoch_or_default(&self) -> RegionEpoch {
        self.epoch.unwrap_or_default()
    }
}

impl RegionEpoch {
    /// Compares by `version`, then by `conf_version`: of two descriptions of one region, the greater one is newer.
    pub fn compare(&self, other: &RegionEpoch) -> Ordering {
        (self.version, self.conf_version).cmp(&(other.version, other.conf_version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(start_key: &'static str, end_key: &'static str) -> Region {
        Region {
            start_key: start_key.into(),
            end_key: end_key.into(),
            ..Region::default()
        }
    }

    #[test]
    fn bounds_are_half_open_and_an_empty_end_is_unbounded() {
        let bounded = region("b", "d");
        assert!(!bounded.contains(b"a"));
        assert!(bounded.contains(b"b"));
        assert!(bounded.contains(b"c\xff"));
        assert!(!bounded.contains(b"d"));

        let everything = region("", "");
        assert!(everything.contains(b""));
        assert!(everything.contains(&[0xff; 9]));
    }

    #[test]
    fn a_range_is_contained_only_as_a_whole() {
        let bounded = region("b", "d");
        assert!(bounded.contains_range(b"b", b"d"));
        assert!(!bounded.contains_range(b"a", b"c"));
        assert!(!bounded.contains_range(b"c", b"e"));
        assert!(
            !bounded.contains_range(b"c", b""),
            "no end is above every end"
        );
        assert!(region("b", "").contains_range(b"c", b""));
    }

    #[test]
    fn ranges_that_only_touch_do_not_overlap() {
        let bounded = region("b", "d");
        assert!(bounded.overlaps(b"", b""));
        assert!(bounded.overlaps(b"c", b""));
        assert!(!bounded.overlaps(b"d", b""));
        assert!(!bounded.overlaps(b"", b"b"));
        assert!(bounded.overlaps(b"", b"b\0"));
    }

    #[test]
    fn epochs_compare_by_version_first() {
        let epoch = |conf_version, version| RegionEpoch {
            conf_version,
            version,
        };
        assert_eq!(epoch(9, 1).compare(&epoch(1, 2)), Ordering::Less);
        assert_eq!(epoch(2, 2).compare(&epoch(1, 2)), Ordering::Greater);
        assert_eq!(epoch(1, 2).compare(&epoch(1, 2)), Ordering::Equal);
    }
}
