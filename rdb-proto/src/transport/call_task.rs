//! The task of one call, which ends when its peer keeps it from sending for too long.
//!
//! While the peer's window is closed, hyper asks the response for nothing, so the response cannot fail. Instead the whole
//! call is dropped: what the handler has made, what hyper has taken of it, and the request. HTTP/2 then drops what it has
//! queued and resets the stream.
//!
//! A call that is answered without a wait needs no task: it is done where hyper hands it over. Otherwise many that come at once would all be
//! in memory before the first of them is done.
//!
//! A call waits for its peer from the time its response has handed out a chunk until it is asked for the next. A response
//! that was asked and has nothing yet waits for the handler, without a limit.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt;
use hyper::rt::Executor;
use pin_project_lite::pin_project;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::traffic::{DRAIN_STALLED_TICKS, Traffic};

tokio::task_local! {
    static PROGRESS: Progress;
}

#[derive(Debug, Default)]
struct Progress {
    times_asked: Cell<u64>,
    waits_for_peer: Cell<bool>,
}

/// The response of the call that this task serves was asked for its next part.
pub(super) fn note_polled() {
    // Without a task there is nobody to watch it.
    let _ = PROGRESS.try_with(|progress| {
        progress.times_asked.set(progress.times_asked.get() + 1);
        progress.waits_for_peer.set(false);
    });
}

/// The response of the call that this task serves has handed out a chunk.
pub(super) fn note_handed_out() {
    let _ = PROGRESS.try_with(|progress| progress.waits_for_peer.set(true));
}

/// Whether the call that a connection's service was asked for last is answered already. hyper hands each call to the executor before it asks
/// for the next, in the task of the connection. So nothing is ordered by it, and Relaxed is enough.
#[derive(Debug, Clone, Default)]
pub(super) struct AnsweredAtOnce(Arc<AtomicBool>);

impl AnsweredAtOnce {
    pub(super) fn note(&self) {
        self.0.store(true, Relaxed);
    }

    fn take(&self) -> bool {
        self.0.load(Relaxed) && self.0.swap(false, Relaxed)
    }
}

/// Runs the calls of one connection.
#[derive(Debug, Clone)]
pub(super) struct CallExecutor {
    pub(super) answered_at_once: AnsweredAtOnce,
    send_stall_timeout: Duration,
    /// Once cancelled, [`DRAIN_STALLED_TICKS`] bound the time without progress.
    drain: CancellationToken,
    /// Cancelled when the connection has ended. Calls that are to run then end instead.
    ended: CancellationToken,
}

impl CallExecutor {
    pub(super) fn new(
        send_stall_timeout: Duration,
        drain: CancellationToken,
        ended: CancellationToken,
    ) -> Self {
        Self {
            answered_at_once: AnsweredAtOnce::default(),
            send_stall_timeout,
            drain,
            ended,
        }
    }

    async fn waited_too_long(self) {
        let drain_timeout = Traffic::tick_duration(self.send_stall_timeout) * DRAIN_STALLED_TICKS;
        tokio::select! {
            () = sleep(self.send_stall_timeout) => {}
            () = async {
                self.drain.cancelled().await;
                sleep(drain_timeout).await;
            } => {}
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for CallExecutor {
    fn execute(&self, call: F) {
        let task = CallTask {
            call,
            executor: self.clone(),
            waiting: None,
        };
        let task = PROGRESS.scope(Progress::default(), task);
        if !self.answered_at_once.take() {
            tokio::spawn(task);
            return;
        }
        let mut task = Box::pin(task);
        if (&mut task).now_or_never().is_none() {
            tokio::spawn(task);
        }
    }
}

pin_project! {
    struct CallTask<F> {
        #[pin]
        call: F,
        executor: CallExecutor,
        // Present while the response waits for its peer.
        waiting: Option<Waiting>,
    }
}

struct Waiting {
    /// How often the response had been asked when it began to wait.
    times_asked: u64,
    too_long: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<F: Future<Output = ()>> Future for CallTask<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let task = self.project();
        if task.executor.ended.is_cancelled() || task.call.poll(context).is_ready() {
            return Poll::Ready(());
        }
        let Some(times_asked) = PROGRESS.with(Progress::waiting) else {
            *task.waiting = None;
            return Poll::Pending;
        };
        let waiting = match task.waiting {
            Some(waiting) if waiting.times_asked == times_asked => waiting,
            waiting => waiting.insert(Waiting {
                times_asked,
                too_long: Box::pin(task.executor.clone().waited_too_long()),
            }),
        };
        ready!(waiting.too_long.as_mut().poll(context));
        tracing::debug!("a call was reset: its peer takes no answer");
        Poll::Ready(())
    }
}

impl Progress {
    /// How often the response has been asked, if it waits for its peer.
    fn waiting(&self) -> Option<u64> {
        let waits_for_peer = self.waits_for_peer.get();
        waits_for_peer.then(|| self.times_asked.get())
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Pending, pending, poll_fn};
    use std::pin::pin;

    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::super::traffic::STALLED_TICKS;
    use super::*;

    const SHORT: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(3600);

    type Task = Pin<Box<CallTask<Pending<()>>>>;

    /// A call whose response has been asked once, and has waited for its peer for too long since.
    async fn stalled() -> Task {
        let mut task = Box::pin(CallTask {
            call: pending(),
            executor: CallExecutor::new(SHORT, CancellationToken::new(), CancellationToken::new()),
            waiting: None,
        });
        assert!(!is_reset(&mut task, 1, true));
        sleep(2 * SHORT).await;
        // A wait that begins now does not end.
        task.as_mut().project().executor.send_stall_timeout = LONG;
        task
    }

    fn is_reset(task: &mut Task, times_asked: u64, waits_for_peer: bool) -> bool {
        let progress = Progress {
            times_asked: Cell::new(times_asked),
            waits_for_peer: Cell::new(waits_for_peer),
        };
        PROGRESS.sync_scope(progress, || task.now_or_never().is_some())
    }

    #[tokio::test]
    async fn a_call_is_reset_when_its_peer_takes_nothing_for_too_long() {
        assert!(is_reset(&mut stalled().await, 1, true));
    }

    #[tokio::test]
    async fn a_call_whose_peer_reads_slowly_is_not_reset() {
        assert!(!is_reset(&mut stalled().await, 2, true), "it took a chunk");
    }

    #[tokio::test]
    async fn a_call_that_waits_for_us_is_not_reset() {
        let mut task = stalled().await;
        assert!(!is_reset(&mut task, 1, false));
        assert!(!is_reset(&mut task, 1, true), "it waits anew");
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_drain_a_call_is_reset_sooner() {
        let drain = CancellationToken::new();
        let task = CallTask {
            call: pending::<()>(),
            executor: CallExecutor::new(LONG, drain.clone(), CancellationToken::new()),
            waiting: None,
        };
        let progress = Progress {
            times_asked: Cell::new(1),
            waits_for_peer: Cell::new(true),
        };
        let mut task = pin!(PROGRESS.scope(progress, task));
        let before = timeout(LONG / 2, task.as_mut()).await;
        assert!(before.is_err(), "nothing drains yet");
        drain.cancel();
        let drained_within = LONG * (DRAIN_STALLED_TICKS + 1) / STALLED_TICKS;
        let reset = timeout(drained_within, task).await;
        reset.expect("before the rest of the usual time");
    }

    fn executor() -> CallExecutor {
        CallExecutor::new(LONG, CancellationToken::new(), CancellationToken::new())
    }

    #[test]
    fn a_call_that_is_answered_at_once_needs_no_task() {
        let executor = executor();
        executor.answered_at_once.note();
        let done = Arc::new(AtomicBool::new(false));
        let is_done = Arc::clone(&done);
        // Without a runtime there are no tasks.
        executor.execute(async move { is_done.store(true, Relaxed) });
        assert!(done.load(Relaxed));
        assert!(!executor.answered_at_once.take(), "it is for one call");
    }

    #[tokio::test]
    async fn an_answer_that_cannot_be_sent_at_once_is_sent_later() {
        let executor = executor();
        executor.answered_at_once.note();
        let (told, hears) = oneshot::channel::<()>();
        let (done, is_done) = oneshot::channel();
        executor.execute(async move {
            let heard = hears.await;
            let _ = done.send(heard);
        });
        told.send(()).expect("it waits");
        assert_eq!(is_done.await, Ok(Ok(())));
    }

    #[test]
    fn a_call_whose_connection_has_ended_does_not_go_on() {
        let ended = CancellationToken::new();
        let task = CallTask {
            call: poll_fn(|_| -> Poll<()> { panic!("it goes on") }),
            executor: CallExecutor::new(LONG, CancellationToken::new(), ended.clone()),
            waiting: None,
        };
        ended.cancel();
        let has_ended = PROGRESS.sync_scope(Progress::default(), || task.now_or_never());
        assert_eq!(has_ended, Some(()));
    }
}
