//! Column family `raft_state`: `[0x04][u64 region id]` → the membership as of the applied position, opaque bytes that the owner
//! of the region's log chose.
//!
//! No record: the region has no first state, and no membership was ever applied to it.

const TAG: u8 = 0x04;

/// The key of a region's membership.
pub fn key(region_id: u64) -> [u8; 9] {
    super::of_region(TAG, region_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        assert_eq!(key(0x0203), [4, 0, 0, 0, 0, 0, 0, 2, 3]);
    }
}
