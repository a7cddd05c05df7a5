//! Raw commands: they depend on nothing that is stored.

use super::Batch;
use crate::engine::Family;
use crate::keys::raw::ABOVE_EVERY_KEY;

impl Batch<'_> {
    pub(super) fn put_raw(&mut self, key: &[u8], value: &[u8]) {
        self.write_batch
            .put_cf(self.engine.family(Family::Raw), key, value);
    }

    pub(super) fn delete_raw(&mut self, key: &[u8]) {
        self.write_batch
            .delete_cf(self.engine.family(Family::Raw), key);
    }

    /// The range is known to be upright: see `Command::validate`.
    pub(super) fn delete_range_raw(&mut self, start_key: &[u8], end_key: &[u8]) {
        let end_key = if end_key.is_empty() {
            &ABOVE_EVERY_KEY[..]
        } else {
            end_key
        };
        self.write_batch
            .delete_range_cf(self.engine.family(Family::Raw), start_key, end_key);
    }
}
