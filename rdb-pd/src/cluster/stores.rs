//! Registration of stores: which process may be which store.
//!
//! Each start of a store process is an *incarnation*, a random number. It also names the incarnation of an earlier start
//! that its data directory holds. A start registers twice: first to be accepted, and again when its directory has kept
//! the new incarnation.
//!
//! - A start is accepted if its directory holds the present incarnation, or an earlier one that may be the last that the
//!   directory kept: a process can end before it writes. Any other directory is an old copy.
//! - A store gets regions only after it has registered its id as kept. Until then it is unconfirmed: it is not listed, does
//!   not count as one of the cluster's stores, and its record is dropped when [`UNCONFIRMED_STORES_MAX`] newer ones need the
//!   room. Its id is not given out again. If the same start says later that it has kept the id, the record is made again.
//! - No process takes the place of a start that was heard of within the last 20 s. A placement driver that has not listened for that long
//!   treats every start as heard of. So among a data directory and its copies, the living one keeps the place.
//!
//! A start that has to wait is told to ask again if it comes from its store's address, since it may be a quick restart.
//! From another address it is refused for good while the present start is heard of. A waiting start is also refused when
//! heartbeats show that the present start still runs.
//!
//! One case stays open: while the original is down, or cut off from the placement driver for 20 s, a copy cannot be told
//! from a store that has moved.

use std::time::{Duration, Instant};

use rdb_proto::metapb::{Store, StoreLoad, StoreState, StoreStats};

use super::refusal::Refusal;
use super::reports::Heartbeat;
use super::state::{Change, KnownStore, State, Waiting};
use super::steps::Liveness;
use super::{
    DISCONNECTED_AFTER, HEARTBEAT_INTERVAL, LOAD_AGE_MAX, STORES_MAX, UNCONFIRMED_STORES_MAX,
};
use crate::keys::{Counters, StoreRecord};

/// A heartbeat that arrives this long after another start first asked was sent after that start began. So both run at the
/// same time, and their data directories are different, since each process locks its directory.
const OUTLIVES_AFTER: Duration = Duration::from_secs(2 * HEARTBEAT_INTERVAL.as_secs());

/// A start of a store's process, as it names itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Where clients reach it, as `host:port`.
    pub address: String,
    /// The id it was given before; 0 for a new store.
    pub store_id: u64,
    /// The cluster it belongs to; 0 for a new store.
    pub cluster_id: u64,
    /// Random, never 0.
    pub incarnation: u64,
}

/// What a start says when it registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The start.
    pub start: Start,
    /// The incarnation that its data directory holds: its own once that was kept.
    pub kept_incarnation: Option<u64>,
}

impl Registration {
    /// Whether the directory holds the incarnation of this start.
    pub(super) fn is_kept(&self) -> bool {
        self.kept_incarnation == Some(self.start.incarnation)
    }
}

impl State {
    /// The store's id, and the changes that have to be made durable.
    pub(super) fn decide_registration(
        &self,
        registration: &Registration,
        now: Instant,
    ) -> Result<(u64, Vec<Change>), Refusal> {
        let start = &registration.start;
        self.check_cluster(start)?;
        if start.store_id == 0 {
            return self.decide_new_store(start, now);
        }
        let dropped;
        let store = if let Some(store) = self.stores.get(&start.store_id) {
            store
        } else {
            dropped = self.dropped(registration, now)?;
            &dropped
        };
        if store.record.has_left {
            return Err(Refusal::Removed {
                store_id: start.store_id,
            });
        }
        let record = if store.record.present() == Some(start.incarnation) {
            decide_present_start(&store.record, registration)?
        } else {
            self.decide_next_start(store, registration, now)?
        };
        let mut changes = Vec::new();
        if record.has_kept_its_id() && !store.record.has_kept_its_id() {
            self.check_room()?;
            // One that was there before says in its heartbeats whether it has regions.
            changes = self.decide_first_region(record.id, now);
        }
        if record != store.record {
            changes.push(Change::Store(record));
        }
        Ok((start.store_id, changes))
    }

    /// Whether a heartbeat comes from the start that was accepted last.
    pub(super) fn check_heartbeat(&self, start: &Start) -> Result<(), Refusal> {
        self.check_cluster(start)?;
        let store_id = start.store_id;
        let store = self.stores.get(&store_id);
        let record = &store.ok_or(Refusal::UnknownStore { store_id })?.record;
        if record.has_left {
            return Err(Refusal::Removed { store_id });
        }
        if record.address != start.address {
            return Err(Refusal::elsewhere(record, start));
        }
        if !record.matches(start) {
            return Err(Refusal::Superseded(record.registered()));
        }
        Ok(())
    }

    /// The changes of regions that have to be made durable after a heartbeat of a registered store.
    pub(super) fn decide_heartbeat(&self, heartbeat: &Heartbeat, now: Instant) -> Vec<Change> {
        let store_id = heartbeat.start.store_id;
        let mut changes = self.decide_reports(store_id, &heartbeat.reports);
        let store = self.stores.get(&store_id);
        if heartbeat.has_no_region() && store.is_some_and(|store| store.record.has_kept_its_id()) {
            changes.extend(self.decide_first_region(store_id, now));
        }
        changes
    }

    /// Notes that this start of the store was heard of, unless another one was accepted since.
    pub(super) fn heard_of(
        &mut self,
        store_id: u64,
        start: &Start,
        stats: Option<StoreStats>,
        now: Instant,
    ) {
        if let Some(store) = self.stores.get_mut(&store_id)
            && store.record.matches(start)
        {
            store.heard_at = Some(now);
            store.stats = stats.or(store.stats);
            if store.waiting_as(start.incarnation).is_some() {
                store.waiting = None;
            }
        }
    }

    /// Notes whether a registered store takes replicas of regions that others hold, too.
    pub(super) fn note_replicas_taken(&mut self, store_id: u64, takes_no_replicas: bool) {
        if let Some(store) = self.stores.get_mut(&store_id) {
            store.takes_no_replicas = Some(takes_no_replicas);
        }
    }

    /// Notes whether a registered store has replicas. Where it says that it has none, nobody serves what another store had at its address.
    pub(super) fn note_replicas(&mut self, heartbeat: &Heartbeat) {
        if let Some(store) = self.stores.get_mut(&heartbeat.start.store_id) {
            store.has_replicas = heartbeat.has_replicas();
            if heartbeat.has_no_region() {
                self.strangers.forget_at(&store.record.address);
            }
        }
    }

    /// Notes what a registered store did before its last heartbeat.
    pub(super) fn note_load(&mut self, store_id: u64, load: Option<StoreLoad>, now: Instant) {
        if let Some(store) = self.stores.get_mut(&store_id) {
            store.load = load.map(|load| (load, now));
        }
    }

    /// Notes that this start waits for the place of the present one. The address stays the store's meanwhile.
    pub(super) fn note_waiting(&mut self, start: &Start, now: Instant) {
        if let Some(store) = self.stores.get_mut(&start.store_id)
            && store.record.address == start.address
        {
            let before = store.waiting_as(start.incarnation);
            store.waiting = Some(Waiting {
                incarnation: start.incarnation,
                since: before.map_or(now, |waiting| waiting.since),
                asked_at: now,
            });
        }
    }

    /// All stores of the cluster, with their loads.
    pub(super) fn stores(&self, now: Instant) -> Vec<Store> {
        let stores = self.confirmed();
        stores.map(|store| self.with_load(store, now)).collect()
    }

    /// A store with what it does.
    pub(super) fn with_load(&self, store: &KnownStore, now: Instant) -> Store {
        Store {
            load: store.load_at(now),
            ..self.to_wire(store, now)
        }
    }

    /// The stores that have kept their id and have not left, in the order of their ids.
    pub(super) fn confirmed(&self) -> impl Iterator<Item = &KnownStore> + Clone {
        let stores = self.stores.values();
        stores.filter(|store| store.record.has_kept_its_id() && !store.record.has_left)
    }

    /// What is known of a store's process.
    pub(super) fn liveness(&self, store: &KnownStore, now: Instant) -> Liveness {
        if store.is_up(now) {
            return Liveness::Up;
        }
        let last = store.heard_at.max(Some(self.listening.since(now)));
        let silence = last.map_or(Duration::MAX, |last| now.saturating_duration_since(last));
        if silence >= self.settings.store_down_after {
            Liveness::Down
        } else if silence >= DISCONNECTED_AFTER {
            Liveness::Silent
        } else {
            Liveness::Unheard
        }
    }

    /// The state of a store as others are told.
    pub(super) fn store_state(&self, store: &KnownStore, now: Instant) -> StoreState {
        match self.liveness(store, now) {
            _ if store.record.is_leaving => StoreState::Leaving,
            Liveness::Up => StoreState::Up,
            Liveness::Unheard | Liveness::Silent => StoreState::Disconnected,
            Liveness::Down => StoreState::Down,
        }
    }

    /// A store as routes have it.
    pub(super) fn to_wire(&self, store: &KnownStore, now: Instant) -> Store {
        let silence = store
            .heard_at
            .map(|heard_at| now.saturating_duration_since(heard_at));
        Store {
            id: store.record.id,
            address: store.record.address.clone(),
            state: self.store_state(store, now).into(),
            last_heartbeat_age_ms: silence.map(|silence| silence.as_millis() as u64),
            stats: store.stats,
            load: None,
        }
    }

    /// The answer to a start may be lost, so the same start asks again and gets the same id.
    fn decide_new_store(&self, start: &Start, now: Instant) -> Result<(u64, Vec<Change>), Refusal> {
        let records = || self.stores.values().map(|store| &store.record);
        let same_start =
            |record: &&StoreRecord| !record.has_left && record.present() == Some(start.incarnation);
        if let Some(record) = records().find(same_start) {
            return Ok((record.id, Vec::new()));
        }
        self.check_address_free(start, now)?;
        self.check_room()?;
        let counters = Counters {
            store_id: self.counters.store_id + 1,
            ..self.counters
        };
        let record = StoreRecord::unconfirmed(counters.store_id, start);
        let unconfirmed = || records().filter(|record| !record.has_kept_its_id());
        let surplus = (unconfirmed().count() + 1).saturating_sub(UNCONFIRMED_STORES_MAX);
        let dropped = unconfirmed().take(surplus);
        let mut changes = vec![Change::Counters(counters), Change::Store(record)];
        changes.extend(dropped.map(|record| Change::NoStore(record.id)));
        Ok((counters.store_id, changes))
    }

    /// The store as it was before its record was dropped, for the start that has kept its id.
    fn dropped(&self, registration: &Registration, now: Instant) -> Result<KnownStore, Refusal> {
        let start = &registration.start;
        let store_id = start.store_id;
        if store_id > self.counters.store_id || !registration.is_kept() {
            return Err(Refusal::UnknownStore { store_id });
        }
        self.check_address_free(start, now)?;
        Ok(KnownStore {
            record: StoreRecord::unconfirmed(store_id, start),
            ..KnownStore::default()
        })
    }

    /// Another start asks for the place of the present one.
    fn decide_next_start(
        &self,
        store: &KnownStore,
        registration: &Registration,
        now: Instant,
    ) -> Result<StoreRecord, Refusal> {
        let (record, start) = (&store.record, &registration.start);
        if !record.may_be_kept(registration.kept_incarnation) {
            return Err(Refusal::Superseded(record.registered()));
        }
        if record.address != start.address && store.holds_its_address(now) {
            return Err(Refusal::elsewhere(record, start));
        }
        if let (Some(heard_at), Some(waiting)) =
            (store.heard_at, store.waiting_as(start.incarnation))
            && heard_at > waiting.since.max(self.listening.since(now)) + OUTLIVES_AFTER
        {
            return Err(Refusal::LivesHere(record.registered()));
        }
        if !self.is_silent(store.heard_at, now) {
            return Err(Refusal::may_be_alive(record, start));
        }
        self.check_address_free(start, now)?;
        Ok(record.followed_by(registration))
    }

    fn check_cluster(&self, start: &Start) -> Result<(), Refusal> {
        match start.cluster_id {
            0 if start.store_id == 0 => Ok(()),
            theirs if theirs == self.cluster_id => Ok(()),
            theirs => Err(Refusal::ForeignCluster {
                theirs,
                ours: self.cluster_id,
            }),
        }
    }

    fn check_room(&self) -> Result<(), Refusal> {
        if self.confirmed().count() < STORES_MAX {
            Ok(())
        } else {
            Err(Refusal::TooManyStores)
        }
    }

    /// Refuses the start unless every other store at its address is silent.
    fn check_address_free(&self, start: &Start, now: Instant) -> Result<(), Refusal> {
        let others = self.stores.values().filter(|store| {
            let record = &store.record;
            record.id != start.store_id && record.address == start.address && !record.has_left
        });
        for store in others {
            let record = &store.record;
            if store.holds_its_address(now) && record.has_kept_its_id() {
                return Err(Refusal::AddressTaken(record.registered()));
            }
            if !self.is_silent(store.heard_at, now) {
                return Err(Refusal::may_be_alive(record, start));
            }
        }
        Ok(())
    }

    /// Whether a start, or a leader, that was last heard of at `heard_at` has been silent for [`DISCONNECTED_AFTER`] while this
    /// process listened.
    pub(super) fn is_silent(&self, heard_at: Option<Instant>, now: Instant) -> bool {
        let last = heard_at.max(Some(self.listening.since(now)));
        last.is_none_or(|last| !is_recent(last, now))
    }
}

impl KnownStore {
    /// Whether a start of the store, present or waiting, was heard of lately at its registered address.
    fn holds_its_address(&self, now: Instant) -> bool {
        let waiting_at = self.waiting.map(|waiting| waiting.asked_at);
        let last = self.heard_at.max(waiting_at);
        last.is_some_and(|last| is_recent(last, now))
    }

    fn waiting_as(&self, incarnation: u64) -> Option<Waiting> {
        self.waiting
            .filter(|waiting| waiting.incarnation == incarnation)
    }

    /// What it does. `None`: nothing that is known, since its last two heartbeats are overdue or did not tell it.
    pub(super) fn load_at(&self, now: Instant) -> Option<StoreLoad> {
        let (load, noted_at) = self.load?;
        (now.saturating_duration_since(noted_at) < LOAD_AGE_MAX).then_some(load)
    }

    /// Whether its present start was heard of lately.
    pub(super) fn is_up(&self, now: Instant) -> bool {
        self.heard_at
            .is_some_and(|heard_at| is_recent(heard_at, now))
    }
}

/// The present start asks again, or says that it has kept what was accepted.
fn decide_present_start(
    record: &StoreRecord,
    registration: &Registration,
) -> Result<StoreRecord, Refusal> {
    if record.address != registration.start.address {
        return Err(Refusal::elsewhere(record, &registration.start));
    }
    if registration.is_kept() {
        Ok(record.with_present_kept())
    } else {
        Ok(record.clone())
    }
}

pub(super) fn is_recent(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < DISCONNECTED_AFTER
}

#[cfg(test)]
mod tests;
