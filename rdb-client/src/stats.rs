//! Counters of a client.

/// Counters of a client and its clones, since it connected.
///
/// Worth an alarm: `undetermined_writes` grows although no store has ended, or `calls_in_flight` does not shrink. Many
/// `retries` for few calls mean that a store is busy or a region moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ClientStats {
    /// Requests for timestamps that were sent on the shared stream, repeated ones included.
    pub tso_requests: u64,
    /// Timestamps that were received on it. Divided by `tso_requests`: the mean per request.
    pub tso_timestamps: u64,
    /// Messages of commands that were handed to the transport. Concurrent reads and writes of single keys share them.
    pub command_messages: u64,
    /// Commands in them, one for each attempt of a call. Divided by `command_messages`: the mean per message.
    pub commands: u64,
    /// Calls that have begun and not ended. All other counters only grow.
    pub calls_in_flight: u64,
    /// Attempts that calls made after their first one.
    pub retries: u64,
    /// Writes that ended in [`Error::Undetermined`](crate::Error::Undetermined), including swaps of
    /// [`Client::update`](crate::Client::update) that a second swap settled.
    pub undetermined_writes: u64,
}
