//! Column family `raft_state`: `[0x03][u64 region id]` → the applied position, opaque bytes that the owner of the region's
//! log chose.
//!
//! No record: the region has no first state, and no entry of a log was ever applied to it.

const TAG: u8 = 0x03;

/// The key of a region's applied position.
pub fn key(region_id: u64) -> [u8; 9] {
    super::of_region(TAG, region_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        assert_eq!(key(0x0203), [3, 0, 0, 0, 0, 0, 0, 2, 3]);
    }
}
