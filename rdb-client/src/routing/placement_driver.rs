//! Asking the placement driver.
//!
//! It may have several addresses. Each question goes to the member that answered last. When that fails or takes longer than its share of
//! the time, the question goes to the others in turn. Every question asked here may be asked twice: a repeated lookup only reads, and a
//! repeated request for timestamps skips those that got lost. Changes of users may not be repeated; they are in `users`.
//!
//! The peer of each new connection must name this client's cluster before it is asked anything: timestamps of another one
//! would silently break their order. Members of other clusters are skipped, and so are processes that are not placement
//! drivers.

mod users;

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rdb_proto::pdpb::GetClusterInfoRequest;
use rdb_proto::pdpb::pd_client::PdClient;
use rdb_proto::transport::check_address;
use rdb_proto::transport::limits::{CALL_TIMEOUT, MESSAGE_BYTES_MAX};
use tonic::{Code, Response, Status};

use crate::connection::{Channel, Connection, ConnectionPool, Security};
use crate::counters::Counters;
use crate::figures::CallKind;
use crate::retry::{Deadline, Failure, Retry};
use crate::rpc::Access;
use crate::stream::End;
use crate::{Config, Error, fate};

/// The argument that errors about addresses name.
const PD_ADDRESSES: &str = "pd_addresses";

/// The placement driver, by its addresses.
#[derive(Debug)]
pub(crate) struct PlacementDriver {
    members: Vec<Member>,
    /// Index of the member to be asked first. Relaxed: any member will do.
    preferred: AtomicUsize,
    /// The cluster of the first member that answered.
    cluster_id: OnceLock<u64>,
    /// Connections to members, and to the stores.
    pub(crate) connections: Arc<ConnectionPool>,
    /// Connections of streams, so that a stream that is stuck does not hold up questions.
    held_connections: ConnectionPool,
    /// How long one member may take while there is something else to try.
    pub(super) connect_timeout: Duration,
    pub(crate) counters: Arc<Counters>,
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
pub(crate) struct Member {
    pub(crate) address: String,
}

impl PlacementDriver {
    /// The placement driver of a client with these settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when the config is invalid, there is no address, or one is not `host:port`.
    pub(crate) fn of<A: Into<String>>(
        config: &Config,
        addresses: impl IntoIterator<Item = A>,
        counters: Arc<Counters>,
    ) -> Result<Self, Error> {
        let security = config.security()?;
        let addresses = addresses.into_iter().map(Into::into);
        Self::new(addresses, config.connect_timeout, security, counters)
    }

    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when there is no address, or one is not `host:port`.
    pub(crate) fn new(
        addresses: impl Iterator<Item = String>,
        connect_timeout: Duration,
        security: Security,
        counters: Arc<Counters>,
    ) -> Result<Self, Error> {
        let mut members = Vec::new();
        for address in addresses {
            check_address(&address).map_err(|error| wrong_address(error.to_string()))?;
            members.push(Member { address });
        }
        if members.is_empty() {
            let cause = "there is none; expected at least one host:port, e.g. 127.0.0.1:2379";
            return Err(wrong_address(cause));
        }
        let pool = || ConnectionPool::new(connect_timeout, security.clone(), Arc::clone(&counters));
        Ok(Self {
            members,
            preferred: AtomicUsize::new(0),
            cluster_id: OnceLock::new(),
            connections: Arc::new(pool()),
            held_connections: pool(),
            connect_timeout,
            counters,
        })
    }

    pub(crate) fn members(&self) -> &[Member] {
        &self.members
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
        self.ask_for(CallKind::Control, deadline, question, Ok)
            .await
    }

    /// The same for a call of this kind. `result` is what it ends with after an answer.
    pub(crate) async fn ask_for<A, F, T>(
        &self,
        kind: CallKind,
        deadline: Deadline,
        question: impl Fn(PdClient<Channel>) -> F,
        result: impl FnOnce(A) -> Result<T, Error>,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut retry = Retry::until(deadline, kind, &self.counters);
        loop {
            match self.ask_once(deadline, &question).await {
                Ok(answer) => return retry.end(result(answer)),
                Err(failure) => retry.next_attempt(failure).await?,
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
        let question = |channel| question(client(channel));
        let asked = self.ask_members(&self.connections, Access::Read, deadline, question);
        Ok(asked.await?.answers)
    }

    /// Asks each member once for something that is held until it fails. Then call [`lost`](Self::lost).
    pub(crate) async fn hold<A, F>(
        &self,
        question: impl Fn(PdClient<Channel>) -> F,
    ) -> Result<Held<A>, Failure>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let deadline = Deadline::after(self.silence_max());
        let question = |channel| question(client(channel));
        self.ask_members(&self.held_connections, Access::Read, deadline, question)
            .await
    }

    /// How long a member that is held may owe an answer.
    pub(crate) fn silence_max(&self) -> Duration {
        if self.members.len() > 1 {
            self.connect_timeout
        } else {
            CALL_TIMEOUT
        }
    }

    /// What was held has ended. A member that fails or falls silent is no longer asked first.
    pub(crate) fn lost(&self, peer: &Peer, end: End) -> Failure {
        // Peers are made here only, of members that stay.
        let member = &self.members[peer.member];
        let cause = match end {
            End::Closed => {
                self.held_connections
                    .forget(&member.address, peer.connection_id);
                format!("{} ended its answers", member.place())
            }
            End::Silent => {
                self.pass_over(peer.member);
                format!("{} gave no answer", member.place())
            }
            End::Failed(status) => {
                if !fate::is_broken(&status) {
                    self.pass_over(peer.member);
                }
                let held = &self.held_connections;
                return match self.failed(held, Access::Read, member, peer.connection_id, &status) {
                    // The client may have another token by now: what is held next tells.
                    Failure::Final(error) if error.is_refusal_of_client() => Failure::again(error),
                    failure => failure,
                };
            }
        };
        Failure::again(Error::unavailable(cause))
    }

    /// The cluster of the first member that answered; `None`: none has.
    pub(crate) fn cluster_id(&self) -> Option<u64> {
        self.cluster_id.get().copied()
    }

    /// # Errors
    ///
    /// [`Error::ClusterMismatch`] when an answer comes from another cluster than the first one did.
    pub(crate) fn check_cluster(&self, found: u64) -> Result<(), Error> {
        let expected = *self.cluster_id.get_or_init(|| found);
        if found == expected {
            Ok(())
        } else {
            Err(Error::ClusterMismatch { expected, found })
        }
    }

    /// Has the next question asked of the member after this one, unless another answered meanwhile.
    fn pass_over(&self, member: usize) {
        let next = (member + 1) % self.members.len();
        let preferred = &self.preferred;
        let _ = preferred.compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    async fn ask_members<A, F>(
        &self,
        connections: &ConnectionPool,
        access: Access,
        deadline: Deadline,
        question: impl Fn(Channel) -> F,
    ) -> Result<Held<A>, Failure>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let first = self.preferred.load(Ordering::Relaxed);
        let count = self.members.len();
        let mut unfit = 0;
        let mut causes = Vec::new();
        for position in 0..count {
            let index = (first + position) % count;
            let share = self.share(deadline, count - position);
            let member = &self.members[index];
            let answer = self.ask_member(connections, access, member, share, &question);
            match answer.await {
                Ok((answers, connection_id)) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    let peer = Peer {
                        member: index,
                        connection_id,
                    };
                    return Ok(Held { answers, peer });
                }
                Err(Failure::Again { error, .. }) => causes.push(error.reason()),
                Err(Failure::Final(error)) => {
                    let reason = self.members[index].unfit(&error);
                    unfit += usize::from(reason.is_some());
                    match reason {
                        Some(reason) if unfit < count => causes.push(reason),
                        _ => return Err(error.into()),
                    }
                }
            }
        }
        let causes = causes.join("; ");
        Err(if deadline.remaining().is_zero() {
            Failure::again(deadline.exceeded(causes))
        } else {
            Failure::again(Error::unavailable(causes))
        })
    }

    /// The share of the time until the deadline that the first of `left` members may take.
    fn share(&self, deadline: Deadline, left: usize) -> Deadline {
        if self.members.len() == 1 {
            return deadline;
        }
        let share = deadline.remaining() / u32::try_from(left).unwrap_or(u32::MAX);
        deadline.sooner(share.min(self.connect_timeout))
    }

    /// The answer, and the id of the connection it came over.
    async fn ask_member<A, F>(
        &self,
        connections: &ConnectionPool,
        access: Access,
        member: &Member,
        share: Deadline,
        question: impl Fn(Channel) -> F,
    ) -> Result<(A, u64), Failure>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        // Whether the question was asked. Relaxed: it is read where it was written, or after that future was dropped.
        let is_asked = &AtomicBool::new(false);
        let asked = async {
            let connection = self.connection(connections, member).await?;
            let channel = connection.channel.clone().traced(share.trace());
            is_asked.store(true, Ordering::Relaxed);
            let answer = question(channel).await;
            let answer = self.received(connections, access, member, &connection, answer)?;
            Ok((answer, connection.id))
        };
        share.limit(asked).await.unwrap_or_else(|| {
            if access == Access::Write && is_asked.load(Ordering::Relaxed) {
                return Err(unanswered(member).into());
            }
            let cause = format!("{} gave no answer", member.place());
            Err(Failure::again(Error::unavailable(cause)))
        })
    }

    /// A connection to a member of this cluster.
    pub(crate) async fn connection(
        &self,
        connections: &ConnectionPool,
        member: &Member,
    ) -> Result<Connection, Failure> {
        let connection = connections
            .connection(&member.address)
            .await
            .map_err(|cause| Failure::again(Error::unavailable(cause)))?;
        if let Some(found) = connection.cluster_id.get() {
            self.check_cluster(*found)?;
            return Ok(connection);
        }
        let without_findings = true;
        let answer = client(connection.channel.clone())
            .get_cluster_info(GetClusterInfoRequest { without_findings })
            .await;
        if let Err(status) = &answer
            && status.code() == Code::Unimplemented
        {
            let cause = format!("{} is no placement driver", member.address);
            return Err(wrong_address(cause).into());
        }
        let answer = self.received(connections, Access::Read, member, &connection, answer)?;
        let found = answer.cluster_id;
        if found == 0 {
            let cause = format!("{} names no cluster", member.place());
            return Err(Failure::again(Error::internal(cause)));
        }
        let is_first = connection.cluster_id.set(found).is_ok();
        self.check_cluster(found).inspect_err(|error| {
            if is_first {
                tracing::warn!(address = %member.address, %error, "a placement driver is passed over");
            }
        })?;
        Ok(connection)
    }

    fn received<A>(
        &self,
        connections: &ConnectionPool,
        access: Access,
        member: &Member,
        connection: &Connection,
        answer: Result<Response<A>, Status>,
    ) -> Result<A, Failure> {
        answer
            .map(Response::into_inner)
            .map_err(|status| self.failed(connections, access, member, connection.id, &status))
    }

    fn failed(
        &self,
        connections: &ConnectionPool,
        access: Access,
        member: &Member,
        connection_id: u64,
        status: &Status,
    ) -> Failure {
        connections.forget_broken(&member.address, connection_id, status);
        fate::failure(access, status, &member.place())
    }
}

pub(crate) fn wrong_address(cause: impl Into<String>) -> Error {
    Error::invalid_argument(PD_ADDRESSES, None, cause)
}

impl Member {
    fn place(&self) -> String {
        format!("placement driver at {}", self.address)
    }

    /// Why this member can answer nothing that this client asks, if `error` says so.
    pub(crate) fn unfit(&self, error: &Error) -> Option<String> {
        match error {
            Error::ClusterMismatch { expected, found } => Some(format!(
                "{} belongs to cluster {found}, not to {expected} as the first that answered",
                self.place()
            )),
            Error::InvalidArgument { field, cause, .. } if field == PD_ADDRESSES => {
                Some(cause.clone())
            }
            _ => None,
        }
    }
}

/// A change may have been made.
fn unanswered(member: &Member) -> Error {
    Error::undetermined(format!("{} gave no answer", member.place()))
}

fn client(channel: Channel) -> PdClient<Channel> {
    PdClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}
