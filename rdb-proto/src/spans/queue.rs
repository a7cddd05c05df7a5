//! Spans that wait to be sent.

use std::fmt;
use std::sync::Arc;

use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::Span;
use crate::figures::Counter;
use crate::transport::status::Exposition;

/// Takes spans. Clones take them for the same collector; the default takes none.
#[derive(Debug, Clone, Default)]
pub struct Spans {
    queue: Option<Queue>,
}

#[derive(Debug, Clone)]
struct Queue {
    waiting: Sender<Span>,
    counts: Arc<SpanCounts>,
}

/// How many spans were exported or dropped.
#[derive(Debug, Default)]
pub(super) struct SpanCounts {
    pub(super) exported: Counter,
    pub(super) dropped: Counter,
}

impl Spans {
    /// A queue with room for `spans_max` spans, and its receiver, which ends once every [`Spans`] of it is dropped.
    pub(super) fn queued(spans_max: usize) -> (Self, Receiver<Span>, Arc<SpanCounts>) {
        let (waiting, received) = channel(spans_max);
        let counts = Arc::<SpanCounts>::default();
        let queue = Queue {
            waiting,
            counts: Arc::clone(&counts),
        };
        (Self { queue: Some(queue) }, received, counts)
    }

    /// Whether there is a collector to send them to. Otherwise there is no need to make any.
    pub fn are_sent(&self) -> bool {
        self.queue.is_some()
    }

    /// Whether there is room for the first of `count` spans. Otherwise they are dropped, and need not be made.
    pub fn admits(&self, count: usize) -> bool {
        let Some(Queue { waiting, counts }) = &self.queue else {
            return false;
        };
        let is_full = waiting.capacity() == 0;
        if is_full {
            counts.dropped.add(count as u64);
        }
        !is_full
    }

    /// Queues a span, unless the queue is full: then it is not made. Nothing waits.
    pub fn offer(&self, span: impl FnOnce() -> Span) {
        let Some(Queue { waiting, counts }) = &self.queue else {
            return;
        };
        match waiting.try_reserve() {
            Ok(room) => room.send(span()),
            Err(_) => counts.dropped.increment(),
        }
    }

    /// Writes how many a collector has taken, and how many were dropped.
    ///
    /// # Errors
    ///
    /// Only those of the exposition.
    pub fn write_to(&self, exposition: &mut Exposition<'_>) -> fmt::Result {
        let (exported, dropped) = self.counted();
        super::write_counts(exported, dropped, exposition)
    }

    /// How many a collector has taken, and how many were dropped.
    pub(super) fn counted(&self) -> (u64, u64) {
        let counts = self.queue.as_ref().map(|queue| &queue.counts);
        counts.map_or((0, 0), |counts| {
            (counts.exported.get(), counts.dropped.get())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::span;
    use super::*;

    #[test]
    fn what_finds_the_queue_full_is_dropped_and_counted() {
        let (spans, mut received, counts) = Spans::queued(2);
        assert!(spans.are_sent() && spans.admits(3));
        for _ in 0..2 {
            spans.offer(span);
        }
        spans.offer(|| panic!("there is no room"));
        assert!(!spans.admits(2));
        assert_eq!(counts.dropped.get(), 3);
        received.close();
        assert!(received.try_recv().is_ok() && received.try_recv().is_ok());
        spans.offer(span);
        assert_eq!(counts.dropped.get(), 4, "nobody sends any more");
        let none = Spans::default();
        assert!(!none.are_sent() && !none.admits(1));
        none.offer(|| panic!("nobody takes it"));
    }
}
