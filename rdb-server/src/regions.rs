//! The regions of this store: what is on the disk, a group for each, and what the router knows of them.
//!
//! A region is a descriptor, its data, and the log of its group. It begins with a *first state*, which all its first peers write
//! alike: the descriptor, the peers as voters, and a position below the first entry of the log. Regions of a directory from
//! before there were groups get theirs when they are opened, and their data lies below the log.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::ErrorKind;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::join_all;
use rdb_proto::metapb::Region;
use rdb_proto::pdpb::RegionReport;
use rdb_raft::group::{GroupState, LeadError};
use rdb_raft::log::LogHealth;
use rdb_raft::transport::{PeerService, Starts, StoreIdentity, Transport};
use rdb_raft::{Node, OpenError, Timing};
use rdb_storage::{Durability, LogDatabase, RegionDescriptor, Storage, WriteHealth};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::addresses::Addresses;
use crate::checks::Checks;
use crate::error::ServerError;
use crate::region::{
    Leadership, Proposer, RegionHandle, RegionMachine, first_state, from_wire, to_wire,
};
use crate::router::{Membership, Router};
use crate::starts::{open_starts, refuse_outdated};

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
    /// By the region's id. Held while regions are opened.
    proposers: Mutex<BTreeMap<u64, Arc<Proposer>>>,
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
            proposers: Mutex::default(),
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
    /// store holds alone is served when this returns; all others when they have a leader.
    pub(crate) async fn restore(&self) -> Result<bool, ServerError> {
        let identity = self.storage.identity();
        let (Some(cluster_id), Some(store_id)) = (identity.cluster_id, identity.store_id) else {
            return Ok(false);
        };
        let identity = StoreIdentity {
            cluster_id,
            store_id,
        };
        let identity = *self.identity.get_or_init(|| identity);
        let stored = self.stored().await?;
        let has_regions = !stored.is_empty();
        let mut handles = Vec::with_capacity(stored.len());
        self.bootstrap(stored.clone()).await?;
        let peers = stored.iter().flat_map(|region| &region.peers);
        let others = peers.map(|peer| peer.store_id).filter(|id| *id != store_id);
        self.transport(identity).greet(others);
        for region in stored {
            let proposer = self.proposer(identity, &region).await?;
            let handle = RegionHandle::new(to_wire(region), proposer, &self.storage);
            handles.push(Arc::new(handle));
        }
        self.router
            .set(Membership::new(cluster_id, store_id, handles));
        Ok(has_regions)
    }

    /// Serves these regions, unless there are regions on the disk: those are newer. A region whose peers have changed is none to
    /// begin with: it has data that this store lacks, which other peers have to send.
    pub(crate) async fn adopt(&self, regions: Vec<Region>) -> Result<(), ServerError> {
        // A region that is being replaced by a snapshot is open, and not stored.
        let has_opened = !self.proposers.lock().await.is_empty();
        if !has_opened && self.stored().await?.is_empty() {
            let regions = regions.into_iter().map(from_wire);
            let regions = regions.filter(|region| region.conf_version <= 1);
            self.bootstrap(regions.collect()).await?;
        }
        self.restore().await.map(drop)
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

    /// What the placement driver is told: the regions that this store leads, and how many it has.
    pub(crate) async fn report(&self) -> (Vec<RegionReport>, u64) {
        let proposers = self.proposers.lock().await;
        let states = self.node.states();
        let states = states.borrow();
        let leads = proposers
            .iter()
            .filter_map(|(id, proposer)| proposer.leadership().report(states.get(id)));
        (leads.collect(), proposers.len() as u64)
    }

    /// Refuses writes that wait for a quorum that is gone, and hands over what this store leads and cannot write.
    pub(crate) async fn keep(&self) {
        let (write_health, log_health) = (self.storage.write_health(), self.node.log_health());
        loop {
            sleep(KEEP_INTERVAL).await;
            for proposer in self.proposers.lock().await.values() {
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
            let proposers = self.proposers.lock().await;
            let mut states = self.node.states();
            // It fails when all groups have ended.
            let _ = states
                .wait_for(|states| {
                    !proposers.iter().any(|(id, proposer)| {
                        let leadership = proposer.leadership();
                        leadership.has_others() && leadership.term_led(states.get(id)).is_some()
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
        let proposers = self.proposers.lock().await;
        let shared = proposers
            .iter()
            .filter(|(_, proposer)| proposer.leadership().has_others());
        let groups = shared.filter_map(|(&region_id, _)| self.node.group(region_id));
        let ended = groups.map(|group| async move { group.shut_down().await });
        join_all(ended).await;
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

    /// The proposer of a region, whose group is opened first if it is not open yet.
    async fn proposer(
        &self,
        identity: StoreIdentity,
        region: &RegionDescriptor,
    ) -> Result<Arc<Proposer>, ServerError> {
        let mut proposers = self.proposers.lock().await;
        if let Some(proposer) = proposers.get(&region.id) {
            return Ok(Arc::clone(proposer));
        }
        let (region_id, cause) = (region.id, "the region has no peer on this store");
        let peer = region
            .peers
            .iter()
            .find(|peer| peer.store_id == identity.store_id);
        let peer = peer.ok_or_else(|| ServerError::region(region_id, cause))?;
        let has_others = region.peers.len() > 1;
        if has_others && self.durability == Durability::Os {
            let cause = "--durability=os: after a power cut this store would break what it has promised to the other stores of the \
                         region, and their data would differ; use --durability=sync";
            return Err(ServerError::region(region_id, cause));
        }
        let told = self.damaged.clone();
        let tell = move |cause: &str| {
            tracing::error!(region_id, cause, "the data of a region is damaged");
            let cause = format!("its log cannot be applied: {cause}");
            let damage = Damage { cause, has_others };
            told.send_modify(|damaged| drop(damaged.insert(region_id, damage)));
        };
        let (storage, checks) = (self.storage.clone(), Arc::clone(&self.checks));
        let machine = RegionMachine::new(region_id, storage, checks).telling_damage(tell);
        let network = self.transport(identity).network(region_id, peer.id);
        let damaged = |cause: &dyn Display| {
            let cause = cause.to_string();
            Damage { cause, has_others }.error(region_id)
        };
        let machine = Arc::new(machine);
        let group = self.node.open(region_id, peer.id, machine, network).await;
        let group = group.map_err(|error| match error {
            OpenError::Start(error) if error.is_damage() => damaged(&error),
            OpenError::Log { ref cause, .. } if cause.kind() == ErrorKind::InvalidData => {
                damaged(&error)
            }
            error => ServerError::region(region_id, error),
        })?;
        match group.lead_alone().await {
            Ok(()) | Err(LeadError::NotSoleVoter) => {}
            Err(LeadError::Ended(ended)) => {
                return Err(match self.damaged.borrow().get(&region_id) {
                    Some(damage) => damage.error(region_id),
                    None => ServerError::region(region_id, ended),
                });
            }
        }
        let addresses = Arc::clone(&self.addresses);
        let leadership = Leadership::new(region.clone(), peer.id, group, addresses);
        let proposer = Proposer::new(leadership, self.storage.clone());
        proposers.insert(region_id, Arc::clone(&proposer));
        Ok(proposer)
    }
}
