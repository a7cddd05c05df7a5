//! The figures as handles of the facade `metrics`.

use std::sync::Arc;
use std::time::Instant;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use rdb_proto::auth::{Keyspace, Permission};

use super::CallKind;
use crate::Error;

const CALLS: &str = "flaredb_client_calls_total";
const CALL_DURATION: &str = "flaredb_client_call_duration_seconds";
const CALLS_IN_FLIGHT: &str = "flaredb_client_calls_in_flight";
const RETRIES: &str = "flaredb_client_retries_total";
const REGION_LOOKUPS: &str = "flaredb_client_region_lookups_total";
const LEADER_SEARCHES: &str = "flaredb_client_leader_searches_total";
const CONNECTIONS: &str = "flaredb_client_connections";
const CONNECTION_ATTEMPTS: &str = "flaredb_client_connection_attempts_total";
const MESSAGE_COMMANDS: &str = "flaredb_client_message_commands";
const TSO_REQUEST_TIMESTAMPS: &str = "flaredb_client_tso_request_timestamps";

rdb_proto::labelled! {
    /// How a call ended: well, as an [`Error`] says, or not at all.
    Outcome {
        Done = "ok",
        Conflict = "conflict",
        Undetermined = "undetermined",
        Invalid = "invalid",
        NotFound = "not_found",
        Refused = "refused",
        PermissionDenied = "permission_denied",
        Unauthenticated = "unauthenticated",
        Busy = "busy",
        Unavailable = "unavailable",
        DeadlineExceeded = "deadline_exceeded",
        DataLoss = "data_loss",
        ClusterMismatch = "cluster_mismatch",
        Internal = "internal",
        /// Its future was dropped. A write may have been applied.
        GivenUp = "given_up",
    }
}

/// What a call is tried again for.
const RETRIED: [Outcome; 5] = [
    Outcome::Unavailable,
    Outcome::Busy,
    Outcome::DeadlineExceeded,
    Outcome::ClusterMismatch,
    Outcome::Internal,
];

impl From<&Error> for Outcome {
    fn from(error: &Error) -> Self {
        match error {
            Error::Conflict { .. } => Self::Conflict,
            Error::Undetermined { .. } => Self::Undetermined,
            Error::InvalidArgument { .. } => Self::Invalid,
            Error::NotFound { .. } => Self::NotFound,
            Error::Refused { .. } => Self::Refused,
            Error::PermissionDenied { .. } => Self::PermissionDenied,
            Error::Unauthenticated { .. } => Self::Unauthenticated,
            Error::Busy { .. } => Self::Busy,
            Error::Unavailable { .. } => Self::Unavailable,
            Error::DeadlineExceeded { .. } => Self::DeadlineExceeded,
            Error::DataLoss { .. } => Self::DataLoss,
            Error::ClusterMismatch { .. } => Self::ClusterMismatch,
            Error::Internal { .. } => Self::Internal,
        }
    }
}

impl CallKind {
    /// Whether a call of this kind is expected to end so. These counts are there from the start: a rate needs the first 0.
    fn can_end(self, outcome: Outcome) -> bool {
        let needs = self.needs();
        match outcome {
            // Every write of a versioned key compares versions.
            Outcome::Conflict => needs == Some((Permission::Write, Keyspace::Versioned)),
            Outcome::Undetermined => {
                self == Self::Control || matches!(needs, Some((Permission::Write, _)))
            }
            Outcome::NotFound | Outcome::Refused => self == Self::Control,
            Outcome::DataLoss => needs.is_some(),
            Outcome::Done
            | Outcome::Invalid
            | Outcome::PermissionDenied
            | Outcome::Unauthenticated
            | Outcome::Busy
            | Outcome::Unavailable
            | Outcome::DeadlineExceeded
            | Outcome::ClusterMismatch
            | Outcome::Internal
            | Outcome::GivenUp => true,
        }
    }
}

/// The handles of one client. Those of all clients of a process add to the same figures.
#[derive(Debug)]
pub(crate) struct Figures {
    /// By kind.
    calls: Box<[OfKind]>,
    calls_in_flight: Gauge,
    /// By outcome.
    retries: Box<[Option<Counter>]>,
    region_lookups: Counter,
    region_lookups_failed: Counter,
    leader_searches: Counter,
    connections: Gauge,
    connections_made: Counter,
    connections_failed: Counter,
    message_commands: Histogram,
    tso_request_timestamps: Histogram,
}

#[derive(Debug)]
struct OfKind {
    /// By outcome. `None`: it is not expected, and is registered when it comes, at the recorder of then.
    ended: Box<[Option<Counter>]>,
    duration: Histogram,
}

impl OfKind {
    fn register(kind: CallKind) -> Self {
        let ended = Outcome::ALL.iter().map(|&outcome| {
            let is_expected = kind.can_end(outcome);
            is_expected.then(|| calls_ended(kind, outcome))
        });
        Self {
            ended: ended.collect(),
            duration: histogram!(CALL_DURATION, "kind" => kind.name()),
        }
    }
}

fn calls_ended(kind: CallKind, outcome: Outcome) -> Counter {
    counter!(CALLS, "kind" => kind.name(), "outcome" => outcome.name())
}

fn retries_after(outcome: Outcome) -> Counter {
    counter!(RETRIES, "reason" => outcome.name())
}

/// Registers all of them.
impl Default for Figures {
    fn default() -> Self {
        describe();
        let retries = Outcome::ALL.iter().map(|outcome| {
            let is_expected = RETRIED.contains(outcome);
            is_expected.then(|| retries_after(*outcome))
        });
        Self {
            calls: CallKind::ALL
                .iter()
                .copied()
                .map(OfKind::register)
                .collect(),
            calls_in_flight: gauge!(CALLS_IN_FLIGHT),
            retries: retries.collect(),
            region_lookups: counter!(REGION_LOOKUPS, "outcome" => "ok"),
            region_lookups_failed: counter!(REGION_LOOKUPS, "outcome" => "failed"),
            leader_searches: counter!(LEADER_SEARCHES),
            connections: gauge!(CONNECTIONS),
            connections_made: counter!(CONNECTION_ATTEMPTS, "outcome" => "ok"),
            connections_failed: counter!(CONNECTION_ATTEMPTS, "outcome" => "failed"),
            message_commands: histogram!(MESSAGE_COMMANDS),
            tso_request_timestamps: histogram!(TSO_REQUEST_TIMESTAMPS),
        }
    }
}

fn describe() {
    describe_counter!(
        CALLS,
        Unit::Count,
        "Calls that ended, by what they do and how they ended. A scan counts each page, and an update its reads and swaps."
    );
    describe_histogram!(
        CALL_DURATION,
        Unit::Seconds,
        "Time from the beginning of a call until its end, retries included."
    );
    describe_gauge!(
        CALLS_IN_FLIGHT,
        Unit::Count,
        "Calls that have begun and not ended."
    );
    describe_counter!(
        RETRIES,
        Unit::Count,
        "Attempts that calls made after their first one, by what had ended the one before."
    );
    describe_counter!(
        REGION_LOOKUPS,
        Unit::Count,
        "Questions to the placement driver where a key is."
    );
    describe_counter!(
        LEADER_SEARCHES,
        Unit::Count,
        "Times that all peers of a region were asked who leads it."
    );
    describe_gauge!(
        CONNECTIONS,
        Unit::Count,
        "Connections that this client holds. One that breaks is counted until it is missed."
    );
    describe_counter!(
        CONNECTION_ATTEMPTS,
        Unit::Count,
        "Attempts to connect, by whether they came to a connection."
    );
    describe_histogram!(
        MESSAGE_COMMANDS,
        Unit::Count,
        "Commands in each message to a store. Concurrent reads and writes of single keys share messages."
    );
    describe_histogram!(
        TSO_REQUEST_TIMESTAMPS,
        Unit::Count,
        "Timestamps that each request on the shared stream asks for."
    );
}

impl Figures {
    /// A call begins.
    pub(crate) fn begin(&self, kind: CallKind) -> BegunCall<'_> {
        self.calls_in_flight.increment(1.0);
        BegunCall {
            figures: self,
            kind,
            begun_at: Instant::now(),
            outcome: Outcome::GivenUp,
        }
    }

    /// A call is tried again after this error.
    pub(crate) fn note_retry(&self, error: &Error) {
        let outcome = Outcome::from(error);
        match self.retries.get(outcome as usize) {
            Some(Some(retries)) => retries.increment(1),
            _ => retries_after(outcome).increment(1),
        }
    }

    /// A message with this number of commands is handed to the transport.
    pub(crate) fn note_message(&self, commands: usize) {
        self.message_commands.record(commands as f64);
    }

    /// A request for `count` timestamps is handed to the transport.
    pub(crate) fn note_timestamp_request(&self, count: u32) {
        self.tso_request_timestamps.record(count);
    }

    /// The placement driver has answered where a key is, or has not.
    pub(crate) fn note_region_lookup(&self, is_found: bool) {
        let lookups = if is_found {
            &self.region_lookups
        } else {
            &self.region_lookups_failed
        };
        lookups.increment(1);
    }

    /// The peers of a region are asked who leads it.
    pub(crate) fn note_leader_search(&self) {
        self.leader_searches.increment(1);
    }

    /// An attempt to connect begins.
    pub(crate) fn begin_connecting(&self) -> ConnectionAttempt<'_> {
        ConnectionAttempt {
            figures: self,
            is_connected: false,
        }
    }
}

/// A call that has begun. It is counted when this is dropped.
#[derive(Debug)]
#[must_use = "it ends when this is dropped"]
pub(crate) struct BegunCall<'a> {
    figures: &'a Figures,
    kind: CallKind,
    begun_at: Instant,
    outcome: Outcome,
}

impl BegunCall<'_> {
    /// The call has this result.
    pub(crate) fn end<T>(&mut self, result: &Result<T, Error>) {
        self.outcome = match result {
            Ok(_) => Outcome::Done,
            Err(error) => error.into(),
        };
    }
}

impl Drop for BegunCall<'_> {
    fn drop(&mut self) {
        let Self {
            figures,
            kind,
            outcome,
            ..
        } = *self;
        figures.calls_in_flight.decrement(1.0);
        let Some(of_kind) = figures.calls.get(kind as usize) else {
            return;
        };
        match of_kind.ended.get(outcome as usize) {
            Some(Some(ended)) => ended.increment(1),
            _ => calls_ended(kind, outcome).increment(1),
        }
        of_kind.duration.record(self.begun_at.elapsed());
    }
}

/// An attempt to connect that has begun. One that is dropped without a connection has failed, e.g. since nobody waits any more.
#[derive(Debug)]
#[must_use = "it fails when this is dropped"]
pub(crate) struct ConnectionAttempt<'a> {
    figures: &'a Figures,
    is_connected: bool,
}

impl ConnectionAttempt<'_> {
    /// The connection is made.
    pub(crate) fn connected(mut self) -> OpenConnection {
        self.is_connected = true;
        let connections = self.figures.connections.clone();
        self.figures.connections_made.increment(1);
        connections.increment(1.0);
        OpenConnection {
            _counted: Arc::new(CountedConnection { connections }),
        }
    }
}

impl Drop for ConnectionAttempt<'_> {
    fn drop(&mut self) {
        if !self.is_connected {
            self.figures.connections_failed.increment(1);
        }
    }
}

/// A connection, which counts as open for as long as somebody holds this or a clone.
#[derive(Debug, Clone)]
pub(crate) struct OpenConnection {
    _counted: Arc<CountedConnection>,
}

#[derive(Debug)]
struct CountedConnection {
    connections: Gauge,
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.connections.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Handles are found by position.
    #[test]
    fn kinds_and_outcomes_stand_in_the_lists_where_their_numbers_say() {
        for (position, kind) in CallKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, position);
        }
        for (position, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, position);
        }
    }

    #[test]
    fn only_swaps_conflict_and_only_what_changes_something_can_be_undetermined() {
        let ending = |outcome: Outcome| {
            let kinds = CallKind::ALL.iter().filter(|kind| kind.can_end(outcome));
            kinds.map(|kind| kind.name()).collect::<Vec<_>>()
        };
        assert_eq!(
            ending(Outcome::Conflict),
            ["compare_and_swap", "compare_and_delete"]
        );
        assert_eq!(
            ending(Outcome::Undetermined),
            [
                "raw_put",
                "raw_delete",
                "compare_and_swap",
                "compare_and_delete",
                "raw_batch_put",
                "raw_batch_delete",
                "raw_delete_range",
                "control",
            ]
        );
        assert_eq!(ending(Outcome::Done).len(), CallKind::ALL.len());
    }
}
