//! A codec that counts the entries of a batch before it decodes them.
//!
//! An empty entry has two bytes on the wire and a hundred in memory. A message of 8 MiB may hold four million of them, so
//! decoding it first and counting then would take fifty times its size.

use std::any::TypeId;
use std::marker::PhantomData;

use bytes::Buf;
use prost::encoding::{self, DecodeContext};
use prost::{DecodeError, Message};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstDecoder, ProstEncoder};

use crate::error::Fault;
use crate::kvrpc::{BatchGetRequest, RawBatchGetRequest, RawBatchPutRequest};

/// Most entries of one batch, written or read.
pub const BATCH_ENTRIES_MAX: usize = 4096;

/// A repeated field that may occur [`BATCH_ENTRIES_MAX`] times in its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BoundedField {
    tag: u32,
    name: &'static str,
}

/// The bounded field of a message of type `T`, if it has one. Every repeated field of a request has to be here.
fn bounded_field<T: 'static>() -> Option<BoundedField> {
    let fields = [
        (TypeId::of::<RawBatchPutRequest>(), 2, "entries"),
        (TypeId::of::<RawBatchGetRequest>(), 2, "keys"),
        (TypeId::of::<BatchGetRequest>(), 2, "keys"),
    ];
    let of_message = TypeId::of::<T>();
    let mut fields = fields.into_iter();
    let (_, tag, name) = fields.find(|(message, ..)| *message == of_message)?;
    Some(BoundedField { tag, name })
}

impl BoundedField {
    /// Counts the field in the message that `buffer` holds, without decoding it. Leaves what is malformed to the decoder.
    fn check(self, mut buffer: &[u8]) -> Result<(), Fault> {
        let mut count = 0;
        while let Ok(Some(tag)) = skip_field(&mut buffer) {
            count += usize::from(tag == self.tag);
            if count > BATCH_ENTRIES_MAX {
                let limit = Some(BATCH_ENTRIES_MAX as u64);
                let cause = format!(
                    "the batch has more than {BATCH_ENTRIES_MAX} entries; a batch has 1 to {BATCH_ENTRIES_MAX} entries"
                );
                return Err(Fault::invalid_argument(self.name, limit, cause));
            }
        }
        Ok(())
    }
}

/// The tag of the field that was skipped; `None` at the end.
fn skip_field(buffer: &mut &[u8]) -> Result<Option<u32>, DecodeError> {
    if !buffer.has_remaining() {
        return Ok(None);
    }
    let (tag, wire_type) = encoding::decode_key(buffer)?;
    encoding::skip_field(wire_type, tag, buffer, DecodeContext::default())?;
    Ok(Some(tag))
}

/// Protobuf with bounded batches. Sends `T`, receives `U`.
#[derive(Debug)]
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(ProstDecoder::default())
    }
}

/// See [`BoundedCodec`].
#[derive(Debug)]
pub struct BoundedDecoder<U>(ProstDecoder<U>);

impl<U: Message + Default + 'static> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        if let Some(field) = bounded_field::<U>() {
            // The transport keeps a message in one piece.
            field.check(buffer.chunk())?;
        }
        self.0.decode(buffer)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost_types::FileDescriptorSet;
    use prost_types::field_descriptor_proto::Label;
    use tonic::Code;

    use super::*;
    use crate::FILE_DESCRIPTOR_SET;
    use crate::kvrpc::{GetRequest, KeyValue};

    fn check<T: 'static>(message: &[u8]) -> Result<(), Fault> {
        bounded_field::<T>().expect("bounded").check(message)
    }

    #[test]
    fn a_batch_at_the_limit_passes_and_one_entry_more_is_refused_by_name() {
        let batch = |count| RawBatchPutRequest {
            context: None,
            entries: vec![KeyValue::default(); count],
        };
        let encoded = batch(BATCH_ENTRIES_MAX).encode_to_vec();
        assert_eq!(check::<RawBatchPutRequest>(&encoded), Ok(()));
        let encoded = batch(BATCH_ENTRIES_MAX + 1).encode_to_vec();
        let fault = check::<RawBatchPutRequest>(&encoded).expect_err("refused");
        assert_eq!(fault.code, Code::InvalidArgument);
        assert_eq!((fault.field, fault.limit), ("entries", Some(4096)));
        let keys = vec![Bytes::from_static(b"k"); BATCH_ENTRIES_MAX + 1];
        let encoded = BatchGetRequest {
            context: None,
            keys,
        };
        let fault = check::<BatchGetRequest>(&encoded.encode_to_vec()).expect_err("refused");
        assert_eq!(fault.field, "keys");
    }

    #[test]
    fn other_fields_are_not_counted_and_garbage_is_left_to_the_decoder() {
        let unknown = [15 << 3 | 2, 0].repeat(2 * BATCH_ENTRIES_MAX);
        assert_eq!(check::<RawBatchGetRequest>(&unknown), Ok(()));
        assert_eq!(check::<RawBatchGetRequest>(&[0xff; 9]), Ok(()));
        assert_eq!(bounded_field::<GetRequest>(), None);
    }

    #[test]
    fn every_repeated_field_of_a_request_is_bounded() {
        let descriptors = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("well formed");
        let files = || descriptors.file.iter();
        let services = files().flat_map(|file| &file.service);
        // Its codec bounds its commands by itself.
        let services = services.filter(|service| service.name() != "KvBatch");
        let inputs: Vec<&str> = services
            .flat_map(|service| &service.method)
            .map(|method| method.input_type())
            .collect();
        let repeated = files().flat_map(|file| {
            let messages = file.message_type.iter().filter(|message| {
                let name = format!(".{}.{}", file.package(), message.name());
                inputs.contains(&name.as_str())
            });
            messages.flat_map(|message| {
                let fields = message.field.iter();
                let repeated = fields.filter(|field| field.label() == Label::Repeated);
                repeated.map(|field| (message.name(), field.number(), field.name()))
            })
        });
        let mut repeated: Vec<_> = repeated.collect();
        repeated.sort_unstable();
        let known = [
            ("BatchGetRequest", 2, "keys"),
            ("RawBatchGetRequest", 2, "keys"),
            ("RawBatchPutRequest", 2, "entries"),
        ];
        assert_eq!(repeated, known, "bounded_field has to know it");
    }
}
