//! The cluster's metadata: its id, its stores, and which store serves which region.
//!
//! - `state.rs`: the state of the cluster, and its durable part.
//! - `stores.rs` and `regions.rs`: decisions, as pure functions of the state, the request and the time. `record.rs` is what a
//!   store's record says and how it goes on, `refusal.rs` why a start is refused.
//! - `registrar.rs`: the one task that decides, makes the decision durable and applies it to the state.
//! - `listening.rs`: since when this process can tell that a store is silent.
//!
//! The service holds a [`Cluster`]. Heartbeats are kept in memory only: after a restart no store counts as heard of until
//! its next heartbeat.

mod listening;
mod record;
mod refusal;
mod regions;
mod registrar;
mod state;
mod stores;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rdb_proto::metapb::{RegionRoute, Store, StoreStats};
use rdb_proto::pdpb::RegisterStoreResponse;
use rdb_storage::limits::{BATCH_ENTRIES_MAX, EMBEDDED_REGION_ID, KEY_BYTES_MAX};
use rdb_storage::{Storage, Submission};
use tokio::sync::{mpsc, oneshot};

use self::registrar::{QUESTIONS_MAX, Question, RareLine};
use self::state::{Change, State};
use crate::error::PdError;

pub use refusal::{Refusal, RegisteredStore};
pub use registrar::Registrar;
pub use stores::{Registration, Start};

/// A store without a heartbeat for this long is disconnected; until then it is live.
pub const DISCONNECTED_AFTER: Duration = Duration::from_secs(20);

/// A store without a heartbeat for this long is down.
pub const DOWN_AFTER: Duration = Duration::from_secs(30 * 60);

/// How often a store is asked to send a heartbeat.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// Most regions of one answer: with two keys of 8 KiB each they stay well under the message limit.
pub const REGIONS_MAX: u32 = 256;

/// Most stores of a cluster: the answer that lists all of them stays well under the message limit.
pub const STORES_MAX: usize = 10_000;

/// Longest encoding of a store in a list: its address of up to 255 bytes, and numbers.
const STORE_BYTES_MAX: usize = 352;

/// Longest encoding of a region in a list: two keys, a store that leads it, and numbers.
const REGION_BYTES_MAX: usize = 2 * KEY_BYTES_MAX + STORE_BYTES_MAX + 160;

/// Most stores that have got an id and not said that they keep it. The oldest make room for more.
const UNCONFIRMED_STORES_MAX: usize = 256;

/// A registration or a heartbeat failed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The store is refused, for good or for now.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The decision could not be made durable.
    #[error("the placement driver cannot write its data: {0}")]
    Storage(#[from] rdb_storage::Error),
    /// Too many registrations wait.
    #[error("{QUESTIONS_MAX} registrations wait for the placement driver's disk; ask again")]
    Busy,
    /// The process stops.
    #[error("the placement driver stops")]
    Stopping,
}

/// The cluster. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
    questions: mpsc::Sender<Question>,
}

struct Shared {
    storage: Storage,
    /// Never held across an await. Only the registrar changes the durable part.
    state: RwLock<State>,
}

impl Cluster {
    /// Loads the cluster from `storage`; a new one gets a random id. The [`Registrar`] has to run beside it. Blocks.
    ///
    /// `restored` means that the storage may be an older copy: ids that were given out since are skipped, and the next start
    /// of each store is accepted.
    ///
    /// # Errors
    ///
    /// When the storage cannot be read or written, or holds something else.
    pub fn open(storage: Storage, restored: bool) -> Result<(Self, Registrar), PdError> {
        let mut state = State::load_or_create(&storage, Instant::now())?;
        storage.assign(state.cluster_id, None, None)?;
        if restored {
            let changes = state.changes_after_restore();
            for part in changes.chunks(BATCH_ENTRIES_MAX) {
                storage.submit(submission(part))?.wait()?;
            }
            changes.into_iter().for_each(|change| state.apply(change));
        }
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let shared = Arc::new(Shared {
            storage,
            state: RwLock::new(state),
        });
        let registrar = Registrar {
            shared: Arc::clone(&shared),
            questions: asked,
            registered: RareLine::default(),
            refused: RareLine::default(),
        };
        Ok((Self { shared, questions }, registrar))
    }

    /// The cluster's id, never 0.
    pub fn id(&self) -> u64 {
        self.shared.read(|state| state.cluster_id)
    }

    /// Registers a store. The same registration again gets the same answer.
    ///
    /// # Errors
    ///
    /// [`ClusterError::Refused`] says why the store is refused.
    pub async fn register(
        &self,
        registration: Registration,
    ) -> Result<RegisterStoreResponse, ClusterError> {
        let (answer, answered) = oneshot::channel();
        let question = Question {
            registration,
            answer,
        };
        self.questions
            .try_send(question)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => ClusterError::Busy,
                mpsc::error::TrySendError::Closed(_) => ClusterError::Stopping,
            })?;
        answered.await.map_err(|_| ClusterError::Stopping)?
    }

    /// Takes a store's heartbeat.
    ///
    /// # Errors
    ///
    /// [`Refusal`] when the heartbeat does not come from the present start of a registered store.
    pub fn heartbeat(&self, start: &Start, stats: Option<StoreStats>) -> Result<(), Refusal> {
        self.shared.write(|state| {
            state.check_heartbeat(start)?;
            state.heard_of(start.store_id, start, stats, Instant::now());
            Ok(())
        })
    }

    /// Most bytes that the list of all stores has at the moment. Cheap, unlike the list itself.
    pub fn stores_bytes_max(&self) -> usize {
        self.shared.read(|state| state.stores.len()) * STORE_BYTES_MAX
    }

    /// All stores that have kept their id, in the order of their ids.
    pub fn stores(&self) -> Vec<Store> {
        self.shared.read(|state| state.stores(Instant::now()))
    }

    /// The region that holds `key`.
    pub fn region(&self, key: &[u8]) -> Option<RegionRoute> {
        self.shared.read(|state| state.route(key, Instant::now()))
    }

    /// Most bytes that a list of up to `limit` regions has at the moment.
    pub fn regions_bytes_max(&self, limit: usize) -> usize {
        limit.min(self.shared.read(|state| state.regions.len())) * REGION_BYTES_MAX
    }

    /// Up to `limit` regions in key order, from the one that holds `start_key` up to those that start below `end_key`
    /// (empty: no bound).
    pub fn regions(&self, start_key: &[u8], end_key: &[u8], limit: usize) -> Vec<RegionRoute> {
        let now = Instant::now();
        self.shared
            .read(|state| state.routes(start_key, end_key, limit, now))
    }
}

impl Shared {
    async fn persist_and_apply(&self, changes: Vec<Change>) -> Result<(), rdb_storage::Error> {
        if changes.is_empty() {
            return Ok(());
        }
        self.storage.submit(submission(&changes))?.await?;
        self.write(|state| changes.into_iter().for_each(|change| state.apply(change)));
        Ok(())
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The changes as one write: all or none.
fn submission(changes: &[Change]) -> Submission {
    let commands = changes.iter().map(Change::command).collect();
    Submission::new(EMBEDDED_REGION_ID, commands)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use bytes::Bytes;
    use prost::Message;
    use rdb_proto::metapb::{Peer, Region, RegionEpoch};
    use rdb_proto::pdpb::{GetStoresResponse, ScanRegionsResponse};
    use rdb_storage::{Role, StorageOptions};
    use tempfile::TempDir;
    use tokio::task::yield_now;

    use super::*;
    use crate::keys::StoreRecord;

    async fn open() -> (TempDir, Cluster, Registrar) {
        let opened = tokio::task::spawn_blocking(|| {
            let directory = tempfile::tempdir().unwrap();
            let storage = Storage::open(directory.path(), StorageOptions::new(Role::Pd)).unwrap();
            let (cluster, registrar) = Cluster::open(storage, false).unwrap();
            (directory, cluster, registrar)
        });
        opened.await.unwrap()
    }

    fn fresh(port: u32) -> Registration {
        let start = Start {
            address: format!("a:{port}"),
            store_id: 0,
            cluster_id: 0,
            incarnation: u64::from(port),
        };
        Registration {
            start,
            kept_incarnation: None,
        }
    }

    /// Hangs up after a few steps, unless it is done before.
    async fn hang_up(call: impl Future, steps: u32) {
        let mut call = pin!(call);
        for _ in 0..steps {
            let step = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            if step.is_ready() {
                return;
            }
            yield_now().await;
        }
    }

    fn addresses(state: &State) -> BTreeSet<String> {
        let records = state.stores.values().map(|store| &store.record);
        records.map(|record| record.address.clone()).collect()
    }

    #[tokio::test]
    async fn a_caller_that_hangs_up_does_not_cut_a_registration_in_two() {
        let (_directory, cluster, registrar) = open().await;
        let running = tokio::spawn(registrar.run());
        let shared = &cluster.shared;
        let first = fresh(1_000);
        cluster.register(first.clone()).await.unwrap();
        for port in 1..=20 {
            // With the change on its way to the disk, or queued, or done.
            hang_up(cluster.register(fresh(port)), port % 4).await;
            // The same start again changes nothing. It is answered, and the storage writes, after what was begun.
            cluster.register(first.clone()).await.unwrap();
            let storage = shared.storage.clone();
            let written = tokio::task::spawn_blocking(move || storage.put_raw("after", ""));
            written.await.unwrap().unwrap();
            let durable = State::load_or_create(&shared.storage, Instant::now()).unwrap();
            assert_eq!(shared.read(addresses), addresses(&durable), "{port}");
        }
        running.abort();
    }

    #[tokio::test]
    async fn no_list_is_longer_than_the_room_that_is_asked_for_it() {
        let (_directory, cluster, _registrar) = open().await;
        let stats = StoreStats {
            capacity_bytes: u64::MAX,
            available_bytes: u64::MAX,
            key_count: u64::MAX,
            data_bytes: u64::MAX,
            start_time_ms: u64::MAX,
        };
        let longest = Store {
            id: u64::MAX,
            address: "a".repeat(255),
            state: i32::MAX,
            last_heartbeat_age_ms: Some(u64::MAX),
            stats: Some(stats),
        };
        let key = Bytes::from(vec![b'k'; KEY_BYTES_MAX]);
        let region = Region {
            id: u64::MAX,
            start_key: key.clone(),
            end_key: key,
            epoch: Some(RegionEpoch {
                conf_version: u64::MAX,
                version: u64::MAX,
            }),
            peers: vec![Peer {
                id: u64::MAX,
                store_id: u64::MAX,
            }],
        };
        assert_eq!(cluster.stores_bytes_max(), 0);
        cluster.shared.write(|state| {
            state.apply(Change::Region(region.clone()));
            for id in 1..=2 {
                state.apply(Change::Store(StoreRecord {
                    id,
                    ..StoreRecord::default()
                }));
            }
        });
        let route = RegionRoute {
            region: Some(region),
            leader: Some(longest.clone()),
            ..RegionRoute::default()
        };
        let stores = vec![longest; 2];
        let stores = GetStoresResponse { stores };
        assert!(stores.encoded_len() <= cluster.stores_bytes_max());
        let routes = vec![route];
        let routes = ScanRegionsResponse { routes };
        assert!(routes.encoded_len() <= cluster.regions_bytes_max(1));
        assert_eq!(cluster.regions_bytes_max(1), cluster.regions_bytes_max(256));
    }

    #[tokio::test]
    async fn stores_that_never_confirm_leave_the_disk_too() {
        let (_directory, cluster, registrar) = open().await;
        let running = tokio::spawn(registrar.run());
        for port in 1..=UNCONFIRMED_STORES_MAX as u32 + 10 {
            let answer = cluster.register(fresh(port)).await.unwrap();
            assert_eq!(answer.store_id, u64::from(port));
        }
        let shared = &cluster.shared;
        let durable = State::load_or_create(&shared.storage, Instant::now()).unwrap();
        assert_eq!(durable.stores.len(), UNCONFIRMED_STORES_MAX);
        assert_eq!(shared.read(addresses), addresses(&durable));
        assert_eq!(durable.counters.store_id, 266);
        running.abort();
    }

    #[tokio::test]
    async fn registrations_queue_up_to_a_bound_and_those_given_up_are_not_decided() {
        let (_directory, cluster, registrar) = open().await;
        for port in 1..=QUESTIONS_MAX as u32 {
            hang_up(cluster.register(fresh(port)), 1).await;
        }
        let refused = cluster.register(fresh(1_000)).await;
        assert!(matches!(refused, Err(ClusterError::Busy)), "{refused:?}");

        let running = tokio::spawn(registrar.run());
        while cluster.questions.capacity() < QUESTIONS_MAX {
            yield_now().await;
        }
        assert_eq!(cluster.register(fresh(1_000)).await.unwrap().store_id, 1);
        running.abort();
        let ended = running.await;
        assert!(ended.is_err_and(|error| error.is_cancelled()));
        let refused = cluster.register(fresh(1_001)).await;
        assert!(
            matches!(refused, Err(ClusterError::Stopping)),
            "{refused:?}"
        );
    }
}
