//! The line of the log about commands that took long: what they were, and where their time went.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rdb_proto::slow_log::{KeyTag, SlowLog};
use rdb_proto::trace::TraceContext;
use rdb_proto::transport::UnservedCall;

use super::{Answered, Arrival};
use crate::region::{WriteProgress, WriteSteps};

/// Where the time of a command went. What it never came to is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Parts {
    /// Taking its message apart, checking it and finding its region.
    pub(crate) decode: Option<Duration>,
    pub(crate) queue: Option<Duration>,
    pub(crate) sync: Option<Duration>,
    pub(crate) apply: Option<Duration>,
    pub(crate) read: Option<Duration>,
    /// For a read, the wait for room for its answer.
    pub(crate) answer: Option<Duration>,
}

impl Parts {
    /// Those that the command came to, by their names.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, Duration)> {
        let parts = [
            ("decode", self.decode),
            ("queue", self.queue),
            ("sync", self.sync),
            ("apply", self.apply),
            ("read", self.read),
            ("answer", self.answer),
        ];
        let named = |(name, part): (_, Option<Duration>)| Some((name, part?));
        parts.into_iter().filter_map(named)
    }

    /// Those of a write. `progress` is `None` if it was not submitted.
    pub(crate) fn of_write(
        arrival: &Arrival,
        progress: Option<&WriteProgress>,
        now: Instant,
    ) -> Self {
        let Some(progress) = progress else {
            return Self {
                decode: Some(arrival.until(now)),
                ..Self::default()
            };
        };
        let WriteSteps {
            queue,
            sync,
            apply,
            answer,
        } = progress.steps(now);
        Self {
            decode: Some(arrival.until(progress.submitted())),
            queue,
            sync,
            apply,
            read: None,
            answer,
        }
    }

    /// Those of a read of a stream, which was begun `begun`, if it was. `room` is what it has waited for room for its answer since.
    pub(crate) fn of_queued_read(
        arrival: &Arrival,
        begun: Option<Instant>,
        room: Duration,
        now: Instant,
    ) -> Self {
        let read = begun.map(|begun| now.saturating_duration_since(begun));
        Self {
            queue: Some(arrival.until(begun.unwrap_or(now))),
            read: read.map(|read| read.saturating_sub(room)),
            answer: begun.map(|_| room),
            ..Self::default()
        }
    }

    /// Those of a read that is a call, which has waited `room` for room for its answer.
    pub(crate) fn of_unary_read(arrival: &Arrival, room: Duration, now: Instant) -> Self {
        Self {
            read: Some(arrival.until(now).saturating_sub(room)),
            answer: Some(room),
            ..Self::default()
        }
    }
}

/// Counts a call that no handler saw, and writes the line about it if it was slow and it is its turn.
pub(super) fn tell_unserved(
    log: &SlowLog,
    kind: &'static str,
    answered: Answered,
    call: &UnservedCall,
) {
    if !log.is_slow(call.waited) {
        return;
    }
    log.tell(Instant::now(), 1, |left_out| {
        Line {
            kind,
            outcome: answered.name(),
            count: 1,
            key: None,
            region_id: None,
            peer: call.peer,
            trace: call.trace,
            other_trace: None,
            total: call.waited,
            admission: call.waited,
            parts: Parts::default(),
            left_out,
        }
        .write();
    });
}

/// What the line says. It is about the first of the commands that were slow together.
pub(super) struct Line {
    pub(super) kind: &'static str,
    pub(super) outcome: &'static str,
    pub(super) count: usize,
    pub(super) key: Option<KeyTag>,
    pub(super) region_id: Option<u64>,
    pub(super) peer: Option<SocketAddr>,
    /// That of the first command.
    pub(super) trace: Option<TraceContext>,
    /// That of another one, if the first has none.
    pub(super) other_trace: Option<TraceContext>,
    pub(super) total: Duration,
    pub(super) admission: Duration,
    pub(super) parts: Parts,
    pub(super) left_out: u64,
}

impl Line {
    pub(super) fn write(&self) {
        let ms = |part: Option<Duration>| part.map(|part| part.as_millis() as u64);
        let hash = self.key.and_then(|key| key.hash);
        let trace_id = |trace: Option<TraceContext>| {
            let trace_id = trace.map(|trace| trace.trace_id());
            trace_id.map(tracing::field::display)
        };
        let parts = &self.parts;
        tracing::warn!(
            kind = self.kind,
            outcome = self.outcome,
            commands = self.count,
            key_bytes = self.key.map(|key| key.bytes),
            key_hash = hash.map(|hash| tracing::field::display(format!("{hash:08x}"))),
            region_id = self.region_id,
            peer = self.peer.map(tracing::field::display),
            trace_id = trace_id(self.trace),
            other_trace_id = trace_id(self.other_trace),
            total_ms = self.total.as_millis() as u64,
            admission_ms = self.admission.as_millis() as u64,
            decode_ms = ms(parts.decode),
            queue_ms = ms(parts.queue),
            sync_ms = ms(parts.sync),
            apply_ms = ms(parts.apply),
            read_ms = ms(parts.read),
            answer_ms = ms(parts.answer),
            left_out = self.left_out,
            "slow"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    /// Keeps what is logged.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn written(line: &Line) -> String {
        let kept = Kept::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(kept.clone())
            .with_ansi(false)
            .without_time()
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            while kept.0.lock().expect("no panic").is_empty() {
                // Another test may come to the line first, without a subscriber, and tracing remembers that nobody wants it.
                tracing::callsite::rebuild_interest_cache();
                line.write();
            }
        });
        let bytes = kept.0.lock().expect("no panic").clone();
        String::from_utf8(bytes).expect("text")
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn arrival() -> Arrival {
        Arrival {
            at: Instant::now(),
            admission: ms(1000),
            peer: None,
        }
    }

    #[test]
    fn a_read_of_a_stream_waits_for_its_turn_and_for_room_and_the_rest_is_the_read() {
        let arrival = arrival();
        let (begun, now) = (arrival.at + ms(30), arrival.at + ms(100));
        let parts = Parts::of_queued_read(&arrival, Some(begun), ms(50), now);
        let expected = Parts {
            queue: Some(ms(30)),
            read: Some(ms(20)),
            answer: Some(ms(50)),
            ..Parts::default()
        };
        assert_eq!(parts, expected);
        let never_begun = Parts::of_queued_read(&arrival, None, Duration::ZERO, now);
        let expected = Parts {
            queue: Some(ms(100)),
            ..Parts::default()
        };
        assert_eq!(never_begun, expected);
    }

    #[test]
    fn a_read_that_is_a_call_waits_for_room_and_the_rest_is_the_read() {
        let arrival = arrival();
        let parts = Parts::of_unary_read(&arrival, ms(60), arrival.at + ms(100));
        let expected = Parts {
            read: Some(ms(40)),
            answer: Some(ms(60)),
            ..Parts::default()
        };
        assert_eq!(parts, expected);
    }

    #[test]
    fn a_line_has_its_parts_in_milliseconds_and_nothing_of_what_it_never_came_to() {
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let mut line = Line {
            kind: "raw_put",
            outcome: "given_up",
            count: 3,
            key: Some(KeyTag {
                bytes: 12,
                hash: Some(0xbeef),
            }),
            region_id: Some(7),
            peer: Some(([127, 0, 0, 1], 4711).into()),
            trace: Some(trace.parse().expect("valid")),
            other_trace: None,
            total: Duration::from_micros(2_503_999),
            admission: Duration::ZERO,
            parts: Parts {
                decode: Some(Duration::from_millis(1)),
                queue: Some(Duration::from_millis(2)),
                sync: Some(Duration::from_millis(2500)),
                ..Parts::default()
            },
            left_out: 41,
        };
        assert_eq!(
            written(&line),
            " WARN rdb_server::metrics::slow: slow kind=\"raw_put\" outcome=\"given_up\" commands=3 key_bytes=12 key_hash=0000beef \
             region_id=7 peer=127.0.0.1:4711 trace_id=4bf92f3577b34da6a3ce929d0e0e4736 total_ms=2503 admission_ms=0 decode_ms=1 queue_ms=2 sync_ms=2500 left_out=41\n"
        );
        line.key = None;
        line.region_id = None;
        line.peer = None;
        line.other_trace = line.trace.take();
        line.parts = Parts::default();
        assert_eq!(
            written(&line),
            " WARN rdb_server::metrics::slow: slow kind=\"raw_put\" outcome=\"given_up\" commands=3 \
             other_trace_id=4bf92f3577b34da6a3ce929d0e0e4736 total_ms=2503 admission_ms=0 left_out=41\n"
        );
    }
}
