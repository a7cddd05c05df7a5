//! The body of a response stream. Each part has its own buffer.
//!
//! tonic writes all messages of a stream into one buffer, which stays as large as the largest of them for as long as the
//! stream is open, see [`Messages`](super::Messages). Here a buffer lives until the transport has sent it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes};
use futures::Stream;
use hyper::HeaderMap;
use hyper::body::{Body, Frame};
use prost::Message;
use tonic::Status;

use super::{Measured, Response};
use crate::message_header::HEADER_BYTES;

/// Messages that are ready go into one part up to here, in bytes.
const PART_BYTES_FULL: usize = 32 << 10;

/// The body of a response stream.
pub(super) struct Responses<S> {
    messages: Pin<Box<S>>,
    /// What the stream ends with; present once `messages` have ended.
    status: Option<Status>,
    is_over: bool,
}

impl<S: Stream<Item = Result<Response, Status>>> Responses<S> {
    pub(super) fn new(messages: S) -> Self {
        Self {
            messages: Box::pin(messages),
            status: None,
            is_over: false,
        }
    }

    /// The messages that are ready, up to [`PART_BYTES_FULL`]. Empty at their end.
    fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Result<Vec<u8>, Status>> {
        let mut part = Vec::new();
        while self.status.is_none() && part.len() < PART_BYTES_FULL {
            match self.messages.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(message))) => write(&message, &mut part)?,
                Poll::Ready(Some(Err(status))) => self.status = Some(status),
                Poll::Ready(None) => self.status = Some(Status::ok("")),
                Poll::Pending if part.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(part))
    }
}

fn write(Measured { message, .. }: &Response, part: &mut Vec<u8>) -> Result<(), Status> {
    let length = message.encoded_len();
    let on_wire = u32::try_from(length);
    let on_wire =
        on_wire.map_err(|_| Status::internal("the response is longer than gRPC allows"))?;
    part.reserve(HEADER_BYTES + length);
    part.put_u8(0);
    part.put_u32(on_wire);
    let written = message.encode(part);
    written.map_err(|error| Status::internal(error.to_string()))
}

impl<S: Stream<Item = Result<Response, Status>>> Body for Responses<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let responses = self.get_mut();
        if responses.is_over {
            return Poll::Ready(None);
        }
        let part = ready!(responses.poll_part(context))?;
        if !part.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(part.into()))));
        }
        responses.is_over = true;
        let mut trailers = HeaderMap::new();
        if let Some(status) = &responses.status {
            status.add_header(&mut trailers)?;
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures::stream;
    use tonic::Code;

    use super::*;
    use crate::kvrpc::{BatchAnswer, BatchResponse, RawGetResponse, batch_answer};

    fn response(value_bytes: usize) -> Response {
        let get = RawGetResponse {
            value: Some(vec![7; value_bytes].into()),
            region_error: None,
        };
        let answer = BatchAnswer {
            id: 1,
            response: Some(batch_answer::Response::RawGet(get)),
        };
        Response::from(BatchResponse {
            answers: vec![answer],
            closing: false,
        })
    }

    /// A stream that gives these, pausing where it says so.
    fn body(
        items: impl IntoIterator<Item = Poll<Result<Response, Status>>>,
    ) -> Responses<impl Stream<Item = Result<Response, Status>>> {
        let mut items: VecDeque<_> = items.into_iter().collect();
        Responses::new(stream::poll_fn(move |_| match items.pop_front() {
            Some(item) => item.map(Some),
            None => Poll::Ready(None),
        }))
    }

    fn next<S>(body: &mut Responses<S>) -> Poll<Frame<Bytes>>
    where
        S: Stream<Item = Result<Response, Status>>,
    {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let polled = Pin::new(body).poll_frame(&mut context);
        polled.map(|frame| frame.expect("not over").expect("no failure"))
    }

    fn data(polled: Poll<Frame<Bytes>>) -> Bytes {
        match polled {
            Poll::Ready(frame) => frame.into_data().expect("data"),
            Poll::Pending => panic!("nothing is ready"),
        }
    }

    #[test]
    fn a_part_is_in_a_buffer_that_nothing_else_keeps() {
        let large = Poll::Ready(Ok(response(100_000)));
        let mut body = body([large, Poll::Pending]);
        let part = data(next(&mut body));
        assert!(next(&mut body).is_pending(), "the stream is silent");
        let buffer = part.try_into_mut().expect("nobody shares it");
        assert_eq!(buffer.capacity(), buffer.len());
    }

    #[test]
    fn messages_that_are_ready_share_a_part_and_others_are_not_waited_for() {
        let ready = || Poll::Ready(Ok(response(10)));
        let one = data(next(&mut body([ready()]))).len();
        let mut body = body([ready(), ready(), Poll::Pending, Poll::Pending, ready()]);
        assert_eq!(data(next(&mut body)).len(), 2 * one);
        assert!(next(&mut body).is_pending());
        assert_eq!(data(next(&mut body)).len(), one);
    }

    #[test]
    fn the_status_comes_after_everything_else() {
        for (failure, code) in [(None, Code::Ok), (Some(Status::aborted("")), Code::Aborted)] {
            let failure = failure.map(|failure| Poll::Ready(Err(failure)));
            let ready = Poll::Ready(Ok(response(10)));
            let mut body = body([ready].into_iter().chain(failure));
            assert!(!data(next(&mut body)).is_empty());
            let Poll::Ready(end) = next(&mut body) else {
                panic!("it has ended");
            };
            let trailers = end.into_trailers().expect("trailers");
            let status = Status::from_header_map(&trailers).expect("a status");
            assert_eq!(status.code(), code);
            assert!(body.is_end_stream());
        }
    }
}
