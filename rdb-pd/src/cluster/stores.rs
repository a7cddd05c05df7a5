//! Who may be a store, and how it is.

use std::time::{Duration, Instant};

use rdb_proto::metapb::{Store, StoreState, StoreStats};

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
    /// When its process started, in milliseconds since the Unix epoch.
    pub start_time_ms: u64,
}

/// Why a store has no place here. Asking again does not help.
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
    /// Another store lives at its address.
    #[error("store {store_id} lives at {address}; give each store its own --advertise-addr")]
    AddressTaken {
        /// The store that lives there.
        store_id: u64,
        /// Where.
        address: String,
    },
}

impl State {
    /// The store's id, and what has to be made durable for it.
    pub(super) fn decide_registration(
        &self,
        registration: &Registration,
    ) -> Result<(u64, Vec<Change>), Refusal> {
        self.check_cluster(registration)?;
        if registration.store_id == 0 {
            return self.decide_new_store(registration);
        }
        let store = self.known(registration.store_id)?;
        self.check_not_elsewhere(store, registration)?;
        self.check_address_free(registration)?;
        let mut changes = Vec::new();
        if store.record.address != registration.address {
            let address = registration.address.clone();
            changes.push(Change::Store(StoreRecord {
                address,
                ..store.record.clone()
            }));
        }
        Ok((registration.store_id, changes))
    }

    /// Whether the store's record is up to date; false asks for [`decide_confirmation`](Self::decide_confirmation).
    pub(super) fn check_heartbeat(&self, registration: &Registration) -> Result<bool, Refusal> {
        self.check_cluster(registration)?;
        let store = self.known(registration.store_id)?;
        if store.record.address != registration.address {
            return Err(elsewhere(store, registration));
        }
        Ok(store.record.confirmed)
    }

    /// The store has kept its id.
    pub(super) fn decide_confirmation(&self, store_id: u64) -> Vec<Change> {
        let record = self.stores.get(&store_id).map(|store| &store.record);
        let unconfirmed = record.filter(|record| !record.confirmed);
        let confirm = |record: &StoreRecord| StoreRecord {
            confirmed: true,
            ..record.clone()
        };
        unconfirmed
            .map(confirm)
            .map(Change::Store)
            .into_iter()
            .collect()
    }

    /// Notes that the store at `address` was heard of just now; one that has moved since is somebody else.
    pub(super) fn heard_of(&mut self, store_id: u64, address: &str, stats: Option<StoreStats>) {
        let store = self.stores.get_mut(&store_id);
        if let Some(store) = store.filter(|store| store.record.address == address) {
            store.heard_at = Some(Instant::now());
            store.stats = stats.or(store.stats);
        }
    }

    pub(super) fn stores(&self) -> Vec<Store> {
        self.stores.values().map(KnownStore::to_wire).collect()
    }

    fn decide_new_store(&self, registration: &Registration) -> Result<(u64, Vec<Change>), Refusal> {
        if let Some(record) = self.unkept(registration) {
            let start_time_ms = registration.start_time_ms;
            return Ok((
                record.id,
                vec![Change::Store(StoreRecord {
                    start_time_ms,
                    ..record.clone()
                })],
            ));
        }
        self.check_address_free(registration)?;
        let store_id = self.counters.store_id + 1;
        let mut counters = Counters {
            store_id,
            ..self.counters
        };
        let record = StoreRecord {
            id: store_id,
            address: registration.address.clone(),
            confirmed: false,
            start_time_ms: registration.start_time_ms,
        };
        let mut changes = vec![Change::Store(record)];
        if self.regions.is_empty() {
            changes.push(Change::Region(self.first_region(store_id, &mut counters)));
        }
        changes.push(Change::Counters(counters));
        Ok((store_id, changes))
    }

    /// The store at this address that has not kept its id: the answer to the same process was lost, or that process
    /// ended before it kept it and nobody lives there now.
    fn unkept(&self, registration: &Registration) -> Option<&StoreRecord> {
        let mut at_address = self.stores.values().filter(|store| {
            !store.record.confirmed && store.record.address == registration.address
        });
        let unkept = at_address.find(|store| {
            store.record.start_time_ms == registration.start_time_ms || !store.is_live()
        });
        unkept.map(|store| &store.record)
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

    fn check_not_elsewhere(
        &self,
        store: &KnownStore,
        registration: &Registration,
    ) -> Result<(), Refusal> {
        if store.record.address != registration.address && store.is_live() {
            return Err(elsewhere(store, registration));
        }
        Ok(())
    }

    fn check_address_free(&self, registration: &Registration) -> Result<(), Refusal> {
        let mut others = self.stores.values().filter(|store| {
            store.record.id != registration.store_id && store.record.address == registration.address
        });
        match others.find(|store| store.is_live()) {
            Some(store) => Err(Refusal::AddressTaken {
                store_id: store.record.id,
                address: store.record.address.clone(),
            }),
            None => Ok(()),
        }
    }
}

fn elsewhere(store: &KnownStore, registration: &Registration) -> Refusal {
    Refusal::LivesElsewhere {
        store_id: store.record.id,
        registered: store.record.address.clone(),
        claimed: registration.address.clone(),
    }
}

impl KnownStore {
    fn is_live(&self) -> bool {
        state_at(self.silence()) == StoreState::Up
    }

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
