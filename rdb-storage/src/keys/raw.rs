//! Column family `default`: raw key → value, both without a prefix or suffix.

use crate::limits::SCAN_BOUND_BYTES_MAX;

/// A bound above every legal key: longer than the longest key, and every byte is the highest.
pub const ABOVE_EVERY_KEY: [u8; SCAN_BOUND_BYTES_MAX] = [0xff; SCAN_BOUND_BYTES_MAX];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::KEY_BYTES_MAX;

    #[test]
    fn the_highest_legal_key_is_below_the_bound() {
        assert!([0xff; KEY_BYTES_MAX].as_slice() < ABOVE_EVERY_KEY.as_slice());
    }
}
