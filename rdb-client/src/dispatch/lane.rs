//! One stream to a store, as its callers see it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdb_proto::transport::limits::CONNECTION_BYTES_IN_FLIGHT_MAX;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use super::LANES_PER_STORE;
use super::counters::Counters;
use super::queue::{Command, Next, Queue};
use super::slot::{Answer, Slot};
use super::stream::{self, Keeper};
use crate::routing::ConnectionPool;

/// Most bytes of commands that a lane holds, waiting or sent. A call that finds no room waits for it. All lanes together
/// stay well below what a store takes from one connection, so that a single client is not told to back off.
const LANE_BYTES_MAX: usize = CONNECTION_BYTES_IN_FLIGHT_MAX / (2 * LANES_PER_STORE);

/// A queue and the task that keeps a stream for it, while there is something to send or a stream to keep.
#[derive(Debug)]
pub(crate) struct Lane {
    shared: Arc<Shared>,
    task: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// What callers, the task and the stream share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) address: String,
    pub(super) connections: Arc<ConnectionPool>,
    pub(super) counters: Arc<Counters>,
    queue: Mutex<Queue>,
    /// Bytes that are free.
    room: Semaphore,
}

impl Lane {
    pub(super) fn new(
        address: &str,
        connections: Arc<ConnectionPool>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared::new(address, connections, counters)),
            task: Mutex::new(None),
        }
    }

    /// Queues a command, as soon as there is room for it. The answer is to be awaited; dropping it abandons the call.
    pub(crate) async fn submit(&self, command: Command) -> Answer {
        let room_bytes = command.room_bytes().min(LANE_BYTES_MAX);
        // The semaphore is never closed; without room there would be one command more than there should be, no worse.
        if let Ok(room) = self.shared.room.acquire_many(room_bytes as u32).await {
            room.forget();
        }
        let (slot, answer) = Slot::new();
        let next = self.shared.queue().push(command, slot, room_bytes);
        match next {
            Next::Wake(taker) => taker.wake(),
            Next::Start => self.start(),
            Next::Nothing => {}
        }
        answer
    }

    /// Whether there is a task: a lane that is not in use has none.
    pub(super) fn is_running(&self) -> bool {
        self.shared.queue().is_running()
    }

    fn start(&self) {
        // Locked first: whoever starts the task after this one must not be overtaken, or this would end that one.
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        let running = tokio::spawn(stream::run(Keeper::new(&self.shared)));
        *task = Some(AbortOnDropHandle::new(running));
    }
}

impl Shared {
    pub(super) fn new(
        address: &str,
        connections: Arc<ConnectionPool>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            address: address.to_owned(),
            connections,
            counters,
            queue: Mutex::default(),
            room: Semaphore::new(LANE_BYTES_MAX),
        }
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        // Every change leaves the queue consistent.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn free(&self, bytes: usize) {
        if bytes > 0 {
            self.room.add_permits(bytes);
        }
    }
}
