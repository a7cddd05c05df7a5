//! One connection per address, shared by all calls to it.
//!
//! Connections are made before a request is handed over, so that "the connection was never made" is a certain fact. A
//! connection counts as made when the peer has answered a health check on it, whatever its health: a peer that accepts and
//! closes, as a server does that has no place left, then costs no write its certainty.
//!
//! A connection that has ended is replaced by the next call, one that failed is forgotten by the call that noticed. So is an
//! attempt that has had its time: the calls that would have noticed may all have given up before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use rdb_proto::transport::check_address;
use tokio::time::{Instant, timeout};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::Channel;
use crate::fate;

/// An open connection.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    /// Tells it from the other connections of its pool; never 0.
    pub(crate) id: u64,
    /// The cluster that the peer named; unset until it was asked.
    pub(crate) cluster_id: Arc<OnceLock<u64>>,
}

/// Why there is no connection, in one sentence that names the address.
pub(crate) type ConnectFailure = String;

/// Shared by all calls that wait for the same connection. The calls that poll it drive it; it has no task.
type Connecting = Shared<BoxFuture<'static, Result<Connection, ConnectFailure>>>;

/// Connections by address.
#[derive(Debug)]
pub(crate) struct ConnectionPool {
    connect_timeout: Duration,
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
    /// Whether the connection has ended, or took too long to be made.
    fn is_over(&self, connect_timeout: Duration) -> bool {
        match self.connecting.peek() {
            Some(made) => made.as_ref().is_ok_and(|made| made.channel.is_closed()),
            None => self.began_at.elapsed() >= connect_timeout,
        }
    }
}

impl ConnectionPool {
    pub(crate) fn new(connect_timeout: Duration) -> Self {
        Self {
            connect_timeout,
            slots: Mutex::default(),
        }
    }

    /// The connection to `address`, made now if there is none.
    pub(crate) async fn connection(&self, address: &str) -> Result<Connection, ConnectFailure> {
        let (id, connecting) = self.slot(address);
        // The timer is the caller's: the runtime of the call that began to connect may have stopped.
        let connected = timeout(self.connect_timeout, connecting).await;
        let connected = connected.unwrap_or_else(|_| {
            let timeout = self.connect_timeout;
            Err(format!("{address} did not answer within {timeout:?}"))
        });
        if connected.is_err() {
            self.forget(address, id);
        }
        connected
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

    fn slot(&self, address: &str) -> (u64, Connecting) {
        let mut slots = self.lock();
        if let Some(slot) = slots.by_address.get(address)
            && !slot.is_over(self.connect_timeout)
        {
            return (slot.id, slot.connecting.clone());
        }
        slots.last_id += 1;
        let id = slots.last_id;
        let connecting = connect(address.to_owned(), id).boxed().shared();
        let slot = Slot {
            id,
            began_at: Instant::now(),
            connecting: connecting.clone(),
        };
        slots.by_address.insert(address.to_owned(), slot);
        (id, connecting)
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

async fn connect(address: String, id: u64) -> Result<Connection, ConnectFailure> {
    check_address(&address).map_err(|error| error.to_string())?;
    let channel = Channel::connect(&address).await.map_err(|error| {
        let error: &dyn std::error::Error = &*error;
        format!("cannot connect to {address}: {}", innermost(error))
    })?;
    greet(&address, channel.clone()).await?;
    Ok(Connection {
        channel,
        id,
        cluster_id: Arc::default(),
    })
}

/// Waits for a first answer. Whatever has no health service is no process of a cluster.
async fn greet(address: &str, channel: Channel) -> Result<(), ConnectFailure> {
    let answer = HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await;
    answer.map(drop).map_err(|status| {
        let place = format!("no process of a cluster answers at {address}");
        fate::cause(&status, &place)
    })
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

    use futures::poll;
    use tokio::net::TcpListener;
    use tokio::time::sleep;

    use super::*;

    #[tokio::test]
    async fn an_attempt_that_its_callers_gave_up_does_not_keep_later_ones_waiting() {
        const CONNECT_TIMEOUT: Duration = Duration::from_millis(10);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let pool = ConnectionPool::new(CONNECT_TIMEOUT);
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
