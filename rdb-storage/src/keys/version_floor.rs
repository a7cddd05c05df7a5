//! Column family `raft_state`: `[0x01][u64 region id]` → `[u64 version floor]`.
//!
//! The floor is the highest version that a deleted key of the region has had; a created key starts one above it. An
//! absent record is a floor of 0: nothing was ever deleted.

use super::DecodeError;

const TAG: u8 = 0x01;

/// The key of a region's floor.
pub fn key(region_id: u64) -> [u8; 9] {
    super::of_region(TAG, region_id)
}

/// The record of a floor.
pub fn encode(floor: u64) -> [u8; 8] {
    floor.to_be_bytes()
}

/// The floor of a record.
///
/// # Errors
///
/// When the record is not 8 bytes long, or holds a floor that no deletion leaves.
pub fn decode(record: &[u8]) -> Result<u64, DecodeError> {
    let error = |problem| DecodeError {
        what: "version floor",
        bytes: record.len(),
        problem,
    };
    let floor = record
        .try_into()
        .map_err(|_| error("it should have 8 bytes"))?;
    match u64::from_be_bytes(floor) {
        u64::MAX => Err(error("it is out of range")),
        floor => Ok(floor),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_bytes() {
        assert_eq!(key(0x0203), [1, 0, 0, 0, 0, 0, 0, 2, 3]);
        assert_eq!(encode(10), [0, 0, 0, 0, 0, 0, 0, 10]);
        assert!(decode(&[0; 7]).is_err());
        assert!(decode(&[0xff; 8]).is_err());
    }

    proptest! {
        #[test]
        fn decodes_what_was_encoded(floor in 0..u64::MAX) {
            prop_assert_eq!(decode(&encode(floor)), Ok(floor));
        }
    }
}
