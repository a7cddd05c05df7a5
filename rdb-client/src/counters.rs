//! The counters of a client.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::figures::{BegunCall, CallKind, Figures};
use crate::{ClientStats, Error};

/// The counters of one client. Relaxed: each is read by itself, and nothing follows from the order of two.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    command_messages: AtomicU64,
    commands: AtomicU64,
    calls_in_flight: AtomicU64,
    retries: AtomicU64,
    undetermined_writes: AtomicU64,
    figures: Figures,
}

/// Counts a call as in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct CallInFlight<'a> {
    counters: &'a Counters,
    begun: BegunCall<'a>,
}

impl Counters {
    /// A message of `commands` commands was handed to the transport.
    pub(crate) fn count_message(&self, commands: usize) {
        self.command_messages.fetch_add(1, Ordering::Relaxed);
        self.commands.fetch_add(commands as u64, Ordering::Relaxed);
        self.figures.note_message(commands);
    }

    pub(crate) fn call(&self, kind: CallKind) -> CallInFlight<'_> {
        self.calls_in_flight.fetch_add(1, Ordering::Relaxed);
        CallInFlight {
            counters: self,
            begun: self.figures.begin(kind),
        }
    }

    /// What the feature `metrics` counts.
    pub(crate) fn figures(&self) -> &Figures {
        &self.figures
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
    /// Another attempt follows one that ended with `error`.
    pub(crate) fn count_retry(&self, error: &Error) {
        self.counters.retries.fetch_add(1, Ordering::Relaxed);
        self.counters.figures.note_retry(error);
    }

    /// The call ends with this result.
    pub(crate) fn end<T>(&mut self, result: &Result<T, Error>) {
        if matches!(result, Err(Error::Undetermined { .. })) {
            let undetermined = &self.counters.undetermined_writes;
            undetermined.fetch_add(1, Ordering::Relaxed);
        }
        self.begun.end(result);
    }
}

impl Drop for CallInFlight<'_> {
    fn drop(&mut self) {
        let calls_in_flight = &self.counters.calls_in_flight;
        calls_in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
