//! The regions of this store: what is on the disk, a group for each, and what the router knows of them.
//!
//! A region is a descriptor, its data, and the log of its group. It begins with a *first state*, which all its first peers write
//! alike: the descriptor, the peers as voters, and a position below the first entry of the log. Regions of a directory from
//! before there were groups get theirs at the start, and their data lies below the log.
//!
//! A peer that is added later has no first state. It is made when another store sends it something, and *waits* for a snapshot: until
//! then the region counts, and is neither served nor reported. What a region is follows its log from then on.
//!
//! The end of a replica is an order of the placement driver. The group ends, then data and records go, with a *tombstone* in the same
//! write, then the log. A start that finds a tombstone and no region removes what is left of the log. So messages that are late never
//! bring a replica back.
//!
//! Which peer of a region this store has is noted with its log, when it is opened for the first time. A region that is stored as of when this
//! store had another peer, or none, is opened with that one. Only a release that did not note it may have left one without any: it is
//! *unopened* until another store sends something to a peer of this store.

mod follow;
mod own_peer;
mod replicas;
mod sizes;
mod steps;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::{Arc, Mutex as Lock, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use rdb_proto::metapb::Region;
use rdb_proto::pdpb::{HeldPeer, RegionReport};
use rdb_raft::group::{GroupState, LeadError};
use rdb_raft::log::LogHealth;
use rdb_raft::transport::{PeerService, Starts, StoreIdentity, Transport};
use rdb_raft::{LogFigures, Node, NodeFigures, OpenError, Timing};
use rdb_storage::{
    DatabaseFigures, Durability, LogDatabase, RegionDescriptor, Storage, WriteHealth,
};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::addresses::Addresses;
use crate::checks::Checks;
use crate::error::ServerError;
use crate::region::{
    Described, Description, Leadership, Proposer, RegionMachine, first_state, from_wire, peer_on,
};
use crate::router::{Membership, Router};
use crate::starts::{open_starts, refuse_outdated};
use follow::Order;
use replicas::{Replica, Replicas};
use sizes::Sizes;

/// How often regions are looked at for what keeps them from writing.
const KEEP_INTERVAL: Duration = Duration::from_millis(500);

/// How long a drain waits for others to take over what this store leads.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);

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
    /// The ways to other stores, from then on.
    transport: OnceLock<Transport>,
    replicas: Lock<Replicas>,
    /// Those of the regions that this store leads.
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

/// What the placement driver is told of the regions.
pub(crate) struct Report {
    /// Those that this store leads.
    pub(crate) leads: Vec<RegionReport>,
    /// A few of those that it does not.
    pub(crate) holds: Vec<HeldPeer>,
    /// All, also those that wait, are ending, or are left out.
    pub(crate) count: u64,
    /// See [`Durability::Os`].
    pub(crate) takes_no_replicas: bool,
}

/// How many regions there are.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RegionCounts {
    /// All that this store holds.
    pub(crate) held: usize,
    /// Those that it leads.
    pub(crate) led: usize,
    /// Those that nobody leads as far as it can tell, without those that wait for their first state.
    pub(crate) without_leader: usize,
}

/// Damaged data, which keeps the log of a region from being applied.
#[derive(Debug, Clone)]
pub(crate) struct Damage {
    cause: String,
    /// Whether other stores hold the region, too.
    has_others: bool,
}

impl Damage {
    /// What can be done.
    pub(crate) fn error(&self, region_id: u64) -> ServerError {
        let Self { cause, has_others } = self.clone();
        ServerError::RegionDamaged {
            region_id,
            cause,
            has_others,
        }
    }
}

impl Regions {
    /// Opens the log of a storage. There are no groups yet.
    pub(crate) async fn open(
        storage: Storage,
        router: Router,
        durability: Durability,
        timing: Timing,
        log_bytes_max: u64,
    ) -> Result<Self, ServerError> {
        let of_log = storage.clone();
        let opened = spawn_blocking(move || {
            let directory = of_log.directory();
            refuse_outdated(&directory)?;
            let addresses = Addresses::open(&directory);
            let starts = open_starts(&directory, of_log.identity().start());
            Ok::<_, ServerError>((of_log.open_log()?, addresses, starts))
        });
        let (log, addresses, starts) = opened.await??;
        let log = Arc::new(log);
        let node = Arc::new(Node::start_keeping(
            log_bytes_max,
            timing,
            Arc::clone(&log) as _,
        )?);
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

    /// The checks of the regions.
    pub(crate) fn checks(&self) -> &Arc<Checks> {
        &self.checks
    }

    /// Where other stores are.
    pub(crate) fn addresses(&self) -> &Arc<Addresses> {
        &self.addresses
    }

    /// Serves the regions that are on the disk, if the store has registered. Returns whether there are any. A region that this
    /// store holds alone is served when this returns; all others when they have a leader. For the start.
    pub(crate) async fn restore(&self) -> Result<bool, ServerError> {
        let identity = self.storage.identity();
        let (Some(cluster_id), Some(store_id)) = (identity.cluster_id, identity.store_id) else {
            return Ok(false);
        };
        let identity = StoreIdentity {
            cluster_id,
            store_id,
        };
        let _opening = self.opening.lock().await;
        let identity = *self.identity.get_or_init(|| identity);
        self.finish_destroying().await?;
        let stored = self.stored().await?;
        self.bootstrap(stored.clone()).await?;
        let peers = stored.iter().flat_map(|region| &region.peers);
        let others = peers.map(|peer| peer.store_id).filter(|id| *id != store_id);
        self.transport(identity).greet(others);
        for region in &stored {
            let region_id = region.id;
            match self.own_peer(region, store_id).await? {
                Some(peer_id) => {
                    self.open_peer(identity, region_id, peer_id).await?;
                }
                None => {
                    tracing::info!(
                        region_id,
                        "a region is stored, and has no peer on this store"
                    );
                    self.leave_out(region, None);
                }
            }
        }
        // Their causes were told of.
        for unfinished in self.storage.unfinished_installs().values() {
            let region = &unfinished.region;
            let peer_id = self.own_peer_left_out(region, store_id).await;
            self.leave_out(region, peer_id);
        }
        self.route(&self.replicas());
        Ok(!stored.is_empty())
    }

    /// Begins these regions and serves them, unless there are regions here: those are newer. A region whose peers have changed is none
    /// to begin with: it has data that this store lacks, which other peers have to send. Neither is one that was destroyed here.
    pub(crate) async fn adopt(&self, regions: Vec<Region>) -> Result<(), ServerError> {
        if self.identity.get().is_none() {
            self.restore().await?;
        }
        let Some(&identity) = self.identity.get() else {
            return Ok(());
        };
        let _opening = self.opening.lock().await;
        // A region that is being replaced by a snapshot is not stored.
        if self.count(&self.replicas()) > 0 {
            return Ok(());
        }
        let regions = regions.into_iter().map(from_wire);
        let regions = regions.filter(|region| region.conf_version <= 1);
        let regions: Vec<_> = regions.collect();
        if self.was_destroyed(&regions).await? {
            return Ok(());
        }
        self.bootstrap(regions.clone()).await?;
        for region in &regions {
            let region_id = region.id;
            let peer = peer_on(region, identity.store_id);
            let cause = "the region has no peer on this store";
            let peer = peer.ok_or_else(|| ServerError::region(region_id, cause))?;
            let others = region.peers.iter().map(|peer| peer.store_id);
            let others = others.filter(|id| *id != identity.store_id);
            self.transport(identity).greet(others);
            self.open_peer(identity, region_id, peer.id).await?;
        }
        self.route(&self.replicas());
        Ok(())
    }

    /// Whether a peer of one of these was destroyed here.
    async fn was_destroyed(&self, regions: &[RegionDescriptor]) -> Result<bool, ServerError> {
        let storage = self.storage.clone();
        let ids: Vec<_> = regions.iter().map(|region| region.id).collect();
        let looked_up = spawn_blocking(move || {
            for region_id in ids {
                if storage.tombstone(region_id)?.is_some() {
                    return Ok(true);
                }
            }
            Ok::<_, rdb_storage::Error>(false)
        });
        Ok(looked_up.await??)
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

    /// What the placement driver is told.
    pub(crate) fn report(&self) -> Report {
        let states = self.node.states();
        let (mut replicas, states) = (self.replicas(), states.borrow());
        let mut leads = replicas.leads(&states);
        for report in &mut leads {
            report.bytes = self.sizes.of(report.region_id);
        }
        Report {
            leads,
            holds: replicas.held(&states),
            count: self.count(&replicas) as u64,
            takes_no_replicas: self.durability == Durability::Os,
        }
    }

    /// Estimates the sizes of the regions that this store leads, for the next reports, unless that was done a while ago. Blocks.
    pub(crate) fn learn_sizes(&self) {
        let led = {
            let states = self.node.states();
            let (replicas, states) = (self.replicas(), states.borrow());
            replicas.led(&states)
        };
        let estimate = |region_id| match self.storage.region_bytes(region_id) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::debug!(region_id, %error, "the size of a region cannot be estimated");
                None
            }
        };
        self.sizes.learn(&led, estimate);
    }

    /// How many regions there are.
    pub(crate) fn counts(&self) -> RegionCounts {
        let states = self.node.states();
        let (replicas, states) = (self.replicas(), states.borrow());
        let mut counts = RegionCounts {
            held: self.count(&replicas),
            ..RegionCounts::default()
        };
        // What waits for its first state has no leader to know.
        let have_state = |(_, replica): &(&u64, &Replica)| replica.handle.is_some();
        for (region_id, replica) in replicas.open.iter().filter(have_state) {
            let leadership = replica.proposer.leadership();
            let leads = leadership.term_led(states.get(region_id)).is_some();
            counts.led += usize::from(leads);
            counts.without_leader += usize::from(!replica.group.is_led());
        }
        counts
    }

    /// The regions that requests can reach and whose groups have not ended, each with whether somebody leads it, as far as this store can
    /// tell. Nobody does until the state of its group is known: requests find no leader before that.
    pub(crate) fn led_by_anybody(&self) -> BTreeMap<u64, bool> {
        let states = self.node.states();
        let (replicas, states) = (self.replicas(), states.borrow());
        let open = replicas.open.iter().filter(|(region_id, replica)| {
            let has_ended = matches!(states.get(region_id), Some(GroupState::Ended(_)));
            !has_ended && replica.handle.is_some()
        });
        open.map(|(&region_id, replica)| {
            let is_led = states.contains_key(&region_id) && replica.group.is_led();
            (region_id, is_led)
        })
        .collect()
    }

    /// How long a region may be without a leader before that is no ordinary election.
    pub(crate) fn leaderless_after(&self) -> Duration {
        self.node.timing().leaderless_after()
    }

    /// What the groups count.
    pub(crate) fn node_figures(&self) -> &NodeFigures {
        self.node.figures()
    }

    /// What the writer of their logs counts.
    pub(crate) fn log_figures(&self) -> &LogFigures {
        self.node.log_figures()
    }

    /// What the database of their logs counts.
    pub(crate) fn log_database_figures(&self) -> DatabaseFigures {
        self.log.figures()
    }

    /// How many snapshots were sent to other stores.
    pub(crate) fn snapshots_sent(&self) -> u64 {
        let transport = self.transport.get();
        transport.map_or(0, Transport::snapshots_sent)
    }

    /// Refuses writes that wait for a quorum that is gone, and hands over what this store leads and cannot write.
    pub(crate) async fn keep(&self) {
        let (write_health, log_health) = (self.storage.write_health(), self.node.log_health());
        loop {
            sleep(KEEP_INTERVAL).await;
            for (_, proposer) in self.proposers() {
                proposer.refuse_stalled();
            }
            let cannot_write = match (&*log_health.borrow(), &*write_health.borrow()) {
                (LogHealth::Stopped { .. }, _) | (_, WriteHealth::Stopped { .. }) => {
                    self.group_ids()
                }
                (_, WriteHealth::RegionsStopped { causes }) => causes.keys().copied().collect(),
                (_, WriteHealth::Healthy) => Vec::new(),
            };
            self.hand_over_these(cannot_write).await;
        }
    }

    /// Lets other stores lead what this one leads, and gives them a little time for it.
    pub(crate) async fn hand_over(&self) {
        let handed_over = timeout(HAND_OVER_TIMEOUT, async {
            self.hand_over_these(self.group_ids()).await;
            let proposers = self.proposers();
            let mut states = self.node.states();
            // It fails when all groups have ended.
            let _ = states
                .wait_for(|states| {
                    !proposers.iter().any(|(id, proposer)| {
                        let leadership = proposer.leadership();
                        let leads = leadership.term_led(states.get(id)).is_some();
                        leads && leadership.has_other_voters()
                    })
                })
                .await;
        });
        if handed_over.await.is_err() {
            tracing::warn!(
                "regions were not handed over; others lead them after an election timeout"
            );
        }
    }

    /// Ends at once what this store holds together with others. For a store that must not be here: it may have forgotten what it
    /// has promised to them.
    pub(crate) async fn leave(&self) {
        let groups: Vec<_> = {
            let replicas = self.replicas();
            let shared = replicas.open.values();
            let shared = shared.filter(|replica| replica.description.has_others(replica.peer_id));
            shared.map(|replica| replica.group.clone()).collect()
        };
        join_all(groups.iter().map(|group| group.shut_down())).await;
    }

    async fn hand_over_these(&self, group_ids: Vec<u64>) {
        let handing_over = group_ids.into_iter().filter_map(|region_id| {
            let group = self.node.group(region_id)?;
            Some(async move {
                match group.hand_over().await {
                    Ok(Some(peer_id)) => tracing::info!(region_id, peer_id, "handing over"),
                    Ok(None) => {}
                    Err(error) => tracing::debug!(region_id, %error, "not handed over"),
                }
            })
        });
        join_all(handing_over).await;
    }

    fn group_ids(&self) -> Vec<u64> {
        self.node.states().borrow().keys().copied().collect()
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
            Transport::new(identity, *self.node.timing(), addresses, starts)
        })
    }

    async fn stored(&self) -> Result<Vec<RegionDescriptor>, ServerError> {
        let storage = self.storage.clone();
        Ok(spawn_blocking(move || storage.regions()).await??)
    }

    /// Has the placement driver hear of a region that is not opened.
    fn leave_out(&self, region: &RegionDescriptor, peer_id: Option<u64>) {
        let held = HeldPeer {
            region_id: region.id,
            peer_id: peer_id.unwrap_or(0),
            conf_version: region.conf_version,
        };
        let mut replicas = self.replicas();
        replicas.ending.remove(&region.id);
        replicas.unopened.insert(region.id, held);
    }

    /// Gives regions their first states, those that have none. All at once: at the next start a part of them would look like
    /// all.
    async fn bootstrap(&self, regions: Vec<RegionDescriptor>) -> Result<(), ServerError> {
        let storage = self.storage.clone();
        let bootstrap = move || {
            let first_states = regions.into_iter().map(|region| {
                let state = first_state(&region)?;
                Ok((region, state))
            });
            let first_states = first_states.collect::<Result<Vec<_>, rdb_storage::Error>>()?;
            storage.bootstrap_regions(&first_states)
        };
        spawn_blocking(bootstrap).await??;
        Ok(())
    }

    /// Removes the logs of replicas that were destroyed, if the end of the process came before that. What cannot be removed harms nobody:
    /// another peer does not get that log. Neither is it in the way of a later peer that waits for its first state.
    async fn finish_destroying(&self) -> Result<(), ServerError> {
        let storage = self.storage.clone();
        let destroyed = spawn_blocking(move || storage.destroyed_regions()).await??;
        if destroyed.is_empty() {
            return Ok(());
        }
        let logs = match self.node.logs().await {
            Ok(logs) => logs,
            Err(error) => {
                tracing::error!(%error, "the logs of replicas that were destroyed are not removed");
                return Ok(());
            }
        };
        for (region_id, last) in destroyed {
            let is_left = |noted: &Option<u64>| noted.is_none_or(|peer_id| peer_id <= last);
            if logs.get(&region_id).is_some_and(is_left)
                && let Err(error) = self.node.destroy(region_id).await
            {
                tracing::error!(region_id, %error, "the log of a replica that was destroyed is not removed");
            }
        }
        Ok(())
    }

    /// Opens the group of a peer. Returns whether its region is stored, and requests have to be routed to it. Only one call at a time.
    async fn open_peer(
        &self,
        identity: StoreIdentity,
        region_id: u64,
        peer_id: u64,
    ) -> Result<bool, ServerError> {
        let storage = self.storage.clone();
        let read = spawn_blocking(move || Described::read(&storage, region_id));
        let description = Arc::<Description>::default();
        if let Some(described) = read.await?? {
            description.learn(described);
        }
        if description.has_others(peer_id) && self.durability == Durability::Os {
            let cause = "--durability=os: after a power cut this store would break what it has promised to the other stores of the \
                         region, and their data would differ; use --durability=sync";
            return Err(ServerError::region(region_id, cause));
        }
        let (told, of_region) = (self.damaged.clone(), Arc::clone(&description));
        let tell_damage = move |cause: &str| {
            tracing::error!(region_id, cause, "the data of a region is damaged");
            let cause = format!("its log cannot be applied: {cause}");
            let has_others = of_region.has_others(peer_id);
            let damage = Damage { cause, has_others };
            told.send_modify(|damaged| drop(damaged.insert(region_id, damage)));
        };
        let changed = self.changed.clone();
        let tell_change = move || {
            changed.send_modify(|changed| {
                changed.insert(region_id);
            });
        };
        let (storage, checks) = (self.storage.clone(), Arc::clone(&self.checks));
        let figures = Arc::clone(self.router.figures());
        let machine = RegionMachine::new(region_id, storage, checks)
            .measured_by(figures.clone())
            .telling_damage(tell_damage)
            .telling_changes(tell_change);
        let network = self.transport(identity).network(region_id, peer_id);
        let machine = Arc::new(machine);
        let group = self.node.open(region_id, peer_id, machine, network).await;
        let has_others = || description.has_others(peer_id);
        let group = group.map_err(|error| not_opened(region_id, error, has_others()))?;
        match group.lead_alone().await {
            Ok(()) | Err(LeadError::NotSoleVoter) => {}
            Err(LeadError::Ended(ended)) => {
                // So that it can be opened again.
                self.node.end(region_id).await;
                return Err(match self.damaged.borrow().get(&region_id) {
                    Some(damage) => damage.error(region_id),
                    None => ServerError::region(region_id, ended),
                });
            }
        }
        let (addresses, of_leadership) = (Arc::clone(&self.addresses), Arc::clone(&description));
        let leadership =
            Leadership::new(region_id, of_leadership, peer_id, group.clone(), addresses);
        let replica = Replica {
            peer_id,
            group,
            description,
            proposer: Proposer::new(leadership, self.storage.clone(), figures),
            handle: None,
        };
        {
            let mut replicas = self.replicas();
            replicas.unopened.remove(&region_id);
            replicas.open.insert(region_id, replica);
        }
        self.learn(region_id).await
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

/// Why the peer of a region is not opened, and what can be done.
fn not_opened(region_id: u64, error: OpenError, has_others: bool) -> ServerError {
    let is_damage = match &error {
        OpenError::Start(error) => error.is_damage(),
        OpenError::Log { cause, .. } => cause.kind() == ErrorKind::InvalidData,
        _ => false,
    };
    if is_damage {
        let cause = error.to_string();
        Damage { cause, has_others }.error(region_id)
    } else {
        ServerError::region(region_id, error)
    }
}
