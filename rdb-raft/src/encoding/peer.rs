//! Whose log it is: `[u8 format = 1][u64 peer id]`.

use bytes::{Buf, BufMut};

use super::{DecodeError, decode_all};

const FORMAT: u8 = 1;
const BYTES: usize = 9;

/// The encoding that the module documents.
pub fn encode(peer_id: u64) -> [u8; BYTES] {
    let mut encoded = [0; BYTES];
    let mut rest = &mut encoded[..];
    rest.put_u8(FORMAT);
    rest.put_u64(peer_id);
    encoded
}

/// The peer of its encoding.
///
/// # Errors
///
/// When the bytes are not what the module documents.
pub fn decode(encoded: &[u8]) -> Result<u64, DecodeError> {
    decode_all("owner of a log", FORMAT, encoded, |rest| {
        Ok(rest.try_get_u64()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_format_1() {
        assert_eq!(encode(0x0203), *b"\x01\0\0\0\0\0\0\x02\x03");
        assert_eq!(decode(&encode(0x0203)), Ok(0x0203));
        assert!(decode(b"").is_err());
        assert!(decode(&[1; 8]).is_err());
        assert!(decode(&[1; 10]).is_err());
        assert!(decode(&[2; 9]).is_err());
    }
}
