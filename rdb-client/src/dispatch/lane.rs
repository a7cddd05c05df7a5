//! One stream to a store, as callers see it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdb_proto::transport::limits::CONNECTION_BYTES_IN_FLIGHT_MAX;
use tokio::sync::Semaphore;

use super::LANES_PER_STORE;
use super::queue::{AddressedCommand, Next, Queue};
use super::slot::{Answer, Slot};
use super::target::Target;
use crate::stream::Kept;

/// Most bytes of commands that a lane holds, waiting or sent. A call that finds no room waits for it. All lanes together
/// stay well below what a store takes from one connection, so that a single client is not told to back off.
const LANE_BYTES_MAX: usize = CONNECTION_BYTES_IN_FLIGHT_MAX / (2 * LANES_PER_STORE);

/// A queue of commands and the stream that is kept for it.
#[derive(Debug)]
pub(crate) struct Lane {
    stream: Kept<SharedQueue>,
}

/// What callers, the task and the stream share.
#[derive(Debug)]
pub(super) struct SharedQueue {
    pub(super) target: Arc<Target>,
    queue: Mutex<Queue>,
    /// Bytes that are free.
    room: Semaphore,
}

impl Lane {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self {
            stream: Kept::new(SharedQueue::new(target)),
        }
    }

    /// Queues a command as soon as there is room for it. The caller awaits the answer; dropping it abandons the call.
    pub(crate) async fn submit(&self, command: AddressedCommand) -> Answer {
        let shared = self.stream.traffic();
        let room_bytes = command.room_bytes().min(LANE_BYTES_MAX);
        // The semaphore is never closed; without room there would be one command more than there should be, no worse.
        if let Ok(room) = shared.room.acquire_many(room_bytes as u32).await {
            room.forget();
        }
        let (slot, answer) = Slot::new();
        let next = shared.queue().push(command, slot, room_bytes);
        match next {
            Next::Wake(taker) => taker.wake(),
            Next::Start => self.stream.start(),
            Next::Nothing => {}
        }
        answer
    }

    /// Whether there is a task: a lane that is not in use has none.
    pub(super) fn is_running(&self) -> bool {
        self.stream.traffic().queue().gate.is_running()
    }
}

impl SharedQueue {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self {
            queue: Mutex::new(Queue::new(target.message_commands_max)),
            target,
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
