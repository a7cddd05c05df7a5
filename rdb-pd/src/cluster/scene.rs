//! A cluster under a clock that the test moves.

#![allow(clippy::unwrap_used)] // helpers of tests are tests, too

use std::time::{Duration, Instant};

use rdb_proto::pdpb::RegionStep;

use super::membership::Led;
use super::state::{Change, State};
use super::{DISCONNECTED_AFTER, Heartbeat, Refusal, Registration, Report, Start};
use crate::keys::{AwayVoters, NewPeers};

pub(super) const CLUSTER_ID: u64 = 9;

/// A cluster under a clock that the test moves.
pub(super) struct Scene {
    pub(super) state: State,
    pub(super) now: Instant,
    /// A store that a test has fall silent; 0: none.
    pub(super) silent: u64,
}

/// A first start at `address`.
pub(super) fn fresh(address: &str, incarnation: u64) -> Registration {
    let start = Start {
        address: address.to_owned(),
        store_id: 0,
        cluster_id: 0,
        incarnation,
    };
    Registration {
        start,
        kept_incarnation: None,
    }
}

/// A start of store 1 at `address` whose directory has the incarnation `kept`; 0: none.
pub(super) fn start(address: &str, incarnation: u64, kept: u64) -> Registration {
    start_of(1, address, incarnation, kept)
}

pub(super) fn start_of(store_id: u64, address: &str, incarnation: u64, kept: u64) -> Registration {
    let start = Start {
        store_id,
        cluster_id: CLUSTER_ID,
        ..fresh(address, incarnation).start
    };
    Registration {
        start,
        kept_incarnation: (kept != 0).then_some(kept),
    }
}

impl Scene {
    /// A placement driver that has listened for long enough.
    pub(super) fn empty() -> Self {
        let now = Instant::now();
        let state = State::new(CLUSTER_ID, now);
        let mut scene = Self {
            state,
            now,
            silent: 0,
        };
        scene.pass(DISCONNECTED_AFTER);
        scene
    }

    /// Store 1 at `a:1`, whose directory has incarnation 1 and which was heard of just now.
    pub(super) fn with_original() -> Self {
        let mut scene = Self::empty();
        assert_eq!(scene.register(&fresh("a:1", 1)), Ok(1));
        assert_eq!(scene.register(&start("a:1", 1, 1)), Ok(1));
        scene
    }

    /// Registers as the registrar does.
    pub(super) fn register(&mut self, registration: &Registration) -> Result<u64, Refusal> {
        let Self { state, now, .. } = self;
        let decided = state.decide_registration(registration, *now);
        if let Err(Refusal::MayBeAlive { .. }) = &decided {
            state.note_waiting(&registration.start, *now);
        }
        let (store_id, changes) = decided?;
        changes.into_iter().for_each(|change| state.apply(change));
        state.heard_of(store_id, &registration.start, None, *now);
        Ok(store_id)
    }

    pub(super) fn beat(&mut self, registration: &Registration) -> Result<(), Refusal> {
        let start = &registration.start;
        self.state.check_heartbeat(start)?;
        self.state.heard_of(start.store_id, start, None, self.now);
        Ok(())
    }

    /// Another store registers and keeps its id.
    pub(super) fn add_store(&mut self) -> u64 {
        let id = self.state.counters.store_id + 1;
        let address = format!("store-{id}:1");
        assert_eq!(self.register(&fresh(&address, id)), Ok(id));
        assert_eq!(self.register(&start_of(id, &address, id, id)), Ok(id));
        id
    }

    /// Three stores, with a region on all of them.
    pub(super) fn with_three_replicas() -> Self {
        let mut scene = Self::empty();
        scene.state.settings.initial_replicas = 3;
        for _ in 0..3 {
            scene.add_store();
        }
        scene
    }

    /// Takes a heartbeat of the present start of a store as the cluster does. Returns how many reports are foreign.
    pub(super) fn report(&mut self, store_id: u64, reports: &[Report]) -> usize {
        self.beat_with(store_id, reports, None)
    }

    /// The same. Returns the steps that it is answered.
    pub(super) fn lead_on(&mut self, store_id: u64, reports: &[Report]) -> Vec<RegionStep> {
        assert_eq!(self.report(store_id, reports), 0);
        let Self { state, now, .. } = self;
        let led: Vec<_> = reports.iter().map(Led::from).collect();
        let (mut steps, nameless) = state.take_steps(&led, *now);
        for change in state.decide_new_peers(&nameless) {
            state.apply(change);
        }
        steps.extend(state.take_named(&nameless, *now));
        steps
    }

    /// Takes a heartbeat of the present start of a store, which says that it has no region.
    pub(super) fn beat_without_region(&mut self, store_id: u64) {
        self.beat_counting(store_id, 0);
    }

    /// The same, but it says that it has `region_count` regions and names none.
    pub(super) fn beat_counting(&mut self, store_id: u64, region_count: u64) {
        self.beat_with(store_id, &[], Some(region_count));
    }

    fn beat_with(&mut self, store_id: u64, reports: &[Report], region_count: Option<u64>) -> usize {
        let Self { state, now, .. } = self;
        let record = &state.stores[&store_id].record;
        let start = Start {
            address: record.address.clone(),
            store_id,
            cluster_id: CLUSTER_ID,
            incarnation: record.incarnation,
        };
        let mut heartbeat = Heartbeat {
            start,
            stats: None,
            reports: reports.to_vec(),
            region_count,
            holds: Vec::new(),
            takes_no_replicas: false,
            load: None,
        };
        state.check_heartbeat(&heartbeat.start).unwrap();
        state.heard_of(store_id, &heartbeat.start, None, *now);
        state.note_replicas_taken(store_id, heartbeat.takes_no_replicas);
        state.note_replicas(&heartbeat);
        let foreign = state.note_reports(store_id, &heartbeat.reports, *now).len();
        state.retain_changes(store_id, &mut heartbeat.reports);
        let changes = state.decide_heartbeat(&heartbeat, *now);
        changes.into_iter().for_each(|change| state.apply(change));
        foreign
    }

    /// Time passes second by second, and the placement driver is awake.
    pub(super) fn pass(&mut self, time: Duration) {
        for _ in 0..time.as_secs() {
            self.now += Duration::from_secs(1);
            self.state.listening.note_awake(self.now);
        }
    }

    /// The placement driver is stopped for `time`.
    pub(super) fn sleep(&mut self, time: Duration) {
        self.now += time;
    }

    /// The placement driver is restarted.
    pub(super) fn restart(&mut self) {
        let mut state = State::new(CLUSTER_ID, self.now);
        state.counters = self.state.counters;
        state.settings = self.state.settings;
        for store in self.state.stores.values() {
            state.apply(Change::Store(store.record.clone()));
        }
        for known in self.state.regions.values() {
            state.apply(Change::Region(known.region.clone()));
            state.apply(Change::NewPeers(NewPeers {
                region_id: known.region.id,
                conf_version: known.conf_version(),
                peers: known.new_peers.clone(),
            }));
            state.restore_away(AwayVoters {
                region_id: known.region.id,
                voters: known.lagging.stored().to_vec(),
            });
        }
        self.state = state;
    }
}
