//! Commands that are parts of traces: which trace the log names, and the spans of those that are sampled.

use std::time::{Instant, SystemTime};

use rdb_proto::spans::{Span, Spans};
use rdb_proto::trace::TraceContext;
use rdb_proto::transport::UnservedCall;

use super::{Answered, Arrival, Kind, SlowCommand};

/// Those of the commands that are answered together, or given up. Without a trace among them nothing is allocated.
#[derive(Debug, Default)]
pub(crate) struct Traced {
    /// Whether spans are sent anywhere.
    are_sent: bool,
    first: Option<TraceContext>,
    sampled: Vec<Sampled>,
}

#[derive(Debug)]
struct Sampled {
    trace: TraceContext,
    kind: Kind,
    answered: Answered,
}

impl Traced {
    /// None yet. They have spans if those are sent.
    pub(super) fn sent_if(are_sent: bool) -> Self {
        Self {
            are_sent,
            ..Self::default()
        }
    }

    /// A command with this trace, if it has one, was answered so.
    pub(crate) fn note(&mut self, trace: Option<&TraceContext>, kind: Kind, answered: Answered) {
        let Some(&trace) = trace else {
            return;
        };
        self.first.get_or_insert(trace);
        if self.are_sent && trace.is_sampled() {
            self.sampled.push(Sampled {
                trace,
                kind,
                answered,
            });
        }
    }

    /// The trace of the first of them.
    pub(super) fn first(&self) -> Option<TraceContext> {
        self.first
    }

    /// Whether one of them has a span.
    pub(super) fn has_spans(&self) -> bool {
        !self.sampled.is_empty()
    }

    /// Sends their spans. All have come at `arrival`, have ended `now`, and have the region and the parts of `all`.
    pub(super) fn send(&self, spans: &Spans, arrival: &Arrival, now: Instant, all: &SlowCommand) {
        let (ended, took) = (SystemTime::now(), arrival.took(now));
        let admission = [("admission", arrival.admission)].into_iter();
        let parts: Vec<_> = admission.chain(all.parts.named()).collect();
        for sampled in &self.sampled {
            spans.offer(Span {
                trace: sampled.trace,
                name: sampled.kind.name(),
                outcome: sampled.answered.name(),
                has_failed: sampled.answered.is_failure(),
                ended,
                took,
                parts: parts.clone(),
                region_id: all.region_id,
                peer: arrival.peer,
            });
        }
    }

    /// Sends the span of a call that no handler saw, if it has one.
    pub(super) fn send_unserved(
        spans: &Spans,
        kind: &'static str,
        answered: Answered,
        call: &UnservedCall,
    ) {
        let sampled = call.trace.filter(TraceContext::is_sampled);
        let Some(trace) = sampled.filter(|_| spans.are_sent()) else {
            return;
        };
        spans.offer(Span {
            trace,
            name: kind,
            outcome: answered.name(),
            has_failed: answered.is_failure(),
            ended: SystemTime::now(),
            took: call.waited,
            parts: vec![("admission", call.waited)],
            region_id: None,
            peer: call.peer,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(flags: &str) -> TraceContext {
        let trace = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
        trace.parse().expect("valid")
    }

    #[test]
    fn the_first_trace_is_told_of_and_only_sampled_ones_have_spans() {
        let mut traced = Traced::sent_if(true);
        traced.note(None, Kind::RawPut, Answered::Done);
        assert_eq!((traced.first(), traced.has_spans()), (None, false));
        traced.note(Some(&trace("00")), Kind::RawPut, Answered::Done);
        let first = Some(trace("00"));
        assert_eq!((traced.first(), traced.has_spans()), (first, false));
        traced.note(Some(&trace("01")), Kind::RawPut, Answered::Done);
        assert_eq!((traced.first(), traced.has_spans()), (first, true));
        let mut unsent = Traced::sent_if(false);
        unsent.note(Some(&trace("01")), Kind::RawPut, Answered::Done);
        assert_eq!(
            (unsent.first(), unsent.has_spans()),
            (Some(trace("01")), false)
        );
    }
}
