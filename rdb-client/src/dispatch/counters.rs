//! What the streams have carried.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::ClientStats;

/// Counters of one client; they only grow.
#[derive(Debug, Default)]
pub(super) struct Counters {
    messages: AtomicU64,
    commands: AtomicU64,
}

impl Counters {
    /// A message with so many commands was handed to the transport.
    pub(super) fn count_message(&self, commands: usize) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.commands.fetch_add(commands as u64, Ordering::Relaxed);
    }

    pub(super) fn count_in(&self, stats: &mut ClientStats) {
        stats.batch_messages += self.messages.load(Ordering::Relaxed);
        stats.batch_commands += self.commands.load(Ordering::Relaxed);
    }
}
