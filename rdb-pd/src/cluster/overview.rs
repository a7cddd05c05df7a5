//! The cluster as its page shows it, without keys.
//!
//! Looking through a large cluster takes a while. So the lock of the state is released after each [`SLICE_REGIONS`], and heartbeats
//! do not wait for the page. A region that is split meanwhile is shown as before or as after the split.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdb_proto::findings::{Finding, Heartbeats, Lead, RegionTrouble};
use rdb_proto::metapb::{Peer, Store, StoreLoad};

use super::Shared;
use super::state::{KnownRegion, State};
use super::steps::Liveness;

/// How many regions are looked at while others wait for the state.
const SLICE_REGIONS: usize = 256;

/// All stores and regions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overview {
    /// In the order of their ids.
    pub(crate) stores: Vec<ShownStore>,
    /// In the order of their keys.
    pub(crate) regions: Vec<ShownRegion>,
    /// The stores of the voters that do not live, of regions without a majority.
    pub(crate) missed: BTreeSet<u64>,
    /// What is wrong beside what is the matter with these.
    pub(crate) findings: Vec<Finding>,
}

/// A store.
#[derive(Debug, Clone)]
pub(crate) struct ShownStore {
    pub(crate) store: Store,
    /// What is known from its heartbeats.
    pub(crate) heartbeats: Heartbeats,
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

/// What all stores do together that have told it lately.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct ClusterLoad {
    pub(crate) reads_per_s: f64,
    pub(crate) writes_per_s: f64,
    /// The highest of all stores.
    pub(crate) read_p99: Option<Duration>,
    /// The same for writes.
    pub(crate) write_p99: Option<Duration>,
    pub(crate) write_queue_bytes: u64,
}

/// How often something happens in a second, of a load.
pub(crate) fn per_s(load: &StoreLoad, count: u64) -> f64 {
    count as f64 * 1e3 / load.window_ms.max(1) as f64
}

/// What was looked at so far.
#[derive(Default)]
struct Seen {
    regions: Vec<ShownRegion>,
    missed: BTreeSet<u64>,
    /// How many of them each store has, and how many it leads.
    counts: BTreeMap<u64, (usize, usize)>,
    /// The start key of the last one.
    last: Option<Bytes>,
}

impl Shared {
    pub(super) fn overview(&self, now: Instant) -> Overview {
        let mut seen = Seen::default();
        while self.read(|state| state.see_more(&mut seen, now)) {}
        self.read(|state| state.overview(seen, now))
    }
}

impl State {
    /// Looks at the next regions. Returns whether there were any.
    fn see_more(&self, seen: &mut Seen, now: Instant) -> bool {
        let first = seen.last.take().map_or(Bound::Unbounded, Bound::Excluded);
        let regions = self.regions.range((first, Bound::Unbounded));
        for (start_key, known) in regions.take(SLICE_REGIONS) {
            for peer in &known.region.peers {
                seen.counts.entry(peer.store_id).or_default().0 += 1;
            }
            let (shown, dead) = self.shown_region(known, now);
            if shown.trouble == Some(RegionTrouble::NoMajority) {
                seen.missed.extend(dead);
            }
            if let Some(leader) = shown.leader {
                seen.counts.entry(leader).or_default().1 += 1;
            }
            seen.regions.push(shown);
            seen.last = Some(start_key.clone());
        }
        seen.last.is_some()
    }

    fn overview(&self, seen: Seen, now: Instant) -> Overview {
        let Seen {
            regions,
            missed,
            counts,
            ..
        } = seen;
        let stores = self.confirmed().map(|known| {
            let store = self.with_load(known, now);
            let (region_count, leads_count) = counts.get(&store.id).copied().unwrap_or_default();
            ShownStore {
                store,
                heartbeats: match self.liveness(known, now) {
                    Liveness::Up => Heartbeats::Arrive,
                    Liveness::Unheard => Heartbeats::NotYet,
                    Liveness::Silent => Heartbeats::Silent,
                    Liveness::Down => Heartbeats::Down,
                },
                region_count,
                leads_count,
            }
        });
        Overview {
            stores: stores.collect(),
            regions,
            missed,
            findings: self.findings(now),
        }
    }

    /// `None`: no store has told what it does.
    pub(super) fn load(&self, now: Instant) -> Option<ClusterLoad> {
        let stores = self.confirmed();
        let mut loads = stores.filter_map(|store| store.load_at(now)).peekable();
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

    /// A region, and the stores of its voters that do not live.
    fn shown_region(&self, known: &KnownRegion, now: Instant) -> (ShownRegion, Vec<u64>) {
        let absent = self.absent(known, now);
        let is_absent = |peer: &Peer| absent.iter().any(|absent| absent.peer_id == peer.id);
        let voters = known.region.peers.iter().filter(|peer| !peer.learner);
        let (alive, dead): (Vec<&Peer>, Vec<&Peer>) =
            voters.partition(|peer| !is_absent(peer) && self.may_live(peer.store_id, now));
        let count = alive.len() + dead.len();
        let leader = known.leader().map(|(peer, _)| peer.store_id);
        let lead = match leader {
            None => Lead::Unknown,
            Some(store_id) if self.may_live(store_id, now) => Lead::Answers,
            Some(_) => Lead::Silent,
        };
        let shown = ShownRegion {
            id: known.region.id,
            leader,
            trouble: RegionTrouble::of(count, alive.len(), lead),
            bytes: known.bytes,
        };
        (shown, dead.iter().map(|peer| peer.store_id).collect())
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
    use rdb_proto::metapb::{Region, RegionEpoch};

    use super::super::scene::{Scene, start_of};
    use super::super::state::Change;
    use super::super::{DISCONNECTED_AFTER, LOAD_AGE_MAX, Report};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn shown(scene: &Scene) -> Overview {
        let mut seen = Seen::default();
        while scene.state.see_more(&mut seen, scene.now) {}
        scene.state.overview(seen, scene.now)
    }

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
    fn a_store_has_its_load_until_two_heartbeats_are_overdue() {
        let mut scene = Scene::with_three_replicas();
        assert_eq!(scene.state.load(scene.now), None);
        for store_id in 1..=2 {
            let load = Some(load(10 * store_id));
            scene.state.note_load(store_id, load, scene.now);
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
        scene.pass(LOAD_AGE_MAX - SECOND);
        assert_eq!(scene.state.load(scene.now), Some(all));
        scene.pass(SECOND);
        assert_eq!(scene.state.load(scene.now), None);
        let stores = scene.state.stores(scene.now);
        assert!(stores.iter().all(|store| store.load.is_none()));
    }

    /// What it did before it died is not what it does.
    #[test]
    fn a_store_that_was_started_again_has_no_load_before_its_first_heartbeat() {
        let mut scene = Scene::with_three_replicas();
        let (address, incarnation) = {
            let record = &scene.state.stores[&2].record;
            (record.address.clone(), record.incarnation)
        };
        scene.pass(DISCONNECTED_AFTER);
        scene.state.note_load(2, Some(load(1)), scene.now);
        let next = start_of(2, &address, 900, incarnation);
        assert_eq!(scene.register(&next), Ok(2));
        assert_eq!(scene.state.load(scene.now), None);
    }

    #[test]
    fn a_store_is_known_to_be_silent_only_after_it_was_listened_for_long_enough() {
        let mut scene = Scene::with_three_replicas();
        let heartbeats = |scene: &Scene| {
            let stores = shown(scene).stores.into_iter();
            let mut heartbeats: Vec<_> = stores.map(|shown| shown.heartbeats).collect();
            heartbeats.dedup();
            heartbeats
        };
        assert_eq!(heartbeats(&scene), [Heartbeats::Arrive]);
        scene.pass(DISCONNECTED_AFTER - SECOND);
        assert_eq!(heartbeats(&scene), [Heartbeats::Arrive]);
        scene.pass(SECOND);
        assert_eq!(heartbeats(&scene), [Heartbeats::Silent]);
        // After a start it stays so, though there never was a heartbeat.
        scene.restart();
        assert_eq!(heartbeats(&scene), [Heartbeats::NotYet]);
        scene.pass(DISCONNECTED_AFTER);
        assert_eq!(heartbeats(&scene), [Heartbeats::Silent]);
        let down_after = scene.state.settings.store_down_after;
        scene.pass(down_after - DISCONNECTED_AFTER);
        assert_eq!(heartbeats(&scene), [Heartbeats::Down]);
    }

    #[test]
    fn all_regions_are_seen_in_their_order_however_many_there_are() {
        let mut scene = Scene::with_three_replicas();
        let peers = scene.state.regions[&b""[..]].region.peers.clone();
        let count = 2 * SLICE_REGIONS as u64 + 7;
        let key = |number: u64| match number {
            0 => Bytes::new(),
            number if number == count => Bytes::new(),
            number => Bytes::from(format!("{number:04}")),
        };
        for number in 0..count {
            scene.state.apply(Change::Region(Region {
                id: 1 + number,
                start_key: key(number),
                end_key: key(number + 1),
                epoch: Some(RegionEpoch {
                    conf_version: 1,
                    version: 2,
                }),
                peers: peers.clone(),
            }));
        }
        let overview = shown(&scene);
        let ids = overview.regions.iter().map(|region| region.id);
        assert_eq!(ids.collect::<Vec<_>>(), Vec::from_iter(1..=count));
        assert_eq!(overview.stores[0].region_count as u64, count);
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
        let overview = shown(&scene);
        assert_eq!(overview.regions[0].trouble, None);
        assert_eq!(overview.regions[0].leader, Some(1));
        let counts = overview.stores.iter();
        let counts = counts.map(|shown| (shown.region_count, shown.leads_count));
        assert_eq!(counts.collect::<Vec<_>>(), [(1, 1), (1, 0), (1, 0)]);
        scene.pass(DISCONNECTED_AFTER - SECOND);
        assert_eq!(shown(&scene).regions[0].trouble, None);
        scene.pass(SECOND);
        let overview = shown(&scene);
        let trouble = overview.regions[0].trouble;
        assert_eq!(trouble, Some(RegionTrouble::NoMajority));
        assert_eq!(overview.missed, BTreeSet::from([1, 2, 3]));
        scene.restart();
        let trouble = shown(&scene).regions[0].trouble;
        assert_eq!(trouble, Some(RegionTrouble::UnknownLeader));
    }
}
