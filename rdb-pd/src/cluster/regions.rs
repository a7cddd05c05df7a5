//! Which stores hold which key range.

use std::ops::Bound;
use std::time::Instant;

use bytes::Bytes;
use rdb_proto::findings::first_region_waits;
use rdb_proto::metapb::{Peer, Region, RegionEpoch, RegionRoute};

use super::state::{Change, KnownRegion, KnownStore, State};
use crate::keys::Counters;

impl State {
    /// The first region, if there is none yet and there are enough stores for it: the one that asks, which has kept its id, and others
    /// that have kept theirs and are up. A silent store may never come back, and the region would lack a replica. A leaving store gets no
    /// replica, and a store that takes no replicas gets only a sole one. If any store has replicas or is unknown here, the cluster has had
    /// its first region, and only this data directory lacks it.
    pub(super) fn decide_first_region(&self, store_id: u64, now: Instant) -> Vec<Change> {
        if !self.regions.is_empty() || self.is_behind(now) {
            return Vec::new();
        }
        let replicas = self.settings.initial_replicas;
        let store = self.stores.get(&store_id);
        if store.is_some_and(|store| !self.is_fit_for_first_region(store)) {
            return Vec::new();
        }
        let others = self.ready_for_first_region(now);
        let others = others.filter(|&other| other != store_id);
        let mut store_ids = vec![store_id];
        store_ids.extend(others.take(replicas.saturating_sub(1)));
        if store_ids.len() < replicas {
            return Vec::new();
        }
        store_ids.sort_unstable();
        let mut counters = self.counters;
        let region = first_region(&store_ids, &mut counters);
        vec![Change::Region(region), Change::Counters(counters)]
    }

    fn is_fit_for_first_region(&self, store: &KnownStore) -> bool {
        let takes_it = self.settings.initial_replicas == 1 || store.may_take_replicas();
        !store.record.is_leaving && !store.has_replicas && takes_it
    }

    /// The ids of the stores that the first region could be on.
    fn ready_for_first_region(&self, now: Instant) -> impl Iterator<Item = u64> {
        let up = self.confirmed().filter(move |store| store.is_up(now));
        let ready = up.filter(move |store| self.is_fit_for_first_region(store));
        ready.map(|store| store.record.id)
    }

    /// How many stores the first region waits for. 0: there is a region, or it is about to be made.
    pub(super) fn stores_missing(&self, now: Instant) -> usize {
        if !self.regions.is_empty() {
            return 0;
        }
        let ready = self.ready_for_first_region(now).count();
        self.settings.initial_replicas.saturating_sub(ready)
    }

    /// Why no region holds a key.
    pub(super) fn no_region(&self, now: Instant) -> String {
        if !self.regions.is_empty() {
            return "no region that is known here holds the key".to_owned();
        }
        if self.confirmed().next().is_none() {
            return "no store has registered yet".to_owned();
        }
        if self.is_behind(now) {
            return "the data directory of the placement driver has no region, and looks older than the cluster"
                .to_owned();
        }
        match self.stores_missing(now) {
            0 => "the first region is about to be made".to_owned(),
            missing => first_region_waits(missing, self.settings.initial_replicas),
        }
    }

    /// What is worth a warning at a start: replicas go.
    pub(super) fn advice(&self) -> Option<String> {
        let replicas = self.settings.replicas;
        let has_more = |known: &&KnownRegion| {
            let voters = known.region.peers.iter().filter(|peer| !peer.learner);
            voters.count() > replicas
        };
        let count = self.regions.values().filter(has_more).count();
        (count > 0).then(|| {
            format!(
                "--replicas is {replicas}; of the {} regions {count} have more replicas, and lose the others now",
                self.regions.len()
            )
        })
    }

    /// The regions with a peer on a store.
    pub(super) fn regions_of(&self, store_id: u64) -> Vec<Region> {
        let here = |region: &&Region| region.peers.iter().any(|peer| peer.store_id == store_id);
        let regions = self.regions.values().map(|known| &known.region);
        regions.filter(here).cloned().collect()
    }

    /// The region that holds `key`, with the stores of its peers.
    pub(super) fn route(&self, key: &[u8], now: Instant) -> Option<RegionRoute> {
        self.holder(key).map(|known| self.route_of(known, now))
    }

    /// Up to `limit` regions in key order that share a key with `[start_key, end_key)`.
    pub(super) fn routes(
        &self,
        start_key: &[u8],
        end_key: &[u8],
        limit: usize,
        now: Instant,
    ) -> Vec<RegionRoute> {
        let above = (Bound::Excluded(start_key), Bound::Unbounded);
        let others = self.regions.range::<[u8], _>(above);
        let below_end = others
            .take_while(|(start_key, _)| end_key.is_empty() || **start_key < end_key)
            .map(|(_, known)| known);
        let regions = self
            .holder(start_key)
            .into_iter()
            .chain(below_end)
            .take(limit);
        regions.map(|known| self.route_of(known, now)).collect()
    }

    fn holder(&self, key: &[u8]) -> Option<&KnownRegion> {
        let up_to_key = (Bound::Unbounded, Bound::Included(key));
        let (_, known) = self.regions.range::<[u8], _>(up_to_key).next_back()?;
        known.region.contains(key).then_some(known)
    }

    fn route_of(&self, known: &KnownRegion, now: Instant) -> RegionRoute {
        let store_of = |peer: &Peer| {
            let store = self.stores.get(&peer.store_id)?;
            (!store.record.has_left).then(|| self.to_wire(store, now))
        };
        let leader = known.leader();
        let leader = leader.and_then(|(peer, term)| Some((store_of(peer)?, term)));
        let (leader, term) = leader.unzip();
        RegionRoute {
            region: Some(known.region.clone()),
            leader,
            peers: known.region.peers.iter().filter_map(store_of).collect(),
            term: term.unwrap_or_default(),
            absent_peers: self
                .absent(known, now)
                .iter()
                .map(|absent| absent.peer_id)
                .collect(),
            bytes: known.bytes,
        }
    }
}

/// The region that covers every key, with one peer on each store.
fn first_region(store_ids: &[u64], counters: &mut Counters) -> Region {
    counters.region_id += 1;
    let peers = store_ids.iter().map(|&store_id| {
        counters.peer_id += 1;
        Peer {
            id: counters.peer_id,
            store_id,
            learner: false,
        }
    });
    Region {
        id: counters.region_id,
        start_key: Bytes::new(),
        end_key: Bytes::new(),
        epoch: Some(RegionEpoch {
            conf_version: 1,
            version: 1,
        }),
        peers: peers.collect(),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::DISCONNECTED_AFTER;
    use super::super::scene::{Scene, fresh, start_of};
    use super::*;

    fn state() -> State {
        let mut state = State::new(9, Instant::now());
        for (id, start_key, end_key) in [(1, "", "d"), (2, "d", "m"), (3, "m", "")] {
            state.apply(Change::Region(Region {
                id,
                start_key: start_key.into(),
                end_key: end_key.into(),
                ..Region::default()
            }));
        }
        state
    }

    fn ids(routes: impl IntoIterator<Item = RegionRoute>) -> Vec<u64> {
        routes
            .into_iter()
            .map(|route| route.region.unwrap().id)
            .collect()
    }

    #[test]
    fn a_key_has_the_region_that_holds_it() {
        let (state, now) = (state(), Instant::now());
        for (key, id) in [("", 1), ("c", 1), ("d", 2), ("lzz", 2), ("m", 3), ("zz", 3)] {
            assert_eq!(ids(state.route(key.as_bytes(), now)), [id], "{key}");
        }
        assert_eq!(State::new(9, now).route(b"a", now), None);
    }

    #[test]
    fn a_key_that_no_known_region_holds_waits_for_no_first_region() {
        let mut state = State::new(9, Instant::now());
        state.apply(Change::Region(Region {
            id: 1,
            start_key: "d".into(),
            ..Region::default()
        }));
        let cause = state.no_region(Instant::now());
        assert_eq!(cause, "no region that is known here holds the key");
    }

    #[test]
    fn regions_of_a_range_come_in_key_order_up_to_the_limit() {
        let (state, now) = (state(), Instant::now());
        assert_eq!(ids(state.routes(b"", b"", 10, now)), [1, 2, 3]);
        assert_eq!(ids(state.routes(b"e", b"", 10, now)), [2, 3]);
        assert_eq!(ids(state.routes(b"d", b"m", 10, now)), [2]);
        assert_eq!(ids(state.routes(b"c", b"d\0", 10, now)), [1, 2]);
        assert_eq!(ids(state.routes(b"", b"", 2, now)), [1, 2]);
    }

    /// Ids of the stores that have a peer of the first region, in the order of the peers.
    fn replicas(scene: &Scene) -> Vec<u64> {
        let first = scene.state.regions.get(&b""[..]);
        let peers = first.map_or(&[][..], |known| &known.region.peers);
        peers.iter().map(|peer| peer.store_id).collect()
    }

    #[test]
    fn the_record_of_a_region_with_one_peer_keeps_its_bytes() {
        let mut counters = Counters::default();
        let region = first_region(&[1], &mut counters);
        assert_eq!(
            region.encode_to_vec(),
            b"\x08\x01\x22\x04\x08\x01\x10\x01\x2a\x04\x08\x01\x10\x01"
        );
        let after = Counters {
            store_id: 0,
            region_id: 1,
            peer_id: 1,
        };
        assert_eq!(counters, after);
    }

    #[test]
    fn a_start_with_fewer_replicas_than_regions_have_is_warned_about() {
        let mut scene = Scene::with_three_replicas();
        assert_eq!(scene.state.advice(), None);
        scene.state.settings.replicas = 1;
        let advice = scene.state.advice().unwrap();
        assert!(
            advice.contains("--replicas is 1; of the 1 regions 1 have more"),
            "{advice}"
        );
    }

    #[test]
    fn the_first_region_waits_for_all_its_stores_and_is_one_write() {
        let mut scene = Scene::empty();
        scene.state.settings.initial_replicas = 3;
        for _ in 0..2 {
            let id = scene.add_store();
            scene.beat_without_region(id);
        }
        assert!(scene.state.regions.is_empty());
        assert!(scene.state.route(b"k", scene.now).is_none());
        scene.register(&fresh("c:1", 9)).unwrap();
        assert!(scene.state.regions.is_empty(), "it may not keep its id");
        let kept = start_of(3, "c:1", 9, 9);
        let decided = scene.state.decide_registration(&kept, scene.now);
        let (_, changes) = decided.unwrap();
        let [
            Change::Region(region),
            Change::Counters(counters),
            Change::Store(_),
        ] = &changes[..]
        else {
            panic!("{changes:?}");
        };
        let peers = [1, 2, 3].map(|id| Peer {
            id,
            store_id: id,
            learner: false,
        });
        assert_eq!((region.id, &region.peers[..]), (1, &peers[..]));
        assert_eq!((counters.region_id, counters.peer_id), (1, 3));

        scene.register(&kept).unwrap();
        let fourth = scene.add_store();
        assert!(scene.state.regions_of(fourth).is_empty());
        for store_id in 1..=3 {
            assert_eq!(
                scene.state.regions_of(store_id),
                std::slice::from_ref(region)
            );
        }
        let route = scene.state.route(b"k", scene.now).unwrap();
        assert_eq!((route.leader, route.term), (None, 0), "nobody has reported");
        let addresses = route.peers.iter().map(|store| store.address.as_str());
        assert_eq!(
            addresses.collect::<Vec<_>>(),
            ["store-1:1", "store-2:1", "c:1"]
        );
    }

    #[test]
    fn after_a_restart_the_first_region_waits_until_its_stores_are_heard_of() {
        let mut scene = Scene::empty();
        scene.state.settings.initial_replicas = 3;
        scene.add_store();
        scene.add_store();
        scene.restart();
        scene.add_store();
        assert!(scene.state.regions.is_empty());
        scene.beat_without_region(2);
        assert!(scene.state.regions.is_empty());
        assert_eq!(scene.report(1, &[]), 0);
        assert!(scene.state.regions.is_empty(), "it does not ask");
        scene.beat_without_region(1);
        assert_eq!(replicas(&scene), [1, 2, 3]);
        scene.restart();
        assert_eq!(replicas(&scene), [1, 2, 3]);
    }

    #[test]
    fn a_store_that_has_fallen_silent_gets_no_replica() {
        let mut scene = Scene::empty();
        scene.state.settings.initial_replicas = 2;
        scene.add_store();
        scene.pass(DISCONNECTED_AFTER);
        scene.add_store();
        assert!(scene.state.regions.is_empty());
        scene.add_store();
        assert_eq!(replicas(&scene), [2, 3]);
        scene.beat_without_region(1);
        assert_eq!(replicas(&scene), [2, 3]);
    }

    #[test]
    fn a_store_that_has_replicas_or_only_registers_again_gets_no_part_of_the_first_region() {
        let mut scene = Scene::empty();
        scene.state.settings.initial_replicas = 2;
        scene.add_store();
        // They wait for their first state, so it neither leads nor holds them.
        scene.beat_counting(1, 1);
        scene.add_store();
        scene.add_store();
        assert!(scene.state.regions.is_empty(), "the cluster has had one");
        scene.state.stores.get_mut(&1).unwrap().has_replicas = false;
        scene.register(&start_of(1, "store-1:1", 1, 1)).unwrap();
        assert!(scene.state.regions.is_empty());
        scene.beat_without_region(1);
        assert_eq!(replicas(&scene), [1, 2]);
    }

    #[test]
    fn a_store_that_waits_gets_the_first_region_when_fewer_are_asked_for() {
        let mut scene = Scene::empty();
        scene.state.settings.initial_replicas = 3;
        scene.add_store();
        let unkept = scene.register(&fresh("b:1", 9)).unwrap();
        scene.state.settings.initial_replicas = 1;
        scene.restart();
        scene.beat_without_region(unkept);
        assert!(scene.state.regions.is_empty(), "it may not keep its id");
        scene.beat_without_region(1);
        assert_eq!(replicas(&scene), [1]);
    }
}
