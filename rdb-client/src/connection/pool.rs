//! One connection per address, shared by all calls to it.
//!
//! Connections are made before a request is handed over, so that "the connection was never made" is a certain fact. A
//! connection counts as made when the peer has answered a health check on it, healthy or not. So a peer that accepts and
//! closes, such as a server with no place left, leaves no write in doubt.
//!
//! A call forgets a connection that broke under it; the next call makes another. Whenever one is made, ended connections are
//! forgotten, and so are attempts that failed or timed out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use http::HeaderValue;
use rdb_proto::transport::check_address;
use tokio::time::{Instant, timeout};
use tonic::Status;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::{Channel, Security};
use crate::counters::Counters;
use crate::fate;
use crate::figures::OpenConnection;

/// An open connection.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    /// Tells it from the other connections of its pool; never 0.
    pub(crate) id: u64,
    /// The cluster that the peer named; unset until it was asked.
    pub(crate) cluster_id: Arc<OnceLock<u64>>,
    /// Counts it as open for as long as somebody holds it.
    _open: OpenConnection,
}

/// Why there is no connection, in one sentence that names the address.
pub(crate) type ConnectFailure = String;

/// Shared by all calls that wait for the same connection. The calls that poll it drive it; it has no task.
type Connecting = Shared<BoxFuture<'static, Result<Connection, ConnectFailure>>>;

/// Connections by address.
#[derive(Debug)]
pub(crate) struct ConnectionPool {
    connect_timeout: Duration,
    security: Security,
    counters: Arc<Counters>,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    last_id: u64,
    by_address: HashMap<String, Slot>,
}

#[derive(Debug)]
struct Slot {
    id: u64,
    began_at: Instant,
    connecting: Connecting,
}

impl Slot {
    /// Whether the connection has ended, could not be made, or took too long.
    fn is_over(&self, connect_timeout: Duration) -> bool {
        match self.connecting.peek() {
            Some(Ok(made)) => made.channel.is_closed(),
            Some(Err(_)) => true,
            None => self.began_at.elapsed() >= connect_timeout,
        }
    }
}

impl ConnectionPool {
    pub(crate) fn new(
        connect_timeout: Duration,
        security: Security,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            connect_timeout,
            security,
            counters,
            slots: Mutex::default(),
        }
    }

    /// The token that a stream opened now would carry, if it can be another one later.
    pub(crate) fn changing_token(&self) -> Option<HeaderValue> {
        self.security.changing_token()
    }

    /// The connection to `address`, made now if there is none.
    pub(crate) async fn connection(&self, address: &str) -> Result<Connection, ConnectFailure> {
        let connecting = self.connecting(address);
        if let Some(connected) = connecting.peek() {
            return connected.clone();
        }
        // The timer is the caller's: the runtime of the call that began to connect may have stopped.
        let connected = timeout(self.connect_timeout, connecting).await;
        connected.unwrap_or_else(|_| {
            self.give_up(address);
            let timeout = self.connect_timeout;
            Err(format!("{address} did not answer within {timeout:?}"))
        })
    }

    /// Ends the attempt to connect to `address` if it took too long and no other call waits for it.
    fn give_up(&self, address: &str) {
        let mut slots = self.lock();
        let slot = slots.by_address.get(address);
        let is_late = slot.is_some_and(|slot| {
            slot.connecting.peek().is_none() && slot.is_over(self.connect_timeout)
        });
        let late = is_late.then(|| slots.by_address.remove(address));
        // What the attempt does at its end needs no lock.
        drop(slots);
        drop(late);
    }

    /// Has the next call make another connection than the one with this id, if `status` of a call over it says that it broke.
    pub(crate) fn forget_broken(&self, address: &str, id: u64, status: &Status) {
        if fate::is_broken(status) {
            self.forget(address, id);
        }
    }

    /// Has the next call make another connection than the one with this id. A newer one stays.
    pub(crate) fn forget(&self, address: &str, id: u64) {
        let mut slots = self.lock();
        if slots.id(address) == Some(id) {
            slots.by_address.remove(address);
        }
    }

    /// Whether the connection with this id is the one that calls to `address` use.
    pub(crate) fn is_current(&self, address: &str, id: u64) -> bool {
        self.lock().id(address) == Some(id)
    }

    fn connecting(&self, address: &str) -> Connecting {
        let mut slots = self.lock();
        let known = slots.by_address.get(address);
        if let Some(slot) = known.filter(|slot| !slot.is_over(self.connect_timeout)) {
            return slot.connecting.clone();
        }
        let is_over = |slot: &Slot| slot.is_over(self.connect_timeout);
        slots.by_address.retain(|_, slot| !is_over(slot));
        slots.last_id += 1;
        let id = slots.last_id;
        let (security, counters) = (self.security.clone(), Arc::clone(&self.counters));
        let connecting = connect(address.to_owned(), security, id, counters);
        let connecting = connecting.boxed().shared();
        let slot = Slot {
            id,
            began_at: Instant::now(),
            connecting: connecting.clone(),
        };
        slots.by_address.insert(address.to_owned(), slot);
        connecting
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        // Nothing between lock and unlock leaves the map half changed.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    fn id(&self, address: &str) -> Option<u64> {
        self.by_address.get(address).map(|slot| slot.id)
    }
}

async fn connect(
    address: String,
    security: Security,
    id: u64,
    counters: Arc<Counters>,
) -> Result<Connection, ConnectFailure> {
    let attempt = counters.figures().begin_connecting();
    let channel = open(&address, &security).await?;
    Ok(Connection {
        channel,
        id,
        cluster_id: Arc::default(),
        _open: attempt.connected(),
    })
}

/// A channel to a peer that has answered.
async fn open(address: &str, security: &Security) -> Result<Channel, ConnectFailure> {
    check_address(address).map_err(|error| error.to_string())?;
    let channel = Channel::connect(address, security).await;
    let channel = channel.map_err(|error| {
        let error: &dyn std::error::Error = &*error;
        format!("cannot connect to {address}: {}", innermost(error))
    })?;
    greet(address, channel.clone()).await?;
    Ok(channel)
}

/// Waits for a first answer. A peer without a health service is no process of a cluster and is not shown the token: a TLS port would get
/// it in plain text.
async fn greet(address: &str, mut channel: Channel) -> Result<(), ConnectFailure> {
    let answer = HealthClient::new(channel.clone().anonymous())
        .check(HealthCheckRequest::default())
        .await;
    let Err(status) = answer else {
        return Ok(());
    };
    let place = format!("no process of a cluster answers at {address}");
    // The call may know only that its connection has ended.
    if fate::is_broken(&status)
        && let Some(failure) = channel.failure().await
    {
        return Err(format!("{place}: the connection failed: {failure}"));
    }
    Err(fate::cause(&status, &place))
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use bytes::Bytes;
    use futures::poll;
    use http::Response;
    use http::header::AUTHORIZATION;
    use rdb_proto::kvrpc::RawGetRequest;
    use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
    use tokio::net::TcpListener;
    use tokio::time::sleep;

    use super::super::scripted_peer::{Reaction, ScriptedPeer};
    use super::*;
    use crate::Config;

    #[tokio::test]
    async fn connections_that_ended_and_attempts_that_failed_are_forgotten() {
        let timeout = Duration::from_secs(60);
        let pool = ConnectionPool::new(timeout, Security::default(), Arc::default());
        for _ in 0..3 {
            // It answers the greeting, and closes.
            let peer = ScriptedPeer::start(vec![vec![Reaction::Answer]]).await;
            let connected = pool.connection(&peer.address).await.expect("made");
            while !connected.channel.is_closed() {
                tokio::task::yield_now().await;
            }
            let refused = format!("no port: {}", peer.address);
            assert!(pool.connection(&refused).await.is_err());
        }
        let peer = ScriptedPeer::start(vec![vec![Reaction::Answer; 2]]).await;
        pool.connection(&peer.address).await.expect("made");
        let known: Vec<_> = pool.lock().by_address.keys().cloned().collect();
        assert_eq!(known, [peer.address]);
    }

    /// Serves a connection, and says of each request whether it has a token.
    async fn shown_tokens(listener: TcpListener) -> Vec<bool> {
        let (stream, _) = listener.accept().await.expect("a client");
        let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
        let mut shown = Vec::new();
        while let Some(Ok((request, mut answer))) = connection.accept().await {
            shown.push(request.headers().contains_key(AUTHORIZATION));
            let response = Response::builder()
                .header("content-type", "application/grpc")
                .body(())
                .expect("valid");
            let mut body = answer.send_response(response, false).expect("it is open");
            // An empty message.
            body.send_data(Bytes::from_static(&[0; 5]), false)
                .expect("it is open");
            let trailers = [("grpc-status", "0")].map(|(name, value)| {
                let value = value.parse().expect("valid");
                (http::HeaderName::from_static(name), value)
            });
            let trailers = http::HeaderMap::from_iter(trailers);
            body.send_trailers(trailers).expect("it is open");
        }
        shown
    }

    #[tokio::test]
    async fn a_token_is_shown_to_nobody_who_has_not_answered_as_a_process_of_a_cluster() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let serving = tokio::spawn(shown_tokens(listener));
        let token = format!("flaredb_{}", "0f".repeat(32));
        let config = Config::default().with_token(token.parse().expect("it is one"));
        let security = Security::of(&config).expect("it is valid");
        let pool = ConnectionPool::new(Duration::from_secs(60), security, Arc::default());
        let connected = pool.connection(&address).await.expect("it has answered");
        let mut client = KvRawClient::new(connected.channel.clone());
        client
            .raw_get(RawGetRequest::default())
            .await
            .expect("answered");
        drop((client, connected, pool));
        assert_eq!(serving.await.expect("no panic"), [false, true]);
    }

    #[tokio::test]
    async fn an_attempt_that_its_callers_gave_up_does_not_keep_later_ones_waiting() {
        const CONNECT_TIMEOUT: Duration = Duration::from_millis(10);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let pool = ConnectionPool::new(CONNECT_TIMEOUT, Security::default(), Arc::default());
        let mut silent = Vec::new();
        for attempt in 1..=3 {
            // Its deadline is before the pool's, unless this machine is busy.
            let _ = poll!(pin!(pool.connection(&address)));
            let accepted = timeout(Duration::from_secs(10), listener.accept()).await;
            let accepted = accepted.unwrap_or_else(|_| panic!("no attempt {attempt}"));
            silent.push(accepted.expect("a connection"));
            sleep(CONNECT_TIMEOUT).await;
        }
    }
}
