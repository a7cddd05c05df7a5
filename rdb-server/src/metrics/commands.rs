//! Commands by kind and by how they were answered, and how long that took.
//!
//! A command is one operation, whether it came in a call of its own or in a message with others.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rdb_proto::error::Fault;
use rdb_proto::errorpb::{Fate, region_error};
use rdb_proto::figures::Histogram;
use rdb_proto::kvrpc::batch_answer::Response;
use rdb_proto::kvrpc::batch_command::Request;
use rdb_proto::kvrpc::{
    compare_and_delete_response as deletion, compare_and_swap_response as swap,
};
use rdb_proto::transport::status::{Exposition, Labels};
use tonic::Code;

use crate::error::Rejection;

macro_rules! labelled {
    ($(#[$doc:meta])* $name:ident { $($(#[$of_variant:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name {
            $($(#[$of_variant])* $variant,)*
        }

        impl $name {
            const LABELS: &[&str] = &[$($label),*];
        }
    };
}

labelled! {
    /// What a command does.
    Kind {
        RawPut = "raw_put",
        RawGet = "raw_get",
        RawDelete = "raw_delete",
        CompareAndSwap = "compare_and_swap",
        Get = "get",
        CompareAndDelete = "compare_and_delete",
        RawBatchPut = "raw_batch_put",
        RawBatchDelete = "raw_batch_delete",
        RawBatchGet = "raw_batch_get",
        RawScan = "raw_scan",
        RawDeleteRange = "raw_delete_range",
        BatchGet = "batch_get",
        Scan = "scan",
        /// One that this release does not know.
        Unknown = "unknown",
    }
}

labelled! {
    /// How a command was answered.
    Answered {
        /// It was done, or read.
        Done = "ok",
        /// The version was another.
        Conflict = "conflict",
        /// Another store leads, or none at the moment.
        NotLeader = "not_leader",
        /// It came to a store or a region that does not have the key, or to one that has changed.
        Misrouted = "misrouted",
        /// The store is starting or stopping.
        NotReady = "not_ready",
        /// A queue or a budget is full.
        Busy = "busy",
        /// It breaks a limit, or says what it must not.
        Invalid = "invalid",
        /// It may have been applied, or not.
        Undetermined = "undetermined",
        /// It was certainly not applied, for another reason.
        Failed = "failed",
        /// Its call ended without an answer: the time was up, or the client gone. It may have been applied.
        GivenUp = "given_up",
    }
}

const KINDS: usize = Kind::LABELS.len();
const ANSWERS: usize = Answered::LABELS.len();

impl Kind {
    /// That of a point command.
    pub(crate) fn of(request: &Request) -> Self {
        match request {
            Request::RawPut(_) => Self::RawPut,
            Request::RawGet(_) => Self::RawGet,
            Request::RawDelete(_) => Self::RawDelete,
            Request::CompareAndSwap(_) => Self::CompareAndSwap,
            Request::Get(_) => Self::Get,
            Request::CompareAndDelete(_) => Self::CompareAndDelete,
        }
    }

    fn is_read(self) -> bool {
        match self {
            Self::RawGet
            | Self::Get
            | Self::RawBatchGet
            | Self::RawScan
            | Self::BatchGet
            | Self::Scan => true,
            Self::RawPut
            | Self::RawDelete
            | Self::CompareAndSwap
            | Self::CompareAndDelete
            | Self::RawBatchPut
            | Self::RawBatchDelete
            | Self::RawDeleteRange
            | Self::Unknown => false,
        }
    }
}

impl Answered {
    /// How a point command was answered.
    pub(crate) fn with(result: &Result<Response, Rejection>) -> Self {
        match result {
            Ok(Response::CompareAndSwap(answer)) => match answer.result {
                Some(swap::Result::Conflict(_)) => Self::Conflict,
                _ => Self::Done,
            },
            Ok(Response::CompareAndDelete(answer)) => match answer.result {
                Some(deletion::Result::Conflict(_)) => Self::Conflict,
                _ => Self::Done,
            },
            Ok(_) => Self::Done,
            Err(rejection) => Self::by(rejection),
        }
    }

    /// How a command was refused.
    pub(crate) fn by(rejection: &Rejection) -> Self {
        match rejection {
            Rejection::Routing(kind) => match kind {
                region_error::Kind::NotLeader(_) => Self::NotLeader,
                region_error::Kind::NotReady(_) => Self::NotReady,
                region_error::Kind::ServerBusy(_) => Self::Busy,
                region_error::Kind::ClusterMismatch(_)
                | region_error::Kind::StoreMismatch(_)
                | region_error::Kind::RegionNotFound(_)
                | region_error::Kind::KeyNotInRegion(_)
                | region_error::Kind::EpochNotMatch(_) => Self::Misrouted,
            },
            Rejection::Fault(Fault {
                code: Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented,
                ..
            }) => Self::Invalid,
            Rejection::Fault(Fault {
                fate: Fate::Unknown,
                ..
            }) => Self::Undetermined,
            Rejection::Fault(_) => Self::Failed,
        }
    }
}

/// Counts of all commands since the start.
#[derive(Debug)]
pub(crate) struct Commands {
    /// Relaxed: each is a figure by itself.
    counts: [[AtomicU64; ANSWERS]; KINDS],
    reads: Histogram,
    writes: Histogram,
}

impl Default for Commands {
    fn default() -> Self {
        Self {
            counts: Default::default(),
            reads: Histogram::of_durations(),
            writes: Histogram::of_durations(),
        }
    }
}

/// Answers that are noted together.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: [[u32; ANSWERS]; KINDS],
}

impl Tally {
    pub(crate) fn count(&mut self, kind: Kind, answered: Answered) {
        self.counts[kind as usize][answered as usize] += 1;
    }
}

/// A unary call that has begun. It is counted when it has a result, or is dropped without one.
#[must_use = "it is counted as given up unless it gets its result"]
pub(crate) struct Begun<'a> {
    commands: &'a Commands,
    kind: Kind,
    at: Instant,
    answered: Answered,
}

impl Commands {
    /// A call begins.
    pub(crate) fn begin(&self, kind: Kind) -> Begun<'_> {
        Begun {
            commands: self,
            kind,
            at: Instant::now(),
            answered: Answered::GivenUp,
        }
    }

    /// Notes the answers of a batch.
    pub(crate) fn note(&self, tally: &Tally) {
        for (counts, noted) in tally.counts.iter().zip(&self.counts) {
            for (count, noted) in counts.iter().zip(noted) {
                if *count > 0 {
                    noted.fetch_add(u64::from(*count), Relaxed);
                }
            }
        }
    }

    /// Notes that `count` writes were answered that long after their message had arrived.
    pub(crate) fn note_writes(&self, took: Duration, count: usize) {
        self.writes.note_each(took, count as u64);
    }

    /// The same of reads.
    pub(crate) fn note_reads(&self, took: Duration, count: usize) {
        self.reads.note_each(took, count as u64);
    }

    pub(super) fn write_to(&self, exposition: &mut Exposition<'_>) -> fmt::Result {
        let mut counted = Vec::new();
        for (kind, of_kind) in Kind::LABELS.iter().zip(&self.counts) {
            for (answered, count) in Answered::LABELS.iter().zip(of_kind) {
                let count = count.load(Relaxed);
                if count > 0 {
                    counted.push(([("kind", *kind), ("outcome", *answered)], count));
                }
            }
        }
        exposition.counters(
            "flaredb_commands_total",
            "Commands that were answered or given up, by what they do and how they were answered. A message of a stream has many.",
            counted.iter().map(|(labels, count)| (&labels[..], *count)),
        )?;
        let (reads, writes) = (self.reads.snapshot(), self.writes.snapshot());
        exposition.histograms(
            "flaredb_command_duration_seconds",
            "Time from the arrival of a command until its answer was made, or until it was given up.",
            [
                (&[("access", "read")] as Labels<'_>, &reads),
                (&[("access", "write")] as Labels<'_>, &writes),
            ],
        )
    }
}

impl Begun<'_> {
    /// The call has this result.
    pub(crate) fn end<T>(mut self, result: Result<T, Rejection>) -> Result<T, Rejection> {
        self.answered = match &result {
            Ok(_) => Answered::Done,
            Err(rejection) => Answered::by(rejection),
        };
        result
    }

    /// The call of a point command has this result.
    pub(crate) fn end_point(
        mut self,
        result: Result<Response, Rejection>,
    ) -> Result<Response, Rejection> {
        self.answered = Answered::with(&result);
        result
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        let Self {
            commands,
            kind,
            at,
            answered,
        } = self;
        commands.counts[*kind as usize][*answered as usize].fetch_add(1, Relaxed);
        if kind.is_read() {
            commands.note_reads(at.elapsed(), 1);
        } else {
            commands.note_writes(at.elapsed(), 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use rdb_proto::error::busy;
    use rdb_proto::kvrpc::{CompareAndSwapResponse, Conflict, RawPutResponse, Swapped};

    use super::*;
    use crate::error::not_ready;

    fn fault(code: Code, fate: Fate) -> Rejection {
        Rejection::Fault(Fault::new(code, "because").with_fate(fate))
    }

    #[test]
    fn a_conflict_is_an_outcome_of_its_own() {
        let swapped = |result| {
            Answered::with(&Ok(Response::CompareAndSwap(CompareAndSwapResponse {
                region_error: None,
                result: Some(result),
            })))
        };
        let version = swap::Result::Swapped(Swapped { version: 1 });
        assert_eq!(swapped(version), Answered::Done);
        let conflict = swap::Result::Conflict(Conflict::default());
        assert_eq!(swapped(conflict), Answered::Conflict);
        let put = Ok(Response::RawPut(RawPutResponse::default()));
        assert_eq!(Answered::with(&put), Answered::Done);
    }

    #[test]
    fn a_rejection_is_counted_by_what_its_client_can_do() {
        for (rejection, answered) in [
            (Rejection::Routing(busy(Duration::ZERO)), Answered::Busy),
            (not_ready("because").into(), Answered::NotReady),
            (
                fault(Code::InvalidArgument, Fate::NotApplied),
                Answered::Invalid,
            ),
            (fault(Code::Unavailable, Fate::NotApplied), Answered::Failed),
            (fault(Code::Internal, Fate::Unknown), Answered::Undetermined),
        ] {
            assert_eq!(Answered::by(&rejection), answered, "{rejection:?}");
        }
    }

    #[test]
    fn a_tally_is_noted_once_for_each_of_its_answers() {
        let (commands, mut tally) = (Commands::default(), Tally::default());
        for _ in 0..3 {
            tally.count(Kind::RawPut, Answered::Done);
        }
        tally.count(Kind::Unknown, Answered::Failed);
        commands.note(&tally);
        commands.note(&tally);
        let count = |kind: Kind, answered: Answered| {
            commands.counts[kind as usize][answered as usize].load(Relaxed)
        };
        assert_eq!(count(Kind::RawPut, Answered::Done), 6);
        assert_eq!(count(Kind::Unknown, Answered::Failed), 2);
        assert_eq!(count(Kind::RawGet, Answered::Done), 0);
    }

    #[test]
    fn a_call_is_counted_once_whether_it_is_answered_or_given_up() {
        let commands = Commands::default();
        let count = |kind: Kind, answered: Answered| {
            commands.counts[kind as usize][answered as usize].load(Relaxed)
        };
        drop(commands.begin(Kind::RawPut));
        assert_eq!(count(Kind::RawPut, Answered::GivenUp), 1);
        let put = commands.begin(Kind::RawPut);
        let put = put.end_point(Ok(Response::RawPut(RawPutResponse::default())));
        assert!(put.is_ok());
        let scan = commands.begin(Kind::RawScan).end(Ok(()));
        assert!(scan.is_ok());
        assert_eq!(count(Kind::RawPut, Answered::Done), 1);
        assert_eq!(count(Kind::RawScan, Answered::Done), 1);
        let all = commands.counts.iter().flatten();
        let all: u64 = all.map(|count| count.load(Relaxed)).sum();
        assert_eq!(all, 3);
        assert_eq!(commands.writes.snapshot().count(), 2);
        assert_eq!(commands.reads.snapshot().count(), 1);
    }
}
