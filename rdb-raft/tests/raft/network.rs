//! A network between groups of one process, which counts what goes over it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use rdb_raft::{StoreNode, TypeConfig, Vote};

use crate::machine::{MemoryMachine, Snapshot};

pub(crate) type Raft = openraft::Raft<TypeConfig, MemoryMachine>;

#[derive(Clone, Default)]
pub(crate) struct Network(Arc<Shared>);

#[derive(Default)]
struct Shared {
    peers: Mutex<BTreeMap<u64, Raft>>,
    conflicts: AtomicUsize,
    snapshots: AtomicUsize,
}

impl Network {
    pub(crate) fn join(&self, peer_id: u64, raft: Raft) {
        self.0.peers.lock().unwrap().insert(peer_id, raft);
    }

    /// How many appends a follower refused because its log was another one.
    pub(crate) fn conflicts(&self) -> usize {
        self.0.conflicts.load(Ordering::Relaxed)
    }

    pub(crate) fn snapshots(&self) -> usize {
        self.0.snapshots.load(Ordering::Relaxed)
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, _: &StoreNode) -> Client {
        Client {
            network: self.clone(),
            target,
        }
    }
}

pub(crate) struct Client {
    network: Network,
    target: u64,
}

impl Client {
    fn peer(&self) -> Result<Raft, Unreachable<TypeConfig>> {
        let peers = self.network.0.peers.lock().unwrap();
        let peer = peers.get(&self.target).cloned();
        peer.ok_or_else(|| Unreachable::from_string("no such peer"))
    }
}

fn ended(error: impl Display) -> Unreachable<TypeConfig> {
    Unreachable::from_string(error)
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = Vec<Bytes>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let response = self.peer()?.append_entries(request).await.map_err(ended)?;
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
        Ok(self.peer()?.vote(request).await.map_err(ended)?)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Ok(self.peer()?.pre_vote(request).await.map_err(ended)?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        self.network.0.snapshots.fetch_add(1, Ordering::Relaxed);
        let peer = self.peer()?;
        let installed = peer.install_full_snapshot(vote, snapshot).await;
        Ok(installed.map_err(ended)?)
    }
}
