//! How many stores and regions there are, without making their lists.

use std::time::Instant;

use rdb_proto::metapb::StoreState;

use super::state::State;

/// Numbers of stores, by state, and of regions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClusterCounts {
    /// Stores that were heard of lately.
    pub up: usize,
    /// Stores that were not.
    pub disconnected: usize,
    /// Stores whose replicas are being replaced, since they were not heard of for long.
    pub down: usize,
    /// Stores that are being emptied.
    pub leaving: usize,
    /// Regions.
    pub regions: usize,
}

impl State {
    pub(super) fn counts(&self, now: Instant) -> ClusterCounts {
        let mut counts = ClusterCounts {
            regions: self.regions.len(),
            ..ClusterCounts::default()
        };
        for store in self.confirmed() {
            let count = match self.store_state(store, now) {
                StoreState::Up => &mut counts.up,
                StoreState::Down => &mut counts.down,
                StoreState::Leaving => &mut counts.leaving,
                _ => &mut counts.disconnected,
            };
            *count += 1;
        }
        counts
    }
}
