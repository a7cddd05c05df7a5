//! Measures one stream on which each message is answered by one, in order, with a fixed number of them outstanding.
//!
//! A message may be sent as soon as an earlier one is answered, and its latency counts from then.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use futures::task::AtomicWaker;
use futures::{Stream, StreamExt};
use tokio::task::JoinSet;
use tonic::Streaming;

use super::progress::Progress;
use super::recorder::Recorder;
use super::report::Measured;
use super::runner::{Schedule, Tally, Window, gather, measured};
use super::workload::Done;

/// The messages to send: copies of one, each when there is a credit for it.
pub(crate) struct Credits<Q> {
    message: Q,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    credits: AtomicU64,
    ended: AtomicBool,
    waker: AtomicWaker,
}

/// Gives credits. The stream of messages ends when this is dropped.
pub(crate) struct CreditGiver {
    shared: Arc<Shared>,
}

/// Copies of `message`, `credits` of them at once.
pub(crate) fn credits<Q>(message: Q, credits: u32) -> (CreditGiver, Credits<Q>) {
    let shared = Arc::new(Shared {
        credits: AtomicU64::new(credits.into()),
        ..Shared::default()
    });
    let giver = CreditGiver {
        shared: Arc::clone(&shared),
    };
    (giver, Credits { message, shared })
}

impl CreditGiver {
    fn give(&self) {
        self.shared.credits.fetch_add(1, Ordering::Release);
        self.shared.waker.wake();
    }
}

impl Drop for CreditGiver {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.shared.waker.wake();
    }
}

impl<Q> Credits<Q> {
    /// Only this side takes credits, so what is there stays there.
    fn take_credit(&self) -> bool {
        let available = self.shared.credits.load(Ordering::Acquire) > 0;
        if available {
            self.shared.credits.fetch_sub(1, Ordering::AcqRel);
        }
        available
    }
}

impl<Q: Clone + Unpin> Stream for Credits<Q> {
    type Item = Q;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Q>> {
        if self.take_credit() {
            return Poll::Ready(Some(self.message.clone()));
        }
        self.shared.waker.register(context.waker());
        if self.take_credit() {
            Poll::Ready(Some(self.message.clone()))
        } else if self.shared.ended.load(Ordering::Acquire) {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }
}

/// Runs `answers`, the other end of a stream of [`Credits`] that began with `outstanding`.
pub(crate) async fn run<A: Send + 'static>(
    giver: CreditGiver,
    answers: Streaming<A>,
    outstanding: u32,
    schedule: Schedule,
    progress: Progress,
) -> Measured {
    let recorder = Arc::new(Recorder::new(schedule.threads, 1));
    let window = Window::starting_now(&schedule);
    let mut tasks = JoinSet::new();
    tasks.spawn(receive(
        giver,
        answers,
        outstanding,
        window,
        Arc::clone(&recorder),
    ));
    let tallies = gather(tasks, window, schedule.timeout, &recorder, progress).await;
    measured(tallies, window, &recorder, None)
}

async fn receive<A>(
    giver: CreditGiver,
    mut answers: Streaming<A>,
    outstanding: u32,
    window: Window,
    recorder: Arc<Recorder>,
) -> Tally {
    let mut tally = Tally::new(0);
    let mut begun: VecDeque<Instant> = (0..outstanding).map(|_| Instant::now()).collect();
    while let Some(begin) = begun.pop_front() {
        match answers.next().await {
            Some(Ok(_)) => {}
            Some(Err(status)) => {
                recorder.record_error(status.into());
                break;
            }
            None => {
                recorder
                    .record_error(tonic::Status::unavailable("the server ended the stream").into());
                break;
            }
        }
        let now = Instant::now();
        tally.note(Done::default(), begin, now, window, &recorder);
        if now < window.end {
            begun.push_back(now);
            giver.give();
        }
    }
    tally
}
