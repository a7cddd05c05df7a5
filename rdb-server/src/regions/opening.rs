//! How a store gets its regions: those on the disk at the start, those that a new cluster begins with, and single peers later.

use std::sync::Arc;

use rdb_proto::metapb::Region;
use rdb_proto::pdpb::HeldPeer;
use rdb_raft::group::LeadError;
use rdb_raft::transport::StoreIdentity;
use rdb_storage::{Durability, RegionDescriptor};
use tokio::task::spawn_blocking;

use super::Regions;
use super::damage::{Damage, not_opened, of_region};
use super::replicas::Replica;
use crate::error::ServerError;
use crate::region::{
    Described, Description, Leadership, Proposer, RegionMachine, first_state, from_wire, peer_on,
};

impl Regions {
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
            let own_peer = self.own_peer(region, store_id).await;
            match own_peer.map_err(|error| of_region(region, store_id, error))? {
                Some(peer_id) => {
                    let opened = self.open_peer(identity, region_id, peer_id).await;
                    opened.map_err(|error| of_region(region, store_id, error))?;
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

    /// Begins these regions and serves them, unless there are regions here, which are newer. A region whose peers have changed is not
    /// begun: it has data that this store lacks, which other peers have to send. Nor is a region that was destroyed here.
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
            let opened = self.open_peer(identity, region_id, peer.id).await;
            opened.map_err(|error| of_region(region, identity.store_id, error))?;
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

    pub(super) async fn stored(&self) -> Result<Vec<RegionDescriptor>, ServerError> {
        let storage = self.storage.clone();
        Ok(spawn_blocking(move || storage.regions()).await??)
    }

    /// Has the placement driver hear of a region that is not opened.
    pub(super) fn leave_out(&self, region: &RegionDescriptor, peer_id: Option<u64>) {
        let held = HeldPeer {
            region_id: region.id,
            peer_id: peer_id.unwrap_or(0),
            conf_version: region.conf_version,
        };
        let mut replicas = self.replicas();
        replicas.ending.remove(&region.id);
        replicas.unopened.insert(region.id, held);
    }

    /// Gives a first state to regions without one. All at once: at the next start a part of them would look like all of them.
    pub(super) async fn bootstrap(
        &self,
        regions: Vec<RegionDescriptor>,
    ) -> Result<(), ServerError> {
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

    /// Removes the logs of destroyed replicas, if the process ended before it had done so. A log that cannot be removed does no harm: no
    /// other peer gets it, and it does not block a later peer that waits for its first state.
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
    pub(super) async fn open_peer(
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
}
