//! A log id: `[u8 format = 1][u64 term][u64 index]`.

use bytes::{Buf, BufMut};

use super::{DecodeError, Problem, decode_all};
use crate::types::LogId;

const FORMAT: u8 = 1;
pub(super) const BYTES: usize = 17;

/// The encoding that the module documents.
pub fn encode(log_id: &LogId) -> [u8; BYTES] {
    let mut encoded = [0; BYTES];
    let mut rest = &mut encoded[..];
    rest.put_u8(FORMAT);
    rest.put_u64(log_id.leader_id.term);
    rest.put_u64(log_id.index);
    encoded
}

/// The log id of its encoding.
///
/// # Errors
///
/// When the bytes are not what the module documents.
pub fn decode(encoded: &[u8]) -> Result<LogId, DecodeError> {
    decode_all("log id", FORMAT, encoded, decode_fields)
}

fn decode_fields(rest: &mut &[u8]) -> Result<LogId, Problem> {
    let (term, index) = (rest.try_get_u64()?, rest.try_get_u64()?);
    Ok(LogId::new_term_index(term, index))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_bytes_of_format_1() {
        let golden = b"\x01\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\x02\x03";
        assert_eq!(encode(&LogId::new_term_index(7, 0x0203)), *golden);
        assert_eq!(decode(golden), Ok(LogId::new_term_index(7, 0x0203)));
    }

    proptest! {
        #[test]
        fn decodes_what_was_encoded(term: u64, index: u64) {
            let log_id = LogId::new_term_index(term, index);
            prop_assert_eq!(decode(&encode(&log_id)), Ok(log_id));
        }

        #[test]
        fn any_bytes_are_refused_or_read_but_never_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
            let encoded = [&[FORMAT][..], &bytes].concat();
            if let Ok(log_id) = decode(&encoded) {
                prop_assert_eq!(&encode(&log_id)[..], encoded);
            }
        }
    }
}
