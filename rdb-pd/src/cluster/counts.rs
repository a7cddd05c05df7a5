//! How many stores and regions there are, without making their lists.

use std::collections::BTreeSet;
use std::time::Instant;

use rdb_proto::metapb::{Peer, StoreState};

use super::state::{KnownRegion, KnownStore, State};
use super::steps::voters_on;

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
    /// Replicas that a region should have if there are stores for them.
    pub replicas: usize,
    /// Regions with fewer live voters than they should have on the present stores. Also those that get another one just now.
    pub under_replicated: usize,
}

impl ClusterCounts {
    /// The stores, by the name of their state.
    pub fn stores_by_state(&self) -> [(&'static str, usize); 4] {
        [
            ("up", self.up),
            ("disconnected", self.disconnected),
            ("down", self.down),
            ("leaving", self.leaving),
        ]
    }
}

impl State {
    pub(super) fn counts(&self, now: Instant) -> ClusterCounts {
        let mut counts = ClusterCounts {
            regions: self.regions.len(),
            replicas: self.settings.replicas,
            under_replicated: self.under_replicated(now),
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

    fn under_replicated(&self, now: Instant) -> usize {
        let id = |store: &KnownStore| store.record.id;
        let up: BTreeSet<u64> = self
            .confirmed()
            .filter(|store| store.is_up(now))
            .map(id)
            .collect();
        let usable: BTreeSet<u64> = self
            .confirmed()
            .filter(|store| !store.record.is_leaving && store.may_take_replicas())
            .map(id)
            .collect();
        let lacks_some = |known: &&KnownRegion| {
            // Its voters are on stores that differ.
            let others = known
                .voters()
                .filter(|peer| !usable.contains(&peer.store_id));
            let wanted = voters_on(usable.len() + others.count(), self.settings.replicas);
            known.live_voters(&up) < wanted
        };
        self.regions.values().filter(lacks_some).count()
    }
}

impl KnownRegion {
    fn voters(&self) -> impl Iterator<Item = &Peer> {
        self.region.peers.iter().filter(|peer| !peer.learner)
    }

    /// How many of its voters live: their store is up, and the leader says nothing else.
    fn live_voters(&self, up: &BTreeSet<u64>) -> usize {
        let live = self.live.as_ref();
        let voters = self.voters().filter(|peer| {
            up.contains(&peer.store_id) && live.is_none_or(|live| live.contains(&peer.id))
        });
        voters.count()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::DISCONNECTED_AFTER;
    use super::super::scene::Scene;

    fn under_replicated(scene: &Scene) -> usize {
        scene.state.counts(scene.now).under_replicated
    }

    #[test]
    fn a_region_lacks_a_replica_for_as_long_as_a_store_of_it_is_silent() {
        let mut scene = Scene::with_three_replicas();
        assert_eq!(under_replicated(&scene), 0);
        scene.pass(DISCONNECTED_AFTER + Duration::from_secs(1));
        for store_id in [1, 2] {
            assert_eq!(scene.report(store_id, &[]), 0);
        }
        let counts = scene.state.counts(scene.now);
        assert_eq!((counts.disconnected, counts.under_replicated), (1, 1));
        assert_eq!(scene.report(3, &[]), 0);
        assert_eq!(under_replicated(&scene), 0);
    }

    #[test]
    fn a_store_that_takes_no_new_replicas_counts_for_the_regions_that_it_holds() {
        let mut scene = Scene::with_three_replicas();
        scene.pass(DISCONNECTED_AFTER + Duration::from_secs(1));
        for store_id in [1, 2] {
            assert_eq!(scene.report(store_id, &[]), 0);
        }
        let leaving = scene.state.stores.get_mut(&3).expect("it is registered");
        leaving.record.is_leaving = true;
        assert_eq!(under_replicated(&scene), 1);
        assert_eq!(scene.report(3, &[]), 0);
        assert_eq!(under_replicated(&scene), 0);
    }

    #[test]
    fn a_region_is_to_have_no_more_replicas_than_there_are_stores_for() {
        let mut scene = Scene::with_original();
        let counts = scene.state.counts(scene.now);
        assert_eq!((counts.regions, counts.replicas), (1, 3));
        assert_eq!(under_replicated(&scene), 0);
        // Two replicas would need both stores.
        scene.add_store();
        assert_eq!(under_replicated(&scene), 0);
        scene.add_store();
        assert_eq!(under_replicated(&scene), 1);
    }
}
