//! Peers of a group of three voters, over a network in the process.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest};
use rdb_raft::group::{Group, ProposeError};
use rdb_raft::log::{LogDevice, LogWriter, MemoryDevice};
use rdb_raft::{Timing, Vote};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::entries::log_id;
use crate::network::Network;
use crate::payloads::Payloads;

/// Fails a test that waits in vain. Nothing is expected to take as long.
pub(crate) const GUARD: Duration = Duration::from_secs(90);

pub(crate) struct Voter {
    pub(crate) peer_id: u64,
    pub(crate) group: Group,
    pub(crate) payloads: Arc<Payloads>,
    timing: Timing,
    device: Arc<MemoryDevice>,
    _writer: LogWriter,
}

impl Voter {
    pub(crate) async fn start(
        peer_id: u64,
        timing: Timing,
        network: &Network<Group>,
        device: MemoryDevice,
        payloads: Arc<Payloads>,
    ) -> Self {
        Self::start_after(0, peer_id, timing, network, device, payloads).await
    }

    /// The same for one that may have promised something by another longest election timeout.
    async fn start_after(
        promised_ms: u64,
        peer_id: u64,
        timing: Timing,
        network: &Network<Group>,
        device: MemoryDevice,
        payloads: Arc<Payloads>,
    ) -> Self {
        let device = Arc::new(device);
        let writer = LogWriter::start(Arc::clone(&device) as Arc<dyn LogDevice>).unwrap();
        let log = writer.open_group(1).unwrap();
        let machine = Arc::clone(&payloads) as _;
        let network_of = network.of(peer_id);
        let group = Group::start(peer_id, timing, promised_ms, log, machine, network_of).await;
        let group = group.unwrap();
        network.join(peer_id, group.clone());
        Self {
            peer_id,
            group,
            payloads,
            timing,
            device,
            _writer: writer,
        }
    }

    /// All three, for the first time.
    pub(crate) async fn three(timing: Timing, network: &Network<Group>) -> [Self; 3] {
        Self::three_by([timing; 3], network).await
    }

    /// The same, each with intervals of its own.
    pub(crate) async fn three_by(timings: [Timing; 3], network: &Network<Group>) -> [Self; 3] {
        let start = async |peer_id: u64| {
            let payloads = Payloads::bootstrapped([1, 2, 3]);
            let timing = timings[peer_id as usize - 1];
            Self::start(peer_id, timing, network, MemoryDevice::default(), payloads).await
        };
        [start(1).await, start(2).await, start(3).await]
    }

    pub(crate) async fn kill_and_start(self, timing: Timing, network: &Network<Group>) -> Self {
        self.group.shut_down().await;
        let device = self.device.after_power_cut(usize::MAX);
        let payloads = self.payloads.after_crash();
        let promised_ms = self.timing.election_timeout_max_ms;
        Self::start_after(promised_ms, self.peer_id, timing, network, device, payloads).await
    }

    /// Campaigns as if a leader of an earlier term had handed its leadership over, and waits until this peer leads and has
    /// applied what is in its log. For groups whose log is empty.
    pub(crate) async fn lead(&self) {
        campaign(&self.group, self.peer_id).await;
        wait_until("it leads", || self.leads()).await;
        let permitted = timeout(GUARD, self.group.permit_read()).await;
        permitted.expect("it serves its term in time").unwrap();
    }

    pub(crate) fn leads(&self) -> bool {
        self.group.leader().peer_id == Some(self.peer_id)
    }

    pub(crate) fn has_applied(&self, payloads: &[&str]) -> bool {
        self.payloads.payloads() == payloads
    }

    pub(crate) async fn write(&self, payload: &str) -> Result<(), ProposeError> {
        self.write_bytes(payload.as_bytes().to_vec()).await
    }

    pub(crate) async fn write_bytes(&self, payload: Vec<u8>) -> Result<(), ProposeError> {
        let (sender, outcome) = oneshot::channel();
        let complete = |outcome| drop(sender.send(outcome));
        self.group.propose(Bytes::from(payload), complete);
        let outcome = timeout(GUARD, outcome).await;
        outcome.expect("it is answered in time").unwrap().map(drop)
    }
}

/// Waits until something is so.
pub(crate) async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = timeout(GUARD, async {
        while !is_so() {
            sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} in time"));
}

/// Lets a peer campaign as if a leader of an earlier term had handed its leadership over. For a group without a leader whose
/// log is empty.
pub(crate) async fn campaign(group: &Group, peer_id: u64) {
    let vote = Vote::new_committed(group.leader().term + 1, peer_id + 1);
    let last_log_id = Some(log_id(0, 0));
    let heartbeat = AppendEntriesRequest {
        vote,
        prev_log_id: last_log_id,
        entries: Vec::new(),
        leader_commit: None,
    };
    group.append_entries(heartbeat).await.unwrap();
    let transfer = TransferLeaderRequest::new(vote, peer_id, last_log_id);
    group.take_over(transfer).await.unwrap().unwrap();
}
