//! Who may be a store, and how it is.
//!
//! A store's record names its address and its *incarnation*: which start of the store process was accepted last. A start
//! is accepted when it names that incarnation as the one before it. A start whose answer was lost, or that ended before
//! it kept its incarnation, does not shut the store out: see [`State::decide_registration`].
//!
//! A copied data directory names the right incarnation, too, until the original starts anew. Then the address decides: a
//! store moves to another address only when nobody was heard of at the old one for 20 s. A placement driver that has just
//! started has heard of nobody, so for its first 20 s it answers "ask again".

use std::time::{Duration, Instant};

use rdb_proto::metapb::{Peer, RegionEpoch, Store, StoreState, StoreStats};

use super::state::{Change, KnownStore, State};
use super::{DISCONNECTED_AFTER, DOWN_AFTER};
use crate::keys::{Counters, StoreRecord};

/// Who a store says it is.
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
    /// The incarnation that its data directory has from an earlier start; 0 for none.
    pub previous_incarnation: u64,
}

/// Why a store has no place here. Asking again does not help, but for [`NotHeardYet`](Self::NotHeardYet).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It belongs to another cluster.
    #[error(
        "the store belongs to cluster {theirs}, and this is cluster {ours}; point it to its own placement driver"
    )]
    ForeignCluster {
        /// The store's cluster.
        theirs: u64,
        /// This one.
        ours: u64,
    },
    /// It has an id that was never given out here.
    #[error(
        "store {store_id} is not known here; was the placement driver's data directory replaced?"
    )]
    UnknownStore {
        /// The id it named.
        store_id: u64,
    },
    /// Another process lives with its id.
    #[error(
        "store {store_id} lives at {registered}, and this one is at {claimed}; is its data directory a copy?"
    )]
    LivesElsewhere {
        /// The id that both have.
        store_id: u64,
        /// Where the registered one is.
        registered: String,
        /// Where the other one is.
        claimed: String,
    },
    /// Another data directory with its id was accepted after this one.
    #[error(
        "store {store_id} was started from another data directory since (it is at {registered}); this one is an old copy \
         and must not be served"
    )]
    Superseded {
        /// The id that both have.
        store_id: u64,
        /// Where the other one is.
        registered: String,
    },
    /// Another store lives at its address.
    #[error("store {store_id} lives at {address}; give each store its own --advertise-addr")]
    AddressTaken {
        /// The store that lives there.
        store_id: u64,
        /// Where.
        address: String,
    },
    /// Another process may live with its id or at its address; this placement driver has not run for long enough to know.
    #[error(
        "store {store_id} at {registered} may be alive, and this placement driver has not run for the {} s that it takes \
         to know; ask again",
        DISCONNECTED_AFTER.as_secs()
    )]
    NotHeardYet {
        /// The store that may be alive.
        store_id: u64,
        /// Where.
        registered: String,
    },
}

impl State {
    /// The store's id, and what has to be made durable for it.
    ///
    /// Beside a start that names the accepted incarnation, these are accepted: the same start again, whose answer was
    /// lost; and one that names the incarnation before, as long as the accepted one was never confirmed by a heartbeat,
    /// since its process may have ended before it kept its incarnation.
    pub(super) fn decide_registration(
        &self,
        registration: &Registration,
    ) -> Result<(u64, Vec<Change>), Refusal> {
        self.check_cluster(registration)?;
        if registration.store_id == 0 {
            return self.decide_new_store(registration);
        }
        let store = self.known(registration.store_id)?;
        let record = &store.record;
        let repeated = record.incarnation == registration.incarnation;
        let previous = registration.previous_incarnation;
        let follows = previous == record.incarnation
            || (!record.incarnation_kept && previous == record.previous_incarnation);
        if record.abandoned || !(repeated || follows) {
            return Err(superseded(record));
        }
        if record.address != registration.address {
            self.check_silent(store, || elsewhere(record, registration))?;
        }
        self.check_address_free(registration)?;
        let mut accepted = StoreRecord {
            address: registration.address.clone(),
            confirmed: true,
            ..record.clone()
        };
        if !repeated {
            accepted.incarnation = registration.incarnation;
            accepted.incarnation_kept = false;
            accepted.previous_incarnation = previous;
        }
        let changed = accepted != *record;
        let changes = changed.then_some(Change::Store(accepted));
        Ok((registration.store_id, changes.into_iter().collect()))
    }

    /// Whether the store's record is up to date; false asks for [`decide_confirmation`](Self::decide_confirmation).
    pub(super) fn check_heartbeat(&self, registration: &Registration) -> Result<bool, Refusal> {
        self.check_cluster(registration)?;
        let record = &self.known(registration.store_id)?.record;
        if record.abandoned {
            return Err(superseded(record));
        }
        if record.address != registration.address {
            return Err(elsewhere(record, registration));
        }
        if record.incarnation != registration.incarnation {
            return Err(superseded(record));
        }
        Ok(record.confirmed && record.incarnation_kept)
    }

    /// The store has kept its id and its incarnation: nobody goes on from the one before any more.
    pub(super) fn decide_confirmation(
        &self,
        registration: &Registration,
    ) -> Result<Vec<Change>, Refusal> {
        // Asked again: it may have changed since.
        if self.check_heartbeat(registration)? {
            return Ok(Vec::new());
        }
        let confirmed = StoreRecord {
            confirmed: true,
            incarnation_kept: true,
            ..self.known(registration.store_id)?.record.clone()
        };
        Ok(vec![Change::Store(confirmed)])
    }

    /// Notes that this start of the store was heard of just now, unless another one was accepted since.
    pub(super) fn heard_of(
        &mut self,
        store_id: u64,
        registration: &Registration,
        stats: Option<StoreStats>,
    ) {
        let Some(store) = self.stores.get_mut(&store_id) else {
            return;
        };
        let record = &store.record;
        if (&record.address, record.incarnation)
            == (&registration.address, registration.incarnation)
        {
            store.heard_at = Some(Instant::now());
            store.stats = stats.or(store.stats);
        }
    }

    /// All stores that have a place here.
    pub(super) fn stores(&self) -> Vec<Store> {
        let stores = self.stores.values();
        let present = stores.filter(|store| !store.record.abandoned);
        present.map(KnownStore::to_wire).collect()
    }

    fn decide_new_store(&self, registration: &Registration) -> Result<(u64, Vec<Change>), Refusal> {
        let unkept = self.stores.values().find(|store| {
            let record = &store.record;
            !record.confirmed && !record.abandoned && record.address == registration.address
        });
        if let Some(store) = unkept
            && store.record.incarnation == registration.incarnation
        {
            // Its answer was lost.
            return Ok((store.record.id, Vec::new()));
        }
        self.check_address_free(registration)?;
        let store_id = self.counters.store_id + 1;
        let mut counters = Counters {
            store_id,
            ..self.counters
        };
        let mut changes = vec![Change::Store(StoreRecord {
            id: store_id,
            address: registration.address.clone(),
            incarnation: registration.incarnation,
            ..StoreRecord::default()
        })];
        if self.regions.is_empty() {
            changes.push(Change::Region(self.first_region(store_id, &mut counters)));
        }
        if let Some(store) = unkept {
            changes.extend(self.replace(&store.record, store_id, &mut counters));
        }
        changes.push(Change::Counters(counters));
        Ok((store_id, changes))
    }

    /// The silent store `abandoned` never kept its id, so it never served: `store_id` takes its place in its regions.
    fn replace(
        &self,
        abandoned: &StoreRecord,
        store_id: u64,
        counters: &mut Counters,
    ) -> Vec<Change> {
        let mut changes = vec![Change::Store(StoreRecord {
            abandoned: true,
            ..abandoned.clone()
        })];
        for mut region in self.regions_of(abandoned.id) {
            let epoch = region.epoch_or_default();
            region.epoch = Some(RegionEpoch {
                conf_version: epoch.conf_version + 1,
                ..epoch
            });
            for peer in &mut region.peers {
                if peer.store_id == abandoned.id {
                    counters.peer_id += 1;
                    let id = counters.peer_id;
                    *peer = Peer { id, store_id };
                }
            }
            changes.push(Change::Region(region));
        }
        changes
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

    /// Refuses with `alive` when `store` was heard of lately, or may be alive without having been heard of yet.
    fn check_silent(
        &self,
        store: &KnownStore,
        alive: impl FnOnce() -> Refusal,
    ) -> Result<(), Refusal> {
        let settled = self.settled_at.is_none_or(|at| at <= Instant::now());
        match store.silence() {
            Some(age) if age < DISCONNECTED_AFTER => Err(alive()),
            None if !settled => Err(Refusal::NotHeardYet {
                store_id: store.record.id,
                registered: store.record.address.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Every other store that is known at the address has to be silent.
    fn check_address_free(&self, registration: &Registration) -> Result<(), Refusal> {
        let others = self.stores.values().filter(|store| {
            let record = &store.record;
            !record.abandoned
                && record.id != registration.store_id
                && record.address == registration.address
        });
        for store in others {
            self.check_silent(store, || Refusal::AddressTaken {
                store_id: store.record.id,
                address: store.record.address.clone(),
            })?;
        }
        Ok(())
    }
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

impl KnownStore {
    /// For how long nothing was heard of it; `None`: not since this process started.
    fn silence(&self) -> Option<Duration> {
        self.heard_at.map(|at| at.elapsed())
    }

    pub(super) fn to_wire(&self) -> Store {
        Store {
            id: self.record.id,
            address: self.record.address.clone(),
            state: state_at(self.silence()).into(),
            last_heartbeat_age_ms: self.silence().map(|age| age.as_millis() as u64),
            stats: self.stats,
        }
    }
}

/// A store that was not heard of since this process started may be in any state: it counts as disconnected.
fn state_at(silence: Option<Duration>) -> StoreState {
    match silence {
        Some(age) if age < DISCONNECTED_AFTER => StoreState::Up,
        Some(age) if age >= DOWN_AFTER => StoreState::Down,
        _ => StoreState::Disconnected,
    }
}

#[cfg(test)]
mod tests;
