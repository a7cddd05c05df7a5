//! What a client counts about itself.

/// What a client and its clones have done so far. The difference of two of these tells about the time between.
///
/// Worth an alarm: `undetermined_writes` that grow without a store having gone, and `calls_in_flight` that do not shrink.
/// Many `retries` for few calls are a store that is busy or a region that moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ClientStats {
    /// Requests for timestamps that were sent on the shared stream, those that were repeated included.
    pub tso_requests: u64,
    /// Timestamps that came back on it. Divided by `tso_requests`: how many one request brings in the mean.
    pub tso_timestamps: u64,
    /// Messages that were handed to the transport for reads and writes of single keys, which share them.
    pub command_messages: u64,
    /// Commands in them, one for each attempt of a call. Divided by `command_messages`: how many share a message in the mean.
    pub commands: u64,
    /// Calls that have begun and not ended yet; the only figure here that also shrinks.
    pub calls_in_flight: u64,
    /// Attempts that calls made after their first one.
    pub retries: u64,
    /// Writes that ended in [`Error::Undetermined`](crate::Error::Undetermined), those included that
    /// [`Client::update`](crate::Client::update) made and settled by a second one.
    pub undetermined_writes: u64,
}
