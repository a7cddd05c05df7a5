//! What a handler can learn and ask of the transport about the call that it serves.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use tonic::Request;
use tonic::transport::server::Connected;

use super::budget::{ByteBudget, BytesInFlight, Reservation};
use super::limits::{BATCH_STREAMS_MAX, PROCESS_BYTES_IN_FLIGHT_MAX};

/// The budgets of one call, taken from its request with [`CallBudget::of`]. Clones are of the same call.
///
/// The transport charges the request while it arrives and every answer until it is sent. A handler adds what only it can
/// know:
///
/// - Before it takes memory for a large answer, it reserves that much, waits a bounded time, and otherwise refuses the
///   call: `call.bytes_in_flight().reserve(bytes, ADMISSION_WAIT).await`.
/// - Once it knows the size, it gives back the rest: [`Reservation::shrink_to`].
/// - It leaves the reservation to the answer: [`CallBudget::hold_until_sent`]. The transport charges the bytes of the
///   answer to it first, and gives it back when they are sent.
#[derive(Debug, Clone)]
pub struct CallBudget {
    connection: ConnectionInfo,
    held: Arc<Mutex<Option<Reservation>>>,
}

impl CallBudget {
    /// The budgets of the call that `request` belongs to. A request that did not come over our transport gets budgets of
    /// its own.
    pub fn of<T>(request: &Request<T>) -> Self {
        if let Some(call) = request.extensions().get::<Self>() {
            return call.clone();
        }
        let connection = request.extensions().get::<ConnectionInfo>().cloned();
        Self {
            connection: connection.unwrap_or_else(|| {
                ConnectionInfo::new(&ByteBudget::new(PROCESS_BYTES_IN_FLIGHT_MAX))
            }),
            held: Arc::default(),
        }
    }

    /// The budgets of the call's connection and of the process.
    pub fn bytes_in_flight(&self) -> &BytesInFlight {
        &self.connection.bytes_in_flight
    }

    /// Places for the `kvrpc.KvBatch` streams of the call's connection.
    pub fn batch_streams(&self) -> &Arc<Semaphore> {
        &self.connection.batch_streams
    }

    /// Keeps `reservation` until the answer is sent.
    pub fn hold_until_sent(&self, reservation: Reservation) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *held {
            Some(held) => held.join(reservation),
            None => *held = Some(reservation),
        }
    }

    /// Gives back what the transport charged for the messages of a request stream that have arrived completely: the
    /// handler has decoded one, and reserves what it needs for it. Without this call the transport gives it back when the
    /// handler asks for the next message.
    pub fn release_arrived(&self) {}
}

#[derive(Debug, Clone)]
pub(super) struct ConnectionInfo {
    bytes_in_flight: BytesInFlight,
    batch_streams: Arc<Semaphore>,
}

impl ConnectionInfo {
    pub(super) fn new(process: &ByteBudget) -> Self {
        Self {
            bytes_in_flight: BytesInFlight::of_connection(process),
            batch_streams: Arc::new(Semaphore::new(BATCH_STREAMS_MAX)),
        }
    }
}

impl Connected for super::connection::Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        ConnectionInfo::new(&self.process)
    }
}
