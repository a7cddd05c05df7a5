//! The requests of one stream, each built when the transport polls for it.
//!
//! The callers that are woken together come back together, but the first of them wakes the transport, which the runtime
//! then polls before the others. So the first poll that finds a caller yields once: the transport goes to the end of the
//! run queue, and the callers that were runnable by then are in the request, too. An idle runtime polls again at once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use rdb_proto::pdpb::GetTsoRequest;

use super::dispatcher::{Dispatcher, Turn};

/// What the transport polls. Ends when the dispatcher has lost the stream.
pub(super) struct Requests {
    dispatcher: Arc<Dispatcher>,
    number: u64,
    progress: Progress,
}

/// How far the next request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The one before was built right now. The transport takes it along when it finds that no other is ready, and polls
    /// again in the same turn: that is no chance for callers to run.
    JustSent,
    /// Callers may be waiting; those that are runnable come first.
    Waiting,
    /// They had their chance.
    HasYielded,
}

impl Requests {
    /// Takes the place of all earlier ones.
    pub(super) fn new(dispatcher: &Arc<Dispatcher>) -> Self {
        Self {
            number: dispatcher.open_stream(),
            dispatcher: Arc::clone(dispatcher),
            progress: Progress::Waiting,
        }
    }
}

impl Stream for Requests {
    type Item = GetTsoRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<GetTsoRequest>> {
        let has_yielded = self.progress == Progress::HasYielded;
        let turn = self.dispatcher.turn(self.number, has_yielded, cx.waker());
        self.progress = match (&turn, self.progress) {
            (Turn::Send(_), _) => Progress::JustSent,
            (Turn::Yield, Progress::Waiting) => Progress::HasYielded,
            (Turn::Yield | Turn::Sleep | Turn::End, _) => Progress::Waiting,
        };
        match turn {
            Turn::End => Poll::Ready(None),
            Turn::Sleep => Poll::Pending,
            Turn::Yield => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Turn::Send(request) => Poll::Ready(Some(request)),
        }
    }
}
