//! The body of a response on its way to the transport: charged until it is sent, and in chunks.
//!
//! hyper asks for a chunk only when it has handed the one before to HTTP/2, and HTTP/2 takes it only while the peer's
//! window is open. So for a peer that does not read, the transport holds about one chunk per stream, beside what the
//! handler has made.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::Response;
use hyper::body::{Body, Frame, SizeHint};
use tonic::Status;

use super::budget::Reservation;
use super::call::Call;
use super::call_task::{note_handed_out, note_polled};
use super::figures::CountedCall;
use super::methods::Requests;
use super::traffic::ChunkTick;

/// Size of a chunk in bytes, and of the largest frame that every HTTP/2 peer takes.
const CHUNK_BYTES: usize = 16 << 10;

/// The body of a response that is charged and cut into chunks.
pub(super) struct Departing {
    body: tonic::body::Body,
    call: Arc<Call>,
    /// What is left of the data that `body` gave last.
    rest: Bytes,
    /// The request is a stream, or the call has been charged less already.
    keeps_base: bool,
    has_answered: bool,
    counted: CountedCall,
}

impl Departing {
    /// A response with such a body. The status of a call that failed at once is in its headers.
    pub(super) fn respond(
        response: Response<tonic::body::Body>,
        call: Arc<Call>,
        mut counted: CountedCall,
    ) -> Response<Self> {
        counted.note_status(response.headers());
        response.map(|body| Self {
            body,
            keeps_base: call.method.requests != Requests::Unary,
            call,
            rest: Bytes::new(),
            has_answered: false,
            counted,
        })
    }

    /// The response waits for us.
    fn note_waiting(&mut self) {
        if self.has_answered && !self.keeps_base {
            self.keeps_base = true;
            self.call.shrink_base();
        }
    }

    /// The next chunk of data that `body` gave.
    fn chunk(&mut self) -> Bytes {
        let data = self.rest.split_to(self.rest.len().min(CHUNK_BYTES));
        self.handed_out(data, None)
    }

    /// The first chunk of `data`, which becomes the rest. The charge is for all of `data`: its chunks share one buffer.
    fn first_chunk(&mut self, data: Bytes) -> Bytes {
        let charge = self.call.charge_answer(data.len());
        if data.len() <= CHUNK_BYTES {
            return self.handed_out(data, charge);
        }
        self.rest = Bytes::from_owner(Charged {
            data,
            _charge: charge,
        });
        self.chunk()
    }

    fn handed_out(&self, data: Bytes, charge: Option<Reservation>) -> Bytes {
        Bytes::from_owner(Chunk {
            data: Charged {
                data,
                _charge: charge,
            },
            handed_out: self.call.connection.traffic.hand_out(),
            call: Arc::clone(&self.call),
        })
    }
}

impl Body for Departing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let departing = self.get_mut();
        note_polled();
        let chunk = if departing.rest.is_empty() {
            let frame = match Pin::new(&mut departing.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(end) => return Poll::Ready(end),
                Poll::Pending => {
                    departing.note_waiting();
                    return Poll::Pending;
                }
            };
            match frame.into_data() {
                Ok(data) => departing.first_chunk(data),
                Err(frame) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        departing.counted.note_status(trailers);
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
            }
        } else {
            departing.chunk()
        };
        departing.has_answered = true;
        note_handed_out();
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// Data and what it is charged to.
struct Charged {
    data: Bytes,
    _charge: Option<Reservation>,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

/// A chunk that the transport has and has not sent.
struct Chunk {
    data: Charged,
    handed_out: ChunkTick,
    call: Arc<Call>,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self.data.as_ref()
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.call.connection.traffic.sent(&self.handed_out);
    }
}
