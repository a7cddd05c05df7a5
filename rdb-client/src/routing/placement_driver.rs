//! Asking the placement driver.
//!
//! It may have several addresses. Each question goes to the one that answered last; when that fails, to the others in
//! turn. Every question asked here may be asked twice: a repeated lookup reads, and a repeated request for timestamps skips
//! those that got lost.
//!
//! Before a new connection is used its peer must name this client's cluster: timestamps of another one would silently
//! break their order.

use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rdb_proto::pdpb::pd_client::PdClient;
use rdb_proto::pdpb::{GetClusterInfoRequest, GetClusterInfoResponse};
use rdb_proto::transport::check_address;
use rdb_proto::transport::limits::MESSAGE_BYTES_MAX;
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::connection_pool::{Connection, ConnectionPool};
use crate::retry::{Deadline, Failure, Retry};
use crate::rpc::Access;
use crate::{Error, fate};

/// The placement driver, by its addresses.
#[derive(Debug)]
pub(crate) struct PlacementDriver {
    members: Vec<Member>,
    /// Index of the member that answered last.
    preferred: AtomicUsize,
    /// The cluster of the first member that answered.
    cluster_id: OnceLock<u64>,
    connections: Arc<ConnectionPool>,
    /// How long one member may take while others could be asked.
    patience: Duration,
}

/// Something that a member answers for as long as it is held, such as a stream.
#[derive(Debug)]
pub(crate) struct Held<A> {
    pub(crate) answers: A,
    pub(crate) peer: Peer,
}

/// The member that it comes from, and the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    member: usize,
    connection_id: u64,
}

#[derive(Debug)]
struct Member {
    address: String,
    /// The last connection whose peer named this client's cluster; 0: none yet.
    verified_connection: AtomicU64,
}

impl PlacementDriver {
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when there is no address, or one is not `host:port`.
    pub(crate) fn new(
        addresses: impl Iterator<Item = String>,
        connections: Arc<ConnectionPool>,
        patience: Duration,
    ) -> Result<Self, Error> {
        let mut members = Vec::new();
        for address in addresses {
            check_address(&address).map_err(|error| {
                Error::invalid_argument("pd_addresses", None, error.to_string())
            })?;
            members.push(Member {
                address,
                verified_connection: AtomicU64::new(0),
            });
        }
        if members.is_empty() {
            let cause = "there is none; expected at least one host:port, e.g. 127.0.0.1:2379";
            return Err(Error::invalid_argument("pd_addresses", None, cause));
        }
        Ok(Self {
            members,
            preferred: AtomicUsize::new(0),
            cluster_id: OnceLock::new(),
            connections,
            patience,
        })
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| member.address.as_str())
    }

    /// Asks until an answer comes or the deadline.
    pub(crate) async fn ask<A, F>(
        &self,
        deadline: Deadline,
        question: impl Fn(PdClient<Channel>) -> F,
    ) -> Result<A, Error>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut retry = Retry::until(deadline);
        loop {
            match self.ask_once(deadline, &question).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => retry.pause(failure).await?,
            }
        }
    }

    /// Asks each member once until one answers.
    pub(crate) async fn ask_once<A, F>(
        &self,
        deadline: Deadline,
        question: impl Fn(PdClient<Channel>) -> F,
    ) -> Result<A, Failure>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let held = self.hold_until(deadline, question).await?;
        Ok(held.answers)
    }

    /// Asks each member once for something that is held until it fails; a member may take its time while there is no other.
    /// Then [`has_ended`](Self::has_ended) and its siblings are to be told.
    pub(crate) async fn hold<A, F>(
        &self,
        question: impl Fn(PdClient<Channel>) -> F,
    ) -> Result<Held<A>, Failure>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.hold_until(Deadline::never(), question).await
    }

    /// How long a member that is held may owe an answer: as long as it likes while there is no other.
    pub(crate) fn silence_max(&self) -> Option<Duration> {
        (self.members.len() > 1).then_some(self.patience)
    }

    /// The peer ended in good order what was held, as it does when it is about to go.
    pub(crate) fn has_ended(&self, peer: &Peer) -> Failure {
        let member = self.member(peer);
        self.connections.forget(&member.address, peer.connection_id);
        let cause = format!("{} ended its answers", member.place());
        Failure::again(Error::unavailable(cause))
    }

    /// The peer owes an answer for too long; another member is asked first from now on.
    pub(crate) fn is_silent(&self, peer: &Peer) -> Failure {
        self.pass_over(peer.member);
        let cause = format!("{} gave no answer", self.member(peer).place());
        Failure::again(Error::unavailable(cause))
    }

    /// What was held has failed. When the peer says so itself, another member is asked first from now on.
    pub(crate) fn has_failed(&self, peer: &Peer, status: &Status) -> Failure {
        let member = self.member(peer);
        if !fate::is_local(status) {
            self.pass_over(peer.member);
        }
        self.failed(member, peer.connection_id, status)
    }

    /// Peers are made here only, of members that are there for good.
    fn member(&self, peer: &Peer) -> &Member {
        &self.members[peer.member]
    }

    /// Has the next question asked of the member after this one, unless another answered meanwhile.
    fn pass_over(&self, member: usize) {
        let next = (member + 1) % self.members.len();
        // When another one answered meanwhile, it stays.
        let _ = self
            .preferred
            .compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    async fn hold_until<A, F>(
        &self,
        deadline: Deadline,
        question: impl Fn(PdClient<Channel>) -> F,
    ) -> Result<Held<A>, Failure>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let first = self.preferred.load(Ordering::Relaxed);
        let indexes = (first..self.members.len()).chain(0..first);
        let mut causes = Vec::new();
        for (index, member) in indexes.filter_map(|index| Some((index, self.members.get(index)?))) {
            match self.ask_member(member, deadline, &question).await {
                Ok((answers, connection_id)) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    let peer = Peer {
                        member: index,
                        connection_id,
                    };
                    return Ok(Held { answers, peer });
                }
                Err(Failure::Again { error, .. }) => causes.push(error.to_string()),
                Err(last) => return Err(last),
            }
        }
        Err(Failure::again(Error::unavailable(causes.join("; "))))
    }

    /// The answer, and the id of the connection it came over.
    async fn ask_member<A, F>(
        &self,
        member: &Member,
        deadline: Deadline,
        question: impl Fn(PdClient<Channel>) -> F,
    ) -> Result<(A, u64), Failure>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let patience = match self.members.len() {
            1 => deadline,
            _ => deadline.sooner(self.patience),
        };
        let asked = async {
            let connection = self.connection(member).await?;
            let answer = question(client(&connection)).await;
            let answer = self.received(member, &connection, answer)?;
            Ok((answer, connection.id))
        };
        match patience.limit(asked).await {
            Some(answer) => answer,
            None => {
                let cause = format!("{} gave no answer", member.place());
                Err(match deadline.remaining().is_zero() {
                    true => Failure::Final(deadline.exceeded(cause)),
                    false => Failure::again(Error::unavailable(cause)),
                })
            }
        }
    }

    /// A connection to a member of this cluster.
    async fn connection(&self, member: &Member) -> Result<Connection, Failure> {
        let connection = self
            .connections
            .connection(&member.address)
            .await
            .map_err(|cause| Failure::again(Error::unavailable(cause)))?;
        if member.verified_connection.load(Ordering::Relaxed) == connection.id {
            return Ok(connection);
        }
        let answer = client(&connection)
            .get_cluster_info(GetClusterInfoRequest {})
            .await;
        let GetClusterInfoResponse {
            cluster_id: found, ..
        } = self.received(member, &connection, answer)?;
        if found == 0 {
            let cause = format!("{} names no cluster", member.place());
            return Err(Error::internal(cause).into());
        }
        let expected = *self.cluster_id.get_or_init(|| found);
        if found != expected {
            return Err(Error::ClusterMismatch { expected, found }.into());
        }
        member
            .verified_connection
            .store(connection.id, Ordering::Relaxed);
        Ok(connection)
    }

    fn received<A>(
        &self,
        member: &Member,
        connection: &Connection,
        answer: Result<Response<A>, Status>,
    ) -> Result<A, Failure> {
        answer
            .map(Response::into_inner)
            .map_err(|status| self.failed(member, connection.id, &status))
    }

    fn failed(&self, member: &Member, connection_id: u64, status: &Status) -> Failure {
        if fate::is_local(status) {
            self.connections.forget(&member.address, connection_id);
        }
        fate::failure(Access::Read, status, &member.place())
    }
}

impl Member {
    fn place(&self) -> String {
        format!("placement driver at {}", self.address)
    }
}

fn client(connection: &Connection) -> PdClient<Channel> {
    PdClient::new(connection.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
}
