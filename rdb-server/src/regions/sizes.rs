//! Estimated sizes, in bytes, of the regions that this store leads, for the placement driver.
//!
//! RocksDB estimates a size from the indexes of its table files, which takes processor time and may take a disk read. So a region's size
//! is asked for at most every [`ASKED_EVERY`], and at most [`ASKED_MAX`] with one heartbeat, the longest unasked first.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often the size of a region is estimated at most.
const ASKED_EVERY: Duration = Duration::from_secs(30);

/// Most sizes that are estimated at a time.
const ASKED_MAX: usize = 64;

/// The sizes that were estimated last, by region.
#[derive(Debug, Default)]
pub(super) struct Sizes(Mutex<BTreeMap<u64, Size>>);

#[derive(Debug, Clone, Copy)]
struct Size {
    /// `None`: it could not be read.
    bytes: Option<u64>,
    at: Instant,
}

impl Sizes {
    /// What was estimated of a region.
    pub(super) fn of(&self, region_id: u64) -> Option<u64> {
        self.known().get(&region_id)?.bytes
    }

    /// Estimates the sizes of the regions that are due. `region_ids` are in ascending order. Forgets all other regions. `estimate`
    /// may block.
    pub(super) fn learn(&self, region_ids: &[u64], estimate: impl Fn(u64) -> Option<u64>) {
        for region_id in self.due(region_ids, Instant::now()) {
            let (bytes, at) = (estimate(region_id), Instant::now());
            self.known().insert(region_id, Size { bytes, at });
        }
    }

    fn due(&self, region_ids: &[u64], now: Instant) -> Vec<u64> {
        let mut known = self.known();
        known.retain(|region_id, _| region_ids.binary_search(region_id).is_ok());
        let asked_at = |region_id: &u64| known.get(region_id).map(|size| size.at);
        let is_due = |region_id: &&u64| {
            asked_at(region_id).is_none_or(|at| now.saturating_duration_since(at) >= ASKED_EVERY)
        };
        let mut due: Vec<_> = region_ids.iter().filter(is_due).copied().collect();
        due.sort_by_key(asked_at);
        due.truncate(ASKED_MAX);
        due
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<u64, Size>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_asked_for_now_and_then_and_few_at_a_time() {
        let sizes = Sizes::default();
        let regions: Vec<_> = (1..=ASKED_MAX as u64 + 2).collect();
        sizes.learn(&regions, |region_id| (region_id != 3).then_some(region_id));
        assert_eq!((sizes.of(1), sizes.of(3)), (Some(1), None));
        let (last_two, now) = (&regions[ASKED_MAX..], Instant::now());
        assert_eq!(sizes.due(&regions, now), last_two);
        // Those that were never asked for come first.
        let later = sizes.due(&regions, now + ASKED_EVERY);
        assert_eq!((later.len(), &later[..2]), (ASKED_MAX, last_two));
        assert_eq!(later[2], 1);
        // One that this store does not lead any more.
        assert!(sizes.due(&[2], now).is_empty());
        assert_eq!((sizes.of(1), sizes.of(2)), (None, Some(2)));
    }
}
