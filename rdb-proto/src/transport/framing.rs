//! The lengths of the messages in the body of a gRPC request.

use tonic::Code;

use super::bounded::FieldCounter;
use super::limits::MESSAGE_BYTES_MAX;
use super::methods::Method;
use crate::error::Fault;
use crate::errorpb::Fate;
use crate::message_header::{ArrivingHeader, MessageHeader};

/// Follows the body of a request, frame by frame.
#[derive(Debug, Default)]
pub(super) struct Framing {
    header: ArrivingHeader,
    message_bytes: usize,
    /// How much of the message with the last complete header has not arrived.
    missing_bytes: usize,
    /// A message was longer than any service takes. What follows is not looked at.
    is_over: bool,
    /// `None`: messages are too small for many fields.
    counter: Option<FieldCounter>,
    /// No message is longer. `None`: than any service takes.
    bytes_max: Option<usize>,
}

impl Framing {
    /// Follows the messages of a request of `method`.
    pub(super) fn new(method: &'static Method) -> Self {
        Self {
            bytes_max: method.message_bytes_max(),
            counter: (!method.requests.are_small()).then(|| FieldCounter::new(method.bounded)),
            ..Self::default()
        }
    }

    /// Goes over the next `frame`. Returns the length of all messages whose headers end in it.
    ///
    /// # Errors
    ///
    /// When a message has more entries, fields or bytes than its method takes.
    pub(super) fn advance(&mut self, mut frame: &[u8]) -> Result<usize, Fault> {
        let mut begun_bytes = match self.counter {
            Some(_) => 0,
            None => self.skip_complete(&mut frame),
        };
        while !frame.is_empty() && !self.is_over {
            if self.missing_bytes > 0 {
                let arrived = self.missing_bytes.min(frame.len());
                self.missing_bytes -= arrived;
                let (part, rest) = frame.split_at(arrived);
                if let Some(counter) = &mut self.counter {
                    counter.advance(part)?;
                }
                frame = rest;
                continue;
            }
            if let Some(header) = self.header.advance(&mut frame) {
                begun_bytes += self.begin_message(header)?;
            }
        }
        Ok(begun_bytes)
    }

    /// Steps over the messages that are complete in `frame`, as far as it begins with one. Returns their length. A stream
    /// may have hundreds in a frame.
    fn skip_complete(&self, frame: &mut &[u8]) -> usize {
        let mut bytes = 0;
        if self.header.has_begun() || self.missing_bytes > 0 || self.is_over {
            return bytes;
        }
        while let Some((&header, rest)) = frame.split_first_chunk() {
            let length = MessageHeader::from(header).message_bytes;
            if length > rest.len() || self.is_too_long(length) {
                break;
            }
            bytes += length;
            *frame = &rest[length..];
        }
        bytes
    }

    fn is_too_long(&self, message_bytes: usize) -> bool {
        self.bytes_max.is_some_and(|max| message_bytes > max)
    }

    /// The length of the message that begins, as far as it is charged.
    fn begin_message(&mut self, header: MessageHeader) -> Result<usize, Fault> {
        self.message_bytes = header.message_bytes;
        if let Some(bytes_max) = self.bytes_max
            && self.message_bytes > bytes_max
        {
            let cause = format!("a message of this method has at most {bytes_max} bytes");
            return Err(Fault::new(Code::OutOfRange, cause).with_fate(Fate::NotApplied));
        }
        if self.message_bytes > MESSAGE_BYTES_MAX {
            // Its service refuses it when it sees the header.
            self.is_over = true;
            return Ok(0);
        }
        self.missing_bytes = self.message_bytes;
        if let Some(counter) = &mut self.counter {
            counter.begin_message();
        }
        Ok(self.message_bytes)
    }

    /// How much of the message that began last has arrived.
    pub(super) fn arrived_bytes(&self) -> usize {
        self.message_bytes - self.missing_bytes
    }

    /// The length of the message that has begun and is not complete; 0 between messages.
    pub(super) fn incomplete_bytes(&self) -> usize {
        if self.missing_bytes > 0 {
            self.message_bytes
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::limits::{ANYBODY_BYTES_MAX, CALL_BUFFER_BYTES};
    use super::*;
    use crate::message_header::HEADER_BYTES;

    fn body(lengths: &[usize]) -> Vec<u8> {
        let message = |&length: &usize| {
            let header = [&[0][..], &(length as u32).to_be_bytes()].concat();
            [header, vec![7; length]].concat()
        };
        lengths.iter().flat_map(message).collect()
    }

    #[test]
    fn a_message_begins_with_the_last_byte_of_its_header() {
        let mut framing = Framing::default();
        let body = body(&[3, 0, 20]);
        assert_eq!(framing.advance(&body[..4]), Ok(0));
        assert_eq!(framing.advance(&body[4..5]), Ok(3));
        assert_eq!(framing.incomplete_bytes(), 3);
        assert_eq!(framing.advance(&body[5..]), Ok(20));
        assert_eq!(framing.incomplete_bytes(), 0);
    }

    #[test]
    fn a_message_that_is_too_long_ends_the_counting() {
        let mut framing = Framing::default();
        let header = [&[0][..], &(MESSAGE_BYTES_MAX as u32 + 1).to_be_bytes()].concat();
        assert_eq!(framing.advance(&header), Ok(0));
        assert_eq!(framing.advance(&body(&[100])), Ok(0));
        assert_eq!(framing.incomplete_bytes(), 0);
    }

    #[test]
    fn a_message_that_is_larger_than_those_of_its_method_is_refused() {
        for (path, bytes_max) in [
            ("/pdpb.Pd/Tso", CALL_BUFFER_BYTES),
            (
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                CALL_BUFFER_BYTES,
            ),
            ("/grpc.health.v1.Health/Check", CALL_BUFFER_BYTES),
            ("/grpc.health.v1.Health/Watch", CALL_BUFFER_BYTES),
            ("/authpb.Auth/Enable", ANYBODY_BYTES_MAX),
            ("/authpb.Auth/Check", ANYBODY_BYTES_MAX),
        ] {
            let method = Method::of(path);
            let mut largest = body(&[bytes_max]);
            largest.truncate(HEADER_BYTES);
            assert!(Framing::new(method).advance(&largest).is_ok());
            let mut larger = body(&[0, bytes_max + 1]);
            larger.truncate(2 * HEADER_BYTES);
            let whole = Framing::new(method).advance(&larger);
            assert_eq!(whole.expect_err("too long").code, Code::OutOfRange);
        }
    }

    proptest! {
        #[test]
        fn every_message_is_counted_once_however_the_body_is_cut(
            lengths in prop::collection::vec(0_usize..50, 0..10),
            cut in 1_usize..30,
        ) {
            let mut framing = Framing::default();
            let body = body(&lengths);
            let begun = body.chunks(cut).map(|part| framing.advance(part).expect("nothing is counted"));
            let begun: usize = begun.sum();
            prop_assert_eq!(begun, lengths.iter().sum::<usize>());
            prop_assert_eq!(framing.incomplete_bytes(), 0);
        }
    }
}
