//! The body of a request: every message is charged when its header arrives, and not read on before there is room for it.
//!
//! Whoever sends a message therefore sees its window close while it waits. After [`ADMISSION_WAIT`] the request is refused.
//! A message that is too long for every service is not charged: tonic refuses it when it sees the header.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::budget::{Busy, Reservation};
use super::call::Call;
use super::framing::Framing;
use super::limits::{ADMISSION_WAIT, CALL_BUFFER_BYTES, CALL_TIMEOUT};
use super::refusal::{no_room, overdue};

/// See the [module](self).
pub(super) struct Arriving<B = Incoming> {
    body: B,
    call: Arc<Call>,
    framing: Framing,
    /// Whether messages were charged beside what the call's base covers.
    has_charged: bool,
    waiting: Option<Waiting>,
    /// Ready when a message that has begun is overdue.
    overdue: Option<Pin<Box<Sleep>>>,
    /// Ready when the request ends even if its peer goes on.
    end: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

/// Streams of services that are not ours, which end with their requests and do not know that a connection is closing.
const FOREIGN_STREAMS: &str = "/grpc.reflection.";

/// A frame with the header of a message that has no room yet.
struct Waiting {
    frame: Bytes,
    admission: Pin<Box<dyn Future<Output = Result<Reservation, Busy>> + Send>>,
}

impl<B> Arriving<B> {
    /// The body of a request to the method at `path`.
    pub(super) fn new(path: &str, body: B, call: Arc<Call>) -> Self {
        let closing = || Box::pin(call.connection.closing.clone().cancelled_owned());
        Self {
            end: path.starts_with(FOREIGN_STREAMS).then(closing),
            body,
            call,
            framing: Framing::new(path),
            has_charged: false,
            waiting: None,
            overdue: None,
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

    /// Ready when the rest of a message is overdue. A unary call has a timeout of its own; a stream has none.
    fn poll_overdue(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.framing.incomplete_bytes() == 0 {
            return Poll::Pending;
        }
        let overdue = self
            .overdue
            .get_or_insert_with(|| Box::pin(sleep(CALL_TIMEOUT)));
        overdue.as_mut().poll(context)
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
                    if let Some(end) = &mut arriving.end
                        && end.as_mut().poll(context).is_ready()
                    {
                        return Poll::Ready(None);
                    }
                    ready!(arriving.poll_overdue(context));
                    return Poll::Ready(Some(Err(overdue())));
                }
            };
            arriving.call.connection.traffic.touch();
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
