//! Measures one stream on which each message is answered by one, in order, with a fixed number of them outstanding.
//!
//! A message may be sent as soon as an earlier one is answered, and its latency counts from then.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use futures::{Stream, StreamExt, stream};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, unconstrained};
use tonic::Streaming;

use super::recorder::Recorder;
use super::report::Measured;
use super::runner::{Schedule, Tally, Window, gather, measured};
use super::workload::Done;

/// Says when a message may be sent. The messages end when this is dropped.
pub(crate) struct Credits(Arc<Semaphore>);

impl Credits {
    /// As many credits as messages may be outstanding.
    pub(crate) fn new(outstanding: u32) -> Self {
        Self(Arc::new(Semaphore::new(outstanding as usize)))
    }

    /// Copies of `message`, each when there is a credit for it.
    pub(crate) fn messages<Q>(&self, message: Q) -> impl Stream<Item = Q> + Send + use<Q>
    where
        Q: Clone + Send + Sync + 'static,
    {
        stream::unfold(
            (Arc::clone(&self.0), message),
            async |(credits, message)| {
                // All that may be sent is sent at once, however much that is.
                unconstrained(credits.acquire()).await.ok()?.forget();
                Some((message.clone(), (credits, message)))
            },
        )
    }
}

impl Drop for Credits {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Runs `answers`, the other end of a stream of messages by `credits`, of which there were `outstanding`.
pub(crate) async fn run<A: Send + 'static>(
    credits: Credits,
    answers: Streaming<A>,
    outstanding: u32,
    schedule: Schedule,
) -> Measured {
    let recorder = Arc::new(Recorder::new(schedule.threads));
    let window = Window::starting_now(&schedule);
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
            credits.0.add_permits(1);
        }
    }
    tally
}
