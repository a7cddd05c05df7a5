//! Column family `raft_state`: `[0x06][u64 region id]` → `[u8 format = 1][u64 peer id]`, the last peer of the region that was destroyed
//! on this store. Late messages to it, or to one before it, must not bring it back: ids of peers grow.

use bytes::Buf;

use super::DecodeError;
use super::fields::decode_all;

const TAG: u8 = 0x06;
const FORMAT: u8 = 1;

/// The key of a region's tombstone.
pub fn key(region_id: u64) -> [u8; 9] {
    super::of_region(TAG, region_id)
}

/// First key of all tombstones, and first key behind them.
pub fn range() -> ([u8; 1], [u8; 1]) {
    ([TAG], [TAG + 1])
}

/// The region of a key.
///
/// # Errors
///
/// When it is not of the form that the module documents.
pub fn region_id(key: &[u8]) -> Result<u64, DecodeError> {
    decode_all("key of a tombstone", TAG, key, |rest| {
        Ok(rest.try_get_u64()?)
    })
}

/// The record of a tombstone.
pub fn encode(peer_id: u64) -> [u8; 9] {
    super::of_region(FORMAT, peer_id)
}

/// The peer of a record.
///
/// # Errors
///
/// When it is not of the form that the module documents.
pub fn decode(record: &[u8]) -> Result<u64, DecodeError> {
    decode_all("tombstone", FORMAT, record, |rest| Ok(rest.try_get_u64()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        assert_eq!(key(0x0203), [6, 0, 0, 0, 0, 0, 0, 2, 3]);
        assert_eq!(region_id(&key(0x0203)), Ok(0x0203));
        assert_eq!(encode(7), [1, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(decode(&encode(7)), Ok(7));
        assert!(decode(&[1; 8]).is_err());
        assert!(decode(&[2; 9]).is_err());
    }
}
