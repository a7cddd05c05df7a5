//! An entry without its index, which is in the key:
//!
//! ```text
//! [u8 format = 1][u8 kind][u64 term][content]
//!
//! kind 0  blank          no content
//! kind 1  a payload      its bytes
//! kind 2  a membership   as the module `membership` says
//! ```

use bytes::{Buf, BufMut, Bytes};

use super::{DecodeError, Problem, decode_all, membership};
use crate::types::{Content, Entry, LogId, Payload};

const FORMAT: u8 = 1;

/// Appends the encoding that the module documents.
pub fn encode(entry: &Entry, encoded: &mut Vec<u8>) {
    encoded.put_u8(FORMAT);
    encoded.put_u8(match entry.payload {
        Content::Blank => 0,
        Content::Normal(_) => 1,
        Content::Membership(_) => 2,
    });
    encoded.put_u64(entry.log_id.leader_id.term);
    match &entry.payload {
        Content::Blank => {}
        Content::Normal(payload) => encoded.put_slice(&payload.0),
        Content::Membership(membership) => membership::encode(membership, encoded),
    }
}

/// The entry of an index and its encoding. A payload shares the buffer of `encoded`.
///
/// # Errors
///
/// When the bytes are not what the module documents.
pub fn decode(index: u64, encoded: Bytes) -> Result<Entry, DecodeError> {
    decode_all("log entry", FORMAT, encoded, |rest| {
        decode_fields(index, rest)
    })
}

fn decode_fields(index: u64, rest: &mut Bytes) -> Result<Entry, Problem> {
    let (kind, term) = (rest.try_get_u8()?, rest.try_get_u64()?);
    let payload = match kind {
        0 => Content::Blank,
        1 => Content::Normal(Payload(std::mem::take(rest))),
        2 => {
            let membership = membership::decode(&std::mem::take(rest));
            Content::Membership(membership.map_err(|error| Problem(error.problem))?)
        }
        _ => return Err(Problem("its kind is unknown")),
    };
    Ok(Entry {
        log_id: LogId::new_term_index(term, index),
        payload,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::types::{Membership, StoreNode};

    fn entry(payload: Content) -> Entry {
        Entry {
            log_id: LogId::new_term_index(7, 9),
            payload,
        }
    }

    fn encoded(entry: &Entry) -> Bytes {
        let mut encoded = Vec::new();
        encode(entry, &mut encoded);
        encoded.into()
    }

    /// The bytes are in logs. They never change; a new format is tested beside them.
    #[test]
    fn golden_bytes_of_format_1() {
        let golden = |content, bytes: &'static [u8]| {
            assert_eq!(encoded(&entry(content)), bytes);
            let decoded = decode(9, Bytes::from_static(bytes)).unwrap();
            assert_eq!(encoded(&decoded), bytes);
            assert_eq!(decoded.log_id, LogId::new_term_index(7, 9));
        };
        golden(Content::Blank, b"\x01\0\0\0\0\0\0\0\0\x07");
        let payload = Payload(Bytes::from_static(b"put"));
        let bytes = b"\x01\x01\0\0\0\0\0\0\0\x07put";
        golden(Content::Normal(payload), bytes);
        let nodes = BTreeMap::from([(3, StoreNode { store_id: 4 })]);
        let membership = Membership::new(vec![[3].into()], nodes).unwrap();
        let bytes = b"\x01\x02\0\0\0\0\0\0\0\x07\
            \x01\0\0\0\x01\0\0\0\x01\0\0\0\0\0\0\0\x03\0\0\0\x01\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04";
        golden(Content::Membership(membership), bytes);
    }

    #[test]
    fn what_cannot_have_been_written_is_refused() {
        let problem =
            |bytes: &'static [u8]| decode(9, Bytes::from_static(bytes)).unwrap_err().problem;
        assert_eq!(problem(b""), "its format is unknown");
        assert_eq!(
            problem(b"\x02\0\0\0\0\0\0\0\0\x07"),
            "its format is unknown"
        );
        assert_eq!(problem(b"\x01\0\0\0\0\0\0\0\0"), "it ends too early");
        assert_eq!(problem(b"\x01\0\0\0\0\0\0\0\0\x07x"), "bytes are left over");
        assert_eq!(
            problem(b"\x01\x03\0\0\0\0\0\0\0\x07"),
            "its kind is unknown"
        );
        assert_eq!(
            problem(b"\x01\x02\0\0\0\0\0\0\0\x07\x02"),
            "its format is unknown"
        );
    }

    #[test]
    fn a_payload_is_not_copied() {
        let bytes = encoded(&entry(Content::Normal(Payload(Bytes::from_static(
            b"payload",
        )))));
        let decoded = decode(9, bytes.clone()).unwrap();
        let Content::Normal(payload) = decoded.payload else {
            panic!("a payload was encoded");
        };
        assert_eq!(payload.0.as_ptr(), bytes[10..].as_ptr());
    }

    proptest! {
        #[test]
        fn decodes_what_was_encoded(
            term: u64, index: u64, kind in 0..3, payload: Vec<u8>,
            membership in membership::tests::membership(),
        ) {
            let payload = match kind {
                0 => Content::Blank,
                1 => Content::Normal(Payload(payload.into())),
                _ => Content::Membership(membership),
            };
            let entry = Entry { log_id: LogId::new_term_index(term, index), payload };
            prop_assert_eq!(decode(index, encoded(&entry)), Ok(entry));
        }

        #[test]
        fn any_bytes_are_refused_or_read_but_never_panic(kind in 0..4_u8, bytes: Vec<u8>) {
            let _ = decode(1, bytes.clone().into());
            let bytes = [&[FORMAT, kind][..], &bytes].concat();
            if let Ok(read) = decode(1, bytes.clone().into()) {
                prop_assert_eq!(encoded(&read), bytes);
            }
        }
    }
}
