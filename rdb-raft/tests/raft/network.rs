//! A network between peers of one process, which can be cut, and which counts what goes over it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use rdb_raft::group::Group;
use rdb_raft::machine::SnapshotData;
use rdb_raft::{StoreNode, TypeConfig, Vote};
use tokio::time::sleep;

use crate::machine::MemoryMachine;

pub(crate) type Raft = openraft::Raft<TypeConfig, MemoryMachine>;

/// What is sent meanwhile overtakes it.
const SLOW: Duration = Duration::from_millis(200);

type Reached<T> = Result<T, Unreachable<TypeConfig>>;

/// What answers other peers.
pub(crate) trait Endpoint: Clone + Send + Sync + 'static {
    type Snapshot: Send + 'static;

    fn append_entries(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> impl Future<Output = Reached<AppendEntriesResponse<TypeConfig>>> + Send;

    fn vote(
        &self,
        request: VoteRequest<TypeConfig>,
    ) -> impl Future<Output = Reached<VoteResponse<TypeConfig>>> + Send;

    fn pre_vote(
        &self,
        request: VoteRequest<TypeConfig>,
    ) -> impl Future<Output = Reached<VoteResponse<TypeConfig>>> + Send;

    fn take_over(
        &self,
        request: TransferLeaderRequest<TypeConfig>,
    ) -> impl Future<Output = Reached<TransferLeaderResponse<TypeConfig>>> + Send;

    fn install(
        &self,
        vote: Vote,
        snapshot: rdb_raft::Snapshot<Self::Snapshot>,
    ) -> impl Future<Output = Reached<SnapshotResponse<TypeConfig>>> + Send;
}

impl Endpoint for Raft {
    type Snapshot = Vec<Bytes>;

    async fn append_entries(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> Reached<AppendEntriesResponse<TypeConfig>> {
        self.append_entries(request).await.map_err(unreachable)
    }

    async fn vote(&self, request: VoteRequest<TypeConfig>) -> Reached<VoteResponse<TypeConfig>> {
        self.vote(request).await.map_err(unreachable)
    }

    async fn pre_vote(
        &self,
        request: VoteRequest<TypeConfig>,
    ) -> Reached<VoteResponse<TypeConfig>> {
        self.pre_vote(request).await.map_err(unreachable)
    }

    async fn take_over(
        &self,
        request: TransferLeaderRequest<TypeConfig>,
    ) -> Reached<TransferLeaderResponse<TypeConfig>> {
        self.handle_transfer_leader(request)
            .await
            .map_err(unreachable)
    }

    async fn install(
        &self,
        vote: Vote,
        snapshot: rdb_raft::Snapshot<Vec<Bytes>>,
    ) -> Reached<SnapshotResponse<TypeConfig>> {
        let installed = self.install_full_snapshot(vote, snapshot).await;
        installed.map_err(unreachable)
    }
}

impl Endpoint for Group {
    type Snapshot = SnapshotData;

    async fn append_entries(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> Reached<AppendEntriesResponse<TypeConfig>> {
        self.append_entries(request).await.map_err(unreachable)
    }

    async fn vote(&self, request: VoteRequest<TypeConfig>) -> Reached<VoteResponse<TypeConfig>> {
        self.vote(request).await.map_err(unreachable)
    }

    async fn pre_vote(
        &self,
        request: VoteRequest<TypeConfig>,
    ) -> Reached<VoteResponse<TypeConfig>> {
        self.pre_vote(request).await.map_err(unreachable)
    }

    async fn take_over(
        &self,
        request: TransferLeaderRequest<TypeConfig>,
    ) -> Reached<TransferLeaderResponse<TypeConfig>> {
        self.take_over(request).await.map_err(unreachable)
    }

    async fn install(
        &self,
        _: Vote,
        _: rdb_raft::Snapshot<SnapshotData>,
    ) -> Reached<SnapshotResponse<TypeConfig>> {
        Err(unreachable("it takes no snapshots"))
    }
}

#[derive(Clone)]
pub(crate) struct Network<E>(Arc<Shared<E>>);

struct Shared<E> {
    peers: Mutex<BTreeMap<u64, E>>,
    /// Pairs that hear nothing of each other, the lower id first.
    cut: Mutex<BTreeSet<(u64, u64)>>,
    /// Peers that get no entries, but hear of their leader.
    starved: Mutex<BTreeSet<u64>>,
    /// Peers whose answers to appends take a while.
    slow: Mutex<BTreeSet<u64>>,
    pre_votes: AtomicUsize,
    conflicts: AtomicUsize,
    snapshots: AtomicUsize,
}

impl<E> Default for Network<E> {
    fn default() -> Self {
        Self(Arc::new(Shared {
            peers: Mutex::default(),
            cut: Mutex::default(),
            starved: Mutex::default(),
            slow: Mutex::default(),
            pre_votes: AtomicUsize::default(),
            conflicts: AtomicUsize::default(),
            snapshots: AtomicUsize::default(),
        }))
    }
}

impl<E: Endpoint> Network<E> {
    pub(crate) fn join(&self, peer_id: u64, peer: E) {
        self.0.peers.lock().unwrap().insert(peer_id, peer);
    }

    /// The network as a peer sees it.
    pub(crate) fn of(&self, peer_id: u64) -> Ways<E> {
        let network = self.clone();
        Ways { network, peer_id }
    }

    /// Loses requests and answers between two peers.
    pub(crate) fn cut(&self, one: u64, other: u64) {
        let pair = (one.min(other), one.max(other));
        self.0.cut.lock().unwrap().insert(pair);
    }

    pub(crate) fn mend(&self, one: u64, other: u64) {
        let pair = (one.min(other), one.max(other));
        self.0.cut.lock().unwrap().remove(&pair);
    }

    pub(crate) fn starve(&self, peer_id: u64) {
        self.0.starved.lock().unwrap().insert(peer_id);
    }

    pub(crate) fn slow_down(&self, peer_id: u64) {
        self.0.slow.lock().unwrap().insert(peer_id);
    }

    /// How many pre-votes were asked for.
    pub(crate) fn pre_votes(&self) -> usize {
        self.0.pre_votes.load(Ordering::Relaxed)
    }

    /// How many appends a follower refused because its log was another one.
    pub(crate) fn conflicts(&self) -> usize {
        self.0.conflicts.load(Ordering::Relaxed)
    }

    pub(crate) fn snapshots(&self) -> usize {
        self.0.snapshots.load(Ordering::Relaxed)
    }
}

pub(crate) struct Ways<E> {
    network: Network<E>,
    peer_id: u64,
}

impl<E: Endpoint> RaftNetworkFactory<TypeConfig> for Ways<E> {
    type Network = Client<E>;

    async fn new_client(&mut self, target: u64, _: &StoreNode) -> Client<E> {
        Client {
            network: self.network.clone(),
            from: self.peer_id,
            target,
        }
    }
}

pub(crate) struct Client<E> {
    network: Network<E>,
    from: u64,
    target: u64,
}

impl<E: Endpoint> Client<E> {
    fn peer(&self) -> Reached<E> {
        self.check_way()?;
        let peers = self.network.0.peers.lock().unwrap();
        let peer = peers.get(&self.target).cloned();
        peer.ok_or_else(|| unreachable("no such peer"))
    }

    /// Does nothing if the other peer can be reached, or an answer of it can come back.
    fn check_way(&self) -> Reached<()> {
        let pair = (self.from.min(self.target), self.from.max(self.target));
        let is_cut = self.network.0.cut.lock().unwrap().contains(&pair);
        match is_cut {
            true => Err(unreachable("the network is cut")),
            false => Ok(()),
        }
    }
}

fn unreachable(error: impl Display) -> Unreachable<TypeConfig> {
    Unreachable::from_string(error)
}

impl<E: Endpoint> RaftNetworkV2<TypeConfig> for Client<E> {
    type SnapshotData = E::Snapshot;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let is_in = |peers: &Mutex<BTreeSet<u64>>| peers.lock().unwrap().contains(&self.target);
        if !request.entries.is_empty() && is_in(&self.network.0.starved) {
            return Err(unreachable("it gets no entries").into());
        }
        let response = self.peer()?.append_entries(request).await?;
        if is_in(&self.network.0.slow) {
            sleep(SLOW).await;
        }
        self.check_way()?;
        let is_conflict = matches!(response, AppendEntriesResponse::Conflict);
        let conflicts = &self.network.0.conflicts;
        conflicts.fetch_add(usize::from(is_conflict), Ordering::Relaxed);
        Ok(response)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let response = self.peer()?.vote(request).await?;
        self.check_way()?;
        Ok(response)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.network.0.pre_votes.fetch_add(1, Ordering::Relaxed);
        let response = self.peer()?.pre_vote(request).await?;
        self.check_way()?;
        Ok(response)
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let response = self.peer()?.take_over(request).await?;
        self.check_way()?;
        Ok(response)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: rdb_raft::Snapshot<E::Snapshot>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        self.network.0.snapshots.fetch_add(1, Ordering::Relaxed);
        let response = self.peer()?.install(vote, snapshot).await?;
        self.check_way()?;
        Ok(response)
    }
}
