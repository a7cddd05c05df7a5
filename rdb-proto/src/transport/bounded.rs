//! Counts the entries and the fields of a message while it arrives, and refuses it at the first one too many.
//!
//! An empty entry has two bytes on the wire and a hundred in memory. A message of 8 MiB may hold four million of them, and
//! decoding it would take fifty times its size. Other fields take no memory when they are repeated, but decoding four
//! million of them takes a worker's time. So all are counted before anything is decoded, and the rest of a message with too
//! many is not received. Fields within a field are counted only if a [`BoundedField`] names a repeated one there. Other
//! entries with lists inside are short.

use tonic::Code;

use crate::error::Fault;
use crate::errorpb::Fate;

/// Most fields of a message beside its entries. Far more than any message has, so that later releases can add some.
const OTHER_FIELDS_MAX: usize = 16;

/// Most fields of a message without entries.
const FIELDS_MAX: usize = 64;

/// How deep entries are counted: those of the message, those within them, and so on.
const LEVELS: usize = 3;

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
    /// The field within each entry that is repeated, or has one that is, and how often it may occur in all entries of a message.
    pub(super) within: Option<&'static BoundedField>,
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
    /// The message, and the entries that are open in it, each within the one before.
    levels: [Level; LEVELS],
    /// The level of the next byte.
    depth: usize,
    step: Step,
    /// The bits of an unfinished varint, and how many there are.
    varint: (u64, u32),
}

/// A message, or all entries of one kind.
#[derive(Debug, Clone, Copy, Default)]
struct Level {
    /// The field whose entries are counted by themselves.
    field: Option<&'static BoundedField>,
    /// How often it has occurred in the message.
    count: usize,
    /// How many fields have begun at this level, those within groups included.
    fields: usize,
    /// How many bytes of the present entry are not accounted for by a step.
    rest: u64,
    /// How many groups are open. Fields within a group are not fields of the level.
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
        let mut levels = [Level::default(); LEVELS];
        let mut next = field;
        for level in &mut levels {
            level.field = next;
            next = next.and_then(|field| field.within);
        }
        // The length of the message does not count as its bytes.
        levels[0].rest = u64::MAX;
        Self {
            levels,
            depth: 0,
            step: Step::Key,
            varint: (0, 0),
        }
    }

    /// Starts counting a new message.
    pub(super) fn begin_message(&mut self) {
        *self = Self::new(self.levels[0].field);
    }

    /// Counts the fields that begin in the next part of the message.
    ///
    /// # Errors
    ///
    /// When the message has too many of a repeated field, or of all.
    pub(super) fn advance(&mut self, mut part: &[u8]) -> Result<(), Fault> {
        while let [byte, rest @ ..] = part {
            if let Step::Bytes(missing) = self.step {
                let arrived = part
                    .len()
                    .min(usize::try_from(missing).unwrap_or(usize::MAX));
                self.step = Step::bytes(missing - arrived as u64);
                part = &part[arrived..];
            } else {
                part = rest;
                self.step = self.read(*byte)?;
            }
            self.leave();
        }
        Ok(())
    }

    /// Reads a byte of a varint. Returns what the next one is.
    fn read(&mut self, byte: u8) -> Result<Step, Fault> {
        if !self.take(1) {
            return Ok(MALFORMED);
        }
        let Some(varint) = self.finish_varint(byte) else {
            return Ok(self.step);
        };
        Ok(match self.step {
            Step::Key => self.begin_field(varint)?,
            Step::Value => Step::Key,
            Step::EntryLength(field) if varint > field.entry_bytes_max => {
                return Err(field.too_long(varint));
            }
            Step::EntryLength(BoundedField {
                within: Some(_), ..
            }) => self.enter(varint),
            Step::Length | Step::EntryLength(_) | Step::Bytes(_) => self.skip(varint),
        })
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
        let parents = match self.depth {
            0 => 1,
            depth => self.levels[depth - 1].count,
        };
        let level = &mut self.levels[self.depth];
        let mut fields_max = FIELDS_MAX;
        let mut length = Step::Length;
        if let Some(field) = level.field {
            fields_max = field.count_max + OTHER_FIELDS_MAX * parents;
            if level.groups == 0 && tag == field.tag {
                length = Step::EntryLength(field);
                level.count += 1;
                if level.count > field.count_max {
                    return Err(field.too_many());
                }
            }
        }
        level.fields += 1;
        if level.fields > fields_max {
            let cause = format!("the message has more than {fields_max} fields");
            return Err(Fault::new(Code::OutOfRange, cause).with_fate(Fate::NotApplied));
        }
        Ok(match wire_type {
            0 => Step::Value,
            1 => self.skip(8),
            2 => length,
            3 => {
                level.groups += 1;
                Step::Key
            }
            4 if level.groups > 0 => {
                level.groups -= 1;
                Step::Key
            }
            5 => self.skip(4),
            _ => MALFORMED,
        })
    }

    /// Takes bytes of the present entry, unless it has less.
    fn take(&mut self, bytes: u64) -> bool {
        let rest = &mut self.levels[self.depth].rest;
        let left = rest.checked_sub(bytes);
        *rest = left.unwrap_or_default();
        left.is_some()
    }

    fn skip(&mut self, bytes: u64) -> Step {
        if self.take(bytes) {
            Step::bytes(bytes)
        } else {
            MALFORMED
        }
    }

    /// Goes into an entry of that length.
    fn enter(&mut self, bytes: u64) -> Step {
        if !self.take(bytes) {
            return MALFORMED;
        }
        self.depth += 1;
        self.levels[self.depth].rest = bytes;
        Step::Key
    }

    /// Leaves the entries that have ended.
    fn leave(&mut self) {
        while matches!(self.step, Step::Key) && self.depth > 0 {
            let level = &self.levels[self.depth];
            if level.rest > 0 {
                return;
            }
            if level.groups > 0 || self.varint.1 > 0 {
                self.step = MALFORMED;
                return;
            }
            self.depth -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message;

    use super::super::limits::{
        BATCH_COMMANDS_MAX, BATCH_ENTRIES_MAX, RAFT_ENTRIES_MAX, RAFT_ITEMS_MAX,
    };
    use super::super::methods::Method;
    use super::*;
    use crate::batch::push_trace;
    use crate::kvrpc::{
        BatchCommand, BatchRequest, KeyValue, RawBatchGetRequest, RawBatchPutRequest,
    };
    use crate::metapb::{Context, Peer, RegionEpoch};
    use crate::pdpb::{RegionReport, StoreHeartbeatRequest};
    use crate::raftpb::{Append, Entry, Envelope, Item, LogId, item};
    use crate::trace::TraceContext;

    const HEARTBEAT: &str = "/pdpb.Pd/StoreHeartbeat";
    const PUT: &str = "/kvrpc.KvRaw/RawBatchPut";
    const ENTRY: [u8; 2] = [2 << 3 | 2, 0];

    fn counter(path: &str) -> FieldCounter {
        FieldCounter::new(Method::of(path).bounded)
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

    /// Releases that do not know the field have these bounds, too.
    #[test]
    fn a_message_of_the_most_commands_can_have_a_trace_for_each() {
        let mut traces = Vec::new();
        for position in 0..BATCH_COMMANDS_MAX {
            let trace = TraceContext::new([1; 16], [1; 8], true).expect("no zeros");
            push_trace(&mut traces, position, &trace);
        }
        let message = BatchRequest {
            cluster_id: u64::MAX,
            store_id: u64::MAX,
            commands: vec![BatchCommand::default(); BATCH_COMMANDS_MAX],
            traces: traces.into(),
        };
        assert_eq!(
            check("/kvrpc.KvBatch/Batch", &message.encode_to_vec()),
            Ok(())
        );
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
            live: Some(u32::MAX),
            bytes: Some(u64::MAX),
        };
        let longest = Peer {
            id: u64::MAX,
            store_id: u64::MAX,
            learner: true,
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

    const BULK: &str = "/raftpb.RaftPeer/Bulk";

    /// An envelope whose items have that many entries.
    fn envelope(entry_counts: &[usize]) -> Envelope {
        let item = |&count: &usize| Item {
            group_id: u64::MAX,
            from_peer: u64::MAX,
            to_peer: u64::MAX,
            session: u64::MAX,
            sequence: u64::MAX,
            request: Some(item::Request::Append(Append {
                term: u64::MAX,
                previous: Some(LogId::default()),
                committed: Some(LogId::default()),
                entries: vec![Entry::default(); count],
            })),
        };
        Envelope {
            hello: None,
            items: entry_counts.iter().map(item).collect(),
        }
    }

    #[test]
    fn entries_within_entries_are_counted_over_all_of_a_message() {
        let most = [1024; RAFT_ENTRIES_MAX / 1024];
        let most = envelope(&most).encode_to_vec();
        let items = envelope(&[0; RAFT_ITEMS_MAX]).encode_to_vec();
        for cut in [1, 7, most.len()] {
            let mut counter = counter(BULK);
            for message in [&most, &items] {
                counter.begin_message();
                let counted = message
                    .chunks(cut)
                    .try_for_each(|part| counter.advance(part));
                assert_eq!(counted, Ok(()));
            }
        }
        let one_more = [most, envelope(&[1]).encode_to_vec()].concat();
        let refused = check(BULK, &one_more).expect_err("one too many");
        assert_eq!((refused.code, refused.field), (Code::OutOfRange, "entries"));
        // All in one append, which comes again and again.
        let append = [&[6 << 3 | 2, 2][..], &[4 << 3 | 2, 0]].concat();
        let item = append.repeat(RAFT_ITEMS_MAX + 1);
        let message = Envelope::decode(
            [&[2 << 3 | 2][..], &varint(item.len()), &item]
                .concat()
                .as_slice(),
        );
        assert_eq!(message.expect("it is one").items.len(), 1);
        let message = [&[2 << 3 | 2][..], &varint(item.len()), &item].concat();
        let refused = check(BULK, &message).expect_err("one too many");
        assert_eq!(refused.field, "appends");
        let other = [15 << 3, 0].repeat(2 * OTHER_FIELDS_MAX + RAFT_ITEMS_MAX);
        let message = [&[2 << 3 | 2][..], &varint(other.len()), &other].concat();
        assert!(check(BULK, &message).is_err(), "fields of an item");
    }

    fn varint(mut value: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    #[test]
    fn an_entry_that_ends_within_a_field_is_left_to_the_decoder() {
        let valid = envelope(&[3]).encode_to_vec();
        for item in [
            // A length, a fixed value, a varint and a group that reach beyond the item.
            &[15 << 3 | 2, 9, 0][..],
            &[15 << 3 | 1, 0],
            &[15 << 3, 0x80],
            &[15 << 3 | 3],
            &[6 << 3 | 2, 9, 0],
        ] {
            let item = [&[2 << 3 | 2, item.len() as u8][..], item].concat();
            let message = [&item[..], &valid.repeat(RAFT_ENTRIES_MAX)].concat();
            assert_eq!(check(BULK, &message), Ok(()));
            assert!(Envelope::decode(message.as_slice()).is_err());
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
        fn entries_within_entries_are_counted_as_the_decoder_does_however_they_are_cut(
            counts in prop::collection::vec(0_usize..5, 0..6),
            unknown in prop::collection::vec(any::<u8>(), 0..20),
            cut in 1_usize..40,
        ) {
            let mut message = envelope(&counts).encode_to_vec();
            message.extend(unknown);
            let mut counter = counter(BULK);
            for part in message.chunks(cut) {
                counter.advance(part).expect("few");
            }
            let entries = |item: &Item| match &item.request {
                Some(item::Request::Append(append)) => append.entries.len(),
                _ => 0,
            };
            match Envelope::decode(message.as_slice()) {
                // An item that is replaced by another request was counted before.
                Ok(decoded) => prop_assert!(
                    counter.levels[2].count >= decoded.items.iter().map(entries).sum()
                ),
                Err(_) => prop_assert!(counter.levels[2].count >= counts.iter().sum()),
            }
        }

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
                Ok(decoded) => prop_assert_eq!(counter.levels[0].count, decoded.entries.len()),
                Err(_) => prop_assert!(counter.levels[0].count >= sizes.len()),
            }
        }
    }
}
