//! The messages of `kvrpc.KvBatch`, with their size on the wire.
//!
//! A queue charges the size of the message, since everything that was decoded from it shares its buffer: a part keeps the
//! whole buffer alive. A command may have two bytes on the wire, and far more in memory. So the transport refuses a
//! message of more than [`BATCH_COMMANDS_MAX`](crate::transport::limits::BATCH_COMMANDS_MAX) commands while it arrives.
//!
//! The server of these streams is here, too: a generated one keeps buffers as large as the largest message for as long as a
//! stream is open.

mod messages;
mod responses;
mod server;
mod traces;

use std::marker::PhantomData;

use bytes::Buf;
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::kvrpc::{BatchRequest, BatchResponse};

pub use messages::Messages;
pub use server::{KvBatch, KvBatchServer};
pub use traces::{Traces, push_trace};

/// A message with its size on the wire.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Measured<M> {
    /// The message.
    pub message: M,
    /// The size that it had when it was received; 0 in a message that is to be sent.
    pub message_bytes: usize,
}

/// A `kvrpc.BatchRequest`.
pub type Request = Measured<BatchRequest>;

/// A `kvrpc.BatchResponse`.
pub type Response = Measured<BatchResponse>;

impl<M> From<M> for Measured<M> {
    fn from(message: M) -> Self {
        Self {
            message,
            message_bytes: 0,
        }
    }
}

impl<M: Message + Default> Measured<M> {
    /// Reads the message that `buffer` holds.
    fn decode(buffer: impl Buf) -> Result<Self, Status> {
        let message_bytes = buffer.remaining();
        let malformed = |error| Status::internal(format!("the message is not protobuf: {error}"));
        Ok(Self {
            message: M::decode(buffer).map_err(malformed)?,
            message_bytes,
        })
    }
}

/// Protobuf, with the size of each message. Sends `T`, receives `U`.
#[derive(Debug)]
pub struct BatchCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BatchCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for BatchCodec<Measured<T>, Measured<U>>
where
    T: Message + 'static,
    U: Message + Default + 'static,
{
    type Encode = Measured<T>;
    type Decode = Measured<U>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<T: Message, U> Encoder for BatchCodec<Measured<T>, U> {
    type Item = Measured<T>;
    type Error = Status;

    fn encode(&mut self, item: Measured<T>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let encoded = item.message.encode(buffer);
        encoded.map_err(|error| Status::internal(error.to_string()))
    }
}

impl<T, U: Message + Default> Decoder for BatchCodec<T, Measured<U>> {
    type Item = Measured<U>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Measured<U>>, Status> {
        Measured::decode(buffer).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::kvrpc::{BatchCommand, RawPutRequest, batch_command};

    fn request(commands: impl IntoIterator<Item = BatchCommand>) -> BatchRequest {
        BatchRequest {
            cluster_id: 7,
            store_id: u64::MAX,
            commands: commands.into_iter().collect(),
            traces: Bytes::from_static(b"no context"),
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
