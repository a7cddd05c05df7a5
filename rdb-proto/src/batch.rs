//! The messages of `kvrpc.KvBatch`, with their size on the wire and a bound on the commands that are decoded.
//!
//! A queue charges the size of the message, since everything that was decoded from it shares its buffer: a part keeps the
//! whole buffer alive. A decoded command takes far more memory than the two bytes that it may have on the wire. So at most
//! [`BATCH_COMMANDS_MAX`] commands of a message are decoded, and of the others only the ids are kept. The transport refuses
//! a message with many more commands while it arrives.
//!
//! The server of these streams is here, too: a generated one keeps buffers as large as the largest message for as long as a
//! stream is open.

mod messages;
mod responses;
mod server;

use std::marker::PhantomData;

use bytes::{Buf, BufMut};
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::kvrpc::{BatchCommand, BatchRequest, BatchResponse};
use crate::transport::limits::BATCH_COMMANDS_MAX;

pub use messages::Messages;
pub use server::{KvBatch, KvBatchServer};

/// A `kvrpc.BatchRequest`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Request {
    /// At most [`BATCH_COMMANDS_MAX`] commands when it was received.
    pub message: BatchRequest,
    /// The ids of the commands beyond that limit. Empty in a message that is to be sent.
    pub excess_ids: Vec<u64>,
    /// The size on the wire. 0 in a message that is to be sent.
    pub message_bytes: usize,
}

/// A `kvrpc.BatchResponse`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Response {
    /// The message as it was decoded.
    pub message: BatchResponse,
    /// The size on the wire. 0 in a message that is to be sent.
    pub message_bytes: usize,
}

impl From<BatchRequest> for Request {
    fn from(message: BatchRequest) -> Self {
        Self {
            message,
            ..Self::default()
        }
    }
}

impl From<BatchResponse> for Response {
    fn from(message: BatchResponse) -> Self {
        Self {
            message,
            message_bytes: 0,
        }
    }
}

/// What [`BatchCodec`] sends and receives.
pub trait WireMessage: Sized + Send + 'static {
    /// How many bytes [`encode`](Self::encode) writes.
    fn encoded_len(&self) -> usize;

    /// Writes the message.
    fn encode(&self, buffer: &mut impl BufMut) -> Result<(), prost::EncodeError>;

    /// Reads the message that `buffer` holds.
    fn decode(buffer: &mut impl Buf) -> Result<Self, Status>;
}

impl WireMessage for Request {
    fn encoded_len(&self) -> usize {
        self.message.encoded_len()
    }

    fn encode(&self, buffer: &mut impl BufMut) -> Result<(), prost::EncodeError> {
        self.message.encode(buffer)
    }

    fn decode(buffer: &mut impl Buf) -> Result<Self, Status> {
        let mut request = Self {
            message_bytes: buffer.remaining(),
            ..Self::default()
        };
        while buffer.has_remaining() {
            request.decode_field(buffer).map_err(malformed)?;
        }
        Ok(request)
    }
}

impl Request {
    fn decode_field(&mut self, buffer: &mut impl Buf) -> Result<(), DecodeError> {
        let (tag, wire_type) = encoding::decode_key(buffer)?;
        let context = DecodeContext::default();
        match tag {
            1 => {
                let cluster_id = &mut self.message.cluster_id;
                encoding::uint64::merge(wire_type, cluster_id, buffer, context)
            }
            2 => encoding::uint64::merge(wire_type, &mut self.message.store_id, buffer, context),
            3 => self.decode_command(wire_type, buffer, context),
            _ => encoding::skip_field(wire_type, tag, buffer, context),
        }
    }

    fn decode_command(
        &mut self,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        if self.message.commands.len() < BATCH_COMMANDS_MAX {
            let mut command = BatchCommand::default();
            encoding::message::merge(wire_type, &mut command, buffer, context)?;
            self.message.commands.push(command);
        } else {
            let mut command = CommandId::default();
            encoding::message::merge(wire_type, &mut command, buffer, context)?;
            self.excess_ids.push(command.id);
        }
        Ok(())
    }
}

/// The part of a command that a refusal needs.
#[derive(Clone, PartialEq, Message)]
struct CommandId {
    #[prost(uint64, tag = "1")]
    id: u64,
}

impl WireMessage for Response {
    fn encoded_len(&self) -> usize {
        self.message.encoded_len()
    }

    fn encode(&self, buffer: &mut impl BufMut) -> Result<(), prost::EncodeError> {
        self.message.encode(buffer)
    }

    fn decode(buffer: &mut impl Buf) -> Result<Self, Status> {
        let message_bytes = buffer.remaining();
        Ok(Self {
            message: BatchResponse::decode(buffer).map_err(malformed)?,
            message_bytes,
        })
    }
}

/// Protobuf, as [`WireMessage`] reads and writes it. Sends `T`, receives `U`.
#[derive(Debug)]
pub struct BatchCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BatchCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: WireMessage, U: WireMessage> Codec for BatchCodec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = BatchEncoder<T>;
    type Decoder = BatchDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        BatchEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        BatchDecoder(PhantomData)
    }
}

/// See [`BatchCodec`].
#[derive(Debug)]
pub struct BatchEncoder<T>(PhantomData<T>);

impl<T: WireMessage> Encoder for BatchEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buffer)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

/// See [`BatchCodec`].
#[derive(Debug)]
pub struct BatchDecoder<U>(PhantomData<U>);

impl<U: WireMessage> Decoder for BatchDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::decode(buffer).map(Some)
    }
}

fn malformed(error: DecodeError) -> Status {
    Status::internal(format!("the message is not protobuf: {error}"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::kvrpc::{RawPutRequest, batch_command};

    fn request(commands: impl IntoIterator<Item = BatchCommand>) -> BatchRequest {
        BatchRequest {
            cluster_id: 7,
            store_id: u64::MAX,
            commands: commands.into_iter().collect(),
        }
    }

    fn put(id: u64) -> BatchCommand {
        let put = RawPutRequest {
            context: None,
            key: Bytes::from_static(b"k"),
            value: vec![b'v'; 100].into(),
        };
        BatchCommand {
            id,
            region_id: 3,
            region_epoch: None,
            request: Some(batch_command::Request::RawPut(put)),
        }
    }

    #[test]
    fn a_request_is_read_as_it_was_written_and_knows_its_size() {
        let sent = request([put(1), put(2)]);
        let encoded = Bytes::from(sent.encode_to_vec());
        let received = Request::decode(&mut encoded.clone()).expect("well formed");
        assert_eq!(received.message, sent);
        assert_eq!(received.message_bytes, encoded.len());
        assert_eq!(received.excess_ids, []);
    }

    #[test]
    fn of_commands_beyond_the_limit_only_the_ids_are_kept() {
        let count = BATCH_COMMANDS_MAX as u64 + 2;
        let encoded = request((0..count).map(put)).encode_to_vec();
        let received = Request::decode(&mut encoded.as_slice()).expect("well formed");
        assert_eq!(received.message.commands.len(), BATCH_COMMANDS_MAX);
        assert_eq!(received.excess_ids, [count - 2, count - 1]);
    }

    #[test]
    fn unknown_fields_are_skipped_and_garbage_is_refused() {
        let mut encoded = request([put(1)]).encode_to_vec();
        // Field 15, three bytes.
        encoded.extend_from_slice(&[15 << 3 | 2, 3, 1, 2, 3]);
        let received = Request::decode(&mut encoded.as_slice()).expect("well formed");
        assert_eq!(received.message.commands.len(), 1);
        encoded.push(0xff);
        assert!(Request::decode(&mut encoded.as_slice()).is_err());
        assert!(Request::decode(&mut [3 << 3 | 2, 200].as_slice()).is_err());
    }
}
