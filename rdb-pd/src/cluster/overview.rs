//! The cluster as its page shows it. Keys are no part of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdb_proto::findings::{Lead, RegionTrouble};
use rdb_proto::metapb::{Peer, Store, StoreLoad};

use super::state::{KnownRegion, State};
use super::steps::Liveness;

/// All stores and regions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overview {
    /// In the order of their ids.
    pub(crate) stores: Vec<ShownStore>,
    /// In the order of their keys.
    pub(crate) regions: Vec<ShownRegion>,
}

/// A store.
#[derive(Debug, Clone)]
pub(crate) struct ShownStore {
    pub(crate) store: Store,
    /// How many regions have a replica on it.
    pub(crate) region_count: usize,
    /// How many of them it leads.
    pub(crate) leads_count: usize,
}

/// A region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShownRegion {
    pub(crate) id: u64,
    /// The store that leads it, as far as is known.
    pub(crate) leader: Option<u64>,
    pub(crate) trouble: Option<RegionTrouble>,
    /// About how many bytes of table files it takes on one store, if a leader has said so.
    pub(crate) bytes: Option<u64>,
}

/// What all stores that are up do together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct ClusterLoad {
    pub(crate) reads_per_s: f64,
    pub(crate) writes_per_s: f64,
    /// That of the store where it is highest.
    pub(crate) read_p99: Option<Duration>,
    /// The same of writes.
    pub(crate) write_p99: Option<Duration>,
    pub(crate) write_queue_bytes: u64,
}

/// How often something happens in a second, of a load.
pub(crate) fn per_s(load: &StoreLoad, count: u64) -> f64 {
    count as f64 * 1e3 / load.window_ms.max(1) as f64
}

impl State {
    pub(super) fn overview(&self, now: Instant) -> Overview {
        let mut counts: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
        let mut regions = Vec::with_capacity(self.regions.len());
        for known in self.regions.values() {
            for peer in &known.region.peers {
                counts.entry(peer.store_id).or_default().0 += 1;
            }
            let shown = self.shown_region(known, now);
            if let Some(leader) = shown.leader {
                counts.entry(leader).or_default().1 += 1;
            }
            regions.push(shown);
        }
        let stores = self.confirmed().map(|known| {
            let store = self.with_load(known, now);
            let (region_count, leads_count) = counts.get(&store.id).copied().unwrap_or_default();
            ShownStore {
                store,
                region_count,
                leads_count,
            }
        });
        Overview {
            stores: stores.collect(),
            regions,
        }
    }

    /// `None`: no store has told what it does.
    pub(super) fn load(&self, now: Instant) -> Option<ClusterLoad> {
        let up = self.confirmed().filter(|store| store.is_up(now));
        let mut loads = up.filter_map(|store| store.load).peekable();
        loads.peek()?;
        let mut all = ClusterLoad::default();
        for load in loads {
            all.reads_per_s += per_s(&load, load.reads);
            all.writes_per_s += per_s(&load, load.writes);
            let highest =
                |one: Option<Duration>, us: Option<u64>| one.max(us.map(Duration::from_micros));
            all.read_p99 = highest(all.read_p99, load.read_p99_us);
            all.write_p99 = highest(all.write_p99, load.write_p99_us);
            all.write_queue_bytes = all.write_queue_bytes.saturating_add(load.write_queue_bytes);
        }
        Some(all)
    }

    fn shown_region(&self, known: &KnownRegion, now: Instant) -> ShownRegion {
        let absent = self.absent(known, now);
        let is_absent = |peer: &Peer| absent.iter().any(|absent| absent.peer_id == peer.id);
        let voters = known.region.peers.iter().filter(|peer| !peer.learner);
        let count = voters.clone().count();
        let alive = voters.filter(|peer| !is_absent(peer) && self.may_live(peer.store_id, now));
        let leader = known.leader().map(|(peer, _)| peer.store_id);
        let lead = match leader {
            None => Lead::Unknown,
            Some(store_id) if self.may_live(store_id, now) => Lead::Answers,
            Some(_) => Lead::Silent,
        };
        ShownRegion {
            id: known.region.id,
            leader,
            trouble: RegionTrouble::of(count, alive.count(), lead),
            bytes: known.bytes,
        }
    }

    /// Whether a store is up, or was not listened for long enough to tell.
    fn may_live(&self, store_id: u64, now: Instant) -> bool {
        let store = self.stores.get(&store_id);
        let liveness = store.map(|store| self.liveness(store, now));
        matches!(liveness, Some(Liveness::Up | Liveness::Unheard))
    }
}

#[cfg(test)]
mod tests {
    use rdb_proto::metapb::RegionEpoch;

    use super::super::scene::Scene;
    use super::super::{DISCONNECTED_AFTER, Report};
    use super::*;

    fn load(reads: u64) -> StoreLoad {
        StoreLoad {
            window_ms: 2000,
            reads,
            writes: 1,
            read_p99_us: Some(reads),
            ..StoreLoad::default()
        }
    }

    #[test]
    fn a_store_has_its_load_until_it_is_silent() {
        let mut scene = Scene::with_three_replicas();
        assert_eq!(scene.state.load(scene.now), None);
        for store_id in 1..=2 {
            scene.state.note_load(store_id, Some(load(10 * store_id)));
        }
        let all = scene.state.load(scene.now).unwrap();
        assert_eq!((all.reads_per_s, all.writes_per_s), (15.0, 1.0));
        assert_eq!(all.read_p99, Some(Duration::from_micros(20)));
        assert_eq!(all.write_p99, None);
        let stores = scene.state.stores(scene.now);
        let loads = stores.iter().map(|store| store.load.is_some());
        assert_eq!(loads.collect::<Vec<_>>(), [true, true, false]);
        let route = scene.state.route(b"", scene.now).unwrap();
        assert!(route.peers.iter().all(|store| store.load.is_none()));
        scene.pass(DISCONNECTED_AFTER);
        assert_eq!(scene.state.load(scene.now), None);
        let stores = scene.state.stores(scene.now);
        assert!(stores.iter().all(|store| store.load.is_none()));
    }

    #[test]
    fn a_region_is_in_trouble_once_its_stores_are_silent_and_not_before() {
        let mut scene = Scene::with_three_replicas();
        let peers = scene.state.regions[&b""[..]].region.peers.clone();
        let report = Report {
            region_id: 1,
            peer_id: 1,
            term: 5,
            epoch: RegionEpoch {
                conf_version: 1,
                version: 1,
            },
            peers,
            live: None,
            bytes: Some(7),
        };
        assert_eq!(scene.report(1, &[report]), 0);
        let shown = |scene: &Scene| scene.state.overview(scene.now);
        let overview = shown(&scene);
        assert_eq!(overview.regions[0].trouble, None);
        assert_eq!(overview.regions[0].leader, Some(1));
        let counts = overview.stores.iter();
        let counts = counts.map(|shown| (shown.region_count, shown.leads_count));
        assert_eq!(counts.collect::<Vec<_>>(), [(1, 1), (1, 0), (1, 0)]);
        scene.pass(DISCONNECTED_AFTER);
        let trouble = shown(&scene).regions[0].trouble;
        assert_eq!(trouble, Some(RegionTrouble::NoMajority));
        scene.restart();
        let trouble = shown(&scene).regions[0].trouble;
        assert_eq!(trouble, Some(RegionTrouble::UnknownLeader));
    }
}
