//! Calls, which may be slow: from their arrival until they have an answer, or are given up.

use std::time::{Duration, Instant, SystemTime};

use rdb_proto::spans::Span;
use rdb_proto::trace::{TraceContext, TraceId};
use rdb_proto::transport::{Call, UnservedCall, UnservedCalls};
use tonic::{Code, Status};

use crate::metrics::{CallKind, Figures};

/// Its time is noted when it is dropped. It is told of, too, if it was slow, or is a part of a sampled trace.
#[must_use = "it is told of as given up unless it gets its result"]
pub(super) struct Timed<'a> {
    figures: &'a Figures,
    call: &'a Call,
    method: &'static str,
    kind: CallKind,
    /// How many requests it is.
    count: u64,
    at: Instant,
    admission: Duration,
    outcome: &'static str,
    has_failed: bool,
}

impl<'a> Timed<'a> {
    /// It begins now.
    pub(super) fn begin(figures: &'a Figures, call: &'a Call, method: &'static str) -> Self {
        Self {
            figures,
            call,
            method,
            kind: CallKind::of(method),
            count: 1,
            at: Instant::now(),
            admission: call.waited().take(),
            outcome: "given_up",
            has_failed: false,
        }
    }

    /// The same for `count` requests of a stream for timestamps together.
    pub(super) fn of_requests(mut self, count: usize) -> Self {
        self.kind = CallKind::Timestamp;
        self.count = count as u64;
        self
    }

    /// It has this result.
    pub(super) fn end<T>(mut self, result: Result<T, Status>) -> Result<T, Status> {
        self.note(&result);
        result
    }

    fn note<T>(&mut self, result: &Result<T, Status>) {
        (self.outcome, self.has_failed) = match result {
            Ok(_) => ("ok", false),
            Err(refusal) => ("refused", is_failure(refusal)),
        };
    }
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        // How long it has waited for room for its answer.
        let answer = self.call.waited().take();
        let total = now.saturating_duration_since(self.at) + self.admission;
        self.figures.durations.note(self.kind, total, self.count);
        let trace = self.call.trace().copied();
        self.figures.send_span(trace, |trace| Span {
            trace,
            name: self.method,
            outcome: self.outcome,
            has_failed: self.has_failed,
            ended: SystemTime::now(),
            took: total,
            parts: vec![("admission", self.admission), ("answer", answer)],
            region_id: None,
            peer: self.call.peer(),
        });
        let slow = &self.figures.slow;
        if !slow.is_slow(total) {
            return;
        }
        slow.tell(now, self.count, |left_out| {
            tracing::warn!(
                method = self.method,
                outcome = self.outcome,
                requests = self.count,
                peer = self.call.peer().map(tracing::field::display),
                trace_id = trace_id(trace).map(tracing::field::display),
                total_ms = total.as_millis() as u64,
                admission_ms = self.admission.as_millis() as u64,
                answer_ms = answer.as_millis() as u64,
                left_out,
                "slow"
            );
        });
    }
}

/// Calls that found no room, or were given up while they waited for some.
impl UnservedCalls for Figures {
    fn note(&self, call: UnservedCall) {
        if !["pdpb.Pd", "authpb.Auth"].contains(&call.service) {
            return;
        }
        let kind = CallKind::of(call.method);
        self.durations.note(kind, call.waited, 1);
        let outcome = if call.is_refused {
            "refused"
        } else {
            "given_up"
        };
        self.send_span(call.trace, |trace| Span {
            trace,
            name: call.method,
            outcome,
            has_failed: false,
            ended: SystemTime::now(),
            took: call.waited,
            parts: vec![("admission", call.waited)],
            region_id: None,
            peer: call.peer,
        });
        if !self.slow.is_slow(call.waited) {
            return;
        }
        self.slow.tell(Instant::now(), 1, |left_out| {
            let waited_ms = call.waited.as_millis() as u64;
            tracing::warn!(
                method = call.method,
                outcome,
                peer = call.peer.map(tracing::field::display),
                trace_id = trace_id(call.trace).map(tracing::field::display),
                total_ms = waited_ms,
                admission_ms = waited_ms,
                left_out,
                "slow"
            );
        });
    }
}

impl Figures {
    /// Sends a span, if the call is a part of a sampled trace.
    fn send_span(&self, trace: Option<TraceContext>, span: impl FnOnce(TraceContext) -> Span) {
        let sampled = trace.filter(TraceContext::is_sampled);
        if let Some(trace) = sampled.filter(|_| self.spans.are_sent()) {
            self.spans.offer(|| span(trace));
        }
    }
}

/// Whether a call was refused for what the placement driver could not do, rather than for what it was asked.
fn is_failure(refusal: &Status) -> bool {
    matches!(
        refusal.code(),
        Code::Internal | Code::Unknown | Code::DataLoss | Code::Unavailable
    )
}

fn trace_id(trace: Option<TraceContext>) -> Option<TraceId> {
    trace.map(|trace| trace.trace_id())
}

#[cfg(test)]
mod tests {
    use rdb_proto::slow_log::SlowLog;
    use rdb_proto::spans::Spans;
    use tonic::Request;

    use super::*;

    #[test]
    fn a_call_has_failed_when_it_was_not_the_caller_who_asked_for_what_cannot_be() {
        let figures = Figures::told_by(SlowLog::of_threshold_ms(0), Spans::default());
        let call = Call::of(&Request::new(()));
        let has_failed = |result: Result<(), Status>| {
            let mut timed = Timed::begin(&figures, &call, "GetRegion");
            timed.note(&result);
            timed.has_failed
        };
        assert!(!has_failed(Ok(())));
        for code in [Code::InvalidArgument, Code::NotFound, Code::AlreadyExists] {
            assert!(!has_failed(Err(Status::new(code, ""))), "{code}");
        }
        for code in [Code::Unavailable, Code::Internal, Code::DataLoss] {
            assert!(has_failed(Err(Status::new(code, ""))), "{code}");
        }
    }

    #[test]
    fn a_call_that_was_given_up_after_it_waited_for_room_is_slow() {
        let figures = Figures::told_by(SlowLog::of_threshold_ms(60_000), Spans::default());
        let call = Call::of(&Request::new(()));
        call.waited().add(Duration::from_secs(3600));
        drop(Timed::begin(&figures, &call, "GetTso"));
        assert_eq!(figures.slow.count(), 1);
        let quick = Timed::begin(&figures, &call, "GetTso");
        assert!(quick.end(Ok(())).is_ok());
        assert_eq!(figures.slow.count(), 1);
    }
}
