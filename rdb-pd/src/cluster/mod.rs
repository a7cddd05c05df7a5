//! The cluster's metadata: its id, its stores, and which store serves which region.
//!
//! [`Cluster`] owns it. A change is made durable before it is answered or seen. Heartbeats are kept in memory only: after
//! a restart a store counts as never heard of until its next one.
//!
//! Decisions are pure functions of what is known (in `stores.rs` and `regions.rs`). This module persists what they decided
//! and then lets it be seen. The three steps run in a task of their own, since a change that is durable and not seen would
//! give out the same id twice: a client that hangs up does not stop them half way.

mod regions;
mod state;
mod stores;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use rdb_proto::metapb::{Region, RegionRoute, Store, StoreStats};
use rdb_storage::limits::EMBEDDED_REGION_ID;
use rdb_storage::{Command, Storage, Submission};
use tokio::sync::Mutex;

use crate::error::PdError;
use state::{Change, State};
pub use stores::{Refusal, Registration};

/// A store without a heartbeat for this long is disconnected; until then it is live.
pub const DISCONNECTED_AFTER: Duration = Duration::from_secs(20);

/// A store without a heartbeat for this long is down.
pub const DOWN_AFTER: Duration = Duration::from_secs(30 * 60);

/// How often a store is asked to send a heartbeat.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// Most regions of one answer: with two keys of 8 KiB each they stay well under the message limit.
pub const REGIONS_MAX: u32 = 256;

/// A registration or a heartbeat failed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The store has no place here; asking again does not help.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What was decided could not be made durable.
    #[error("the placement driver cannot write its data: {0}")]
    Storage(#[from] rdb_storage::Error),
    /// The change did not run to its end.
    #[error("the placement driver's change of its data panicked: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// What a registered store learns.
#[derive(Debug, Clone, PartialEq)]
pub struct Registered {
    /// The cluster's id.
    pub cluster_id: u64,
    /// The store's id.
    pub store_id: u64,
    /// The regions with a peer on the store.
    pub regions: Vec<Region>,
}

/// The cluster. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
}

struct Shared {
    storage: Storage,
    /// Never held across an await.
    state: RwLock<State>,
    /// Held while a change is decided, persisted and applied, so that changes come one after the other.
    changing: Mutex<()>,
}

impl Cluster {
    /// Loads the cluster from `storage`; a new one gets a random id. Blocks.
    ///
    /// # Errors
    ///
    /// When the storage cannot be read or written, or holds something else.
    pub fn open(storage: Storage) -> Result<Self, PdError> {
        let state = State::load_or_create(&storage)?;
        storage.assign(state.cluster_id, None, None)?;
        Ok(Self {
            shared: Arc::new(Shared {
                storage,
                state: RwLock::new(state),
                changing: Mutex::new(()),
            }),
        })
    }

    /// The cluster's id, never 0.
    pub fn id(&self) -> u64 {
        self.read(|state| state.cluster_id)
    }

    /// Registers a store and says what it is. The same registration again gives the same answer.
    ///
    /// # Errors
    ///
    /// [`ClusterError::Refused`] says why the store has no place here.
    pub async fn register(&self, registration: Registration) -> Result<Registered, ClusterError> {
        let cluster = self.clone();
        let step = async move {
            let _changing = cluster.shared.changing.lock().await;
            let (store_id, changes) =
                cluster.read(|state| state.decide_registration(&registration))?;
            cluster.persist_and_apply(changes).await?;
            Ok(cluster.write(|state| {
                state.heard_of(store_id, &registration, None);
                Registered {
                    cluster_id: state.cluster_id,
                    store_id,
                    regions: state.regions_of(store_id),
                }
            }))
        };
        tokio::spawn(step).await?
    }

    /// Takes a store's heartbeat.
    ///
    /// # Errors
    ///
    /// [`ClusterError::Refused`] when it comes from a store that is not registered like this.
    pub async fn heartbeat(
        &self,
        registration: Registration,
        stats: StoreStats,
    ) -> Result<(), ClusterError> {
        if !self.read(|state| state.check_heartbeat(&registration))? {
            tokio::spawn(self.clone().confirm(registration.clone())).await??;
        }
        let store_id = registration.store_id;
        self.write(|state| state.heard_of(store_id, &registration, Some(stats)));
        Ok(())
    }

    /// The store has kept the id and the incarnation that were accepted.
    async fn confirm(self, registration: Registration) -> Result<(), ClusterError> {
        let _changing = self.shared.changing.lock().await;
        let changes = self.read(|state| state.decide_confirmation(&registration))?;
        Ok(self.persist_and_apply(changes).await?)
    }

    /// All stores, in the order of their ids.
    pub fn stores(&self) -> Vec<Store> {
        self.read(State::stores)
    }

    /// The region that holds `key`.
    pub fn region(&self, key: &[u8]) -> Option<RegionRoute> {
        self.read(|state| state.route(key))
    }

    /// Up to `limit` regions in key order, from the one that holds `start_key` up to those that start below `end_key`
    /// (empty: no bound).
    pub fn regions(&self, start_key: &[u8], end_key: &[u8], limit: usize) -> Vec<RegionRoute> {
        self.read(|state| state.routes(start_key, end_key, limit))
    }

    async fn persist_and_apply(&self, changes: Vec<Change>) -> Result<(), rdb_storage::Error> {
        if changes.is_empty() {
            return Ok(());
        }
        let entries: Vec<(Bytes, Bytes)> = changes.iter().map(Change::entry).collect();
        let commands = vec![Command::PutBatchRaw { entries }];
        let pending = self
            .shared
            .storage
            .submit(Submission::new(EMBEDDED_REGION_ID, commands))?;
        pending.await?;
        self.write(|state| changes.into_iter().for_each(|change| state.apply(change)));
        Ok(())
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(
            &self
                .shared
                .state
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(
            &mut self
                .shared
                .state
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use rdb_storage::{Role, StorageOptions};

    use super::*;

    #[test]
    fn a_caller_that_hangs_up_does_not_cut_a_registration_in_two() {
        let directory = tempfile::tempdir().unwrap();
        let options = StorageOptions::new(Role::Pd);
        let storage = Storage::open(directory.path(), options).unwrap();
        let cluster = Cluster::open(storage).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(hang_up_and_register(&cluster));
        let ids = |stores: Vec<Store>| stores.iter().map(|store| store.id).collect::<Vec<_>>();
        let on_disk = State::load_or_create(&cluster.shared.storage).unwrap();
        assert_eq!(ids(cluster.stores()), ids(on_disk.stores()));
        let addresses: BTreeSet<_> = on_disk.stores().into_iter().map(|s| s.address).collect();
        let begun = (1..=20).filter(|port| port % 4 > 0);
        let registered: BTreeSet<_> = begun
            .chain(101..=120)
            .map(|port| format!("a:{port}"))
            .collect();
        assert_eq!(addresses, registered, "no id was given out twice");
    }

    async fn hang_up_and_register(cluster: &Cluster) {
        let registration = |port: u32| Registration {
            address: format!("a:{port}"),
            store_id: 0,
            cluster_id: 0,
            incarnation: u64::from(port),
            previous_incarnation: 0,
        };
        for port in 1..=20 {
            {
                // Hangs up after a few steps: with the change on its way to the disk, or queued, or done.
                let mut call = pin!(cluster.register(registration(port)));
                let mut context = Context::from_waker(Waker::noop());
                for _ in 0..port % 4 {
                    let _ = call.as_mut().poll(&mut context);
                    tokio::task::yield_now().await;
                }
            }
            cluster.register(registration(100 + port)).await.unwrap();
        }
    }
}
