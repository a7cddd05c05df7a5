//! The messages of a request stream, each received into its own buffer.
//!
//! tonic receives all messages of a stream into one buffer, which stays as large as the largest of them for as long as the
//! stream is open. A peer could make the server hold that much for every silent stream. Here a buffer has exactly the size
//! of its message, and lives as long as something that was decoded from it.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::Stream;
use hyper::body::Body as _;
use prost::Message;
use tonic::body::Body;
use tonic::{Code, Status};

use super::Measured;
use crate::kvrpc::BatchRequest;
use crate::message_header::ArrivingHeader;
use crate::transport::limits::MESSAGE_BYTES_MAX;

/// The messages of a request stream. It ends after its first error.
///
/// The transport has charged a message before its first byte comes here.
pub struct Messages<M = BatchRequest> {
    body: Body,
    /// What has arrived and belongs to no message yet.
    data: Bytes,
    header: ArrivingHeader,
    /// The message that arrives.
    incomplete: Option<Incomplete>,
    is_over: bool,
    message: PhantomData<fn() -> M>,
}

/// A message whose header has arrived.
struct Incomplete {
    buffer: Vec<u8>,
    message_bytes: usize,
}

impl<M> Messages<M> {
    /// The messages in the body of a request.
    pub fn new(body: Body) -> Self {
        Self {
            body,
            data: Bytes::new(),
            header: ArrivingHeader::default(),
            incomplete: None,
            is_over: false,
            message: PhantomData,
        }
    }

    /// The next message, once all of it has arrived.
    fn complete(&mut self) -> Result<Option<Bytes>, Status> {
        let mut incomplete = match self.incomplete.take() {
            Some(incomplete) => incomplete,
            None => match self.begin()? {
                Some(begun) => begun,
                None => return Ok(None),
            },
        };
        let missing = incomplete.message_bytes - incomplete.buffer.len();
        let arrived = missing.min(self.data.len());
        incomplete.buffer.extend_from_slice(&self.data[..arrived]);
        self.data.advance(arrived);
        if incomplete.buffer.len() < incomplete.message_bytes {
            self.incomplete = Some(incomplete);
            return Ok(None);
        }
        Ok(Some(incomplete.buffer.into()))
    }

    /// Reads the next header, once all of it has arrived.
    fn begin(&mut self) -> Result<Option<Incomplete>, Status> {
        let Some(header) = self.header.advance(&mut self.data) else {
            return Ok(None);
        };
        if header.is_compressed {
            let cause = "compressed messages are not accepted";
            return Err(Status::unimplemented(cause));
        }
        let message_bytes = header.message_bytes;
        if message_bytes > MESSAGE_BYTES_MAX {
            return Err(Status::out_of_range(format!(
                "the message has {message_bytes} bytes; at most {MESSAGE_BYTES_MAX} are accepted"
            )));
        }
        Ok(Some(Incomplete {
            buffer: Vec::with_capacity(message_bytes),
            message_bytes,
        }))
    }

    fn end(&mut self) -> Result<(), Status> {
        self.is_over = true;
        if self.header.has_begun() || self.incomplete.is_some() {
            return Err(Status::internal("the stream ended within a message"));
        }
        Ok(())
    }

    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        while !self.is_over {
            if let Some(message) = self.complete().transpose() {
                self.is_over = message.is_err();
                return Poll::Ready(Some(message));
            }
            // An empty rest would keep the transport's buffer.
            self.data = Bytes::new();
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.data = data,
                    Err(_trailers) => return Poll::Ready(self.end().err().map(Err)),
                },
                Some(Err(status)) => {
                    self.is_over = true;
                    self.incomplete = None;
                    // The client has given the stream up.
                    let is_failure = status.code() != Code::Cancelled;
                    return Poll::Ready(is_failure.then_some(Err(status)));
                }
                None => return Poll::Ready(self.end().err().map(Err)),
            }
        }
        Poll::Ready(None)
    }
}

impl<M: Message + Default> Stream for Messages<M> {
    type Item = Result<Measured<M>, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(message) = ready!(self.poll_message(context)) else {
            return Poll::Ready(None);
        };
        let decoded = message.and_then(Measured::decode);
        self.is_over |= decoded.is_err();
        Poll::Ready(Some(decoded))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use futures::FutureExt;
    use hyper::body::Frame;
    use proptest::prelude::*;

    use super::*;

    /// A body that arrives in these parts.
    struct Parts(VecDeque<Bytes>);

    impl hyper::body::Body for Parts {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(|part| Ok(Frame::data(part))))
        }
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = (message.len() as u32).to_be_bytes();
        [&[0][..], &length, message].concat()
    }

    fn received(body: &[u8], cut: usize) -> Messages {
        let parts = body.chunks(cut).map(Bytes::copy_from_slice);
        Messages::new(Body::new(Parts(parts.collect())))
    }

    fn next(messages: &mut Messages) -> Option<Result<Bytes, Status>> {
        let next = poll_fn(|context| messages.poll_message(context));
        next.now_or_never().expect("all has arrived")
    }

    #[test]
    fn a_message_is_in_a_buffer_of_its_size_that_nothing_else_keeps() {
        let body = [framed(&[1; 100_000]), framed(&[2; 10])].concat();
        let mut messages = received(&body, 16 << 10);
        for length in [100_000, 10] {
            let buffer = next(&mut messages).expect("another").expect("well formed");
            let buffer = buffer.try_into_mut().expect("nobody shares it");
            assert_eq!((buffer.len(), buffer.capacity()), (length, length));
        }
        assert!(next(&mut messages).is_none());
    }

    #[test]
    fn a_malformed_body_ends_the_stream_after_one_error() {
        let too_long = (MESSAGE_BYTES_MAX as u32 + 1).to_be_bytes();
        for (body, code) in [
            ([&[0][..], &too_long].concat(), Code::OutOfRange),
            (vec![1, 0, 0, 0, 0], Code::Unimplemented),
            (framed(b"cut")[..7].to_vec(), Code::Internal),
            (framed(b"cut")[..3].to_vec(), Code::Internal),
        ] {
            let mut messages = received(&body, 4);
            let failed = next(&mut messages).expect("an error").err();
            assert_eq!(failed.map(|status| status.code()), Some(code));
            assert!(next(&mut messages).is_none());
        }
    }

    proptest! {
        #[test]
        fn messages_are_received_whole_however_the_body_is_cut(
            lengths in prop::collection::vec(0_usize..50, 0..10),
            cut in 1_usize..30,
        ) {
            let sent: Vec<_> = lengths.iter().zip(0..).map(|(&length, fill)| vec![fill; length]).collect();
            let body: Vec<u8> = sent.iter().flat_map(|message| framed(message)).collect();
            let mut messages = received(&body, cut);
            let received = std::iter::from_fn(|| next(&mut messages));
            let received: Vec<_> = received.map(|message| message.expect("well formed")).collect();
            prop_assert_eq!(received, sent);
        }
    }
}
