//! Which region holds a key, and which store leads it, as far as this client has heard.
//!
//! Invariants:
//! - The cached regions do not overlap.
//! - A newer description of a range is never replaced by an older one.
//! - The address of a store is the one that the placement driver named last.
//!
//! The cache may be wrong. Every request carries what it believes, and the store that gets it answers with what is true. A
//! route over which a call got nowhere becomes suspect, so that the placement driver is asked about it once.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use rdb_proto::metapb::{Region, Store};

/// A region, the store that leads it, and how far to trust that.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Route {
    pub(crate) region: Region,
    pub(crate) leader: Leader,
    /// Set: the placement driver is to be asked before the route is used again, if it answers.
    pub(super) suspicion: Option<Suspicion>,
}

/// Why a route may be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// A call over it got nowhere.
    NotServed,
    /// The process at the leader's address belongs to another cluster.
    Foreign { cluster_id: u64 },
}

/// What is needed to reach a store and be sure that it is the right one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) store_id: u64,
    pub(crate) address: String,
}

impl From<Store> for Leader {
    fn from(store: Store) -> Self {
        Self {
            store_id: store.id,
            address: store.address,
        }
    }
}

impl Route {
    pub(crate) fn new(region: Region, leader: Leader) -> Self {
        Self {
            region,
            leader,
            suspicion: None,
        }
    }

    /// The region and where it is, for error messages.
    pub(crate) fn place(&self) -> String {
        let Leader { store_id, address } = &self.leader;
        format!("region {} on store {store_id} at {address}", self.region.id)
    }
}

/// Routes by their region's start key.
#[derive(Debug, Default)]
pub(crate) struct RegionCache {
    routes: BTreeMap<Bytes, Arc<Route>>,
}

impl RegionCache {
    /// The route whose region holds `key`.
    pub(crate) fn locate(&self, key: &[u8]) -> Option<&Arc<Route>> {
        let (_, route) = self.last_at_or_below(key)?;
        route.region.contains(key).then_some(route)
    }

    /// Where the hole begins that `key` lies in: the range around it without a route that can be trusted.
    pub(super) fn hole(&self, key: &[u8]) -> Bytes {
        match self.last_at_or_below(key) {
            Some((start_key, route)) if route.region.contains(key) => start_key.clone(),
            Some((_, below)) => below.region.end_key.clone(),
            None => Bytes::new(),
        }
    }

    fn last_at_or_below(&self, key: &[u8]) -> Option<(&Bytes, &Arc<Route>)> {
        let at_or_below = (Bound::Unbounded, Bound::Included(key));
        self.routes.range::<[u8], _>(at_or_below).next_back()
    }

    /// Takes in a route and drops those it overlaps. False: something newer is known of its range, and stays.
    pub(crate) fn insert(&mut self, route: Arc<Route>) -> bool {
        let overlapping = self.overlapping(&route.region);
        let newer = |start_key: &Bytes| {
            self.routes
                .get(start_key)
                .is_some_and(|known| is_newer(&known.region, &route.region))
        };
        if overlapping.iter().any(newer) {
            return false;
        }
        for start_key in overlapping {
            self.routes.remove(&start_key);
        }
        self.routes.insert(route.region.start_key.clone(), route);
        true
    }

    /// Takes in what the placement driver says. The epoch decides about the shape of regions and about who leads them; where
    /// a store listens has nothing to do with epochs, so the newest answer has the address.
    pub(super) fn learn(&mut self, route: &Arc<Route>) {
        if self.insert(Arc::clone(route)) {
            return;
        }
        for start_key in self.overlapping(&route.region) {
            let known = self.routes.get_mut(&start_key);
            let Leader { store_id, address } = &route.leader;
            let is_moved = |known: &&mut Arc<Route>| {
                known.leader.store_id == *store_id && known.leader.address != *address
            };
            if let Some(known) = known.filter(is_moved) {
                let known = Arc::make_mut(known);
                known.leader.address.clone_from(address);
                known.suspicion = None;
            }
        }
    }

    /// Another store leads the region that `used` names. False: the cache has moved on since, or knew already.
    pub(crate) fn set_leader(&mut self, used: &Route, leader: Leader) -> bool {
        match self.entry(used) {
            Some(route) if route.leader != leader => {
                route.leader = leader;
                route.suspicion = None;
                true
            }
            _ => false,
        }
    }

    /// A call got nowhere over `used`. What has been learned since it was looked up stays.
    pub(super) fn suspect(&mut self, used: &Route, suspicion: Suspicion) {
        if let Some(route) = self.unchanged(used) {
            route.suspicion = Some(suspicion);
        }
    }

    /// `used` is the best that is known, although nobody confirms it. A call that gets nowhere makes it suspect again.
    pub(super) fn trust(&mut self, used: &Route) {
        if let Some(route) = self.unchanged(used) {
            route.suspicion = None;
        }
    }

    /// The leader of `used` has no such region. What has been learned since it was looked up stays.
    pub(crate) fn remove(&mut self, used: &Route) {
        if self.unchanged(used).is_some() {
            self.routes.remove(&used.region.start_key);
        }
    }

    /// The entry that `used` was looked up from, if it still describes the same region with the same leader.
    fn unchanged(&mut self, used: &Route) -> Option<&mut Route> {
        self.entry(used).filter(|route| route.leader == used.leader)
    }

    /// The entry that `used` was looked up from, if it still describes the same region at the same epoch.
    fn entry(&mut self, used: &Route) -> Option<&mut Route> {
        let route = self.routes.get_mut(&used.region.start_key)?;
        let same = route.region.id == used.region.id && route.region.epoch == used.region.epoch;
        same.then(|| Arc::make_mut(route))
    }

    /// Start keys of the cached regions that share a key with `region`.
    fn overlapping(&self, region: &Region) -> Vec<Bytes> {
        let shares_a_key = |(_, known): &(&Bytes, &Arc<Route>)| {
            known.region.overlaps(&region.start_key, &region.end_key)
        };
        let start_key: &[u8] = &region.start_key;
        // Cached regions do not overlap each other, so only the last one that starts below can reach into this one.
        let mut below = self
            .routes
            .range::<[u8], _>((Bound::Unbounded, Bound::Excluded(start_key)));
        let from = self
            .routes
            .range::<[u8], _>((Bound::Included(start_key), Bound::Unbounded));
        below
            .next_back()
            .filter(shares_a_key)
            .into_iter()
            .chain(from.take_while(shares_a_key))
            .map(|(start_key, _)| start_key.clone())
            .collect()
    }
}

/// Whether `known` is a newer description of its range than `offered`. Of two regions that overlap, the one that came of a
/// split or merge of the other has the greater version; peers are comparable within one region only.
fn is_newer(known: &Region, offered: &Region) -> bool {
    if known.id == offered.id {
        let order = known
            .epoch_or_default()
            .compare(&offered.epoch_or_default());
        return order == Ordering::Greater;
    }
    known.version() > offered.version()
}

#[cfg(test)]
mod tests;
