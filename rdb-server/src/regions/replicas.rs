//! Which regions this store has, and the state of each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rdb_proto::metapb::Region;
use rdb_proto::pdpb::{HeldPeer, RegionReport};
use rdb_proto::transport::limits::HELD_PEERS_MAX;
use rdb_raft::group::{Group, GroupState};
use rdb_storage::Storage;

use crate::region::{Description, Proposer, RegionHandle};

/// The peer of a region on this store.
#[derive(Clone)]
pub(super) struct Replica {
    pub(super) peer_id: u64,
    pub(super) group: Group,
    pub(super) description: Arc<Description>,
    pub(super) proposer: Arc<Proposer>,
    /// How requests reach the region. `None`: it waits for its first state.
    pub(super) handle: Option<Arc<RegionHandle>>,
}

impl Replica {
    /// How requests reach it from now on.
    pub(super) fn handle_of(&self, region: Region, storage: &Storage) -> Arc<RegionHandle> {
        let (description, proposer) = (Arc::clone(&self.description), Arc::clone(&self.proposer));
        Arc::new(RegionHandle::new(region, description, proposer, storage))
    }
}

/// All of them, by region. A region is in one of the three.
#[derive(Default)]
pub(super) struct Replicas {
    pub(super) open: BTreeMap<u64, Replica>,
    /// Regions on the disk that are not open, as they are reported to the placement driver. Either it is not known which peer this store
    /// has, and the first message to one opens it; or the install of a snapshot cannot be finished.
    pub(super) unopened: BTreeMap<u64, HeldPeer>,
    /// Regions that are leaving this store.
    pub(super) ending: BTreeSet<u64>,
    named: Named,
}

/// The last regions that [`Replicas::held`] has named.
#[derive(Default)]
struct Named {
    /// The last one named of those that nobody leads.
    unled: u64,
    led: u64,
}

type States = BTreeMap<u64, GroupState>;

impl Replicas {
    pub(super) fn count(&self) -> usize {
        self.open.len() + self.unopened.len() + self.ending.len()
    }

    pub(super) fn has(&self, region_id: u64) -> bool {
        self.open.contains_key(&region_id)
            || self.unopened.contains_key(&region_id)
            || self.ending.contains(&region_id)
    }

    /// How many wait for their first state.
    pub(super) fn waiting(&self) -> usize {
        let open = self.open.values();
        open.filter(|replica| replica.handle.is_none()).count()
    }

    /// Those that requests can reach.
    pub(super) fn handles(&self) -> impl Iterator<Item = (u64, Arc<RegionHandle>)> {
        let open = self.open.iter();
        open.filter_map(|(&id, replica)| Some((id, Arc::clone(replica.handle.as_ref()?))))
    }

    /// The ids of the regions that this store leads.
    pub(super) fn led(&self, states: &States) -> Vec<u64> {
        let led = self.open.iter().filter(|(id, replica)| {
            let leadership = replica.proposer.leadership();
            leadership.term_led(states.get(id)).is_some()
        });
        led.map(|(&id, _)| id).collect()
    }

    /// The regions that this store leads.
    pub(super) fn leads(&self, states: &States) -> Vec<RegionReport> {
        let open = self.open.iter();
        let leads =
            open.filter_map(|(id, replica)| replica.proposer.leadership().report(states.get(id)));
        leads.collect()
    }

    /// A few of the replicas that this store does not lead, first those that nobody leads as far as it can tell, since replicas that are
    /// no longer members are among them. Successive calls go through all of them, and through the others if there is room. Replicas that
    /// wait for their first state are left out.
    pub(super) fn held(&mut self, states: &States) -> Vec<HeldPeer> {
        let open = self.open.iter().filter_map(|(&region_id, replica)| {
            let described = replica.description.get()?;
            let leadership = replica.proposer.leadership();
            if leadership.term_led(states.get(&region_id)).is_some() {
                return None;
            }
            let held = HeldPeer {
                region_id,
                peer_id: replica.peer_id,
                conf_version: described.region.conf_version,
            };
            Some((held, replica.group.is_led()))
        });
        let unopened = self.unopened.values().map(|&held| (held, false));
        self.named.next(open.chain(unopened).collect())
    }

    /// Replicas that wait for their first state and have heard nothing for `patience`.
    pub(super) fn silent(&self, patience: Duration) -> Vec<u64> {
        let open = self.open.iter().filter(|(_, replica)| {
            let is_silent = replica.group.silent_for() >= patience;
            replica.handle.is_none() && is_silent
        });
        open.map(|(&region_id, _)| region_id).collect()
    }
}

impl Named {
    /// The next ones, of replicas each with whether somebody leads it.
    fn next(&mut self, held: Vec<(HeldPeer, bool)>) -> Vec<HeldPeer> {
        let (led, unled): (Vec<_>, Vec<_>) = held.into_iter().partition(|(_, is_led)| *is_led);
        let mut named = turn(unled, &mut self.unled, HELD_PEERS_MAX);
        let room = HELD_PEERS_MAX - named.len();
        named.extend(turn(led, &mut self.led, room));
        named
    }
}

/// Those after the one that was named last, and then from the beginning.
fn turn(held: Vec<(HeldPeer, bool)>, named: &mut u64, count_max: usize) -> Vec<HeldPeer> {
    let mut held: Vec<_> = held.into_iter().map(|(held, _)| held).collect();
    held.sort_unstable_by_key(|held| (held.region_id <= *named, held.region_id));
    held.truncate(count_max);
    *named = held.last().map_or(*named, |last| last.region_id);
    held
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;

    use super::*;

    /// Replicas with these ids, and whether somebody leads them.
    fn held(ids: RangeInclusive<u64>, is_led: bool) -> Vec<(HeldPeer, bool)> {
        let held = ids.map(|region_id| {
            let held = HeldPeer {
                region_id,
                peer_id: 9,
                conf_version: 1,
            };
            (held, is_led)
        });
        held.collect()
    }

    fn ids(named: &[HeldPeer]) -> Vec<u64> {
        named.iter().map(|held| held.region_id).collect()
    }

    #[test]
    fn all_replicas_are_named_by_turns() {
        for is_led in [false, true] {
            let mut named = Named::default();
            let mut all = BTreeSet::new();
            for _ in 0..3 {
                let turn = named.next(held(1..=20, is_led));
                assert_eq!(turn.len(), HELD_PEERS_MAX);
                all.extend(ids(&turn));
            }
            assert_eq!(all.len(), 20);
            let mut after_two = Named { unled: 2, led: 2 };
            assert_eq!(ids(&after_two.next(held(1..=3, is_led))), [3, 1, 2]);
            assert!(named.next(Vec::new()).is_empty());
        }
    }

    /// With thousands of regions, one that was removed would else wait for its turn for an hour, and keep its store unhealthy.
    #[test]
    fn a_replica_that_nobody_leads_is_named_at_once() {
        let mut named = Named::default();
        let mut all = BTreeSet::new();
        for _ in 0..1_000 {
            let replicas = [held(1..=4_999, true), held(5_000..=5_000, false)];
            let turn = ids(&named.next(replicas.concat()));
            assert_eq!((turn.len(), turn[0]), (HELD_PEERS_MAX, 5_000));
            all.extend(turn);
        }
        assert_eq!(all.len(), 5_000);
    }
}
