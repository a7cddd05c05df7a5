//! Counts the entries and the fields of a message while it arrives, and refuses it at the first one too many.
//!
//! An empty entry has two bytes on the wire and a hundred in memory. A message of 8 MiB may hold four million of them, and
//! decoding it would take fifty times its size. Other fields take no memory when they come again and again, but decoding
//! four million of them takes a worker's time. So all are counted before anything is decoded, and the rest of a message
//! with too many is not received. Fields within a field are not counted. So entries that have lists themselves are short.

use tonic::Code;

use crate::error::Fault;
use crate::errorpb::Fate;

/// Most fields of a message beside its entries. Far more than any message has, so that later releases can add some.
const OTHER_FIELDS_MAX: usize = 16;

/// Most fields of a message without entries.
const FIELDS_MAX: usize = 64;

/// A repeated field of a request, and how often it may occur in a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BoundedField {
    pub(super) tag: u64,
    pub(super) name: &'static str,
    pub(super) count_max: usize,
    /// Longest entry, in bytes.
    pub(super) entry_bytes_max: u64,
    /// The code of the answer to a message with more or longer ones.
    pub(super) code: Code,
}

impl BoundedField {
    fn too_many(&self) -> Fault {
        let Self {
            name, count_max, ..
        } = self;
        let cause = format!("the message has more than {count_max} {name}");
        self.fault(*count_max as u64, cause)
    }

    fn too_long(&self, bytes: u64) -> Fault {
        let Self {
            name,
            entry_bytes_max,
            ..
        } = self;
        let cause = format!("one of {name} has {bytes} bytes; it has at most {entry_bytes_max}");
        self.fault(*entry_bytes_max, cause)
    }

    fn fault(&self, limit: u64, cause: String) -> Fault {
        Fault {
            code: self.code,
            ..Fault::invalid_argument(self.name, Some(limit), cause)
        }
    }
}

/// Counts the fields of one message after the other, in parts of any length. Nothing is counted from the first malformed
/// byte of a message on, since the decoder refuses the message.
#[derive(Debug)]
pub(super) struct FieldCounter {
    /// The field whose entries are counted by themselves.
    field: Option<&'static BoundedField>,
    /// How often it has occurred.
    count: usize,
    /// How many fields have begun, those within groups included.
    fields: usize,
    step: Step,
    /// The bits of an unfinished varint, and how many there are.
    varint: (u64, u32),
    /// How many groups are open. Fields within a group are not fields of the message.
    groups: usize,
}

/// What the next byte is.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The varint of a field's tag and wire type.
    Key,
    /// A varint that is a field's value.
    Value,
    /// The varint of a field's length.
    Length,
    /// The varint of the length of an entry of this field.
    EntryLength(&'static BoundedField),
    /// One of this many remaining bytes of a field.
    Bytes(u64),
}

impl Step {
    fn bytes(count: u64) -> Self {
        if count == 0 {
            Self::Key
        } else {
            Self::Bytes(count)
        }
    }
}

const MALFORMED: Step = Step::Bytes(u64::MAX);

impl FieldCounter {
    /// `field` is the repeated one.
    pub(super) fn new(field: Option<&'static BoundedField>) -> Self {
        Self {
            field,
            count: 0,
            fields: 0,
            step: Step::Key,
            varint: (0, 0),
            groups: 0,
        }
    }

    /// Starts counting a new message.
    pub(super) fn begin_message(&mut self) {
        *self = Self::new(self.field);
    }

    /// Counts the fields that begin in the next part of the message.
    ///
    /// # Errors
    ///
    /// When the message has too many of the repeated field, or of all.
    pub(super) fn advance(&mut self, mut part: &[u8]) -> Result<(), Fault> {
        while let [byte, rest @ ..] = part {
            if let Step::Bytes(missing) = self.step {
                let arrived = part
                    .len()
                    .min(usize::try_from(missing).unwrap_or(usize::MAX));
                self.step = Step::bytes(missing - arrived as u64);
                part = &part[arrived..];
                continue;
            }
            part = rest;
            if let Some(varint) = self.finish_varint(*byte) {
                self.step = match self.step {
                    Step::Key => self.begin_field(varint)?,
                    Step::Value => Step::Key,
                    Step::EntryLength(field) if varint > field.entry_bytes_max => {
                        return Err(field.too_long(varint));
                    }
                    Step::Length | Step::EntryLength(_) | Step::Bytes(_) => Step::bytes(varint),
                };
            }
        }
        Ok(())
    }

    fn finish_varint(&mut self, byte: u8) -> Option<u64> {
        let (bits, count) = &mut self.varint;
        *bits |= u64::from(byte & 0x7f) << *count;
        if byte < 0x80 {
            return Some(std::mem::take(&mut self.varint).0);
        }
        *count += 7;
        if *count > 63 {
            self.step = MALFORMED;
        }
        None
    }

    fn begin_field(&mut self, key: u64) -> Result<Step, Fault> {
        let (tag, wire_type) = (key >> 3, key & 7);
        if tag == 0 {
            return Ok(MALFORMED);
        }
        let mut fields_max = FIELDS_MAX;
        let mut length = Step::Length;
        if let Some(field) = self.field {
            fields_max = field.count_max + OTHER_FIELDS_MAX;
            if self.groups == 0 && tag == field.tag {
                length = Step::EntryLength(field);
                self.count += 1;
                if self.count > field.count_max {
                    return Err(field.too_many());
                }
            }
        }
        self.fields += 1;
        if self.fields > fields_max {
            let cause = format!("the message has more than {fields_max} fields");
            return Err(Fault::new(Code::OutOfRange, cause).with_fate(Fate::NotApplied));
        }
        Ok(match wire_type {
            0 => Step::Value,
            1 => Step::Bytes(8),
            2 => length,
            3 => {
                self.groups += 1;
                Step::Key
            }
            4 if self.groups > 0 => {
                self.groups -= 1;
                Step::Key
            }
            5 => Step::Bytes(4),
            _ => MALFORMED,
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message;

    use super::super::limits::{BATCH_COMMANDS_MAX, BATCH_ENTRIES_MAX};
    use super::super::methods::Method;
    use super::*;
    use crate::kvrpc::{KeyValue, RawBatchGetRequest, RawBatchPutRequest};
    use crate::metapb::{Context, Peer, RegionEpoch};
    use crate::pdpb::{RegionReport, StoreHeartbeatRequest};

    const HEARTBEAT: &str = "/pdpb.Pd/StoreHeartbeat";
    const PUT: &str = "/kvrpc.KvRaw/RawBatchPut";
    const ENTRY: [u8; 2] = [2 << 3 | 2, 0];

    fn counter(path: &str) -> FieldCounter {
        FieldCounter::new(Method::of(path).bounded.as_ref())
    }

    fn check(path: &str, message: &[u8]) -> Result<(), Fault> {
        counter(path).advance(message)
    }

    #[test]
    fn a_batch_at_the_limit_passes_and_one_entry_more_is_refused_by_name() {
        let batch = |count| {
            let entries = vec![KeyValue::default(); count];
            let context = Some(Context::default());
            let batch = RawBatchPutRequest { context, entries };
            batch.encode_to_vec()
        };
        assert_eq!(check(PUT, &batch(BATCH_ENTRIES_MAX)), Ok(()));
        let fault = check(PUT, &batch(BATCH_ENTRIES_MAX + 1)).expect_err("refused");
        assert_eq!(fault.code, Code::InvalidArgument);
        assert_eq!((fault.field, fault.limit), ("entries", Some(4096)));
        let keys = vec![Bytes::from_static(b"k"); BATCH_ENTRIES_MAX + 1];
        let keys = RawBatchGetRequest {
            context: None,
            keys,
        };
        let fault = check("/kvrpc.KvCas/BatchGet", &keys.encode_to_vec()).expect_err("refused");
        assert_eq!(fault.field, "keys");
    }

    #[test]
    fn an_entry_that_has_a_list_is_bounded_in_bytes() {
        let report = |peers| RegionReport {
            region_id: u64::MAX,
            peer_id: u64::MAX,
            term: u64::MAX,
            epoch: Some(RegionEpoch {
                conf_version: u64::MAX,
                version: u64::MAX,
            }),
            peers,
        };
        let longest = Peer {
            id: u64::MAX,
            store_id: u64::MAX,
        };
        let heartbeat = |report| {
            let leads = vec![report; 2];
            let heartbeat = StoreHeartbeatRequest {
                leads,
                ..StoreHeartbeatRequest::default()
            };
            heartbeat.encode_to_vec()
        };
        assert_eq!(
            check(HEARTBEAT, &heartbeat(report(vec![longest; 16]))),
            Ok(())
        );
        let many = heartbeat(report(vec![Peer::default(); 512]));
        for cut in [1, 7, many.len()] {
            let mut counter = counter(HEARTBEAT);
            let mut parts = many.chunks(cut);
            let refused = parts.find_map(|part| counter.advance(part).err());
            let refused = refused.expect("too long");
            assert_eq!(refused.code, Code::InvalidArgument);
            assert_eq!((refused.field, refused.limit), ("leads", Some(512)));
        }
    }

    #[test]
    fn each_message_of_a_stream_has_its_own_count() {
        let mut counter = counter("/kvrpc.KvBatch/Batch");
        let most = [3 << 3 | 2, 0].repeat(BATCH_COMMANDS_MAX);
        for _ in 0..2 {
            counter.begin_message();
            assert_eq!(counter.advance(&most), Ok(()));
        }
        let refused = counter.advance(&[3 << 3 | 2]).expect_err("one too many");
        assert_eq!(refused.code, Code::OutOfRange);
    }

    #[test]
    fn what_is_not_the_field_is_not_counted_and_garbage_is_left_to_the_decoder() {
        for other in [
            // Field 15 in each wire type, as often as fields beside the entries may occur.
            &[15 << 3 | 2, 1, 2 << 3 | 2][..],
            &[15 << 3, 0x80, 1],
            &[15 << 3 | 1, 18, 18, 18, 18, 18, 18, 18, 18],
            &[15 << 3 | 5, 18, 18, 18, 18],
            &[15 << 3 | 3, 2 << 3 | 2, 0, 15 << 3 | 4],
            // Varints without an end, tag 0, an unknown wire type, the end of no group.
            &[0xff; 11],
            &[0],
            &[2 << 3 | 6],
            &[2 << 3 | 4],
        ] {
            // A group counts twice, and what is in it counts, too.
            let other = other.repeat(OTHER_FIELDS_MAX / 3);
            let most = [ENTRY.repeat(BATCH_ENTRIES_MAX - 1), other].concat();
            assert_eq!(check(PUT, &most), Ok(()));
        }
    }

    #[test]
    fn a_message_of_too_many_fields_is_refused_whatever_they_are() {
        const GET: &str = "/kvrpc.KvRaw/RawGet";
        let batch_max = BATCH_ENTRIES_MAX + OTHER_FIELDS_MAX;
        for (path, fields_max) in [
            (GET, FIELDS_MAX),
            ("/pdpb.Pd/GetRegion", FIELDS_MAX),
            (PUT, batch_max),
        ] {
            for field in [
                &[1 << 3 | 2, 0][..],
                &[15 << 3 | 2, 1, 0],
                &[15 << 3, 0],
                &[15 << 3 | 5, 0, 0, 0, 0],
            ] {
                assert_eq!(check(path, &field.repeat(fields_max)), Ok(()), "{path}");
                let refused = check(path, &field.repeat(fields_max + 1)).expect_err("one too many");
                assert_eq!(
                    (refused.code, refused.fate),
                    (Code::OutOfRange, Fate::NotApplied)
                );
            }
        }
        let nested = [[15 << 3 | 3; 40], [15 << 3 | 4; 40]].concat();
        assert!(check(GET, &nested).is_err());
    }

    proptest! {
        #[test]
        fn entries_are_counted_as_the_decoder_does_however_they_are_cut(
            sizes in prop::collection::vec(0_usize..300, 0..20),
            unknown in prop::collection::vec(any::<u8>(), 0..20),
            cut in 1_usize..40,
        ) {
            let entries = sizes.iter().map(|&size| KeyValue { key: vec![18; size].into(), ..KeyValue::default() });
            let batch = RawBatchPutRequest { context: None, entries: entries.collect() };
            let mut message = batch.encode_to_vec();
            message.extend(unknown);
            let mut counter = counter(PUT);
            for part in message.chunks(cut) {
                counter.advance(part).expect("few");
            }
            match RawBatchPutRequest::decode(message.as_slice()) {
                Ok(decoded) => prop_assert_eq!(counter.count, decoded.entries.len()),
                Err(_) => prop_assert!(counter.count >= sizes.len()),
            }
        }
    }
}
