//! Column family `cas`: versioned key → `[u64 big-endian version][value bytes]`.
//!
//! A version is at least 1 and below `u64::MAX`, so that it can always grow.

use super::DecodeError;

const VERSION_BYTES: usize = size_of::<u64>();

/// The record of `value` at `version`.
pub fn encode(version: u64, value: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(VERSION_BYTES + value.len());
    record.extend_from_slice(&version.to_be_bytes());
    record.extend_from_slice(value);
    record
}

/// The version and the value of a record.
///
/// # Errors
///
/// When the record is too short to have a version, or has one that no write produces.
pub fn decode(record: &[u8]) -> Result<(u64, &[u8]), DecodeError> {
    let error = |problem| DecodeError {
        what: "versioned record",
        bytes: record.len(),
        problem,
    };
    let (version, value) = record
        .split_first_chunk::<VERSION_BYTES>()
        .ok_or_else(|| error("it is shorter than its version"))?;
    match u64::from_be_bytes(*version) {
        0 | u64::MAX => Err(error("its version is out of range")),
        version => Ok((version, value)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_bytes() {
        assert_eq!(encode(1, b"v"), b"\0\0\0\0\0\0\0\x01v");
        assert_eq!(encode(0x0102_0304_0506_0708, b""), [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn records_that_no_write_produces_are_refused() {
        for record in [
            &b""[..],
            b"\0\0\0\0\0\0\x01",
            b"\0\0\0\0\0\0\0\0v",
            &[0xff; 8],
        ] {
            assert!(decode(record).is_err(), "{record:?}");
        }
    }

    proptest! {
        #[test]
        fn decodes_what_was_encoded(version in 1..u64::MAX, value: Vec<u8>) {
            let record = encode(version, &value);
            prop_assert_eq!(decode(&record), Ok((version, value.as_slice())));
        }
    }
}
