//! The world: its stores, what befalls them, and what is known of them beyond what they know themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use rdb_raft::group::{Ended, Leader};
use turmoil::{Builder, Sim};

use crate::faults::Faults;
use crate::history::History;
use crate::run::VIOLATION;
use crate::store::{self, Disk, name};

pub(crate) const GROUPS: [u64; 2] = [11, 12];

/// What each store runs for before the next one does.
const TICK: Duration = Duration::from_millis(5);

const LATENCY_MIN: Duration = Duration::from_millis(1);
pub(crate) const LATENCY_MAX: Duration = Duration::from_millis(20);

/// Enough for all that is ever under way on a connection.
const SEGMENTS_MAX: usize = 1 << 16;

/// How long there are faults, how long there are none but clients, and how long stores may take to become equal.
const FAULTS: Duration = Duration::from_secs(20);
const RECOVERY: Duration = Duration::from_secs(10);
const EQUAL_WITHIN: Duration = Duration::from_secs(10);

/// One start of it.
pub(crate) struct World {
    stores: u64,
    prints: bool,
    /// In the order of what happened, since all of it happens on one thread.
    trace: Mutex<Vec<String>>,
    state: Mutex<State>,
    disks: Vec<Mutex<Disk>>,
    histories: [Mutex<History>; GROUPS.len()],
}

#[derive(Default)]
struct State {
    now: Duration,
    is_over: bool,
    violation: Option<String>,
    /// By group and term.
    leaders: BTreeMap<(u64, u64), u64>,
    /// By group and place in its list.
    applied: BTreeMap<(u64, usize), u64>,
    /// Written to connections: how often, and a digest of who wrote what.
    writes: u64,
    digest: u64,
}

impl World {
    /// It prints its trace as it goes if `prints`.
    pub(crate) fn new(stores: u64, prints: bool) -> Arc<Self> {
        Arc::new(Self {
            stores,
            prints,
            trace: Mutex::default(),
            state: Mutex::default(),
            disks: (0..stores).map(|_| Mutex::default()).collect(),
            histories: Default::default(),
        })
    }

    pub(crate) fn store_ids(&self) -> RangeInclusive<u64> {
        1..=self.stores
    }

    /// Runs it to its end, as a seed has it. This thread can do so once.
    ///
    /// # Errors
    ///
    /// What cannot be.
    pub(crate) fn run(self: &Arc<Self>, seed: u64) -> Result<(), String> {
        fastrand::seed(seed);
        rdb_raft::simulation::begin();
        let mut sim = Builder::new()
            .rng_seed(seed)
            .epoch(UNIX_EPOCH)
            .tick_duration(TICK)
            .simulation_duration(Duration::MAX)
            .min_message_latency(LATENCY_MIN)
            .max_message_latency(LATENCY_MAX)
            .tcp_capacity(SEGMENTS_MAX)
            .enable_random_order()
            .build();
        for store_id in self.store_ids() {
            let world = Arc::clone(self);
            sim.host(name(store_id), move || {
                store::run(store_id, Arc::clone(&world))
            });
        }
        let mut faults = Faults::new(Arc::clone(self));
        self.until(&mut sim, FAULTS, |sim, now| faults.step(sim, now))?;
        faults.end(&mut sim);
        let recovery = GROUPS.map(|group_id| self.history(group_id).moment());
        let end = sim.elapsed() + RECOVERY;
        self.until(&mut sim, end, |_, _| {})?;
        for (group_id, moment) in GROUPS.into_iter().zip(recovery) {
            let (writes, reads) = self.history(group_id).seen_since(moment);
            if writes == 0 || reads == 0 {
                return Err(format!(
                    "group {group_id} has answered {writes} writes and {reads} reads after all was well again"
                ));
            }
        }
        self.state().is_over = true;
        self.become_equal(&mut sim)?;
        for group_id in GROUPS {
            let list = self.list(1, group_id);
            let checked = self.history(group_id).check(&list);
            checked.map_err(|violation| format!("group {group_id}: {violation}"))?;
        }
        Ok(())
    }

    fn until(
        &self,
        sim: &mut Sim<'_>,
        end: Duration,
        mut between: impl FnMut(&mut Sim<'_>, Duration),
    ) -> Result<(), String> {
        while sim.elapsed() < end {
            let now = sim.elapsed();
            let begins_second = now.subsec_nanos() == 0;
            self.state().now = now;
            if begins_second {
                let (writes, digest) = {
                    let state = self.state();
                    (state.writes, state.digest)
                };
                self.note_of("wire", format_args!("{writes} writes, {digest:016x}"));
            }
            between(sim, now);
            sim.step().map_err(|error| error.to_string())?;
            if let Some(violation) = self.state().violation.take() {
                return Err(violation);
            }
        }
        Ok(())
    }

    /// Waits until all stores have the same.
    fn become_equal(&self, sim: &mut Sim<'_>) -> Result<(), String> {
        let end = sim.elapsed() + EQUAL_WITHIN;
        loop {
            let next = sim.elapsed() + Duration::from_secs(1);
            self.until(sim, next, |_, _| {})?;
            let lists = self
                .store_ids()
                .map(|store_id| GROUPS.map(|group_id| self.list(store_id, group_id)));
            if lists.collect::<BTreeSet<_>>().len() == 1 {
                return Ok(());
            }
            if sim.elapsed() >= end {
                return Err("the stores do not become equal".to_owned());
            }
        }
    }

    fn list(&self, store_id: u64, group_id: u64) -> Vec<u64> {
        let disk = self.disk(store_id);
        disk.list(group_id)
            .map(|list| list.values())
            .unwrap_or_default()
    }

    pub(crate) fn disk(&self, store_id: u64) -> MutexGuard<'_, Disk> {
        self.disks[store_id as usize - 1].lock().unwrap()
    }

    pub(crate) fn history(&self, group_id: u64) -> MutexGuard<'_, History> {
        let at = GROUPS.iter().position(|id| *id == group_id);
        self.histories[at.expect("there is such a group")]
            .lock()
            .unwrap()
    }

    /// Whether clients have to end.
    pub(crate) fn is_over(&self) -> bool {
        self.state().is_over
    }

    /// Who leads a group, as far as anybody knows.
    pub(crate) fn leader(&self, group_id: u64) -> Option<u64> {
        let state = self.state();
        let mut terms = state.leaders.range((group_id, 0)..=(group_id, u64::MAX));
        terms.next_back().map(|(_, peer_id)| *peer_id)
    }

    pub(crate) fn knows_leader(&self, store_id: u64, group_id: u64, leader: Leader) {
        let Leader { term, peer_id } = leader;
        self.note(
            store_id,
            format_args!("group {group_id}: {peer_id:?} leads in term {term}"),
        );
        let Some(peer_id) = peer_id else {
            return;
        };
        let known = *self
            .state()
            .leaders
            .entry((group_id, term))
            .or_insert(peer_id);
        if known != peer_id {
            self.violated(format_args!(
                "peers {known} and {peer_id} of group {group_id} lead in term {term}"
            ));
        }
    }

    pub(crate) fn ends(&self, store_id: u64, group_id: u64, ended: &Ended) {
        self.note(store_id, format_args!("group {group_id}: {ended}"));
        if !self.disk(store_id).fails() {
            self.violated(format_args!(
                "group {group_id} of store {store_id}: {ended}"
            ));
        }
    }

    /// A store has a value at a place of a list. All others have the same there, sooner or later.
    pub(crate) fn applies(&self, store_id: u64, place: (u64, usize), value: u64) {
        let (group_id, length) = place;
        self.note(
            store_id,
            format_args!("group {group_id}: {value} is at {length}"),
        );
        let known = *self.state().applied.entry(place).or_insert(value);
        if known != value {
            self.violated(format_args!(
                "store {store_id} applies {value} at {length} of group {group_id}, where another one has {known}"
            ));
        }
    }

    pub(crate) fn writes(&self, store_id: u64, bytes: &[u8]) {
        let mut state = self.state();
        state.writes += 1;
        // FNV-1a.
        let digested = store_id.to_le_bytes();
        let digested = digested.iter().chain(bytes);
        state.digest = digested.fold(state.digest, |digest, byte| {
            (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    }

    /// The first one ends the run.
    pub(crate) fn violated(&self, what: impl Display) {
        let what = what.to_string();
        self.note_of("world", format_args!("{VIOLATION}: {what}"));
        self.state().violation.get_or_insert(what);
    }

    pub(crate) fn note(&self, store_id: u64, what: impl Display) {
        self.note_of(&format!("store {store_id}"), what);
    }

    pub(crate) fn note_of(&self, who: &str, what: impl Display) {
        let now_ms = self.state().now.as_millis();
        let line = format!("{now_ms:>6} {who}: {what}");
        if self.prints {
            println!("{line}");
        }
        self.trace.lock().unwrap().push(line);
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        self.trace.lock().unwrap().clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}
