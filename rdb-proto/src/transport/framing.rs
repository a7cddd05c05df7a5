//! The lengths of the messages in the body of a gRPC request.
//!
//! Each message is preceded by five bytes: a flag and its length as a big-endian `u32`.

use tonic::Code;

use super::limits::{CALL_BUFFER_BYTES, MESSAGE_BYTES_MAX};
use crate::bounded::{BoundedField, FieldCounter};
use crate::error::Fault;
use crate::errorpb::Fate;

const HEADER_BYTES: usize = 5;

/// Methods that take a stream of small messages, by tonic. Its buffer stays as large as the largest message for as long as
/// the stream is open, so each message has to fit into what every call is charged for its buffers.
const SMALL_MESSAGE_STREAMS: [&str; 3] = [
    "/pdpb.Pd/Tso",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Follows the body of a request, frame by frame.
#[derive(Debug, Default)]
pub(super) struct Framing {
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    message_bytes: usize,
    /// Of the message whose header is complete.
    missing_bytes: usize,
    /// A message was longer than any service takes. What follows is not looked at.
    is_over: bool,
    counter: Option<FieldCounter>,
    /// No message is longer than [`CALL_BUFFER_BYTES`].
    is_small: bool,
}

impl Framing {
    /// Follows the messages of the method at `path`.
    pub(super) fn new(path: &str) -> Self {
        Self {
            is_small: SMALL_MESSAGE_STREAMS.contains(&path),
            counter: BoundedField::of_method(path).map(FieldCounter::new),
            ..Self::default()
        }
    }

    /// Goes over the next `frame`. Returns the length of all messages whose headers end in it.
    ///
    /// # Errors
    ///
    /// When a message has more entries than its method takes, or more bytes than a stream of small ones takes.
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
            let arrived = (HEADER_BYTES - self.header_bytes).min(frame.len());
            let (header, rest) = frame.split_at(arrived);
            self.header[self.header_bytes..][..arrived].copy_from_slice(header);
            self.header_bytes += arrived;
            frame = rest;
            if self.header_bytes == HEADER_BYTES {
                begun_bytes += self.begin_message()?;
            }
        }
        Ok(begun_bytes)
    }

    /// Steps over the messages that are complete in `frame`, as far as it begins with one. Returns their length. A stream
    /// may have hundreds in a frame.
    fn skip_complete(&self, frame: &mut &[u8]) -> usize {
        let mut bytes = 0;
        if self.header_bytes > 0 || self.missing_bytes > 0 || self.is_over {
            return bytes;
        }
        while let Some((&[_flag, a, b, c, d], rest)) = frame.split_first_chunk() {
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            if length > rest.len() || self.is_too_long(length) {
                break;
            }
            bytes += length;
            *frame = &rest[length..];
        }
        bytes
    }

    fn is_too_long(&self, message_bytes: usize) -> bool {
        self.is_small && message_bytes > CALL_BUFFER_BYTES
    }

    fn begin_message(&mut self) -> Result<usize, Fault> {
        let [_flag, length @ ..] = self.header;
        self.header_bytes = 0;
        self.message_bytes = u32::from_be_bytes(length) as usize;
        if self.is_too_long(self.message_bytes) {
            let cause = format!("a message of this method has at most {CALL_BUFFER_BYTES} bytes");
            return Err(Fault::new(Code::OutOfRange, cause).with_fate(Fate::NotApplied));
        }
        self.missing_bytes = self.message_bytes;
        if let Some(counter) = &mut self.counter {
            counter.begin_message();
        }
        if self.message_bytes > MESSAGE_BYTES_MAX {
            *self = Self {
                is_over: true,
                ..Self::default()
            };
        }
        Ok(self.message_bytes)
    }

    /// Whether what every call is charged covers its messages.
    pub(super) fn is_small(&self) -> bool {
        self.is_small
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

    use super::*;

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

    /// Wherever the buffer of a message outlives the message, it is small.
    #[test]
    fn a_stream_that_tonic_receives_has_small_messages() {
        use prost::Message;
        use prost_types::FileDescriptorSet;

        let set = FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).expect("compiled in");
        for file in &set.file {
            for service in &file.service {
                let streams = service.method.iter().filter(|m| m.client_streaming());
                for method in streams {
                    let (package, service) = (file.package(), service.name());
                    let path = format!("/{package}.{service}/{}", method.name());
                    let has_own_buffers = path == "/kvrpc.KvBatch/Batch";
                    assert_ne!(Framing::new(&path).is_small, has_own_buffers, "{path}");
                }
            }
        }
    }

    #[test]
    fn a_large_message_of_a_stream_of_small_ones_is_refused() {
        for path in SMALL_MESSAGE_STREAMS {
            let largest = body(&[CALL_BUFFER_BYTES]);
            assert!(Framing::new(path).advance(&largest).is_ok());
            let larger = body(&[10, CALL_BUFFER_BYTES + 1]);
            let whole = Framing::new(path).advance(&larger);
            assert_eq!(whole.expect_err("too long").code, Code::OutOfRange);
            let header = &larger[..2 * HEADER_BYTES + 10];
            assert!(Framing::new(path).advance(header).is_err());
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
