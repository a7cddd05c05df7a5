//! What the streams have carried.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one client; they only grow.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    messages: AtomicU64,
    commands: AtomicU64,
}

impl Counters {
    /// A message with so many commands was handed to the transport.
    pub(super) fn count_message(&self, commands: usize) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.commands.fetch_add(commands as u64, Ordering::Relaxed);
    }

    pub(crate) fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    pub(crate) fn commands(&self) -> u64 {
        self.commands.load(Ordering::Relaxed)
    }
}
