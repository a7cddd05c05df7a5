//! A vote: `[u8 format = 1][u64 term][u64 peer id][u8 committed]`, the last 0 or 1.

use bytes::{Buf, BufMut};

use super::{DecodeError, Problem, decode_all};
use crate::types::Vote;

const FORMAT: u8 = 1;
const BYTES: usize = 18;

/// The encoding that the module documents.
pub fn encode(vote: &Vote) -> [u8; BYTES] {
    let mut encoded = [0; BYTES];
    let mut rest = &mut encoded[..];
    rest.put_u8(FORMAT);
    rest.put_u64(vote.leader_id.term);
    rest.put_u64(vote.leader_id.voted_for);
    rest.put_u8(u8::from(vote.committed));
    encoded
}

/// The vote of its encoding.
///
/// # Errors
///
/// When the bytes are not what the module documents.
pub fn decode(encoded: &[u8]) -> Result<Vote, DecodeError> {
    decode_all("vote", FORMAT, encoded, decode_fields)
}

fn decode_fields(rest: &mut &[u8]) -> Result<Vote, Problem> {
    let (term, peer_id) = (rest.try_get_u64()?, rest.try_get_u64()?);
    match rest.try_get_u8()? {
        0 => Ok(Vote::new(term, peer_id)),
        1 => Ok(Vote::new_committed(term, peer_id)),
        _ => Err(Problem("it is neither committed nor not")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_bytes_of_format_1() {
        let golden = b"\x01\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\x02\x03\x01";
        assert_eq!(encode(&Vote::new_committed(7, 0x0203)), *golden);
        assert_eq!(decode(golden), Ok(Vote::new_committed(7, 0x0203)));
    }

    proptest! {
        #[test]
        fn decodes_what_was_encoded(term: u64, peer_id: u64, committed: bool) {
            let mut vote = Vote::new(term, peer_id);
            vote.committed = committed;
            prop_assert_eq!(decode(&encode(&vote)), Ok(vote));
        }

        #[test]
        fn any_bytes_are_refused_or_read_but_never_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
            let encoded = [&[FORMAT][..], &bytes].concat();
            if let Ok(vote) = decode(&encoded) {
                prop_assert_eq!(&encode(&vote)[..], encoded);
            }
        }
    }
}
