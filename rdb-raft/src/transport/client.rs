//! What openraft uses to send.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, Either, select};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use openraft::errors::{ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RPCTypes};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use rdb_proto::raftpb::Item;
use rdb_proto::raftpb::answer::Outcome;
use rdb_proto::raftpb::item::Request;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::append_sender::replicate;
use super::connection::Connection;
use super::dial::{Dialer, Dialing};
use super::lane::Outgoing;
use super::link::Link;
use super::snapshot::Sending;
use super::snapshot_sender::{Attempts, SnapshotRoute};
use super::starts::Starts;
use super::{AddressBook, RpcError, StoreIdentity, broken, unreachable, wire};
use crate::machine::SnapshotData;
use crate::timing::Timing;
use crate::types::{Snapshot, StoreNode, TypeConfig, Vote};

/// The ways from this store to all others. Cheap to clone; its connections close with the last clone and the last
/// [`PeerNetwork`].
#[derive(Clone)]
pub struct Transport(Arc<Links>);

struct Links {
    dialer: Dialer,
    sending: Sending,
    /// By store.
    links: Mutex<HashMap<u64, Kept>>,
}

/// A link, and the task that keeps it.
type Kept = (Arc<Link>, AbortOnDropHandle<()>);

impl Transport {
    /// The ways of a store whose groups have this timing. Connects to nobody yet.
    pub fn new(
        identity: StoreIdentity,
        timing: Timing,
        addresses: Arc<dyn AddressBook>,
        starts: Arc<Starts>,
    ) -> Self {
        Self::with_dialing(identity, timing, addresses, starts, Dialing::default())
    }

    /// The same with a certain way to connect.
    pub fn with_dialing(
        identity: StoreIdentity,
        timing: Timing,
        addresses: Arc<dyn AddressBook>,
        starts: Arc<Starts>,
        dialing: Dialing,
    ) -> Self {
        let dialer = Dialer {
            identity,
            timing,
            addresses,
            starts,
            dialing,
        };
        Self(Arc::new(Links {
            dialer,
            sending: Sending::default(),
            links: Mutex::default(),
        }))
    }

    /// Connects to stores, as soon as they are there, without anything to send: so that each learns of the other's start.
    pub fn greet(&self, store_ids: impl IntoIterator<Item = u64>) {
        for store_id in store_ids {
            self.link(store_id).greet();
        }
    }

    /// How many snapshots other stores have taken and installed.
    pub fn snapshots_sent(&self) -> u64 {
        self.0.sending.sent.get()
    }

    /// The network of a peer of a group on this store.
    pub fn network(&self, group_id: u64, peer_id: u64) -> PeerNetwork {
        let transport = self.clone();
        PeerNetwork {
            transport,
            group_id,
            peer_id,
        }
    }

    fn link(&self, store_id: u64) -> Arc<Link> {
        let links = self.0.links.lock();
        let mut links = links.unwrap_or_else(PoisonError::into_inner);
        let (link, _) = links.entry(store_id).or_insert_with(|| {
            let link = Arc::new(Link::new(store_id));
            let keeping = Arc::clone(&link).keep(self.0.dialer.clone());
            (link, AbortOnDropHandle::new(tokio::spawn(keeping)))
        });
        Arc::clone(link)
    }
}

/// A [`Transport`] as a peer of a group sees it.
pub struct PeerNetwork {
    transport: Transport,
    group_id: u64,
    peer_id: u64,
}

impl PeerNetwork {
    fn client(&self, to_peer: u64, node: &StoreNode, purpose: Purpose) -> Client {
        let timing = &self.transport.0.dialer.timing;
        let route = Route {
            link: self.transport.link(node.store_id),
            group_id: self.group_id,
            from_peer: self.peer_id,
            to_peer,
            patience: Duration::from_millis(timing.election_timeout_max_ms),
        };
        Client {
            transport: self.transport.clone(),
            route,
            purpose,
            attempts: Attempts::default(),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for PeerNetwork {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &StoreNode) -> Client {
        self.client(target, node, Purpose::Replication)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &StoreNode) -> Client {
        self.client(target, node, Purpose::Heartbeats)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &StoreNode) -> Client {
        self.client(target, node, Purpose::Snapshots)
    }
}

/// The way from a peer to another one of its group.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) link: Arc<Link>,
    group_id: u64,
    from_peer: u64,
    to_peer: u64,
    /// How long nothing may be heard while something has no answer.
    pub(super) patience: Duration,
}

impl Route {
    pub(super) fn item(&self, session: u64, sequence: u64, request: Request) -> Item {
        Item {
            group_id: self.group_id,
            from_peer: self.from_peer,
            to_peer: self.to_peer,
            session,
            sequence,
            request: Some(request),
        }
    }

    pub(super) fn timeout(&self, timeout: Duration) -> RpcError {
        self.timeout_of(RPCTypes::AppendEntries, timeout)
    }

    fn timeout_of(&self, action: RPCTypes, timeout: Duration) -> RpcError {
        let (id, target) = (self.from_peer, self.to_peer);
        RpcError::Timeout(Timeout {
            action,
            id,
            target,
            timeout,
        })
    }

    /// Asks a single request. If there is no connection, one may still be made in time.
    async fn ask(
        &self,
        action: RPCTypes,
        request: Request,
        ttl: Duration,
    ) -> Result<Outcome, RpcError> {
        let deadline = Instant::now() + ttl;
        let connected = timeout_at(deadline, self.link.connected()).await;
        let connection = connected.map_err(|_| unreachable(self.link.cause()))?;
        let asked = timeout_at(deadline, self.ask_over(&connection, request));
        asked.await.map_err(|_| self.timeout_of(action, ttl))?
    }

    async fn ask_over(
        &self,
        connection: &Arc<Connection>,
        request: Request,
    ) -> Result<Outcome, RpcError> {
        let session = connection.open_request()?;
        let outgoing = Outgoing {
            bytes: size_of::<Item>(),
            item: self.item(session.number, 0, request),
            _room: None,
        };
        let sent = connection.urgent.send(outgoing).await;
        sent.map_err(|_| broken("the connection takes no more"))?;
        match session.answer().await?.outcome {
            Some(Outcome::Refusal(refusal)) => Err(unreachable(refusal.cause)),
            Some(outcome) => Ok(outcome),
            None => Err(broken("an answer is empty")),
        }
    }

    async fn campaign(
        &self,
        request: Request,
        option: &RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let outcome = self.ask(RPCTypes::Vote, request, option.hard_ttl()).await?;
        match outcome {
            Outcome::Voted(voted) => wire::read_voted(voted).map_err(broken),
            _ => Err(broken("the answer is not to a vote")),
        }
    }

    /// Sends a heartbeat. openraft gives it up when the next one is due.
    async fn beat(
        &self,
        append: AppendEntriesRequest<TypeConfig>,
    ) -> Result<StreamAppendResult<TypeConfig>, RpcError> {
        let (previous, last) = (append.prev_log_id, wire::last_log_id(&append));
        let request = Request::Append(wire::append(append));
        let connection = self.link.connected().await;
        let outcome = self.ask_over(&connection, request).await?;
        wire::read_appended(outcome, previous, last)
    }
}

/// Sends to one peer. A handle on the connection that all share.
pub struct Client {
    transport: Transport,
    route: Route,
    purpose: Purpose,
    /// To send snapshots.
    attempts: Attempts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Replication,
    /// Single appends without entries, each by itself.
    Heartbeats,
    Snapshots,
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        append: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let appends = stream::iter([append]);
        let answer = replicate(self.route.clone(), appends).next().await;
        answer
            .ok_or_else(|| broken("there is no answer"))?
            .map(Into::into)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut appends: S,
        _: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let route = self.route.clone();
        let answers = if self.purpose == Purpose::Heartbeats {
            let beat = async move {
                let append = appends.next().await?;
                Some(route.beat(append).await)
            };
            stream::once(beat).filter_map(std::future::ready).boxed()
        } else {
            replicate(route, appends)
        };
        Box::pin(std::future::ready(Ok(answers)))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let request = Request::Vote(wire::campaign(&request));
        self.route.campaign(request, &option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let request = Request::PreVote(wire::campaign(&request));
        self.route.campaign(request, &option).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let request = Request::Transfer(wire::transfer(&request));
        let asked = self
            .route
            .ask(RPCTypes::TransferLeader, request, option.hard_ttl());
        match asked.await? {
            Outcome::Transferred(_) => Ok(Ok(())),
            _ => Err(broken("the answer is not to a transfer")),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::Outgoing(outgoing) = snapshot.snapshot else {
            let cause = "there is no snapshot of the state machine";
            return Err(Unreachable::from_string(cause).into());
        };
        let Links {
            dialer, sending, ..
        } = &*self.transport.0;
        let route = SnapshotRoute {
            dialer,
            sending,
            link: &self.route.link,
            group_id: self.route.group_id,
            from_peer: self.route.from_peer,
            to_peer: self.route.to_peer,
        };
        let membership = &snapshot.meta.last_membership;
        let sent = route.send(vote, membership, outgoing);
        match select(pin!(cancel), pin!(sent)).await {
            Either::Left((closed, _)) => Err(closed.into()),
            Either::Right((Ok(vote), _)) => Ok(SnapshotResponse::new(vote)),
            Either::Right((Err(not_sent), _)) => {
                if self.attempts.note(&not_sent) && !not_sent.had_begun {
                    let (group_id, to_peer) = (self.route.group_id, self.route.to_peer);
                    let cause = &not_sent.cause;
                    tracing::info!(group_id, to_peer, cause, "a snapshot is not sent yet");
                }
                Err(Unreachable::from_string(not_sent.cause).into())
            }
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        let sends_snapshots = self.purpose == Purpose::Snapshots;
        sends_snapshots.then(|| Backoff::new(self.attempts.waits()))
    }
}
