//! Raw commands: they do not depend on stored data.

use std::ops::Bound;

use bytes::Bytes;
use rocksdb::{ReadOptions, ReadTier};

use super::Batch;
use crate::engine::Family;
use crate::keys::raw::ABOVE_EVERY_KEY;

/// A range delete of no more keys than this is written as point deletes.
const POINT_DELETES_MAX: usize = 64;

/// Deleted entries that are skipped in search of those keys before the search is given up.
const SKIPPED_ENTRIES_MAX: u64 = 512;

impl Batch<'_> {
    pub(super) fn put_raw(&mut self, key: &Bytes, value: &[u8]) {
        self.write_batch
            .put_cf(self.engine.family(Family::Raw), key, value);
        if let Some(keys_put) = &mut self.raw_keys_put {
            keys_put.insert(key.clone());
        }
    }

    pub(super) fn delete_raw(&mut self, key: &[u8]) {
        self.write_batch
            .delete_cf(self.engine.family(Family::Raw), key);
    }

    /// `Command::validate` has rejected empty and inverted ranges.
    ///
    /// Range tombstones make every read of a memtable more expensive, so a range with few keys is deleted key by key. The
    /// choice may differ between replicas; the resulting data does not.
    pub(super) fn delete_range_raw(&mut self, start_key: &[u8], end_key: &[u8]) {
        let end_key = if end_key.is_empty() {
            &ABOVE_EVERY_KEY[..]
        } else {
            end_key
        };
        let keys = self.few_keys(start_key, end_key);
        let family = self.engine.family(Family::Raw);
        match keys {
            Some(keys) => keys
                .iter()
                .for_each(|key| self.write_batch.delete_cf(family, key)),
            None => self.write_batch.delete_range_cf(family, start_key, end_key),
        }
    }

    /// Every key that may exist in the range, stored or put by this batch. `None`: there are many, or they are not known
    /// without reading from the disk or past many deleted entries.
    #[expect(
        deprecated,
        reason = "RocksDB deprecates ignoring range deletes as an optimization; here it bounds the search"
    )]
    fn few_keys(&self, start_key: &[u8], end_key: &[u8]) -> Option<Vec<Bytes>> {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::BlockCache);
        options.set_max_skippable_internal_keys(SKIPPED_ENTRIES_MAX);
        // What they cover would be skipped without being counted.
        options.set_ignore_range_deletions(true);
        options.set_iterate_lower_bound(start_key);
        options.set_iterate_upper_bound(end_key);
        let family = self.engine.family(Family::Raw);
        let mut stored = self.engine.database.raw_iterator_cf_opt(family, options);
        let mut keys = Vec::new();
        stored.seek_to_first();
        while let Some(key) = stored.key()
            && keys.len() <= POINT_DELETES_MAX
        {
            keys.push(Bytes::copy_from_slice(key));
            stored.next();
        }
        stored.status().ok()?;
        let range = (Bound::Included(start_key), Bound::Excluded(end_key));
        let put = self.raw_keys_put.iter();
        let put = put.flat_map(|keys| keys.range::<[u8], _>(range));
        keys.extend(put.take(POINT_DELETES_MAX + 1).cloned());
        (keys.len() <= POINT_DELETES_MAX).then_some(keys)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Entry;
    use super::*;
    use crate::command::Command;
    use crate::engine::Engine;
    use crate::identity::{DataDirectory, Role};
    use crate::options::StorageOptions;

    /// How many records a range delete becomes that finds `stored` keys in a memtable and `put` more in its own batch.
    fn records_of_a_range_delete(stored: usize, put: usize) -> usize {
        let temporary = tempfile::tempdir().unwrap();
        let options = StorageOptions::new(Role::Embedded);
        let directory = DataDirectory::open(temporary.path(), options.role, true).unwrap();
        let engine = Engine::open(Arc::new(directory), &options, true).unwrap();
        let family = engine.family(Family::Raw);
        for number in 0..stored {
            let key = format!("key {number}");
            engine.database.put_cf(family, key, "v").unwrap();
        }
        let puts = (stored..stored + put).map(|number| Command::PutRaw {
            key: format!("key {number}").into(),
            value: "v".into(),
        });
        let delete = Command::DeleteRangeRaw {
            start_key: "key".into(),
            end_key: Bytes::new(),
        };
        let commands: Vec<_> = puts.chain([delete]).collect();
        let entry = Entry {
            region_id: 1,
            epoch_version: None,
            commands: &commands,
            membership: None,
            conflict_values_bytes_max: 0,
        };
        let mut batch = Batch::new(&engine);
        batch.load(&entry, &mut 0).unwrap();
        batch.apply(&entry);
        batch.into_write_batch().len() - put
    }

    #[test]
    fn a_range_of_few_keys_is_deleted_key_by_key_and_one_of_many_at_once() {
        assert_eq!(records_of_a_range_delete(0, 0), 0);
        assert_eq!(records_of_a_range_delete(64, 0), 64);
        assert_eq!(records_of_a_range_delete(32, 32), 64);
        assert_eq!(records_of_a_range_delete(65, 0), 1);
        assert_eq!(records_of_a_range_delete(32, 33), 1);
    }
}
