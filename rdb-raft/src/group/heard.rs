//! When a peer last heard of others.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// When something was last heard. Before that it counts from the start of the peer.
pub(super) struct Heard {
    /// When any other peer was last heard of.
    peer: Mutex<Instant>,
    /// When this peer last answered its leader that it follows. `None`: never.
    leader: Mutex<Option<Instant>>,
}

impl Heard {
    pub(super) fn now() -> Self {
        Self {
            peer: Mutex::new(Instant::now()),
            leader: Mutex::new(None),
        }
    }

    pub(super) fn note_peer(&self) {
        *lock(&self.peer) = Instant::now();
    }

    pub(super) fn note_leader(&self) {
        *lock(&self.leader) = Some(Instant::now());
    }

    /// How long nothing was heard of any other peer.
    pub(super) fn silent_for(&self) -> Duration {
        lock(&self.peer).elapsed()
    }

    /// Whether a leader was heard of within that time.
    pub(super) fn leader_within(&self, time: Duration) -> bool {
        lock(&self.leader).is_some_and(|heard_at| heard_at.elapsed() < time)
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
