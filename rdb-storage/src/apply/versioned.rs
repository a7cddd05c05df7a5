//! Compare-and-swap and compare-and-delete.
//!
//! A key that exists goes from version v to v + 1. A key that does not exist starts at floor + 1, and deleting version v
//! raises the region's floor to at least v: so no key ever shows the same version twice.

use bytes::Bytes;

use super::Batch;
use crate::engine::Family;
use crate::keys::versioned::encode;

/// `version` is the key's present version, which the command has expected.
impl Batch<'_> {
    /// Writes `value` and returns the key's new version.
    pub(super) fn swap(&mut self, region_id: u64, key: &Bytes, version: u64, value: &Bytes) -> u64 {
        // Both grow by one per write, so neither comes near the end of u64.
        let version = match version {
            0 => self.overlay.floor(region_id) + 1,
            version => version + 1,
        };
        self.write_batch.put_cf(
            self.engine.family(Family::Versioned),
            key,
            encode(version, value),
        );
        self.overlay.put(key, version, value);
        version
    }

    pub(super) fn delete_version(&mut self, region_id: u64, key: &Bytes, version: u64) {
        self.overlay.raise_floor(region_id, version);
        self.write_batch
            .delete_cf(self.engine.family(Family::Versioned), key);
        self.overlay.delete(key);
    }
}
