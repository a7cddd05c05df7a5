//! When commands arrived, and from whom.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rdb_proto::transport::Call;

/// The arrival of a call, or of a message of a stream. The durations of all its commands begin with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    /// When it was decoded.
    pub(super) at: Instant,
    /// How long it had waited for room in the bytes in flight before. That is a part of every duration.
    pub(super) admission: Duration,
    pub(super) peer: Option<SocketAddr>,
}

impl Arrival {
    /// What has come with `call`, a moment ago.
    pub(crate) fn of(call: &Call) -> Self {
        Self {
            at: Instant::now(),
            admission: call.waited().take(),
            peer: call.peer(),
        }
    }

    /// How long it is ago, the wait for room included.
    pub(crate) fn took(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.at) + self.admission
    }

    /// How long it took from being decoded until `later`.
    pub(crate) fn until(&self, later: Instant) -> Duration {
        later.saturating_duration_since(self.at)
    }
}
