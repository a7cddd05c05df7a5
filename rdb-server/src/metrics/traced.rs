//! Commands that are parts of traces: which trace the log names, and the spans of those that are sampled.

use std::time::{Instant, SystemTime};

use rdb_proto::spans::{Span, Spans};
use rdb_proto::trace::TraceContext;
use rdb_proto::transport::UnservedCall;

use super::{Answered, Arrival, Details, Kind};

/// Those of the commands that are answered together, or given up. Without a trace among them nothing is allocated.
#[derive(Debug, Default)]
pub(super) struct Traced {
    /// Whether spans are sent anywhere.
    are_sent: bool,
    /// Whether there was a command, and its trace.
    first: Option<Option<TraceContext>>,
    /// The first trace of a later one.
    other: Option<TraceContext>,
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
    pub(super) fn note(&mut self, trace: Option<&TraceContext>, kind: Kind, answered: Answered) {
        let is_first = self.first.is_none();
        if is_first {
            self.first = Some(trace.copied());
        }
        let Some(&trace) = trace else {
            return;
        };
        if !is_first {
            self.other.get_or_insert(trace);
        }
        if self.are_sent && trace.is_sampled() {
            self.sampled.push(Sampled {
                trace,
                kind,
                answered,
            });
        }
    }

    /// The trace of the first command.
    pub(super) fn first(&self) -> Option<TraceContext> {
        self.first.flatten()
    }

    /// Where the first command has none, the trace of the first of the others that has one.
    pub(super) fn other(&self) -> Option<TraceContext> {
        self.other.filter(|_| self.first().is_none())
    }

    /// How many of them have spans.
    pub(super) fn span_count(&self) -> usize {
        self.sampled.len()
    }

    /// Sends their spans. All have come at `arrival`, have ended `now`, and have the region and the parts of `all`.
    pub(super) fn send(&self, spans: &Spans, arrival: &Arrival, now: Instant, all: &Details) {
        let (ended, took) = (SystemTime::now(), arrival.took(now));
        let admission = [("admission", arrival.admission)].into_iter();
        let parts: Vec<_> = admission.chain(all.parts.named()).collect();
        for sampled in &self.sampled {
            spans.offer(|| Span {
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
        spans.offer(|| Span {
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
    fn the_first_commands_trace_is_told_of_as_its_own_and_only_sampled_ones_have_spans() {
        let told = |traced: &Traced| (traced.first(), traced.other(), traced.span_count());
        let (unsampled, sampled) = (trace("00"), trace("01"));
        let mut traced = Traced::sent_if(true);
        traced.note(None, Kind::RawPut, Answered::Done);
        assert_eq!(told(&traced), (None, None, 0));
        traced.note(Some(&unsampled), Kind::RawPut, Answered::Done);
        assert_eq!(told(&traced), (None, Some(unsampled), 0));
        traced.note(Some(&sampled), Kind::RawPut, Answered::Done);
        assert_eq!(told(&traced), (None, Some(unsampled), 1));
        let mut traced = Traced::sent_if(true);
        traced.note(Some(&sampled), Kind::RawPut, Answered::Done);
        traced.note(Some(&unsampled), Kind::RawPut, Answered::Done);
        assert_eq!(told(&traced), (Some(sampled), None, 1));
        let mut unsent = Traced::sent_if(false);
        unsent.note(Some(&sampled), Kind::RawPut, Answered::Done);
        assert_eq!(told(&unsent), (Some(sampled), None, 0));
    }
}
