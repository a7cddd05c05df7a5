//! Requests of operators to a region: whether its replicas hold the same data, and another leader.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use rdb_proto::adminpb::get_checksum_response::State;
use rdb_proto::adminpb::region_admin_client::RegionAdminClient;
use rdb_proto::adminpb::{
    BeginCheckRequest, BeginCheckResponse, GetChecksumRequest, GetChecksumResponse, Position,
    TransferLeaderRequest, TransferLeaderResponse,
};
use rdb_proto::errorpb::region_error::Kind;
use rdb_proto::metapb::Context;
use tokio::time::sleep;
use tonic::Status;

use crate::connection::Channel;
use crate::figures::CallKind;
use crate::retry::{Deadline, Failure};
use crate::routing::Route;
use crate::rpc::{Access, DataRequest};
use crate::{Client, Error, RegionRoute, fate};

/// Longest wait of one question.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Pause before a replica is asked again that gave no answer.
const PAUSE: Duration = Duration::from_millis(100);

/// With less time left, a question is not worth its way.
const WAIT_MIN: Duration = Duration::from_millis(5);

/// What each replica of a region held at the same position of the region's log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegionCheck {
    /// The region.
    pub region_id: u64,
    /// The Raft term of the position.
    pub term: u64,
    /// The index of the position.
    pub index: u64,
    /// The replicas, in the order of the region's peers.
    pub replicas: Vec<ReplicaCheck>,
}

/// What one replica held.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplicaCheck {
    /// The replica.
    pub peer_id: u64,
    /// Its store.
    pub store_id: u64,
    /// Where that is. `None`: the placement driver does not know.
    pub address: Option<String>,
    /// What it answered.
    pub outcome: ReplicaOutcome,
}

/// What a replica answered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplicaOutcome {
    /// A checksum of all keys with their values and versions.
    Checksum {
        /// 16 bytes.
        digest: Bytes,
        /// The keys of both keyspaces.
        key_count: u64,
        /// The bytes of keys, versions and values.
        bytes: u64,
    },
    /// It did not apply the log up to the position in time.
    NotReached {
        /// The last index that it had applied.
        applied_index: u64,
    },
    /// It answered that it has no checksum, or gave no answer in time.
    NoChecksum {
        /// What is known about the cause.
        cause: String,
    },
}

impl DataRequest for BeginCheckRequest {
    type Answer = BeginCheckResponse;

    /// One check more replaces the one before.
    const ACCESS: Access = Access::Read;

    const KIND: CallKind = CallKind::Control;

    fn set_context(&mut self, context: Context) {
        self.context = Some(context);
    }

    async fn send(self, channel: Channel) -> Result<BeginCheckResponse, Status> {
        let answer = RegionAdminClient::new(channel).begin_check(self).await;
        answer.map(tonic::Response::into_inner)
    }
}

impl DataRequest for TransferLeaderRequest {
    type Answer = TransferLeaderResponse;

    /// One transfer more to the same store changes nothing.
    const ACCESS: Access = Access::Read;

    const KIND: CallKind = CallKind::Control;

    fn set_context(&mut self, context: Context) {
        self.context = Some(context);
    }

    async fn send(self, channel: Channel) -> Result<TransferLeaderResponse, Status> {
        let answer = RegionAdminClient::new(channel).transfer_leader(self).await;
        answer.map(tonic::Response::into_inner)
    }
}

impl Client {
    /// Lets the replica on a store lead a region, and waits until it does. Returns the term in which it leads. The region takes no
    /// reads and writes meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when the store has no replica that may lead; else when it does not lead in time.
    pub async fn transfer_leader(&self, route: &RegionRoute, to_store: u64) -> Result<u64, Error> {
        let (router, deadline) = (self.router(), self.deadline());
        let mut retry = router.retry(deadline, CallKind::Control);
        loop {
            let attempt = async {
                let found = self.locate(route, deadline).await?;
                let request = TransferLeaderRequest {
                    to_store,
                    ..TransferLeaderRequest::default()
                };
                let key = &found.region.start_key;
                let answer = router.attempt(&found, key, request, deadline).await?;
                match answer.leading_term {
                    0 => {
                        let cause = format!("store {to_store} does not lead yet");
                        Err(Failure::again(Error::unavailable(cause)))
                    }
                    term => Ok(term),
                }
            };
            match attempt.await {
                Ok(term) => return retry.end(Ok(term)),
                Err(failure) => retry.next_attempt(failure).await?,
            }
        }
    }

    async fn locate(&self, route: &RegionRoute, deadline: Deadline) -> Result<Arc<Route>, Failure> {
        let region = &route.region;
        let found = self.router().locate(&region.start_key, deadline).await?;
        if found.region.id != region.id {
            let cause = format!("region {} is no more", region.id);
            return Err(Failure::Final(Error::unavailable(cause)));
        }
        Ok(found)
    }

    /// Has every replica of a region compute a checksum of what it holds at one position of the region's log, which goes on
    /// meanwhile. Each replica has the client's timeout to get to that position, and as long again whenever it says that it
    /// has read on. Do not run it while a store runs an earlier release: that store ends.
    ///
    /// # Errors
    ///
    /// When the region has no leader in time, or no longer exists.
    pub async fn check_region(&self, route: &RegionRoute) -> Result<RegionCheck, Error> {
        let region_id = route.region.id;
        let Position { term, index } = self.begin_check(route).await?;
        let replicas = route.region.peers.iter().map(|peer| async move {
            let mut stores = route.peers.iter();
            let store = stores.find(|store| store.id == peer.store_id);
            let address = store.map(|store| store.address.clone());
            let outcome = match &address {
                Some(address) => {
                    let context = Context {
                        cluster_id: self.cluster_id(),
                        store_id: peer.store_id,
                        region_id,
                        region_epoch: None,
                    };
                    let position = Position { term, index };
                    self.replica_outcome(address, context, position).await
                }
                None => no_checksum("its store is not known"),
            };
            ReplicaCheck {
                peer_id: peer.id,
                store_id: peer.store_id,
                address,
                outcome,
            }
        });
        Ok(RegionCheck {
            region_id,
            term,
            index,
            replicas: join_all(replicas).await,
        })
    }

    async fn begin_check(&self, route: &RegionRoute) -> Result<Position, Error> {
        let (router, deadline) = (self.router(), self.deadline());
        let mut retry = router.retry(deadline, CallKind::Control);
        loop {
            let attempt = async {
                let found = self.locate(route, deadline).await?;
                let request = BeginCheckRequest::default();
                let key = &found.region.start_key;
                let begun = router.attempt(&found, key, request, deadline).await?;
                begun.position.ok_or_else(|| {
                    let cause = format!("{} named no position", found.place());
                    Failure::Final(Error::internal(cause))
                })
            };
            match attempt.await {
                Ok(position) => return retry.end(Ok(position)),
                Err(failure) => retry.next_attempt(failure).await?,
            }
        }
    }

    /// Asks until the checksum is there, or the time without progress is up.
    async fn replica_outcome(
        &self,
        address: &str,
        context: Context,
        position: Position,
    ) -> ReplicaOutcome {
        let mut deadline = self.deadline();
        let mut read_bytes = None;
        let mut outcome = no_checksum("it gave no answer in time");
        loop {
            let wait = (deadline.remaining() / 2).min(WAIT_MAX);
            if wait < WAIT_MIN {
                return outcome;
            }
            let request = GetChecksumRequest {
                context: Some(context),
                position: Some(position),
                wait_ms: wait.as_millis() as u64,
            };
            match deadline.limit(self.ask(address, request)).await {
                None => return outcome,
                Some(Ok(State::Checksum(checksum))) => {
                    return ReplicaOutcome::Checksum {
                        digest: checksum.digest,
                        key_count: checksum.key_count,
                        bytes: checksum.bytes,
                    };
                }
                Some(Ok(State::Failure(cause))) => return no_checksum(cause),
                Some(Ok(State::NotReached(Position { index, .. }))) => {
                    outcome = ReplicaOutcome::NotReached {
                        applied_index: index,
                    };
                }
                Some(Ok(State::SummedBytes(bytes))) => {
                    outcome = no_checksum(format!("it stopped after {bytes} bytes"));
                    if read_bytes.replace(bytes) < Some(bytes) {
                        deadline = self.deadline();
                    }
                }
                Some(Err(cause)) => {
                    outcome = no_checksum(cause);
                    sleep(PAUSE.min(deadline.remaining())).await;
                }
            }
        }
    }

    async fn ask(&self, address: &str, request: GetChecksumRequest) -> Result<State, String> {
        let connections = &self.router().placement_driver().connections;
        let connection = connections.connection(address).await?;
        let mut client = RegionAdminClient::new(connection.channel);
        let answer = client.get_checksum(request).await.map_err(|status| {
            connections.forget_broken(address, connection.id, &status);
            fate::cause(&status, address)
        })?;
        let GetChecksumResponse {
            region_error,
            state,
        } = answer.into_inner();
        match region_error.map(|error| error.kind) {
            None => state.ok_or_else(|| "it said nothing that this release knows".to_owned()),
            Some(Some(Kind::NotReady(not_ready))) => Err(not_ready.reason),
            Some(Some(Kind::RegionNotFound(_))) => {
                Err("its store has no replica of the region".to_owned())
            }
            Some(Some(Kind::StoreMismatch(_) | Kind::ClusterMismatch(_))) => {
                Err(format!("another store answers at {address}"))
            }
            Some(_) => Err("its store refuses to answer".to_owned()),
        }
    }
}

fn no_checksum(cause: impl Into<String>) -> ReplicaOutcome {
    ReplicaOutcome::NoChecksum {
        cause: cause.into(),
    }
}
