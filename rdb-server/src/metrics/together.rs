//! Commands that are answered together: counted, timed, and told of.

use std::cell::LazyCell;
use std::time::Instant;

use rdb_proto::slow_log::KeyTag;
use rdb_proto::trace::TraceContext;

use super::slow::{Line, Parts};
use super::{Answered, Arrival, Commands, Kind, Traced};

/// How many different kinds and answers are counted until the end. Few messages have more; those are added to the figures one by one.
const COUNTED_MAX: usize = 4;

/// Commands that have come together, and are answered or given up together: a call, or commands of one message.
///
/// Whoever answers commands notes each of them with [`answered`](Self::answered), and calls [`end`](Self::end) before it hands the answers
/// on. That does all for the counts, the durations, the log of slow commands and the spans. The audit log is told separately: it
/// needs keys and causes.
#[must_use = "nothing is noted before its end"]
pub(crate) struct Together<'a> {
    commands: &'a Commands,
    arrival: Arrival,
    counts: [Option<((Kind, Answered), u64)>; COUNTED_MAX],
    reads: usize,
    writes: usize,
    first: Option<(Kind, Answered)>,
    traced: Traced,
}

/// What the log of slow commands and the spans say beyond kinds and answers. It is made for them only.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Details {
    /// The key of the first command, or where its range begins. `None`: it was not decoded.
    pub(crate) key: Option<KeyTag>,
    /// The region of all of them, if it was found.
    pub(crate) region_id: Option<u64>,
    pub(crate) parts: Parts,
}

impl<'a> Together<'a> {
    /// None yet of those that have come at `arrival`.
    pub(super) fn new(commands: &'a Commands, arrival: Arrival) -> Self {
        Self {
            commands,
            arrival,
            counts: [None; COUNTED_MAX],
            reads: 0,
            writes: 0,
            first: None,
            traced: Traced::sent_if(commands.spans.are_sent()),
        }
    }

    /// A command with this trace, if it has one, was answered so, or given up.
    pub(crate) fn answered(
        &mut self,
        kind: Kind,
        trace: Option<&TraceContext>,
        answered: Answered,
    ) {
        self.first.get_or_insert((kind, answered));
        if kind.is_read() {
            self.reads += 1;
        } else {
            self.writes += 1;
        }
        let mut counts = self.counts.iter_mut();
        let counted = counts.find(|counted| counted.is_none_or(|(of, _)| of == (kind, answered)));
        match counted {
            Some(counted) => counted.get_or_insert(((kind, answered), 0)).1 += 1,
            None => self.commands.add(kind, answered, 1),
        }
        self.traced.note(trace, kind, answered);
    }

    /// Notes all of them, as answered now. `details` are made of their arrival and of now, where they are told of.
    pub(crate) fn end(self, details: impl FnOnce(&Arrival, Instant) -> Details) {
        let Some((first_kind, first_answered)) = self.first else {
            return;
        };
        let (commands, arrival, traced) = (self.commands, &self.arrival, &self.traced);
        let now = Instant::now();
        let took = arrival.took(now);
        for ((kind, answered), count) in self.counts.into_iter().flatten() {
            commands.add(kind, answered, count);
        }
        commands.note_reads(took, self.reads);
        commands.note_writes(took, self.writes);
        let all = LazyCell::new(|| details(arrival, now));
        let span_count = traced.span_count();
        if span_count > 0 && commands.spans.admits(span_count) {
            traced.send(&commands.spans, arrival, now, &all);
        }
        if !commands.slow.is_slow(took) {
            return;
        }
        let count = self.reads + self.writes;
        commands.slow.tell(now, count as u64, |left_out| {
            let Details {
                key,
                region_id,
                parts,
            } = *all;
            Line {
                kind: first_kind.name(),
                outcome: first_answered.name(),
                count,
                key,
                region_id,
                peer: arrival.peer,
                trace: traced.first(),
                other_trace: traced.other(),
                total: took,
                admission: arrival.admission,
                parts,
                left_out,
            }
            .write();
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rdb_proto::slow_log::SlowLog;
    use rdb_proto::spans::Spans;
    use rdb_proto::transport::Call;

    use super::*;

    fn arrival() -> Arrival {
        Arrival::of(&Call::of(&tonic::Request::new(())))
    }

    #[test]
    fn what_ends_together_is_counted_once_for_each_of_its_answers() {
        let commands = Commands::default();
        for _ in 0..2 {
            let mut together = commands.together(arrival());
            for _ in 0..3 {
                together.answered(Kind::RawPut, None, Answered::Done);
            }
            together.answered(Kind::Unknown, None, Answered::Failed);
            together.end(|_, _| Details::default());
        }
        assert_eq!(commands.counted(Kind::RawPut), [(Answered::Done, 6)]);
        assert_eq!(commands.counted(Kind::Unknown), [(Answered::Failed, 2)]);
        assert!(commands.counted(Kind::RawGet).is_empty());
        assert_eq!(commands.noted_durations(), (0, 8));
    }

    #[test]
    fn more_kinds_of_answers_than_a_message_has_room_for_are_counted_and_timed_as_well() {
        let commands = Commands::default();
        let kinds = [
            Kind::RawGet,
            Kind::Get,
            Kind::RawPut,
            Kind::RawDelete,
            Kind::CompareAndSwap,
            Kind::CompareAndDelete,
        ];
        assert!(kinds.len() > COUNTED_MAX);
        let mut together = commands.together(arrival());
        for kind in kinds.iter().chain(&kinds) {
            together.answered(*kind, None, Answered::Busy);
        }
        together.end(|_, _| Details::default());
        for kind in kinds {
            assert_eq!(commands.counted(kind), [(Answered::Busy, 2)], "{kind:?}");
        }
        assert_eq!(commands.noted_durations(), (4, 8));
    }

    #[test]
    fn nothing_is_noted_where_nothing_was_answered_and_no_details_are_made_for_nobody() {
        let commands = Commands::default();
        let together = commands.together(arrival());
        together.end(|_, _| panic!("there is nothing to tell of"));
        assert_eq!(commands.noted_durations(), (0, 0));
        let mut together = commands.together(arrival());
        together.answered(Kind::Get, None, Answered::Done);
        together.end(|_, _| panic!("nothing is slow, and no spans are sent"));
        assert_eq!(commands.noted_durations(), (1, 0));
        let slow = Commands::told_by(SlowLog::of_threshold_ms(60_000), Spans::default());
        let call = Call::of(&tonic::Request::new(()));
        call.waited().add(Duration::from_secs(3600));
        let mut together = slow.together(Arrival::of(&call));
        together.answered(Kind::RawPut, None, Answered::Done);
        together.answered(Kind::RawPut, None, Answered::Done);
        together.end(|_, _| Details::default());
        assert_eq!(slow.slow().count(), 2);
    }
}
