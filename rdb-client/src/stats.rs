//! What a client counts about itself.

/// What a client and its clones have done so far. The difference of two of these tells about the time between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ClientStats {
    /// Requests for timestamps that were sent on the shared stream, those that were repeated included.
    pub tso_requests: u64,
    /// Timestamps that came back on it. Divided by `tso_requests`: how many one request brings in the mean.
    pub tso_timestamps: u64,
    /// Messages of commands that were handed to the transport.
    pub batch_messages: u64,
    /// Commands in them. Divided by `batch_messages`: how many calls share a message in the mean.
    pub batch_commands: u64,
    /// Calls that have begun and not ended yet; the only figure here that also shrinks.
    pub calls_in_flight: u64,
    /// Attempts that calls made after their first one.
    pub retries: u64,
    /// Writes that ended in [`Error::Undetermined`](crate::Error::Undetermined).
    pub undetermined_writes: u64,
}
