//! Compare-and-swap and compare-and-delete.
//!
//! A key that exists goes from version v to v + 1. A key that does not exist starts at floor + 1, and deleting version v
//! raises the region's floor to at least v: so no key ever shows a version again that it has shown before.

use bytes::Bytes;

use super::Batch;
use super::overlay::Record;
use crate::command::Outcome;
use crate::engine::Family;
use crate::error::Error;
use crate::keys::versioned::encode;

impl Batch<'_> {
    pub(super) fn compare_and_swap(
        &mut self,
        region_id: u64,
        key: &Bytes,
        expected_version: u64,
        value: &Bytes,
    ) -> Result<Outcome, Error> {
        let current = self.overlay.record(key);
        let current_version = current.map_or(0, |record| record.version);
        if current_version != expected_version {
            return Ok(self.conflict(key));
        }
        // Both grow by one per write, so neither comes near the end of u64.
        let version = match current {
            Some(record) => record.version + 1,
            None => self.overlay.floor(self.engine, region_id)? + 1,
        };
        self.write_batch.put_cf(
            self.engine.family(Family::Versioned),
            key,
            encode(version, value),
        );
        self.overlay.put(key, Record::new(version, value));
        Ok(Outcome::Swapped { version })
    }

    pub(super) fn compare_and_delete(
        &mut self,
        region_id: u64,
        key: &Bytes,
        expected_version: u64,
    ) -> Result<Outcome, Error> {
        match self.overlay.record(key) {
            Some(record) if record.version == expected_version => {}
            _ => return Ok(self.conflict(key)),
        }
        self.overlay
            .raise_floor(self.engine, region_id, expected_version)?;
        self.write_batch
            .delete_cf(self.engine.family(Family::Versioned), key);
        self.overlay.delete(key);
        Ok(Outcome::Done)
    }

    /// The value is copied: one that an earlier command of the batch wrote shares the buffer of that command's message.
    fn conflict(&mut self, key: &Bytes) -> Outcome {
        let current = self.overlay.record(key);
        let value = current.and_then(|record| record.value.as_ref());
        let value = value.filter(|value| value.len() <= self.conflict_bytes_left);
        self.conflict_bytes_left -= value.map_or(0, |value| value.len());
        Outcome::Conflict {
            current_version: current.map_or(0, |record| record.version),
            current_value: value.map(|value| Bytes::copy_from_slice(value)),
        }
    }
}
