//! Sends concurrent calls together: many commands in one message of a `KvBatch` stream.
//!
//! Calls to a store share its [`Lane`]s, a few streams of one connection. A call puts its command into the queue of a lane
//! and waits in a slot. The transport takes a message from the queue when it has sent the last one; at most one message is
//! made ahead. No command waits for others: a single call is sent at once, and the more concurrent calls, the more share a
//! message.
//!
//! - `slot`: where one call waits for its answer.
//! - `queue`: the commands of a lane, waiting and sent.
//! - `lane`: the queue, and the task that keeps a stream for it.
//! - `stream`: what the lane's stream takes, receives and loses.
//! - `target`: what the lanes to one store share.
//!
//! When a stream breaks, a command that was never handed to the transport was certainly not applied. The fate of the others
//! is unknown, unless the store ends the stream and says that it did not apply them.

mod lane;
mod queue;
mod slot;
mod stream;
mod target;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) use lane::Lane;
pub(crate) use queue::AddressedCommand;
pub(crate) use slot::Interrupted;

use crate::connection::ConnectionPool;
use crate::counters::Counters;
use queue::MESSAGE_COMMANDS_MAX;
use target::Target;

/// Streams per store. One makes a message while the other's is served. More were not faster.
const LANES_PER_STORE: usize = 2;

/// The lanes to all stores. Dropping it ends their tasks.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    connections: Arc<ConnectionPool>,
    counters: Arc<Counters>,
    message_commands_max: usize,
    stores: Mutex<HashMap<String, Arc<StoreLanes>>>,
}

/// The lanes to one store.
#[derive(Debug)]
pub(crate) struct StoreLanes {
    target: Arc<Target>,
    lanes: Vec<Lane>,
    /// Spreads calls over the lanes. Relaxed, since every order is right.
    next: AtomicUsize,
}

impl Dispatcher {
    /// `batch_commands_max` is the most that a store accepts in one message; 0: the cluster does not say.
    pub(crate) fn new(
        connections: Arc<ConnectionPool>,
        counters: Arc<Counters>,
        batch_commands_max: u64,
    ) -> Self {
        let accepted = usize::try_from(batch_commands_max).unwrap_or(usize::MAX);
        let message_commands_max = match accepted {
            0 => MESSAGE_COMMANDS_MAX,
            accepted => accepted.min(MESSAGE_COMMANDS_MAX),
        };
        Self {
            connections,
            counters,
            message_commands_max,
            stores: Mutex::default(),
        }
    }

    /// The lanes to the store at `address`. `None`: the store does not know streams of commands.
    pub(crate) fn store(&self, address: &str) -> Option<Arc<StoreLanes>> {
        // Nothing between lock and unlock leaves the map half changed.
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lanes) = stores.get(address) {
            return lanes.target.takes_streams().then(|| Arc::clone(lanes));
        }
        // A rare occasion, and the right one to forget stores that have moved.
        stores.retain(|_, lanes| lanes.lanes.iter().any(Lane::is_running));
        let lanes = Arc::new(StoreLanes::new(Target::new(
            address,
            Arc::clone(&self.connections),
            Arc::clone(&self.counters),
            self.message_commands_max,
        )));
        stores.insert(address.to_owned(), Arc::clone(&lanes));
        Some(lanes)
    }
}

impl StoreLanes {
    fn new(target: Target) -> Self {
        let target = Arc::new(target);
        let lane = |_| Lane::new(Arc::clone(&target));
        Self {
            lanes: (0..LANES_PER_STORE).map(lane).collect(),
            target,
            next: AtomicUsize::new(0),
        }
    }

    /// The lane for the next call.
    pub(crate) fn lane(&self) -> &Lane {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        &self.lanes[next % self.lanes.len()]
    }
}
