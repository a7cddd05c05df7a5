//! Commands by kind and by how they were answered, and how long that took.
//!
//! A command is one operation, whether it came in a call of its own or in a message with others.

use std::fmt;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdb_proto::auth::{Keyspace, Permission};
use rdb_proto::error::Fault;
use rdb_proto::errorpb::{Fate, region_error};
use rdb_proto::figures::{self, Histogram, HistogramSnapshot};
use rdb_proto::kvrpc::BatchCommand;
use rdb_proto::kvrpc::batch_answer::Response;
use rdb_proto::kvrpc::batch_command::Request;
use rdb_proto::slow_log::{KeyTag, SlowLog};
use rdb_proto::spans::Spans;
use rdb_proto::transport::status::{Exposition, Labels};
use rdb_proto::transport::{Call, UnservedCall};
use tonic::Code;

use super::audit::{Audit, AuditedCall};
use super::slow::{self, Parts};
use super::{Arrival, Details, Together, Traced};
use crate::error::Rejection;
use crate::region::{PendingOutcomes, WriteProgress};

macro_rules! kinds {
    ($($command:ident $messages:tt { $access:ident $keyspace:ident, $client:ident::$method:ident })*) => {
        rdb_proto::labelled! {
            /// What a command does.
            Kind {
                $($command = stringify!($method),)*
                /// One that this release does not know.
                Unknown = "unknown",
            }
        }

        impl Kind {
            /// What its caller has to be allowed to do, to each key that it is about. A swap and a delete that conflict answer
            /// with the value: whoever writes may read, too. `None`: nobody knows what it does.
            pub(crate) fn needs(self) -> Option<(Permission, Keyspace)> {
                match self {
                    $(Self::$command => Some((Permission::$access, Keyspace::$keyspace)),)*
                    Self::Unknown => None,
                }
            }
        }
    };
}

macro_rules! kinds_of_requests {
    ($($command:ident $messages:tt $call:tt)*) => {
        impl Kind {
            /// That of a point command.
            pub(crate) fn of(request: &Request) -> Self {
                match request {
                    $(Request::$command(_) => Self::$command,)*
                }
            }
        }
    };
}

rdb_proto::data_commands!(kinds);
rdb_proto::point_commands!(kinds_of_requests);

rdb_proto::labelled! {
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
        /// Its caller may not do that.
        Denied = "denied",
        /// It may have been applied, or not.
        Undetermined = "undetermined",
        /// It was certainly not applied, for another reason.
        Failed = "failed",
        /// Its call ended without an answer: the time was up, or the client gone. It may have been applied.
        GivenUp = "given_up",
    }
}

const KINDS: usize = Kind::ALL.len();
const ANSWERS: usize = Answered::ALL.len();

impl Kind {
    /// That of a command of a message.
    pub(crate) fn of_command(command: &BatchCommand) -> Self {
        command.request.as_ref().map_or(Self::Unknown, Self::of)
    }

    /// That of a command that is a call. Its method has the name of the kind, written otherwise.
    pub(super) fn of_method(service: &str, method: &str) -> Option<Self> {
        if !["kvrpc.KvRaw", "kvrpc.KvCas"].contains(&service) {
            return None;
        }
        let is_named = |kind: &Self| {
            let letters = kind.name().bytes().filter(|letter| *letter != b'_');
            letters.eq(method.bytes().map(|letter| letter.to_ascii_lowercase()))
        };
        let known = Self::ALL.iter().copied();
        known.filter(|kind| *kind != Self::Unknown).find(is_named)
    }

    /// Whether a command of this kind is ever answered so. These counts are there from the start: a rate needs the first 0.
    fn can_be(self, answered: Answered) -> bool {
        match answered {
            // Every write of a versioned key compares versions.
            Answered::Conflict => self.needs() == Some((Permission::Write, Keyspace::Versioned)),
            Answered::Undetermined => self.is_write(),
            Answered::Done
            | Answered::GivenUp
            | Answered::NotLeader
            | Answered::Misrouted
            | Answered::Denied
            | Answered::Failed => self != Self::Unknown,
            Answered::NotReady | Answered::Busy | Answered::Invalid => true,
        }
    }

    pub(super) fn is_read(self) -> bool {
        matches!(self.needs(), Some((Permission::Read, _)))
    }

    pub(super) fn is_write(self) -> bool {
        matches!(self.needs(), Some((Permission::Write, _)))
    }
}

impl Answered {
    /// How a point command was answered.
    pub(crate) fn with(result: &Result<Response, Rejection>) -> Self {
        match result {
            Ok(response) if response.is_conflict() => Self::Conflict,
            Ok(_) => Self::Done,
            Err(rejection) => Self::by(rejection),
        }
    }

    /// Whether it is a failure of this store, rather than an answer that says what to do instead.
    pub(super) fn is_failure(self) -> bool {
        matches!(self, Self::Undetermined | Self::Failed)
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
            Rejection::Denied(Fault {
                code: Code::PermissionDenied | Code::Unauthenticated,
                ..
            }) => Self::Denied,
            // No rights hold.
            Rejection::Denied(_) => Self::Failed,
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
    pub(super) slow: SlowLog,
    pub(super) spans: Spans,
    pub(super) audit: Audit,
}

impl Default for Commands {
    fn default() -> Self {
        Self {
            counts: Default::default(),
            reads: Histogram::of_durations(),
            writes: Histogram::of_durations(),
            slow: SlowLog::default(),
            spans: Spans::default(),
            audit: Audit::default(),
        }
    }
}

/// A unary call that has begun. It is counted when it has a result, or is dropped without one.
#[must_use = "it is counted as given up unless it gets its result"]
pub(crate) struct Begun<'a> {
    commands: &'a Commands,
    call: &'a Call,
    kind: Kind,
    arrival: Arrival,
    answered: Answered,
    key: Option<KeyTag>,
    region_id: Option<u64>,
    /// That of its write, once it is submitted.
    progress: Option<Arc<WriteProgress>>,
    /// `None`: there is no audit log.
    audited: Option<Box<AuditedCall>>,
}

impl Commands {
    /// Commands whose slow ones are counted by `slow`, and told of. Those of sampled traces go to `spans`.
    pub(super) fn told_by(slow: SlowLog, spans: Spans) -> Self {
        Self {
            slow,
            spans,
            ..Self::default()
        }
    }

    /// A call begins.
    pub(crate) fn begin<'a>(&'a self, kind: Kind, call: &'a Call) -> Begun<'a> {
        Begun {
            commands: self,
            call,
            kind,
            arrival: Arrival::of(call),
            answered: Answered::GivenUp,
            key: None,
            region_id: None,
            progress: None,
            audited: self.audit.begin(),
        }
    }

    /// None yet of the commands that have come at `arrival` and are answered together.
    pub(crate) fn together(&self, arrival: Arrival) -> Together<'_> {
        Together::new(self, arrival)
    }

    /// A call of this kind ended before its handler saw it.
    pub(super) fn note_unserved(&self, kind: Kind, answered: Answered, waited: Duration) {
        self.add(kind, answered, 1);
        if kind.is_read() {
            self.note_reads(waited, 1);
        } else {
            self.note_writes(waited, 1);
        }
    }

    /// What notes commands in the audit log.
    pub(crate) fn audit(&self) -> &Audit {
        &self.audit
    }

    /// What counts slow commands and tells of them.
    pub(crate) fn slow(&self) -> &SlowLog {
        &self.slow
    }

    /// Tells of a call that no handler saw, of this kind: in the log if it was slow, and by its span if it is a part of a trace.
    pub(super) fn tell_unserved(
        &self,
        kind: &'static str,
        answered: Answered,
        call: &UnservedCall,
    ) {
        Traced::send_unserved(&self.spans, kind, answered, call);
        slow::tell_unserved(&self.slow, kind, answered, call);
    }

    /// Counts `count` commands of a kind that were answered so.
    pub(super) fn add(&self, kind: Kind, answered: Answered, count: u64) {
        if !figures::OFF {
            self.counts[kind as usize][answered as usize].fetch_add(count, Relaxed);
        }
    }

    /// Notes that `count` writes were answered that long after their message had arrived.
    pub(super) fn note_writes(&self, took: Duration, count: usize) {
        self.writes.note_each(took, count as u64);
    }

    /// The same of reads.
    pub(super) fn note_reads(&self, took: Duration, count: usize) {
        self.reads.note_each(took, count as u64);
    }

    /// The durations of all reads and of all writes. There are as many as commands.
    pub(crate) fn durations(&self) -> (HistogramSnapshot, HistogramSnapshot) {
        (self.reads.snapshot(), self.writes.snapshot())
    }

    /// How many durations of reads and of writes were noted.
    #[cfg(test)]
    pub(crate) fn noted_durations(&self) -> (u64, u64) {
        (
            self.reads.snapshot().count(),
            self.writes.snapshot().count(),
        )
    }

    /// How the commands of a kind were answered, where there are any.
    #[cfg(test)]
    pub(crate) fn counted(&self, kind: Kind) -> Vec<(Answered, u64)> {
        let counts = Answered::ALL.iter().zip(&self.counts[kind as usize]);
        let counts = counts.map(|(answered, count)| (*answered, count.load(Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    pub(super) fn write_to(&self, exposition: &mut Exposition<'_>) -> fmt::Result {
        let mut counted = Vec::new();
        for (kind, of_kind) in Kind::ALL.iter().zip(&self.counts) {
            for (answered, count) in Answered::ALL.iter().zip(of_kind) {
                let count = count.load(Relaxed);
                if count > 0 || kind.can_be(*answered) {
                    let labels = [("kind", kind.name()), ("outcome", answered.name())];
                    counted.push((labels, count));
                }
            }
        }
        exposition.counters(
            "flaredb_commands_total",
            "Commands that were answered or given up, by what they do and how they were answered. A message of a stream has many.",
            counted.iter().map(|(labels, count)| (&labels[..], *count)),
        )?;
        exposition.counter(
            "flaredb_slow_commands_total",
            "Commands that took --slow-log-ms or longer. The log tells of one a second.",
            self.slow.count(),
        )?;
        self.spans.write_to(exposition)?;
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

impl<'a> Begun<'a> {
    /// The call that the command is.
    pub(crate) fn call(&self) -> &'a Call {
        self.call
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// It is about `key`.
    pub(crate) fn note_key(&mut self, key: &Bytes) {
        self.note(slice::from_ref(key), None);
    }

    /// It is about these keys.
    pub(crate) fn note_keys(&mut self, keys: &[Bytes]) {
        self.note(keys, None);
    }

    /// It is refused, since its caller has no right to this one of its keys.
    pub(crate) fn note_denied_key(&mut self, key: &Bytes) {
        if let Some(audited) = &mut self.audited {
            audited.note_denied_key(key);
        }
    }

    /// It is about the keys from `start_key` on and before `end_key`.
    pub(crate) fn note_range(&mut self, start_key: &Bytes, end_key: &Bytes) {
        self.note(slice::from_ref(start_key), Some(end_key));
    }

    fn note(&mut self, keys: &[Bytes], end: Option<&Bytes>) {
        self.key = keys.first().map(|first| self.commands.slow.tag(first));
        if let Some(audited) = &mut self.audited {
            audited.note_keys(self.kind, keys, end);
        }
    }

    /// Its region was found, and its caller has the right to it.
    pub(crate) fn note_region(&mut self, region_id: u64) {
        self.region_id = Some(region_id);
        if let Some(audited) = &mut self.audited {
            audited.note_routed(self.kind);
        }
    }

    /// Its write was submitted.
    pub(crate) fn note_submitted(&mut self, pending: &mut PendingOutcomes) {
        self.progress = pending.take_progress();
    }

    fn details(&self, arrival: &Arrival, now: Instant) -> Details {
        let parts = if self.kind.is_read() && self.region_id.is_some() {
            Parts::of_unary_read(arrival, self.call.waited().take(), now)
        } else {
            Parts::of_write(arrival, self.progress.as_deref(), now)
        };
        Details {
            key: self.key,
            region_id: self.region_id,
            parts,
        }
    }

    /// The call has this result.
    pub(crate) fn end<T>(mut self, result: Result<T, Rejection>) -> Result<T, Rejection> {
        self.answered = match &result {
            Ok(_) => Answered::Done,
            Err(rejection) => Answered::by(rejection),
        };
        self.note_rejection(&result);
        result
    }

    /// The call of a point command has this result.
    pub(crate) fn end_point(
        mut self,
        result: Result<Response, Rejection>,
    ) -> Result<Response, Rejection> {
        self.answered = Answered::with(&result);
        self.note_rejection(&result);
        result
    }

    fn note_rejection<T>(&mut self, result: &Result<T, Rejection>) {
        if let (Some(audited), Err(rejection)) = (&mut self.audited, result) {
            audited.note_rejection(rejection);
        }
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        let (kind, answered) = (self.kind, self.answered);
        let mut together = self.commands.together(self.arrival);
        together.answered(kind, self.call.trace(), answered);
        together.end(|arrival, now| self.details(arrival, now));
        if let Some(audited) = self.audited.take() {
            audited.end(self.call, kind, answered);
        }
        // The room that its answer waited for is told of here, or not at all.
        self.call.waited().take();
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;
    use rdb_proto::error::busy;
    use rdb_proto::kvrpc::{
        CompareAndSwapResponse, Conflict, RawPutResponse, Swapped,
        compare_and_swap_response as swap,
    };
    use rdb_proto::transport::{Access, accesses};

    use super::*;
    use crate::error::not_ready;

    fn fault(code: Code, fate: Fate) -> Rejection {
        Rejection::Fault(Fault::new(code, "because").with_fate(fate))
    }

    fn denied(code: Code) -> Rejection {
        Rejection::Denied(Fault::new(code, "because").with_fate(Fate::NotApplied))
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
            (denied(Code::PermissionDenied), Answered::Denied),
            (denied(Code::Unauthenticated), Answered::Denied),
            (denied(Code::Unavailable), Answered::Failed),
            (fault(Code::Unavailable, Fate::NotApplied), Answered::Failed),
            (fault(Code::Internal, Fate::Unknown), Answered::Undetermined),
        ] {
            assert_eq!(Answered::by(&rejection), answered, "{rejection:?}");
        }
    }

    #[test]
    fn a_call_is_counted_once_whether_it_is_answered_or_given_up() {
        let commands = Commands::default();
        let count = |kind: Kind, answered: Answered| {
            commands.counts[kind as usize][answered as usize].load(Relaxed)
        };
        let call = Call::of(&tonic::Request::new(()));
        drop(commands.begin(Kind::RawPut, &call));
        assert_eq!(count(Kind::RawPut, Answered::GivenUp), 1);
        let put = commands.begin(Kind::RawPut, &call);
        let put = put.end_point(Ok(Response::RawPut(RawPutResponse::default())));
        assert!(put.is_ok());
        let scan = commands.begin(Kind::RawScan, &call).end(Ok(()));
        assert!(scan.is_ok());
        assert_eq!(count(Kind::RawPut, Answered::Done), 1);
        assert_eq!(count(Kind::RawScan, Answered::Done), 1);
        let all = commands.counts.iter().flatten();
        let all: u64 = all.map(|count| count.load(Relaxed)).sum();
        assert_eq!(all, 3);
        assert_eq!(commands.writes.snapshot().count(), 2);
        assert_eq!(commands.reads.snapshot().count(), 1);
    }

    /// A wait for room before the handler is a part of the duration.
    #[test]
    fn a_call_that_waited_for_room_took_that_long_and_is_slow() {
        let slow = SlowLog::of_threshold_ms(60_000);
        let commands = Commands::told_by(slow, Spans::default());
        let call = Call::of(&tonic::Request::new(()));
        call.waited().add(Duration::from_secs(3600));
        let begun = commands.begin(Kind::RawGet, &call);
        assert!(begun.end(Ok(())).is_ok());
        assert!(commands.reads.snapshot().sum >= 3600.0);
        assert_eq!(commands.slow.count(), 1);
        drop(commands.begin(Kind::RawGet, &call));
        assert_eq!(commands.slow.count(), 1, "the wait was of the first");
    }

    /// What the transport says that a method needs is told to callers, and what its kind needs is what they are held to.
    #[test]
    fn each_kind_needs_what_the_transport_says_of_its_method() {
        for (service, method, access) in accesses() {
            let needs = Kind::of_method(service, method).and_then(Kind::needs);
            let told = match access {
                Access::Keys(permission, keyspace) => Some((permission, keyspace)),
                _ => None,
            };
            assert_eq!(needs, told, "{service}/{method}");
        }
    }

    #[test]
    fn every_kind_but_the_unknown_one_has_a_method_of_its_name() {
        let set = FileDescriptorSet::decode(rdb_proto::FILE_DESCRIPTOR_SET).expect("compiled in");
        let mut known = 0;
        for file in set.file.iter().filter(|file| file.package() == "kvrpc") {
            for service in &file.service {
                let service_name = format!("kvrpc.{}", service.name());
                let is_stream = service.name() == "KvBatch";
                for method in service.method.iter().filter(|_| !is_stream) {
                    let kind = Kind::of_method(&service_name, method.name());
                    let kind = kind.unwrap_or_else(|| panic!("{service_name}/{}", method.name()));
                    let lowercase = method.name().to_lowercase();
                    assert_eq!(kind.name().replace('_', ""), lowercase);
                    known += 1;
                }
            }
        }
        assert_eq!(known, KINDS - 1);
        assert_eq!(Kind::of_method("kvrpc.KvBatch", "Batch"), None);
    }
}
