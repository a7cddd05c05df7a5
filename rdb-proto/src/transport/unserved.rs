//! Calls that ended before their handler saw them, and how long calls have waited for room.
//!
//! Handlers count and time what they see. A call that finds no room in the bytes in flight, or is given up while it waits, reaches
//! no handler, so the transport reports it to [`UnservedCalls`].

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::methods::Method;
use crate::trace::TraceContext;

/// A call that no handler saw.
#[derive(Debug, Clone, Copy)]
pub struct UnservedCall {
    /// Its service, e.g. `kvrpc.KvRaw`.
    pub service: &'static str,
    /// Its method, e.g. `RawPut`.
    pub method: &'static str,
    /// Where its connection comes from.
    pub peer: Option<SocketAddr>,
    /// The trace that it is a part of.
    pub trace: Option<TraceContext>,
    /// How long it waited for room.
    pub waited: Duration,
    /// Whether it was refused since there was none. Otherwise it ended while or after it waited: its client has given it up, or
    /// took too long to send the rest. A stream may have been served before.
    pub is_refused: bool,
}

/// Is told of calls that no handler saw, before they are answered.
pub trait UnservedCalls: Debug + Send + Sync + 'static {
    /// Notes one. It must not wait.
    fn note(&self, call: UnservedCall);
}

/// How long something has waited for room in the bytes in flight, all waits added up. What finds room at once reads no clock.
#[derive(Debug, Default)]
pub struct Waited {
    /// In nanoseconds. Relaxed: it is a figure by itself.
    nanoseconds: AtomicU64,
}

/// Adds to a [`Waited`] when it is dropped.
#[must_use = "the wait lasts until it is dropped"]
#[derive(Debug)]
pub struct Wait<'a> {
    waited: &'a Waited,
    since: Instant,
}

impl Waited {
    /// Adds a wait that has ended.
    pub fn add(&self, wait: Duration) {
        let nanoseconds = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Relaxed);
    }

    /// Begins a wait. It ends when the result is dropped, also when that happens since nobody waits any more.
    pub fn begin(&self) -> Wait<'_> {
        Wait {
            waited: self,
            since: Instant::now(),
        }
    }

    /// What was added since it was taken last.
    pub fn get(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Relaxed))
    }

    /// Takes what was added since the last time.
    pub fn take(&self) -> Duration {
        if self.nanoseconds.load(Relaxed) == 0 {
            return Duration::ZERO;
        }
        Duration::from_nanos(self.nanoseconds.swap(0, Relaxed))
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.waited.add(self.since.elapsed());
    }
}

/// A call that waits for its base. Dropped meanwhile, it was given up.
pub(super) struct WaitingCall {
    connection: Arc<Connection>,
    method: &'static Method,
    trace: Option<TraceContext>,
    /// `None`: it does not wait any more.
    since: Option<Instant>,
}

impl WaitingCall {
    pub(super) fn begin(
        connection: &Arc<Connection>,
        method: &'static Method,
        trace: Option<TraceContext>,
    ) -> Self {
        Self {
            connection: Arc::clone(connection),
            method,
            trace,
            since: Some(Instant::now()),
        }
    }

    /// It got its base. Returns how long it waited.
    pub(super) fn admitted(mut self) -> Duration {
        let since = self.since.take();
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// It got none.
    pub(super) fn refused(mut self) {
        self.end(true);
    }

    fn end(&mut self, is_refused: bool) {
        if let Some(since) = self.since.take() {
            let waited = since.elapsed();
            self.connection
                .note_unserved(self.method, self.trace, waited, is_refused);
        }
    }
}

impl Drop for WaitingCall {
    fn drop(&mut self) {
        self.end(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_add_up_until_they_are_taken() {
        let waited = Waited::default();
        assert_eq!(waited.take(), Duration::ZERO);
        waited.add(Duration::from_millis(20));
        waited.add(Duration::from_millis(22));
        assert_eq!(waited.take(), Duration::from_millis(42));
        assert_eq!(waited.take(), Duration::ZERO);
        let wait = waited.begin();
        while wait.since.elapsed().is_zero() {}
        drop(wait);
        assert!(waited.take() > Duration::ZERO);
    }
}
