//! Stores that leave: what was asked for, and when it is done.
//!
//! A leaving store gets no replicas, and those that it has are moved, see `steps.rs`. Once no region has a peer on it, it has
//! left. Its record stays, so that its process and copies of its data directory are refused for good. So a store counts as left
//! only after the leaders of all regions have reported to this process, whose data directory may be an older copy.
//!
//! A store may leave if the others can hold as many voters as each region should have. That may be more than the region has now:
//! it may be growing, or a replica may just have been removed.

use std::time::Instant;

use super::impossible::{Impossible, listed};
use super::state::{Change, KnownStore, State};
use super::steps::{Case, Liveness};
use crate::keys::StoreRecord;

impl State {
    /// Has a store leave, or stay after all.
    pub(super) fn decide_leaving(
        &self,
        store_id: u64,
        is_leaving: bool,
        now: Instant,
    ) -> Result<Vec<Change>, Impossible> {
        let store = self.stores.get(&store_id);
        if store.is_some_and(|store| store.record.has_left) {
            return if is_leaving {
                Ok(Vec::new())
            } else {
                Err(Impossible::HasLeft { store_id })
            };
        }
        let record = &self.store_to_change(store_id)?.record;
        if record.is_leaving == is_leaving {
            return Ok(Vec::new());
        }
        if is_leaving {
            self.check_others_suffice(store_id, now)?;
        }
        Ok(vec![Change::Store(StoreRecord {
            is_leaving,
            ..record.clone()
        })])
    }

    /// The leaving stores that no longer have a replica and are not about to get one.
    pub(super) fn decide_departures(&self, now: Instant) -> Vec<Change> {
        let mut regions = self.regions.values();
        if regions.any(|known| known.leadership.is_none()) {
            return Vec::new();
        }
        let leaving = self.confirmed().filter(|store| store.record.is_leaving);
        let free = leaving.filter(|store| {
            let store_id = store.record.id;
            self.region_count(store_id) == 0 && !self.may_be_added_to(store_id, now)
        });
        let left = free.map(|store| {
            Change::Store(StoreRecord {
                has_left: true,
                ..store.record.clone()
            })
        });
        left.collect()
    }

    /// Whether the leader of a region was told so lately to add a peer on a store that it may have done so.
    fn may_be_added_to(&self, store_id: u64, now: Instant) -> bool {
        self.regions.values().any(|known| {
            let mut new_peers = known.new_peers.iter();
            new_peers.any(|peer| peer.store_id == store_id) && !self.is_silent(known.adding_at, now)
        })
    }

    /// How many regions have a peer on a store.
    pub(super) fn region_count(&self, store_id: u64) -> usize {
        let regions = self.regions.values();
        let here = regions.filter(|known| {
            let mut peers = known.region.peers.iter();
            peers.any(|peer| peer.store_id == store_id)
        });
        here.count()
    }

    /// The store, which is one of the cluster.
    pub(super) fn store_to_change(&self, store_id: u64) -> Result<&KnownStore, Impossible> {
        let found = self.confirmed().find(|store| store.record.id == store_id);
        found.ok_or_else(|| Impossible::NoStore {
            store_id,
            present: listed("stores", self.confirmed().map(|store| &store.record.id)),
        })
    }

    /// Checks that other stores can hold the voters of each region that is on this store or on another leaving store, or that has
    /// fewer voters than it can have. A store that was not heard of yet may be one of the others.
    fn check_others_suffice(&self, store_id: u64, now: Instant) -> Result<(), Impossible> {
        let fit = self.confirmed().filter(|store| {
            let record = &store.record;
            record.id != store_id && !record.is_leaving && store.may_take_replicas()
        });
        let known_as = |liveness| {
            let is_so = move |store: &&KnownStore| self.liveness(store, now) == liveness;
            fit.clone().filter(is_so)
        };
        let usable = known_as(Liveness::Up).count();
        let unheard = known_as(Liveness::Unheard).next();
        let surroundings = self.surroundings(now);
        for known in self.regions.values() {
            let peers = &known.region.peers;
            let voters = peers.iter().filter(|peer| !peer.learner).count();
            // What a region does not get for a while counts, too.
            let case = Case {
                given_up: Vec::new(),
                bytes_needed: 0,
                ..self.case(known, &surroundings)
            };
            let needed = case.goal();
            let has_to_move = peers.iter().any(|peer| {
                let store = self.stores.get(&peer.store_id);
                peer.store_id == store_id || store.is_some_and(|store| store.record.is_leaving)
            });
            if needed > usable && (has_to_move || voters < needed) {
                return Err(match unheard {
                    Some(unheard) => Impossible::Unheard {
                        store_id: unheard.record.id,
                    },
                    None => Impossible::TooFewStores {
                        store_id,
                        region_id: known.region.id,
                        needed,
                        usable,
                    },
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
