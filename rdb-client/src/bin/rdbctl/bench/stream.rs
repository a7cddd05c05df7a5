//! Measures one stream on which each message gets one answer, in order, with a fixed number of messages outstanding.
//!
//! A message may be sent as soon as an earlier one is answered, and its latency counts from then.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use futures::task::AtomicWaker;
use futures::{Stream, StreamExt, stream};
use tokio::task::JoinSet;
use tonic::Streaming;

use super::recorder::Recorder;
use super::report::Measured;
use super::runner::{Schedule, Tally, Window, gather, measured};
use super::workload::Done;

/// Says when a message may be sent. The messages end when this is dropped.
pub(crate) struct Credits(Arc<Shared>);

/// A semaphore that costs little enough for millions of messages per second: only the messages take credits.
struct Shared {
    credits: AtomicU64,
    ended: AtomicBool,
    waker: AtomicWaker,
}

impl Credits {
    /// Has one credit for each message that may be outstanding.
    pub(crate) fn new(outstanding: u32) -> Self {
        Self(Arc::new(Shared {
            credits: AtomicU64::new(outstanding.into()),
            ended: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }))
    }

    /// Copies of `message`, each when there is a credit for it.
    pub(crate) fn messages<Q>(&self, message: Q) -> impl Stream<Item = Q> + Send + use<Q>
    where
        Q: Clone + Send + Sync + 'static,
    {
        let shared = Arc::clone(&self.0);
        stream::poll_fn(move |context| {
            let taken = shared.poll_take(context);
            taken.map(|taken| taken.then(|| message.clone()))
        })
    }

    fn give(&self) {
        self.0.credits.fetch_add(1, Ordering::Release);
        self.0.waker.wake();
    }
}

impl Drop for Credits {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.waker.wake();
    }
}

impl Shared {
    /// Ready with whether there are more credits to come.
    fn poll_take(&self, context: &mut Context<'_>) -> Poll<bool> {
        if self.take() {
            return Poll::Ready(true);
        }
        self.waker.register(context.waker());
        if self.take() {
            Poll::Ready(true)
        } else if self.ended.load(Ordering::Acquire) {
            Poll::Ready(false)
        } else {
            Poll::Pending
        }
    }

    /// Nobody else takes credits, so what is there stays there.
    fn take(&self) -> bool {
        let available = self.credits.load(Ordering::Acquire) > 0;
        if available {
            self.credits.fetch_sub(1, Ordering::AcqRel);
        }
        available
    }
}

/// Runs `answers`, the receiving end of a stream whose messages are sent by `credits`, of which there were `outstanding`.
pub(crate) async fn run<A: Send + 'static>(
    credits: Credits,
    answers: Streaming<A>,
    outstanding: u32,
    schedule: Schedule,
) -> Measured {
    let window = Window::starting_now(&schedule);
    let recorder = Arc::new(Recorder::new(schedule.threads, window.begin));
    let mut tasks = JoinSet::new();
    tasks.spawn(receive(
        credits,
        answers,
        outstanding,
        window,
        Arc::clone(&recorder),
    ));
    let tallies = gather(tasks, window, &schedule, &recorder).await;
    measured(tallies, window, &recorder, None)
}

async fn receive<A>(
    credits: Credits,
    mut answers: Streaming<A>,
    outstanding: u32,
    window: Window,
    recorder: Arc<Recorder>,
) -> Tally {
    let mut tally = Tally::default();
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
            credits.give();
        }
    }
    tally
}
