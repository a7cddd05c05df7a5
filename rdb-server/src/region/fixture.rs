//! Regions for tests: led by this process alone or by nobody, with the log in memory.

use std::sync::Arc;

use rdb_proto::metapb::{Peer, Region};
use rdb_raft::group::Alone;
use rdb_raft::log::MemoryDevice;
use rdb_raft::{Node, Timing};
use rdb_storage::{Role, Storage, StorageOptions};
use tempfile::TempDir;
use tokio::task::spawn_blocking;

use super::{
    Described, Description, Leadership, Proposer, RegionHandle, RegionMachine, first_state,
    from_wire,
};
use crate::addresses::Addresses;
use crate::checks::Checks;

const PEER: Peer = peer(1);

const fn peer(id: u64) -> Peer {
    Peer {
        id,
        store_id: id,
        learner: false,
    }
}

/// One group, and as many handles as a test needs.
pub(crate) struct Led {
    storage: Storage,
    proposer: Arc<Proposer>,
    node: Node,
}

impl Led {
    /// Begins `region`, whose group all handles share.
    pub(crate) async fn begin(storage: &Storage, region: Region) -> Self {
        let led = Self::begin_with(storage, region, vec![PEER]).await;
        let group = led.proposer.leadership().group();
        group.lead_alone().await.expect("it is alone");
        led
    }

    /// The same with another voter, which nobody reaches. So nobody ever leads.
    pub(super) async fn begin_leaderless(storage: &Storage, region: Region) -> Self {
        Self::begin_with(storage, region, vec![PEER, peer(2)]).await
    }

    async fn begin_with(storage: &Storage, region: Region, peers: Vec<Peer>) -> Self {
        let region_id = region.id;
        let region = from_wire(Region { peers, ..region });
        let of_region = storage.clone();
        let begun = spawn_blocking(move || {
            let state = first_state(&region).expect("it has a peer");
            of_region.bootstrap_regions(&[(region, state)])
        });
        begun.await.expect("no panic").expect("written");
        let device = Arc::<MemoryDevice>::default();
        let node = Node::start(Timing::default(), device).expect("the defaults are valid");
        let checks = Arc::new(Checks::new(storage.clone()));
        let machine = RegionMachine::new(region_id, storage.clone(), checks);
        let machine = Arc::new(machine);
        let group = node.open(region_id, PEER.id, machine, Alone).await;
        let group = group.expect("a new group");
        let addresses = Arc::new(Addresses::open(&storage.directory()));
        let description = Arc::<Description>::default();
        let described = Described::read(storage, region_id).expect("it can be read");
        description.learn(described.expect("it has a state"));
        let leadership = Leadership::new(region_id, description, PEER.id, group, addresses);
        Self {
            storage: storage.clone(),
            proposer: Proposer::new(leadership, storage.clone(), Arc::default()),
            node,
        }
    }

    /// The same in a new directory.
    pub(crate) async fn begin_anywhere() -> (TempDir, Self) {
        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        let options = StorageOptions::new(Role::Server);
        let storage = Storage::open(directory.path(), options).expect("a new directory");
        let led = Self::begin(&storage, Region::default()).await;
        (directory, led)
    }

    pub(crate) fn handle(&self, region: Region) -> Arc<RegionHandle> {
        let description = Arc::default();
        let handle = RegionHandle::new(region, description, self.proposer(), &self.storage);
        Arc::new(handle)
    }

    pub(crate) fn proposer(&self) -> Arc<Proposer> {
        Arc::clone(&self.proposer)
    }

    /// Ends the group.
    pub(crate) async fn shut_down(&self) {
        self.node.shut_down().await;
    }
}
