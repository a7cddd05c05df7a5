//! The task of one call, which ends when its peer keeps it from sending for too long.
//!
//! While the peer's window is closed, hyper asks the response for nothing, so the response cannot fail. Instead the whole
//! call is dropped: what the handler has made, what hyper has taken of it, and the request; HTTP/2 then drops what it has
//! queued and resets the stream.
//!
//! A call waits for its peer from when its response has handed out a chunk until it is asked for the next. A response that
//! was asked and has nothing yet waits for us, and may do so for ever.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::traffic::{CLOSING_STALLED_TICKS, Traffic};

tokio::task_local! {
    static PROGRESS: Progress;
}

#[derive(Debug, Default)]
struct Progress {
    times_asked: Cell<u64>,
    waits_for_peer: Cell<bool>,
}

/// The response of the call that this task serves was asked for its next part.
pub(super) fn note_asked() {
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

/// Runs the calls of one connection.
#[derive(Debug, Clone)]
pub(super) struct CallExecutor {
    send_stall_timeout: Duration,
    /// Once cancelled, [`CLOSING_STALLED_TICKS`] bound the time without progress.
    closing: CancellationToken,
}

impl CallExecutor {
    pub(super) fn new(send_stall_timeout: Duration, closing: CancellationToken) -> Self {
        Self {
            send_stall_timeout,
            closing,
        }
    }

    async fn run(self, call: impl Future<Output = ()>) {
        tokio::select! {
            biased;
            () = call => {}
            () = self.stalled() => tracing::debug!("a call was reset: its peer takes no answer"),
        }
    }

    /// Resolves when the call has waited for its peer too long. Has to be polled after each poll of the call.
    async fn stalled(&self) {
        loop {
            let waiting_since = poll_fn(|_| PROGRESS.with(Progress::waiting)).await;
            tokio::select! {
                biased;
                () = poll_fn(|_| PROGRESS.with(|progress| progress.asked_after(waiting_since))) => {}
                () = self.waited_too_long() => return,
            }
        }
    }

    async fn waited_too_long(&self) {
        let closing_timeout =
            Traffic::tick_duration(self.send_stall_timeout) * CLOSING_STALLED_TICKS;
        tokio::select! {
            () = sleep(self.send_stall_timeout) => {}
            () = async {
                self.closing.cancelled().await;
                sleep(closing_timeout).await;
            } => {}
        }
    }
}

impl Progress {
    /// How often the response had been asked when it began to wait.
    fn waiting(&self) -> Poll<u64> {
        if self.waits_for_peer.get() {
            Poll::Ready(self.times_asked.get())
        } else {
            Poll::Pending
        }
    }

    fn asked_after(&self, times_asked: u64) -> Poll<()> {
        if self.times_asked.get() == times_asked {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for CallExecutor {
    fn execute(&self, call: F) {
        let run = self.clone().run(call);
        tokio::spawn(PROGRESS.scope(Progress::default(), run));
    }
}
