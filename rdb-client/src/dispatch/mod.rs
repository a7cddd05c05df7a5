//! Sends concurrent calls together: many commands in one message of a `KvBatch` stream.
//!
//! Calls to a store share its [`Lane`]s, a few streams of one connection. A call puts its command into its lane's queue
//! and waits in a slot of its own; the transport takes a message from the queue when it has sent the one before, or keeps
//! that one ready at most. Nothing waits for more commands to come, so a call that is alone is sent at once, and the more
//! calls there are, the more share a message.
//!
//! - `slot`: where one call waits for its answer.
//! - `queue`: the commands of a lane, those that wait and those that were sent.
//! - `stream`: the task that keeps a lane's stream, and the stream's two directions.
//!
//! What a call is told when its stream breaks depends on whether its command was ever handed to the transport: one that
//! was not, certainly was not applied.

mod counters;
mod lane;
mod queue;
mod slot;
mod stream;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) use lane::Lane;
pub(crate) use queue::Command;
pub(crate) use slot::Interrupted;

use crate::ClientStats;
use crate::routing::ConnectionPool;
use counters::Counters;

/// Streams per store. One keeps a message in the making while another is being served; more were not faster.
const LANES_PER_STORE: usize = 2;

/// The lanes to all stores. Dropping it ends their tasks.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    connections: Arc<ConnectionPool>,
    counters: Arc<Counters>,
    stores: Mutex<HashMap<String, Arc<StoreLanes>>>,
}

/// The lanes to one store.
#[derive(Debug)]
pub(crate) struct StoreLanes {
    lanes: Vec<Lane>,
    next: AtomicUsize,
}

impl Dispatcher {
    pub(crate) fn new(connections: Arc<ConnectionPool>) -> Self {
        Self {
            connections,
            counters: Arc::default(),
            stores: Mutex::default(),
        }
    }

    pub(crate) fn count_in(&self, stats: &mut ClientStats) {
        self.counters.count_in(stats);
    }

    /// The lanes to the store at `address`.
    pub(crate) fn store(&self, address: &str) -> Arc<StoreLanes> {
        // Nothing between lock and unlock leaves the map half changed.
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lanes) = stores.get(address) {
            return Arc::clone(lanes);
        }
        // A rare occasion, and the right one to forget stores that have moved.
        stores.retain(|_, lanes| lanes.lanes.iter().any(Lane::is_running));
        let lanes = Arc::new(StoreLanes::new(address, &self.connections, &self.counters));
        stores.insert(address.to_owned(), Arc::clone(&lanes));
        lanes
    }
}

impl StoreLanes {
    fn new(address: &str, connections: &Arc<ConnectionPool>, counters: &Arc<Counters>) -> Self {
        let lane = |_| Lane::new(address, Arc::clone(connections), Arc::clone(counters));
        Self {
            lanes: (0..LANES_PER_STORE).map(lane).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// The lane for the next call.
    pub(crate) fn lane(&self) -> &Lane {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        &self.lanes[next % self.lanes.len()]
    }
}
