//! How long calls take, by what they are for.

use std::fmt;
use std::time::Duration;

use rdb_proto::figures::Histogram;
use rdb_proto::transport::status::Exposition;

rdb_proto::labelled! {
    /// What a call is for.
    CallKind {
        /// Timestamps. Of the requests of a stream these are only the ones that had to wait: the others read no clock.
        Timestamp = "timestamp",
        /// Where keys are.
        Lookup = "lookup",
        /// Heartbeats of stores.
        Heartbeat = "heartbeat",
        /// All others: the opening of streams, registrations, what operators ask for, users.
        Other = "other",
    }
}

impl CallKind {
    /// That of a call of a method, whose name no other service has.
    pub(crate) fn of(method: &str) -> Self {
        match method {
            "GetTso" => Self::Timestamp,
            "GetRegion" | "ScanRegions" => Self::Lookup,
            "StoreHeartbeat" => Self::Heartbeat,
            _ => Self::Other,
        }
    }
}

/// How long calls of each kind took, since the start.
#[derive(Debug)]
pub(crate) struct CallDurations([Histogram; CallKind::ALL.len()]);

impl Default for CallDurations {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Histogram::of_durations()))
    }
}

impl CallDurations {
    /// Notes that each of `count` calls took that long.
    pub(crate) fn note(&self, kind: CallKind, took: Duration, count: u64) {
        self.0[kind as usize].note_each(took, count);
    }

    pub(super) fn write_to(&self, exposition: &mut Exposition<'_>) -> fmt::Result {
        let labels = CallKind::ALL.iter().map(|kind| [("kind", kind.name())]);
        let snapshots = self.0.iter().map(Histogram::snapshot);
        let durations: Vec<_> = labels.zip(snapshots).collect();
        exposition.histograms(
            "flaredb_call_duration_seconds",
            "Time from the arrival of a call until its answer was made, or until it was given up, by what it is for.",
            durations
                .iter()
                .map(|(labels, snapshot)| (&labels[..], snapshot)),
        )
    }
}

#[cfg(test)]
mod tests {
    use rdb_proto::transport::accesses;

    use super::*;

    #[test]
    fn each_kind_has_methods_that_there_are() {
        let methods =
            |kind: CallKind| accesses().filter(move |(_, method, _)| CallKind::of(method) == kind);
        let counted = [CallKind::Timestamp, CallKind::Lookup, CallKind::Heartbeat];
        assert_eq!(counted.map(|kind| methods(kind).count()), [1, 2, 1]);
    }
}
