//! Compare-and-swap and compare-and-delete.
//!
//! A key that exists goes from version v to v + 1. A key that does not exist starts at floor + 1, and deleting version v
//! raises the region's floor to at least v: so no key ever shows a version again that it has shown before.

use bytes::Bytes;

use super::Batch;
use crate::engine::Family;
use crate::keys::versioned::encode;

impl Batch<'_> {
    /// Writes `value` and returns the key's new version. `None`: its version is another than the expected one.
    pub(super) fn swap(
        &mut self,
        region_id: u64,
        key: &Bytes,
        expected_version: u64,
        value: &Bytes,
    ) -> Option<u64> {
        let current_version = self.overlay.version(key);
        if current_version != expected_version {
            return None;
        }
        // Both grow by one per write, so neither comes near the end of u64.
        let version = match current_version {
            0 => self.overlay.floor(region_id) + 1,
            version => version + 1,
        };
        self.write_batch.put_cf(
            self.engine.family(Family::Versioned),
            key,
            encode(version, value),
        );
        self.overlay.put(key, version, value);
        Some(version)
    }

    /// Deletes the key, unless its version is another than the expected one.
    pub(super) fn delete_version(
        &mut self,
        region_id: u64,
        key: &Bytes,
        expected_version: u64,
    ) -> bool {
        if self.overlay.version(key) != expected_version {
            return false;
        }
        self.overlay.raise_floor(region_id, expected_version);
        self.write_batch
            .delete_cf(self.engine.family(Family::Versioned), key);
        self.overlay.delete(key);
        true
    }
}
