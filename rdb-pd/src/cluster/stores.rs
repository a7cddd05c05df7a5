//! Registration of stores: which process may be which store.
//!
//! Each start of a store process is an *incarnation*, a random number. It names the incarnation that its data directory
//! holds from an earlier start. A start registers twice: first to be accepted, and again when its directory has kept the
//! new incarnation.
//!
//! - A start is accepted if its directory holds the present incarnation, or an earlier one that may be the last that the
//!   directory kept: a process can end before it writes. Any other directory is an old copy.
//! - A store gets regions only after it has registered its id as kept. So an id whose answer was lost leaves nothing behind.
//! - No process takes the place of a start that was heard of within the last 20 s. A placement driver that has not listened
//!   for that long treats every start as heard of. So of a data directory and its copies the living one keeps the place.
//!
//! A start that has to wait is told to ask again if it is at the address of its store, since it may be a quick restart. At
//! another address it is refused for good while the present start is heard of. A waiting start is also refused when
//! heartbeats of the present one show that it runs beside it.
//!
//! One case stays open: a copy cannot be told from a store that moved while the original is down, or has been cut off from
//! the placement driver for 20 s.

use std::time::{Duration, Instant};

use rdb_proto::metapb::{Store, StoreState, StoreStats};

use super::state::{Change, KnownStore, State, Waiting};
use super::{DISCONNECTED_AFTER, DOWN_AFTER, HEARTBEAT_INTERVAL, STORES_MAX};
use crate::keys::{Counters, StoreRecord};

/// Most unkept incarnations of one store. When there are more, the oldest is forgotten. A crash loop that never keeps one
/// adds one every [`DISCONNECTED_AFTER`].
const UNKEPT_INCARNATIONS_MAX: usize = 16;

/// A heartbeat that arrives this long after another start first asked was sent after that start began. So both run at the
/// same time, and their data directories are different, since each process locks its directory.
const OUTLIVES_AFTER: Duration = Duration::from_secs(2 * HEARTBEAT_INTERVAL.as_secs());

/// What a store says about itself when it registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Where clients reach it, as `host:port`.
    pub address: String,
    /// The id it was given before; 0 for a new one.
    pub store_id: u64,
    /// The cluster it belongs to; 0 for a new one.
    pub cluster_id: u64,
    /// This start of its process: random, never 0.
    pub incarnation: u64,
    /// The incarnation that its data directory holds; 0 for none. Equal to `incarnation` once that was kept.
    pub kept_incarnation: u64,
}

/// Why a registration is refused. Asking again helps only after [`MayBeAlive`](Self::MayBeAlive).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It belongs to another cluster.
    #[error(
        "the store belongs to cluster {theirs}, and this is cluster {ours}; point --pd to its own placement driver"
    )]
    ForeignCluster {
        /// The store's cluster.
        theirs: u64,
        /// This one.
        ours: u64,
    },
    /// It has an id that was never given out here.
    #[error(
        "store {store_id} is not known here, though its cluster is: the placement driver's data directory is older than \
         this store"
    )]
    UnknownStore {
        /// The id it named.
        store_id: u64,
    },
    /// Another process lives with its id at another address.
    #[error(
        "store {store_id} lives at {registered}, and this process is at {claimed}. If its data directory is a copy, do not \
         serve it; if the store moved, end the process at {registered} and start this one {} s later",
        DISCONNECTED_AFTER.as_secs()
    )]
    LivesElsewhere {
        /// The id that both have.
        store_id: u64,
        /// Where the registered one is.
        registered: String,
        /// Where the other one is.
        claimed: String,
    },
    /// Another process lives with its id and says that it has the same address.
    #[error(
        "another process lives as store {store_id} at {address}, so the data directory of this one is a copy: do not serve \
         it, and give each store its own --advertise-addr"
    )]
    LivesHere {
        /// The id that both have.
        store_id: u64,
        /// The address that both have.
        address: String,
    },
    /// Another data directory with its id was accepted after this one.
    #[error(
        "store {store_id} was started from another data directory since (it is at {registered}); this one is an old copy \
         and must not be served. If the placement driver's data directory is the old one, see its --tso-advance-ms"
    )]
    Superseded {
        /// The id that both have.
        store_id: u64,
        /// Where the other one is.
        registered: String,
    },
    /// Another store lives at its address.
    #[error(
        "store {store_id} lives at {address}. Give each store its own --advertise-addr; if this store replaces that one, \
         end that one and start this one {} s later",
        DISCONNECTED_AFTER.as_secs()
    )]
    AddressTaken {
        /// The store that lives there.
        store_id: u64,
        /// Where.
        address: String,
    },
    /// The cluster has as many stores as it can have.
    #[error("the cluster has {STORES_MAX} stores, and can have no more")]
    TooManyStores,
    /// Another process may live with its id or at its address.
    #[error(
        "another process of store {store_id} at {registered} may be alive; its place is free once it has been silent for \
         {} s",
        DISCONNECTED_AFTER.as_secs()
    )]
    MayBeAlive {
        /// The store that may be alive.
        store_id: u64,
        /// Where.
        registered: String,
    },
}

impl State {
    /// The store's id, and the changes that have to be made durable.
    pub(super) fn decide_registration(
        &self,
        registration: &Registration,
        now: Instant,
    ) -> Result<(u64, Vec<Change>), Refusal> {
        self.check_cluster(registration)?;
        if registration.store_id == 0 {
            return self.decide_new_store(registration, now);
        }
        let store = self.known(registration.store_id)?;
        let record = if store.record.incarnation == registration.incarnation {
            decide_present_start(&store.record, registration)?
        } else {
            self.decide_next_start(store, registration, now)?
        };
        let mut changes = Vec::new();
        if self.regions.is_empty() && record.has_kept_its_id() {
            let mut counters = self.counters;
            changes.push(Change::Region(self.first_region(record.id, &mut counters)));
            changes.push(Change::Counters(counters));
        }
        if record != store.record {
            changes.push(Change::Store(record));
        }
        Ok((registration.store_id, changes))
    }

    /// Whether a heartbeat comes from the start that was accepted last.
    pub(super) fn check_heartbeat(&self, registration: &Registration) -> Result<(), Refusal> {
        self.check_cluster(registration)?;
        let record = &self.known(registration.store_id)?.record;
        if record.address != registration.address {
            return Err(elsewhere(record, registration));
        }
        if !record.matches(registration) {
            return Err(superseded(record));
        }
        Ok(())
    }

    /// Notes that this start of the store was heard of, unless another one was accepted since.
    pub(super) fn heard_of(
        &mut self,
        store_id: u64,
        registration: &Registration,
        stats: Option<StoreStats>,
        now: Instant,
    ) {
        if let Some(store) = self.stores.get_mut(&store_id)
            && store.record.matches(registration)
        {
            store.heard_at = Some(now);
            store.stats = stats.or(store.stats);
            if store.waiting_as(registration.incarnation).is_some() {
                store.waiting = None;
            }
        }
    }

    /// Notes that this start waits for the place of the present one. The address stays the store's meanwhile.
    pub(super) fn note_waiting(&mut self, registration: &Registration, now: Instant) {
        if let Some(store) = self.stores.get_mut(&registration.store_id)
            && store.record.address == registration.address
        {
            let before = store.waiting_as(registration.incarnation);
            store.waiting = Some(Waiting {
                incarnation: registration.incarnation,
                since: before.map_or(now, |waiting| waiting.since),
                asked_at: now,
            });
        }
    }

    /// All stores that have kept their id.
    pub(super) fn stores(&self, now: Instant) -> Vec<Store> {
        let stores = self.stores.values();
        let present = stores.filter(|store| store.record.has_kept_its_id());
        present.map(|store| store.to_wire(now)).collect()
    }

    /// The answer to a start may be lost, so the same start asks again and gets the same id.
    fn decide_new_store(
        &self,
        registration: &Registration,
        now: Instant,
    ) -> Result<(u64, Vec<Change>), Refusal> {
        let mut records = self.stores.values().map(|store| &store.record);
        let same_start = |record: &&StoreRecord| record.incarnation == registration.incarnation;
        if let Some(record) = records.find(same_start) {
            return Ok((record.id, Vec::new()));
        }
        self.check_address_free(registration, now)?;
        if self.stores.len() >= STORES_MAX {
            return Err(Refusal::TooManyStores);
        }
        let counters = Counters {
            store_id: self.counters.store_id + 1,
            ..self.counters
        };
        let record = StoreRecord {
            id: counters.store_id,
            address: registration.address.clone(),
            incarnation: registration.incarnation,
            ..StoreRecord::default()
        };
        let changes = vec![Change::Counters(counters), Change::Store(record)];
        Ok((counters.store_id, changes))
    }

    /// Another start asks for the place of the present one.
    fn decide_next_start(
        &self,
        store: &KnownStore,
        registration: &Registration,
        now: Instant,
    ) -> Result<StoreRecord, Refusal> {
        let record = &store.record;
        if !record.may_be_kept(registration.kept_incarnation) {
            return Err(superseded(record));
        }
        if record.address != registration.address && store.holds_its_address(now) {
            return Err(elsewhere(record, registration));
        }
        if let (Some(heard_at), Some(waiting)) =
            (store.heard_at, store.waiting_as(registration.incarnation))
            && heard_at > waiting.since.max(self.listening.since(now)) + OUTLIVES_AFTER
        {
            return Err(Refusal::LivesHere {
                store_id: record.id,
                address: record.address.clone(),
            });
        }
        if !self.is_silent(store.heard_at, now) {
            return Err(may_be_alive(record));
        }
        self.check_address_free(registration, now)?;
        Ok(record.followed_by(registration))
    }

    fn check_cluster(&self, registration: &Registration) -> Result<(), Refusal> {
        match registration.cluster_id {
            0 if registration.store_id == 0 => Ok(()),
            theirs if theirs == self.cluster_id => Ok(()),
            theirs => Err(Refusal::ForeignCluster {
                theirs,
                ours: self.cluster_id,
            }),
        }
    }

    fn known(&self, store_id: u64) -> Result<&KnownStore, Refusal> {
        self.stores
            .get(&store_id)
            .ok_or(Refusal::UnknownStore { store_id })
    }

    /// Refuses the registration unless every other store at its address is silent.
    fn check_address_free(&self, registration: &Registration, now: Instant) -> Result<(), Refusal> {
        let others = self.stores.values().filter(|store| {
            store.record.id != registration.store_id && store.record.address == registration.address
        });
        for store in others {
            let record = &store.record;
            if store.holds_its_address(now) && record.has_kept_its_id() {
                return Err(Refusal::AddressTaken {
                    store_id: record.id,
                    address: record.address.clone(),
                });
            }
            if !self.is_silent(store.heard_at, now) {
                return Err(may_be_alive(record));
            }
        }
        Ok(())
    }

    /// Whether a start that was last heard of at `heard_at` has been silent for [`DISCONNECTED_AFTER`] while this process
    /// listened.
    fn is_silent(&self, heard_at: Option<Instant>, now: Instant) -> bool {
        let last = heard_at.max(Some(self.listening.since(now)));
        last.is_none_or(|last| !is_recent(last, now))
    }
}

impl StoreRecord {
    /// Whether the registration comes from the present start. A record without an incarnation matches any.
    fn matches(&self, registration: &Registration) -> bool {
        self.address == registration.address
            && (self.incarnation == registration.incarnation || self.incarnation == 0)
    }

    fn is_kept(&self) -> bool {
        self.incarnation == self.kept_incarnation
    }

    fn has_kept_its_id(&self) -> bool {
        self.is_kept() || self.kept_incarnation != 0
    }

    /// Whether the store's data directory may hold this incarnation.
    fn may_be_kept(&self, incarnation: u64) -> bool {
        self.incarnation == 0
            || [self.incarnation, self.kept_incarnation].contains(&incarnation)
            || self.unkept_incarnations.contains(&incarnation)
    }

    /// The record once the present incarnation is known to be kept.
    fn kept(&self) -> Self {
        Self {
            kept_incarnation: self.incarnation,
            unkept_incarnations: Vec::new(),
            ..self.clone()
        }
    }

    /// The record once the start that registers is accepted. The incarnation that it names is known to be kept.
    fn followed_by(&self, registration: &Registration) -> Self {
        let mut unkept_incarnations = Vec::new();
        if registration.kept_incarnation == self.kept_incarnation && !self.is_kept() {
            unkept_incarnations.clone_from(&self.unkept_incarnations);
            unkept_incarnations.push(self.incarnation);
            let surplus = unkept_incarnations
                .len()
                .saturating_sub(UNKEPT_INCARNATIONS_MAX);
            unkept_incarnations.drain(..surplus);
        }
        Self {
            id: self.id,
            address: registration.address.clone(),
            incarnation: registration.incarnation,
            kept_incarnation: registration.kept_incarnation,
            unkept_incarnations,
        }
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

    pub(super) fn to_wire(&self, now: Instant) -> Store {
        let silence = self
            .heard_at
            .map(|heard_at| now.saturating_duration_since(heard_at));
        Store {
            id: self.record.id,
            address: self.record.address.clone(),
            state: state_after(silence).into(),
            last_heartbeat_age_ms: silence.map(|silence| silence.as_millis() as u64),
            stats: self.stats,
        }
    }
}

/// The present start asks again, or says that it has kept what was accepted.
fn decide_present_start(
    record: &StoreRecord,
    registration: &Registration,
) -> Result<StoreRecord, Refusal> {
    if record.address != registration.address {
        return Err(elsewhere(record, registration));
    }
    if registration.kept_incarnation == registration.incarnation {
        Ok(record.kept())
    } else {
        Ok(record.clone())
    }
}

fn is_recent(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < DISCONNECTED_AFTER
}

fn elsewhere(record: &StoreRecord, registration: &Registration) -> Refusal {
    Refusal::LivesElsewhere {
        store_id: record.id,
        registered: record.address.clone(),
        claimed: registration.address.clone(),
    }
}

fn superseded(record: &StoreRecord) -> Refusal {
    Refusal::Superseded {
        store_id: record.id,
        registered: record.address.clone(),
    }
}

fn may_be_alive(record: &StoreRecord) -> Refusal {
    Refusal::MayBeAlive {
        store_id: record.id,
        registered: record.address.clone(),
    }
}

/// The state after this silence. A store that was not heard of since this process started counts as disconnected.
fn state_after(silence: Option<Duration>) -> StoreState {
    match silence {
        Some(age) if age < DISCONNECTED_AFTER => StoreState::Up,
        Some(age) if age >= DOWN_AFTER => StoreState::Down,
        _ => StoreState::Disconnected,
    }
}

#[cfg(test)]
mod tests;
