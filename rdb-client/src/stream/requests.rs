//! The requests of one stream, each made when the transport asks for it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use http::HeaderValue;

use super::{Taken, Traffic, close};

/// What the transport polls. It ends when its stream is no longer admitted, or when calls have another token than the one that the stream was
/// opened with: the server knows the stream by that one, and answers all that it took before it ends the stream. The next one has the
/// new token.
///
/// A runtime polls the transport right after the call that woke it, before other calls had a chance to add their requests.
/// So the first poll that finds something to take is answered with "pending", and wakes the transport again. That puts the
/// transport at the end of the run queue, behind every call that can run. An idle runtime polls again at once.
pub(crate) struct Requests<T> {
    traffic: Arc<T>,
    generation: u64,
    /// The token of the stream, or one from just before it.
    token: Option<HeaderValue>,
    progress: Progress,
}

/// How far the next request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// A request was made in this turn of the runtime. The transport polls again in the same turn, to send several requests
    /// at once. Calls do not run in between.
    JustTaken,
    /// Calls may be about to add requests.
    Waiting,
    /// They had their chance.
    HasYielded,
}

impl<T: Traffic> Requests<T> {
    /// Takes the place of all earlier ones.
    pub(crate) fn new(traffic: &Arc<T>) -> Self {
        close(&**traffic);
        Self {
            generation: traffic.gate(|gate| gate.open()),
            token: traffic.changing_token(),
            traffic: Arc::clone(traffic),
            progress: Progress::Waiting,
        }
    }
}

impl<T: Traffic> Stream for Requests<T> {
    type Item = T::Request;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T::Request>> {
        if self.traffic.changing_token() != self.token {
            return Poll::Ready(None);
        }
        let has_yielded = self.progress == Progress::HasYielded;
        let taken = self
            .traffic
            .take(self.generation, has_yielded, context.waker());
        self.progress = match (&taken, self.progress) {
            (Taken::Request(_), _) if T::YIELDS_WITHIN_TURN => Progress::JustTaken,
            (Taken::Request(_), _) => Progress::Waiting,
            (Taken::Yield, Progress::Waiting) => Progress::HasYielded,
            (Taken::Yield | Taken::Nothing | Taken::Over, _) => Progress::Waiting,
        };
        match taken {
            Taken::Over => Poll::Ready(None),
            Taken::Nothing => Poll::Pending,
            Taken::Yield => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Taken::Request(request) => Poll::Ready(Some(request)),
        }
    }
}
