//! The body of a request: every message is charged when its header arrives, and not read on before there is room for it.
//!
//! Whoever sends a message therefore sees its window close while it waits. After [`ADMISSION_WAIT`] the request is refused.
//! A message that is too long for every service is not charged: tonic refuses it when it sees the header.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::budget::{Busy, Reservation};
use super::call::Call;
use super::framing::Framing;
use super::limits::{ADMISSION_WAIT, CALL_BUFFER_BYTES};
use super::refusal::{no_room, overdue};

/// See the [module](self).
pub(super) struct Arriving<B = Incoming> {
    body: B,
    call: Arc<Call>,
    framing: Framing,
    /// Whether messages were charged beside what the call's base covers.
    has_charged: bool,
    waiting: Option<Waiting>,
    timeouts: ArrivalTimeouts,
    /// Ready when what is to come is overdue.
    overdue: Option<Pin<Box<Sleep>>>,
    kind: Kind,
    /// Ready when the connection is closing. Made when the peer is waited for.
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    is_closing: bool,
}

/// What a request is, which decides what becomes of it on a connection that is closing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It ends after one message. A peer that sends nothing of it for a while then is not waited for.
    Unary,
    /// Its service sees that the connection is closing and ends it. It is waited for only within a message.
    Stream,
    /// Its service is not ours and does not see it, but ends with the request. That ends between two messages.
    ForeignStream,
}

impl Kind {
    fn of(path: &str) -> Self {
        match path {
            "/kvrpc.KvBatch/Batch" | "/pdpb.Pd/Tso" => Self::Stream,
            _ if path.starts_with("/grpc.reflection.") => Self::ForeignStream,
            _ => Self::Unary,
        }
    }
}

/// How long a peer is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct ArrivalTimeouts {
    /// For a message of a stream.
    pub(super) message: Duration,
    /// For the next byte of one on a connection that is closing.
    pub(super) closing: Duration,
}

/// A frame with the header of a message that has no room yet.
struct Waiting {
    frame: Bytes,
    admission: Pin<Box<dyn Future<Output = Result<Reservation, Busy>> + Send>>,
}

impl<B> Arriving<B> {
    /// The body of a request to the method at `path`.
    pub(super) fn new(path: &str, body: B, timeouts: ArrivalTimeouts, call: Arc<Call>) -> Self {
        Self {
            kind: Kind::of(path),
            body,
            call,
            framing: Framing::new(path),
            has_charged: false,
            waiting: None,
            timeouts,
            overdue: None,
            closing: None,
            is_closing: false,
        }
    }

    /// Charges the messages that begin in `frame`. Gives it back unless they have to wait.
    fn admit(&mut self, frame: Bytes) -> Result<Option<Bytes>, Status> {
        let begun_bytes = self.framing.advance(&frame)?;
        if begun_bytes > 0 {
            self.overdue = None;
        }
        if begun_bytes <= CALL_BUFFER_BYTES || self.framing.is_small() {
            self.hold(None);
            return Ok(Some(frame));
        }
        if let Some(reservation) = self
            .call
            .connection
            .bytes_in_flight
            .try_reserve(begun_bytes)
        {
            self.hold(Some(reservation));
            return Ok(Some(frame));
        }
        let budgets = self.call.connection.bytes_in_flight.clone();
        let admission = async move { budgets.reserve(begun_bytes, ADMISSION_WAIT).await };
        self.waiting = Some(Waiting {
            frame,
            admission: Box::pin(admission),
        });
        Ok(None)
    }

    fn hold(&mut self, reservation: Option<Reservation>) {
        self.has_charged |= reservation.is_some();
        if !self.has_charged {
            return;
        }
        let incomplete_bytes = self.framing.incomplete_bytes();
        self.call.hold_arrived(reservation, incomplete_bytes);
    }

    fn poll_admission(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        let Some(waiting) = &mut self.waiting else {
            return Poll::Ready(None);
        };
        let admitted = ready!(waiting.admission.as_mut().poll(context));
        let frame = std::mem::take(&mut waiting.frame);
        self.waiting = None;
        match admitted {
            Ok(reservation) => {
                self.hold(Some(reservation));
                Poll::Ready(Some(Ok(frame)))
            }
            Err(Busy) => {
                self.call.refuse();
                Poll::Ready(Some(Err(no_room())))
            }
        }
    }

    /// Gives a message its time again that arrived after that time: while somebody reads, the alarm ends the request. So
    /// nobody has read, and the peer's window was closed for that long. On a connection that is closing, every byte gives it.
    fn forget_late_alarm(&mut self) {
        let is_closing = self.is_closing;
        let is_late = |overdue: &mut Pin<Box<Sleep>>| overdue.deadline() <= Instant::now();
        self.overdue
            .take_if(|overdue| is_closing || is_late(overdue));
    }

    /// Ready when the request ends though its peer has not ended it: in good order, or since its peer is overdue. Otherwise a
    /// unary call has a timeout of its own; a stream has none.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let is_between = self.framing.incomplete_bytes() == 0;
        if is_between && self.kind == Kind::Stream {
            return Poll::Pending;
        }
        let closing = &self.call.connection.closing;
        let closing = self
            .closing
            .get_or_insert_with(|| Box::pin(closing.clone().cancelled_owned()));
        if !self.is_closing && closing.as_mut().poll(context).is_ready() {
            self.is_closing = true;
            self.overdue = None;
        }
        if is_between && !self.is_closing {
            return Poll::Pending;
        }
        if is_between && self.kind == Kind::ForeignStream {
            return Poll::Ready(Ok(()));
        }
        let timeout = if self.is_closing {
            self.timeouts.closing
        } else {
            self.timeouts.message
        };
        let alarm = self.overdue.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(alarm.as_mut().poll(context));
        Poll::Ready(Err(overdue()))
    }
}

impl<B> Body for Arriving<B>
where
    B: Body<Data = Bytes, Error: Into<tonic::codegen::StdError>> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let arriving = self.get_mut();
        loop {
            if let Some(admitted) = ready!(arriving.poll_admission(context)) {
                return Poll::Ready(Some(admitted.map(Frame::data)));
            }
            let frame = match Pin::new(&mut arriving.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Some(Err(Status::from_error(error.into()))));
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    let end = ready!(arriving.poll_end(context));
                    return Poll::Ready(end.err().map(Err));
                }
            };
            arriving.call.connection.traffic.touch();
            arriving.forget_late_alarm();
            match frame.into_data() {
                Ok(data) => {
                    if let Some(admitted) = arriving.admit(data).transpose() {
                        return Poll::Ready(Some(admitted.map(Frame::data)));
                    }
                }
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::channel::mpsc;
    use futures::{FutureExt, StreamExt};
    use tokio::time::timeout;
    use tonic::Code;

    use super::super::call::CallBudget;
    use super::*;

    const BATCH: &str = "/kvrpc.KvBatch/Batch";
    const HANG_GUARD: Duration = Duration::from_secs(60);

    /// The frames of a peer.
    struct Frames(mpsc::UnboundedReceiver<&'static [u8]>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            let frame = ready!(self.0.poll_next_unpin(context));
            Poll::Ready(frame.map(|data| Ok(Frame::data(Bytes::from_static(data)))))
        }
    }

    /// A message of three bytes that has begun.
    fn begun() -> (mpsc::UnboundedSender<&'static [u8]>, Arriving<Frames>) {
        let (peer, frames) = mpsc::unbounded::<&'static [u8]>();
        peer.unbounded_send(&[0, 0, 0, 0, 3, 1])
            .expect("it is received");
        let call = CallBudget::of(&tonic::Request::new(())).into_call();
        let timeouts = ArrivalTimeouts {
            message: Duration::from_millis(1),
            closing: HANG_GUARD,
        };
        (peer, Arriving::new(BATCH, Frames(frames), timeouts, call))
    }

    async fn next(arriving: &mut Arriving<Frames>) -> Result<usize, Code> {
        let frame = poll_fn(|cx| Pin::new(&mut *arriving).poll_frame(cx));
        let frame = timeout(HANG_GUARD, frame).await.expect("it goes on");
        let frame = frame.expect("no end").map_err(|status| status.code());
        frame.map(|frame| frame.into_data().expect("data").len())
    }

    #[tokio::test]
    async fn a_message_of_a_stream_that_does_not_arrive_in_time_ends_it() {
        let (_peer, mut arriving) = begun();
        assert_eq!(next(&mut arriving).await, Ok(6));
        assert_eq!(next(&mut arriving).await, Err(Code::DeadlineExceeded));
    }

    #[tokio::test]
    async fn what_arrived_while_nobody_read_is_not_overdue() {
        let (peer, mut arriving) = begun();
        assert_eq!(next(&mut arriving).await, Ok(6));
        assert!(next(&mut arriving).now_or_never().is_none());
        let alarm = arriving.overdue.as_ref().expect("a message has begun");
        tokio::time::sleep_until(alarm.deadline()).await;
        peer.unbounded_send(&[2]).expect("it is received");
        assert_eq!(next(&mut arriving).await, Ok(1));
        arriving.timeouts.message = 10 * HANG_GUARD;
        assert!(next(&mut arriving).now_or_never().is_none(), "it has time");
    }
}
