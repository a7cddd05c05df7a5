//! The counters of a client.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{ClientStats, Error};

/// The counters of one client. Relaxed: each is read by itself, and nothing follows from the order of two.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    command_messages: AtomicU64,
    commands: AtomicU64,
    calls_in_flight: AtomicU64,
    retries: AtomicU64,
    undetermined_writes: AtomicU64,
}

/// Counts a call as in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct CallInFlight<'a>(&'a Counters);

impl Counters {
    /// A message of `commands` commands was handed to the transport.
    pub(crate) fn count_message(&self, commands: usize) {
        self.command_messages.fetch_add(1, Ordering::Relaxed);
        self.commands.fetch_add(commands as u64, Ordering::Relaxed);
    }

    pub(crate) fn call(&self) -> CallInFlight<'_> {
        self.calls_in_flight.fetch_add(1, Ordering::Relaxed);
        CallInFlight(self)
    }

    /// The counters, without those of the stream of timestamps.
    pub(crate) fn stats(&self) -> ClientStats {
        ClientStats {
            command_messages: self.command_messages.load(Ordering::Relaxed),
            commands: self.commands.load(Ordering::Relaxed),
            calls_in_flight: self.calls_in_flight.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            undetermined_writes: self.undetermined_writes.load(Ordering::Relaxed),
            ..ClientStats::default()
        }
    }
}

impl CallInFlight<'_> {
    pub(crate) fn count_retry(&self) {
        self.0.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// The call ends with this error.
    pub(crate) fn count_error(&self, error: &Error) {
        if matches!(error, Error::Undetermined { .. }) {
            self.0.undetermined_writes.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for CallInFlight<'_> {
    fn drop(&mut self) {
        self.0.calls_in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
