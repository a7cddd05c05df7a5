//! One connection per address, shared by everyone who talks to it.
//!
//! Connections are made explicitly, before a request is handed over, so that "the connection was never made" is a certain
//! fact. One counts as made when the peer has answered a health check on it (whatever its health): a peer that accepts and
//! closes, as a server does whose places are all taken, then costs no write its certainty.
//!
//! A connection that failed is forgotten by whoever notices. tonic's channel may also reconnect by itself when it is next
//! used; see [`never_sent`](crate::fate::never_sent) for what that means.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use rdb_proto::transport;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::fate;

/// An open connection.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    /// Tells it from earlier and later ones; never 0.
    pub(crate) id: u64,
}

/// Why there is no connection, in one sentence that names the address.
pub(crate) type ConnectFailure = String;

/// Shared by all who wait for the same connection; whoever polls it drives it, and no task of its own does.
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
    connecting: Connecting,
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
        let connected = connecting.await;
        if connected.is_err() {
            self.forget(address, id);
        }
        connected
    }

    /// The connection with this id is of no more use; the next call makes another. A newer one stays.
    pub(crate) fn forget(&self, address: &str, id: u64) {
        let mut slots = self.lock();
        if slots
            .by_address
            .get(address)
            .is_some_and(|slot| slot.id == id)
        {
            slots.by_address.remove(address);
        }
    }

    fn slot(&self, address: &str) -> (u64, Connecting) {
        let mut slots = self.lock();
        if let Some(slot) = slots.by_address.get(address) {
            return (slot.id, slot.connecting.clone());
        }
        slots.last_id += 1;
        let id = slots.last_id;
        let connecting = connect(address.to_owned(), id, self.connect_timeout)
            .boxed()
            .shared();
        let slot = Slot {
            id,
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

async fn connect(
    address: String,
    id: u64,
    connect_timeout: Duration,
) -> Result<Connection, ConnectFailure> {
    let endpoint =
        transport::endpoint(&address, connect_timeout).map_err(|error| error.to_string())?;
    let greeted = async {
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| format!("cannot connect to {address}: {}", innermost(&error)))?;
        greet(&address, channel.clone()).await?;
        Ok(Connection { channel, id })
    };
    match timeout(connect_timeout, greeted).await {
        Ok(connected) => connected,
        Err(_) => Err(format!(
            "{address} did not answer within {connect_timeout:?}"
        )),
    }
}

/// Waits for a first answer.
async fn greet(address: &str, channel: Channel) -> Result<(), ConnectFailure> {
    match HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await
    {
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::Unimplemented => Ok(()),
        Err(status) => Err(fate::cause(
            &status,
            &format!("no gRPC server answers at {address}"),
        )),
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
