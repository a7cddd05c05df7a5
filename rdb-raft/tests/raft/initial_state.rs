//! Groups whose peers begin with a state at log id (0, 0), as if they had installed a snapshot of it.
//!
//! Such a group never was empty: what its peers hold is below their logs, so that a peer without it cannot be fed the log
//! alone. openraft's `initialize` would begin a log with nothing below it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use openraft::{Config, SnapshotPolicy};
use rdb_raft::log::{LogWriter, MemoryDevice};
use rdb_raft::{LogId, Membership, Payload, StoreNode, StoredMembership};

use crate::entries::log_id;
use crate::machine::MemoryMachine;
use crate::network::{self, Raft};

type Network = network::Network<Raft>;

const BEGINNING: LogId = LogId {
    leader_id: rdb_raft::CommittedLeaderId { term: 0 },
    index: 0,
};

fn membership(peers: impl IntoIterator<Item = u64>) -> StoredMembership {
    let nodes = peers.into_iter().map(|id| (id, StoreNode { store_id: id }));
    let nodes: BTreeMap<_, _> = nodes.collect();
    let voters = nodes.keys().copied().collect();
    let membership = Membership::new(vec![voters], nodes).unwrap();
    StoredMembership::new(Some(BEGINNING), membership)
}

struct Peer {
    raft: Raft,
    device: Arc<MemoryDevice>,
    _writer: LogWriter,
    machine: MemoryMachine,
}

impl Peer {
    async fn start(
        peer_id: u64,
        network: &Network,
        device: MemoryDevice,
        machine: MemoryMachine,
    ) -> Self {
        let device = Arc::new(device);
        let writer = LogWriter::start(Arc::clone(&device) as _).unwrap();
        let store = writer.open_group(1).unwrap();
        let config = Config {
            // A peer leads when it is told to, and then it does, however slow the machine.
            enable_elect: false,
            election_timeout_min: 60_000,
            election_timeout_max: 120_000,
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            enable_pre_vote: Some(true),
            enable_leader_restore: Some(false),
            ..Config::default()
        };
        let config = Arc::new(config.validate().unwrap());
        let raft = Raft::build(peer_id, config, network.of(peer_id), store, machine.clone());
        let raft = raft.await.unwrap();
        network.join(peer_id, raft.clone());
        raft.run();
        Self {
            raft,
            device,
            _writer: writer,
            machine,
        }
    }

    async fn lead(&self) {
        self.raft.trigger().elect(false).await.unwrap();
        let wait = self.raft.wait(Some(Duration::from_secs(60)));
        // Until then it has no lease, and refuses to write.
        let leads = wait.leader_with_quorum_acked(None, "it leads").await;
        leads.unwrap();
    }

    async fn write(&self, payload: &'static str) -> Option<usize> {
        let payload = Payload(Bytes::from_static(payload.as_bytes()));
        let written = self.raft.client_write(payload).await.unwrap();
        written.data.into_inner()
    }

    async fn wait_until_applied(&self, index: u64) {
        let wait = self.raft.wait(Some(Duration::from_secs(60)));
        let applied = wait.applied_index_at_least(Some(index), "it is applied");
        applied.await.unwrap();
    }

    /// What a kill leaves.
    async fn kill(self) -> MemoryDevice {
        self.raft.shutdown().await.unwrap();
        self.device.after_power_cut(usize::MAX)
    }

    /// The last entries that were purged and applied.
    fn log_ends(&self) -> (Option<LogId>, Option<LogId>) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        (metrics.purged, metrics.last_applied)
    }
}

#[tokio::test]
async fn a_sole_voter_leads_from_index_1_on_and_replays_its_log_after_a_restart() {
    let network = Network::default();
    let fresh = || MemoryMachine::bootstrapped(BEGINNING, membership([1]));
    let peer = Peer::start(1, &network, MemoryDevice::default(), fresh()).await;
    peer.lead().await;
    peer.wait_until_applied(1).await;
    assert_eq!(peer.log_ends(), (Some(BEGINNING), Some(log_id(1, 1))));
    assert_eq!(peer.write("a").await, Some(1));
    assert_eq!(peer.write("b").await, Some(2));

    // The state machine has lost all that it applied.
    let peer = Peer::start(1, &network, peer.kill().await, fresh()).await;
    peer.lead().await;
    peer.wait_until_applied(4).await;
    assert_eq!(peer.log_ends(), (Some(BEGINNING), Some(log_id(2, 4))));
    assert_eq!(peer.machine.payloads(), ["a", "b"]);
    assert_eq!(peer.write("c").await, Some(3));

    // The state machine has kept it.
    let machine = peer.machine.clone();
    let peer = Peer::start(1, &network, peer.kill().await, machine).await;
    peer.lead().await;
    peer.wait_until_applied(6).await;
    assert_eq!(peer.machine.payloads(), ["a", "b", "c"]);
    peer.raft.shutdown().await.unwrap();
}

#[tokio::test]
async fn voters_that_begin_alike_need_no_snapshot_and_an_empty_learner_does() {
    let network = Network::default();
    let mut peers = Vec::new();
    for id in 1..=3 {
        let machine = MemoryMachine::bootstrapped(BEGINNING, membership(1..=3));
        peers.push(Peer::start(id, &network, MemoryDevice::default(), machine).await);
    }
    let leader = &peers[0];
    leader.lead().await;
    assert_eq!(leader.write("a").await, Some(1));
    for peer in &peers {
        peer.wait_until_applied(2).await;
        assert_eq!(peer.machine.payloads(), ["a"]);
        assert_eq!(peer.log_ends(), (Some(BEGINNING), Some(log_id(1, 2))));
    }
    assert_eq!(network.conflicts(), 0);
    assert_eq!(network.snapshots(), 0);

    let machine = MemoryMachine::default();
    let learner = Peer::start(4, &network, MemoryDevice::default(), machine).await;
    let added = leader.raft.add_learner(4, StoreNode { store_id: 4 }, true);
    added.await.unwrap();
    learner.wait_until_applied(3).await;
    assert!(network.snapshots() > 0);
    assert_eq!(learner.machine.payloads(), ["a"]);
    assert_eq!(learner.log_ends().0, Some(BEGINNING));
    peers.push(learner);
    for peer in peers {
        peer.raft.shutdown().await.unwrap();
    }
}
