//! The store that lanes lead to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdb_proto::transport::limits::CALL_TIMEOUT;

use crate::connection::{Connection, ConnectionPool};
use crate::counters::Counters;

/// The limit of unary calls. A stream that is silent for longer is given up: otherwise calls long past their deadlines would
/// hold the room of their lane for as long as the connection lives.
const SILENCE_MAX: Duration = CALL_TIMEOUT;

/// What the lanes to one store have in common.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) address: String,
    pub(super) connections: Arc<ConnectionPool>,
    pub(super) counters: Arc<Counters>,
    /// Most commands of one message, at least 1.
    pub(super) message_commands_max: usize,
    /// How long the store may owe answers, or take to accept a stream.
    pub(super) silence_max: Duration,
    /// The last connection over which the store did not know streams of commands; 0: none. Relaxed: a call that sees an old
    /// value fails with certainty, and tries again.
    streamless_connection: AtomicU64,
}

impl Target {
    pub(super) fn new(
        address: &str,
        connections: Arc<ConnectionPool>,
        counters: Arc<Counters>,
        message_commands_max: usize,
    ) -> Self {
        Self {
            address: address.to_owned(),
            connections,
            counters,
            message_commands_max,
            silence_max: SILENCE_MAX,
            streamless_connection: AtomicU64::new(0),
        }
    }

    /// The store does not know streams of commands. The next connection may be to another release of it.
    pub(super) fn knows_no_streams(&self, connection: &Connection) {
        self.streamless_connection
            .store(connection.id, Ordering::Relaxed);
    }

    pub(super) fn takes_streams(&self) -> bool {
        let streamless = self.streamless_connection.load(Ordering::Relaxed);
        streamless == 0 || !self.connections.is_current(&self.address, streamless)
    }
}
