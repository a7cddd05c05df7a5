//! The regions of this store: what is on the disk, a group for each, and what the router knows of them.
//!
//! A region is a descriptor, its data, and the log of its group. It begins with a *first state*, which is the same on all its
//! first peers: the descriptor, the peers as voters, and a position below the first entry of the log. Regions of a directory
//! from before there were groups get theirs at the start, and their data counts as from before the log.
//!
//! A peer that is added later has no first state. It is made when another store sends it something, and *waits* for a snapshot: until
//! then the region counts, and is neither served nor reported. From then on the region follows its log.
//!
//! A replica is removed by order of the placement driver. First its group ends. Then one write removes data and records and leaves a
//! *tombstone*. Then the log is removed. A start that finds a tombstone and no region removes what is left of the log. So late
//! messages never bring a replica back.
//!
//! Which peer of a region this store has is noted with its log, when the log is opened for the first time. The region is opened with the
//! noted peer even if it is stored as of when this store had another peer, or none. Without a note, which only an older release leaves out,
//! the region says which peer it is. If it names none, it is *unopened* until another store sends something to a peer of this store.
//!
//! `opening.rs` creates and opens them, `follow.rs` changes them while the store runs, `handing_over.rs` lets others lead them, and
//! `report.rs` reports them.

mod damage;
mod follow;
mod handing_over;
mod opening;
mod own_peer;
mod replicas;
mod report;
mod sizes;
mod steps;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex as Lock, MutexGuard, OnceLock, PoisonError};

use rdb_raft::group::GroupState;
use rdb_raft::log::LogHealth;
use rdb_raft::transport::{Dialing, PeerService, Starts, StoreIdentity, Transport};
use rdb_raft::{Node, Timing};
use rdb_storage::{Durability, LogDatabase, Storage};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::addresses::Addresses;
use crate::checks::Checks;
use crate::error::ServerError;
use crate::region::Proposer;
use crate::router::{Membership, Router};
use crate::starts::{forget_longer_timeout, open_starts, promised_timeout_ms, refuse_outdated};
pub(crate) use damage::Damage;
use follow::Order;
use replicas::Replicas;
pub(crate) use report::{RegionCounts, Report};
use sizes::Sizes;

/// The regions of a store that is open.
pub(crate) struct Regions {
    storage: Storage,
    durability: Durability,
    log: Arc<LogDatabase>,
    node: Arc<Node>,
    router: Router,
    checks: Arc<Checks>,
    addresses: Arc<Addresses>,
    starts: Arc<Starts>,
    /// By region.
    damaged: watch::Sender<BTreeMap<u64, Damage>>,
    /// Who this store is, once it has registered.
    identity: Arc<OnceLock<StoreIdentity>>,
    /// How other stores are connected to.
    dialing: Dialing,
    /// The ways to other stores, once this one has registered.
    transport: OnceLock<Transport>,
    replicas: Lock<Replicas>,
    /// The sizes of the regions that this store leads.
    sizes: Sizes,
    /// The regions that requests can reach.
    served: watch::Sender<BTreeSet<u64>>,
    /// Held while regions are begun or opened.
    opening: Mutex<()>,
    /// The regions whose logs have changed them, and that were not looked at since.
    changed: watch::Sender<BTreeSet<u64>>,
    /// Counts what the placement driver should hear of soon.
    news: watch::Sender<u64>,
    orders: mpsc::Sender<Order>,
    ordered: Mutex<mpsc::Receiver<Order>>,
}

/// Orders of the placement driver that wait.
const ORDERS_MAX: usize = 64;

impl Regions {
    /// Opens the log of a storage. There are no groups yet. Other stores are connected to as `dialing` says.
    pub(crate) async fn open(
        storage: Storage,
        router: Router,
        durability: Durability,
        timing: Timing,
        log_bytes_max: u64,
        dialing: Dialing,
    ) -> Result<Self, ServerError> {
        let (of_log, timeout_ms) = (storage.clone(), timing.election_timeout_max_ms);
        let opened = spawn_blocking(move || {
            let directory = of_log.directory();
            refuse_outdated(&directory)?;
            let addresses = Addresses::open(&directory);
            let starts = open_starts(&directory, of_log.identity().start());
            let log = of_log.open_log()?;
            // A directory whose log is refused stays as it is.
            let promised_ms = promised_timeout_ms(&directory, timeout_ms);
            let promised_ms = promised_ms.map_err(ServerError::ElectionTimeout)?;
            Ok::<_, ServerError>((log, addresses, starts, promised_ms))
        });
        let (log, addresses, starts, promised_ms) = opened.await??;
        let log = Arc::new(log);
        let node = Node::start_keeping(log_bytes_max, timing, Arc::clone(&log) as _)?;
        let node = Arc::new(node.after_promises(promised_ms));
        let (orders, ordered) = mpsc::channel(ORDERS_MAX);
        Ok(Self {
            checks: Arc::new(Checks::new(storage.clone())),
            storage,
            durability,
            log,
            node,
            router,
            addresses: Arc::new(addresses),
            starts,
            damaged: watch::Sender::default(),
            identity: Arc::default(),
            dialing,
            transport: OnceLock::new(),
            replicas: Lock::default(),
            sizes: Sizes::default(),
            served: watch::Sender::default(),
            opening: Mutex::default(),
            changed: watch::Sender::default(),
            news: watch::Sender::default(),
            orders,
            ordered: Mutex::new(ordered),
        })
    }

    /// What other stores call.
    pub(crate) fn peer_service(&self) -> PeerService {
        let (identity, starts) = (Arc::clone(&self.identity), Arc::clone(&self.starts));
        PeerService::new(identity, Arc::clone(&self.node), starts)
    }

    /// Which starts of stores are known.
    pub(crate) fn starts(&self) -> &Starts {
        &self.starts
    }

    /// Waits until what this store has promised before its start is over. The next start need not wait for that again.
    async fn forget_promises(&self) {
        sleep(self.node.promises_last()).await;
        let timeout_ms = self.node.timing().election_timeout_max_ms;
        forget_longer_timeout(self.storage.directory(), timeout_ms).await;
    }

    /// The checks of the regions.
    pub(crate) fn checks(&self) -> &Arc<Checks> {
        &self.checks
    }

    /// Where other stores are.
    pub(crate) fn addresses(&self) -> &Arc<Addresses> {
        &self.addresses
    }

    /// Whether logs are written.
    pub(crate) fn log_health(&self) -> watch::Receiver<LogHealth> {
        self.node.log_health()
    }

    /// What is known of the groups, by the ids of their regions.
    pub(crate) fn states(&self) -> watch::Receiver<BTreeMap<u64, GroupState>> {
        self.node.states()
    }

    /// Which regions have data that is damaged, by their ids.
    pub(crate) fn damaged(&self) -> watch::Receiver<BTreeMap<u64, Damage>> {
        self.damaged.subscribe()
    }

    /// Which regions requests can reach, by their ids.
    pub(crate) fn served(&self) -> watch::Receiver<BTreeSet<u64>> {
        self.served.subscribe()
    }

    /// Changes when the placement driver should hear of the regions soon.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Ends the groups, flushes the data, and then the log, which has what is not flushed. Blocks.
    pub(crate) fn close(&self, runtime: &Handle) -> Result<(), rdb_storage::Error> {
        // A group may wait for a write of the log, which may wait for a compaction.
        self.log.stop_compactions();
        runtime.block_on(self.node.shut_down());
        runtime.block_on(self.checks.close());
        let flushed = self.storage.close();
        self.log.close()?;
        flushed
    }

    fn transport(&self, identity: StoreIdentity) -> &Transport {
        self.transport.get_or_init(|| {
            let (addresses, starts) = (Arc::clone(&self.addresses), Arc::clone(&self.starts));
            let (timing, dialing) = (*self.node.timing(), self.dialing.clone());
            Transport::with_dialing(identity, timing, addresses, starts, dialing)
        })
    }

    /// Has requests reach what they can.
    fn route(&self, replicas: &Replicas) {
        let Some(identity) = self.identity.get() else {
            return;
        };
        let (ids, handles): (BTreeSet<_>, _) = replicas.handles().unzip();
        let (cluster_id, store_id) = (identity.cluster_id, identity.store_id);
        self.router
            .set(Membership::new(cluster_id, store_id, handles));
        self.served.send_replace(ids);
    }

    /// How many regions this store has, with those that are left out since the install of a snapshot is not finished.
    fn count(&self, replicas: &Replicas) -> usize {
        let unfinished = self.storage.unfinished_installs().into_keys();
        // A peer that had nothing before the snapshot may wait for another one.
        let left_out = unfinished.filter(|region_id| !replicas.has(*region_id));
        replicas.count() + left_out.count()
    }

    fn proposers(&self) -> Vec<(u64, Arc<Proposer>)> {
        let replicas = self.replicas();
        let open = replicas.open.iter();
        open.map(|(&id, replica)| (id, Arc::clone(&replica.proposer)))
            .collect()
    }

    fn replicas(&self) -> MutexGuard<'_, Replicas> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
