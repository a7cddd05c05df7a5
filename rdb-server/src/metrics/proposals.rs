//! Writes behind the services: how long they wait to be proposed and to be committed, what becomes of the entries, and how long applying
//! takes.

use std::fmt;
use std::time::Duration;

use rdb_proto::error::Fault;
use rdb_proto::errorpb::Fate;
use rdb_proto::figures::{Counter, Histogram, HistogramSnapshot};
use rdb_proto::transport::status::{Exposition, Labels};

use crate::error::Rejection;

/// What the regions of a store count and measure. Noted once for each entry of a log, or each apply of some.
#[derive(Debug)]
pub(crate) struct Proposals {
    queued: Histogram,
    commands: Histogram,
    applied: Counter,
    refused: Counter,
    undetermined: Counter,
    committing: Histogram,
    applying: Histogram,
}

impl Default for Proposals {
    fn default() -> Self {
        Self {
            queued: Histogram::of_durations(),
            commands: Histogram::of_sizes(),
            applied: Counter::default(),
            refused: Counter::default(),
            undetermined: Counter::default(),
            committing: Histogram::of_durations(),
            applying: Histogram::of_durations(),
        }
    }
}

impl Proposals {
    /// An entry of so many commands is proposed, of which the first has waited that long.
    pub(crate) fn note_proposed(&self, waited: Duration, commands: usize) {
        self.queued.note(waited);
        self.commands.note_size(commands);
    }

    /// An entry has an answer.
    pub(crate) fn note_answered<T>(&self, answer: &Result<T, Rejection>) {
        let counter = match answer {
            Ok(_) => &self.applied,
            Err(Rejection::Fault(Fault {
                fate: Fate::Unknown,
                ..
            })) => &self.undetermined,
            Err(_) => &self.refused,
        };
        counter.increment();
    }

    /// The apply of an entry began that long after it was proposed.
    pub(crate) fn note_committed(&self, took: Duration) {
        self.committing.note(took);
    }

    /// Some entries of a log were applied together.
    pub(crate) fn note_apply(&self, took: Duration) {
        self.applying.note(took);
    }

    /// How long writes waited until they were proposed, and how long applying took.
    pub(super) fn durations(&self) -> (HistogramSnapshot, HistogramSnapshot) {
        (self.queued.snapshot(), self.applying.snapshot())
    }

    pub(super) fn write_to(&self, exposition: &mut Exposition<'_>) -> fmt::Result {
        exposition.histogram(
            "flaredb_write_queue_duration_seconds",
            "How long the first write of each log entry waited until the entry was proposed.",
            &self.queued.snapshot(),
        )?;
        exposition.histogram(
            "flaredb_proposal_commands",
            "Writes in each log entry that this store proposed.",
            &self.commands.snapshot(),
        )?;
        exposition.counters(
            "flaredb_proposals_total",
            "Log entries of writes that this store proposed, by what became of them.",
            [
                (&[("outcome", "applied")] as Labels<'_>, self.applied.get()),
                (&[("outcome", "refused")], self.refused.get()),
                (&[("outcome", "undetermined")], self.undetermined.get()),
            ],
        )?;
        exposition.histogram(
            "flaredb_commit_duration_seconds",
            "How long each log entry that this store proposed took until a majority had it on disk, and its apply began.",
            &self.committing.snapshot(),
        )?;
        exposition.histogram(
            "flaredb_apply_duration_seconds",
            "How long each apply of committed log entries took. One apply may have many entries.",
            &self.applying.snapshot(),
        )
    }
}
