//! Which store serves which key range.

use std::ops::Bound;
use std::time::Instant;

use bytes::Bytes;
use rdb_proto::metapb::{Peer, Region, RegionEpoch, RegionRoute};

use super::state::State;
use crate::keys::Counters;

impl State {
    /// The region that covers every key, on the first store that has kept its id.
    pub(super) fn first_region(&self, store_id: u64, counters: &mut Counters) -> Region {
        counters.region_id += 1;
        counters.peer_id += 1;
        Region {
            id: counters.region_id,
            start_key: Bytes::new(),
            end_key: Bytes::new(),
            epoch: Some(RegionEpoch {
                conf_version: 1,
                version: 1,
            }),
            peers: vec![Peer {
                id: counters.peer_id,
                store_id,
            }],
        }
    }

    /// The regions with a peer on a store.
    pub(super) fn regions_of(&self, store_id: u64) -> Vec<Region> {
        let here = |region: &&Region| region.peers.iter().any(|peer| peer.store_id == store_id);
        self.regions.values().filter(here).cloned().collect()
    }

    /// The region that holds `key`, with the store that serves it.
    pub(super) fn route(&self, key: &[u8], now: Instant) -> Option<RegionRoute> {
        self.holder(key).map(|region| self.route_of(region, now))
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
        let others = self
            .regions
            .range::<[u8], _>(above)
            .map(|(_, region)| region);
        let below_end =
            others.take_while(|region| end_key.is_empty() || region.start_key < end_key);
        let regions = self
            .holder(start_key)
            .into_iter()
            .chain(below_end)
            .take(limit);
        regions.map(|region| self.route_of(region, now)).collect()
    }

    fn holder(&self, key: &[u8]) -> Option<&Region> {
        let up_to_key = (Bound::Unbounded, Bound::Included(key));
        let (_, region) = self.regions.range::<[u8], _>(up_to_key).next_back()?;
        region.contains(key).then_some(region)
    }

    /// The region with its leader. Until there is replication, a region has one peer, which leads.
    fn route_of(&self, region: &Region, now: Instant) -> RegionRoute {
        let leader = region
            .peers
            .first()
            .and_then(|peer| self.stores.get(&peer.store_id));
        RegionRoute {
            region: Some(region.clone()),
            leader: leader.map(|store| store.to_wire(now)),
            ..RegionRoute::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::Change;
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
    fn regions_of_a_range_come_in_key_order_up_to_the_limit() {
        let (state, now) = (state(), Instant::now());
        assert_eq!(ids(state.routes(b"", b"", 10, now)), [1, 2, 3]);
        assert_eq!(ids(state.routes(b"e", b"", 10, now)), [2, 3]);
        assert_eq!(ids(state.routes(b"d", b"m", 10, now)), [2]);
        assert_eq!(ids(state.routes(b"c", b"d\0", 10, now)), [1, 2]);
        assert_eq!(ids(state.routes(b"", b"", 2, now)), [1, 2]);
    }
}
