//! The body of a request: every message is charged when its header arrives, and its rest is read only once there is room for it.
//!
//! While a message waits for room, its peer's window closes. After [`Requests::admission_wait`] the request is refused. So is one
//! that arrives slowly while others wait, see [`pace`](super::pace).
//! A request whose caller has lost its right ends with the next frame that arrives.
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
use super::limits::CALL_BUFFER_BYTES;
use super::methods::{Method, Requests};
use super::pace::Pace;
use super::refusal::{no_room, overdue};

/// The body of a request whose messages are charged.
pub(super) struct Arriving<B = Incoming> {
    body: B,
    call: Arc<Call>,
    framing: Framing,
    /// Whether messages were charged beside what the call's base covers.
    has_charged: bool,
    waiting: Option<Waiting>,
    requests: Requests,
    timeouts: ArrivalTimeouts,
    pace: Pace,
    /// Ready when what is missing of a message is overdue.
    overdue: Option<Pin<Box<Sleep>>>,
    /// Ready when the connection is closing. Made when the peer lets us wait for the first time.
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    is_closing: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct ArrivalTimeouts {
    /// How long a message may take to arrive.
    pub(super) message: Duration,
    /// How long nothing may arrive of an incomplete request once its connection is closing.
    pub(super) closing: Duration,
}

/// A frame with the header of a message that has no room yet.
struct Waiting {
    frame: Bytes,
    since: Instant,
    admission: Pin<Box<dyn Future<Output = Result<Reservation, Busy>> + Send>>,
}

impl Waiting {
    /// How long it has waited, up to the limit for admission. Any time beyond that is due to the peer, e.g. because it does not
    /// take the answers of the stream.
    fn waited(&self, requests: Requests) -> Duration {
        self.since.elapsed().min(requests.admission_wait())
    }
}

impl<B> Arriving<B> {
    /// The body of a request of `method`.
    pub(super) fn new(
        method: &'static Method,
        body: B,
        timeouts: ArrivalTimeouts,
        call: Arc<Call>,
    ) -> Self {
        Self {
            body,
            call,
            framing: Framing::new(method),
            has_charged: false,
            waiting: None,
            requests: method.requests,
            timeouts,
            pace: Pace::default(),
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
            self.pace = Pace::default();
        }
        if begun_bytes <= CALL_BUFFER_BYTES || self.requests.are_small() {
            self.hold(None);
            return Ok(Some(frame));
        }
        if let Some(reservation) = self.call.bytes_in_flight().try_reserve(begun_bytes) {
            self.hold(Some(reservation));
            return Ok(Some(frame));
        }
        let budgets = self.call.bytes_in_flight().clone();
        let wait = self.requests.admission_wait();
        let admission = async move { budgets.reserve(begun_bytes, wait).await };
        self.waiting = Some(Waiting {
            frame,
            since: Instant::now(),
            admission: Box::pin(admission),
        });
        Ok(None)
    }

    /// Checks that the caller may still do what its request is about. The request of a unary call may come long after its headers,
    /// with which it was checked. Nothing is checked again unless rights were set since.
    fn check_caller(&self) -> Result<(), Status> {
        if self.requests == Requests::Unary && !self.call.has_other_rights() {
            return Ok(());
        }
        Ok(self.call.check_caller()?)
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
        self.call.waited().add(waiting.waited(self.requests));
        self.waiting = None;
        match admitted {
            Ok(reservation) => {
                self.hold(Some(reservation));
                Poll::Ready(Some(self.check_caller().map(|()| frame)))
            }
            Err(Busy) => {
                self.call.refuse(0);
                Poll::Ready(Some(Err(no_room())))
            }
        }
    }

    /// Something has arrived. The peer then gets its time again while the connection is closing, and also when the alarm is past due.
    /// The alarm ends a request only when a read finds nothing. So when something arrives with the alarm past due, nobody had
    /// read meanwhile, and the peer's window may have been closed.
    fn note_arrival(&mut self) {
        self.call.connection.traffic.touch();
        let is_closing = self.is_closing;
        self.overdue
            .take_if(|overdue| is_closing || overdue.deadline() <= Instant::now());
    }

    /// Ready when the request holds bytes that others wait for, and arrives too slowly. What it holds changes only when it is read.
    fn poll_gives_way(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.call.holds_shared_bytes() {
            return Poll::Pending;
        }
        let connection = &self.call.connection;
        let window_bytes = connection.stream_window_bytes.get();
        let window_bytes = window_bytes.copied().unwrap_or(usize::MAX);
        loop {
            let due_bytes = ready!(self.pace.poll_look(window_bytes, context));
            if self.framing.arrived_bytes() < due_bytes
                && self.call.bytes_in_flight().process.is_waited_for()
            {
                return Poll::Ready(());
            }
        }
    }

    /// Ready with the end of a request whose peer lets us wait.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Option<Status>> {
        if matches!(self.requests, Requests::Unary | Requests::ForeignStream) && !self.is_closing {
            let closing = &self.call.connection.closing;
            let closing = self
                .closing
                .get_or_insert_with(|| Box::pin(closing.clone().cancelled_owned()));
            if closing.as_mut().poll(context).is_ready() {
                self.is_closing = true;
                self.overdue = None;
            }
        }
        let incomplete_bytes = self.framing.incomplete_bytes();
        let is_due = incomplete_bytes > 0;
        // Nothing of a unary request is needed any more once it is refused.
        let unread_bytes = match self.requests {
            Requests::Unary => usize::MAX,
            _ => incomplete_bytes,
        };
        if unread_bytes > 0 && self.poll_gives_way(context).is_ready() {
            self.call.refuse(unread_bytes);
            return Poll::Ready(Some(no_room()));
        }
        let timeout = match self.requests {
            Requests::ForeignStream if self.is_closing => return Poll::Ready(None),
            Requests::Unary if self.is_closing => self.timeouts.closing,
            _ if is_due => self.timeouts.message,
            _ => return Poll::Pending,
        };
        let alarm = self.overdue.get_or_insert_with(|| Box::pin(sleep(timeout)));
        alarm.as_mut().poll(context).map(|()| Some(overdue()))
    }
}

impl<B> Drop for Arriving<B> {
    fn drop(&mut self) {
        if let Some(waiting) = &self.waiting {
            self.call.waited().add(waiting.waited(self.requests));
        }
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
                Poll::Pending => return arriving.poll_end(context).map(|end| end.map(Err)),
            };
            arriving.note_arrival();
            match frame.into_data() {
                Ok(data) => {
                    if let Err(refusal) = arriving.check_caller() {
                        return Poll::Ready(Some(Err(refusal)));
                    }
                    if let Some(admitted) = arriving.admit(data).transpose() {
                        return Poll::Ready(Some(admitted.map(Frame::data)));
                    }
                }
                // No service reads the trailers of a request. tonic would keep them for as long as the call lasts.
                Err(_trailers) => return Poll::Ready(None),
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

    use super::super::guarded::Caller;
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
        let call = Call::apart(Caller::anyone(), None);
        let timeouts = ArrivalTimeouts {
            message: Duration::from_millis(1),
            closing: Duration::from_millis(1),
        };
        let method = Method::of(BATCH);
        (peer, Arriving::new(method, Frames(frames), timeouts, call))
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
