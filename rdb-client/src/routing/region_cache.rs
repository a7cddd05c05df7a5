//! Which region holds a key, and which store leads it, as far as this client has heard.
//!
//! Invariants:
//! - The cached regions do not overlap.
//! - A newer description of a range is never replaced by an older one.
//! - While a region keeps its `version`, the term of its route never goes down. News from a lower term than the route's changes no leader.
//! - The address of a store is the one that the placement driver named last.
//!
//! The cache may be wrong. Every request carries what it believes, and the store that gets it answers with what is true. A
//! route on which a call failed becomes suspect, so that the placement driver is asked about it once.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use rdb_proto::errorpb::RegionLeader;
use rdb_proto::metapb::{Region, Store};

/// A region, the stores of its peers, the one that leads it, and how far to trust that.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Route {
    pub(crate) region: Region,
    /// The store to send requests to. Under [`Suspicion::NoLeader`] it is any of the peers.
    pub(crate) leader: PeerStore,
    /// The stores of all peers. Empty: the placement driver does not say.
    pub(super) peers: Vec<PeerStore>,
    /// The latest term of the region that anybody told. The leader was named in it, or has served since. 0: nobody told.
    pub(super) term: u64,
    /// If set, ask the peers, or the placement driver if there is only one peer, before using the route again.
    pub(super) suspicion: Option<Suspicion>,
    /// The last store that gave no answer to the question who leads, and why. It has given none since.
    pub(super) refusal: Option<(u64, String)>,
}

/// Why a route may be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// A call over it got nowhere.
    NotServed,
    /// Nobody has told who leads the region in the route's term.
    NoLeader,
    /// The leader is a peer that refuses this client before it looks who leads, and nobody says who does. Never in the cache.
    Refuses,
    /// The process at the leader's address belongs to another cluster.
    Foreign { cluster_id: u64 },
}

/// What is needed to reach a store and be sure that it is the right one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerStore {
    pub(crate) store_id: u64,
    pub(crate) address: String,
}

impl From<Store> for PeerStore {
    fn from(store: Store) -> Self {
        Self {
            store_id: store.id,
            address: store.address,
        }
    }
}

impl Route {
    /// A route to a region with only the leader known.
    pub(crate) fn new(region: Region, leader: PeerStore) -> Self {
        Self {
            region,
            leader,
            peers: Vec::new(),
            term: 0,
            suspicion: None,
            refusal: None,
        }
    }

    /// The region and where it is, for error messages.
    pub(crate) fn place(&self) -> String {
        let PeerStore { store_id, address } = &self.leader;
        format!("region {} on store {store_id} at {address}", self.region.id)
    }

    /// The route to `region`, as the leader of this route described it. A region that came out of a split has the same peers,
    /// but its own terms. If nobody said who leads it, this leader is a guess, which its answer will correct.
    pub(super) fn described_anew(&self, region: Region, told: Option<RegionLeader>) -> Self {
        let is_same_group = region.id == self.region.id;
        let known_term = if is_same_group { self.term } else { 0 };
        let told = told.and_then(|told| Some((PeerStore::from(told.leader?), told.term)));
        let (leader, term) = match told {
            // The store that answers may not know its own address.
            Some((leader, term)) if leader.store_id == self.leader.store_id => {
                (self.leader.clone(), term)
            }
            Some(told) if told.1 >= known_term => told,
            _ => (self.leader.clone(), known_term),
        };
        Self {
            region,
            leader,
            term: term.max(known_term),
            suspicion: None,
            peers: self.peers.clone(),
            refusal: None,
        }
    }

    /// Whether another store may lead the region when the leader does not answer.
    pub(crate) fn is_replicated(&self) -> bool {
        self.peers.len() > 1
    }

    /// The same route, once to each store that may lead the region.
    pub(super) fn to_each_peer(&self) -> impl Iterator<Item = Self> + '_ {
        let is_peer = self.peers.contains(&self.leader);
        let leader = (!is_peer).then_some(&self.leader);
        self.peers.iter().chain(leader).map(|peer| Self {
            leader: peer.clone(),
            ..self.clone()
        })
    }

    /// What is known once `offered`, which is not older, has described the same region.
    fn followed_by(&self, offered: &Self) -> Self {
        let is_named = offered.suspicion.is_none();
        let is_taken = match offered.term.cmp(&self.term) {
            Ordering::Greater => true,
            // A region whose other peers or terms nobody tells has only the newest word to go by.
            _ if !offered.is_replicated() && (offered.term == 0 || offered.term == self.term) => {
                true
            }
            Ordering::Less => false,
            Ordering::Equal => match self.suspicion {
                Some(Suspicion::NoLeader) => is_named,
                // There is one leader in a term, and only a peer can say that it serves.
                _ if self.term > 0 => false,
                None => is_named,
                Some(_) => is_named && self.leader != offered.leader,
            },
        };
        if is_taken {
            let term = self.term.max(offered.term);
            return Self {
                term,
                ..offered.clone()
            };
        }
        let mut known = Self {
            region: offered.region.clone(),
            peers: offered.peers.clone(),
            ..self.clone()
        };
        known.readdress(offered);
        known
    }

    /// Takes over addresses from `offered`. A leader that was sought at another address is trusted again.
    pub(super) fn readdress(&mut self, offered: &Self) {
        let address = |known: &PeerStore| {
            let mut named = offered.named_stores();
            named.find(|store| store.store_id == known.store_id && store.address != known.address)
        };
        for peer in &mut self.peers {
            if let Some(moved) = address(peer) {
                peer.address.clone_from(&moved.address);
            }
        }
        if let Some(moved) = address(&self.leader) {
            self.leader.address.clone_from(&moved.address);
            if self.suspicion != Some(Suspicion::NoLeader) {
                self.suspicion = None;
            }
        }
    }

    fn named_stores(&self) -> impl Iterator<Item = &PeerStore> {
        std::iter::once(&self.leader).chain(&self.peers)
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

    /// Takes in a route and drops those it overlaps. False: something newer is known of its range, and stays. While a region
    /// keeps its range, terms decide who leads it.
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
        let start_key = route.region.start_key.clone();
        let route = match self.routes.get(&start_key) {
            Some(known) if has_same_range(&known.region, &route.region) => {
                Arc::new(known.followed_by(&route))
            }
            _ => route,
        };
        for start_key in overlapping {
            self.routes.remove(&start_key);
        }
        self.routes.insert(start_key, route);
        true
    }

    /// Takes in what the placement driver says. The epoch decides about the shape of regions and about who leads them; where
    /// a store listens has nothing to do with epochs, so the newest answer has the address.
    pub(super) fn learn(&mut self, route: &Arc<Route>) {
        if self.insert(Arc::clone(route)) {
            return;
        }
        for start_key in self.overlapping(&route.region) {
            if let Some(known) = self.routes.get_mut(&start_key) {
                Arc::make_mut(known).readdress(route);
            }
        }
    }

    /// A store has named the leader of `term` in answer to a request over `used`. False: that is nothing new, and `used` is
    /// still what the cache holds.
    pub(crate) fn set_leader(&mut self, used: &Route, leader: PeerStore, term: u64) -> bool {
        let Some(route) = self.entry(used) else {
            return true;
        };
        let is_news = match term.cmp(&route.term) {
            Ordering::Greater => true,
            Ordering::Less => false,
            Ordering::Equal => {
                route.leader != leader || route.suspicion == Some(Suspicion::NoLeader)
            }
        };
        if is_news {
            route.leader = leader;
            route.term = term;
            route.suspicion = None;
            route.refusal = None;
        }
        is_news || route.leader != used.leader
    }

    /// The store that `used` leads to does not lead the region and knows no leader in `term`.
    pub(super) fn unset_leader(&mut self, used: &Route, term: u64) {
        match self.entry(used) {
            Some(route) if term > route.term => {
                route.term = term;
                route.suspicion = Some(Suspicion::NoLeader);
            }
            _ => self.suspect(used, Suspicion::NotServed),
        }
    }

    /// The store that `used` leads to serves the region. Only its leader does.
    pub(super) fn confirm(&mut self, used: &Route) {
        if let Some(route) = self.entry(used) {
            route.leader = used.leader.clone();
            route.suspicion = None;
            route.refusal = None;
        }
    }

    /// The store that `used` leads to has answered the question who leads, unless `refusal` says why not.
    pub(super) fn note_answer(&mut self, used: &Route, refusal: Option<String>) {
        let store_id = used.leader.store_id;
        if let Some(route) = self.entry(used) {
            let of_another = route.refusal.take().filter(|(of, _)| *of != store_id);
            route.refusal = refusal.map(|cause| (store_id, cause)).or(of_another);
        }
    }

    /// A call got nowhere over `used`. What has been learned since it was looked up stays.
    pub(super) fn suspect(&mut self, used: &Route, suspicion: Suspicion) {
        let known = self.unchanged(used);
        if let Some(route) = known.filter(|route| route.suspicion != Some(Suspicion::NoLeader)) {
            route.suspicion = Some(suspicion);
        }
    }

    /// `used` is the best that is known, although nobody confirms it. A call that gets nowhere makes it suspect again.
    pub(super) fn trust(&mut self, used: &Route) {
        if let Some(route) = self.unchanged(used) {
            route.suspicion = None;
        }
    }

    /// The leader of `used` has no such region. What has been learned since it was looked up stays. If no leader was known and `used` went
    /// to a guessed peer, its answer says nothing about the others.
    pub(crate) fn remove(&mut self, used: &Route) {
        let known = self.unchanged(used);
        if known.is_some_and(|route| route.suspicion != Some(Suspicion::NoLeader)) {
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

/// Whether both describe one region with one range. Then it is one Raft group, whose terms can be compared.
fn has_same_range(known: &Region, offered: &Region) -> bool {
    known.id == offered.id && known.version() == offered.version()
}

/// Whether `known` is a newer description of its range than `offered`. If two regions overlap, the one that resulted from
/// a split or merge of the other has the greater version; peers are comparable only within one region.
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
