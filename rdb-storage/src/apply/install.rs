//! A snapshot in the place of a region. See [`crate::snapshot`].

use bytes::Bytes;
use rocksdb::ReadOptions;

use super::Batch;
use crate::engine::Family;
use crate::error::Error;
use crate::keys;
use crate::keys::raw::ABOVE_EVERY_KEY;
use crate::read::Keyspace;
use crate::region::RegionDescriptor;
use crate::snapshot::Installing;

/// Keys of a keyspace: the first, and the first behind them.
type Range = (Keyspace, Bytes, Bytes);

impl Batch<'_> {
    /// Takes away what is stored of the region, and puts the mark. Returns the ranges that had keys.
    pub(crate) fn begin_install(&mut self, installing: &Installing) -> Result<Vec<Range>, Error> {
        let region = &installing.state.region;
        // It may have another range.
        let stored = self.engine.region(region.id)?;
        let mut cleared = Vec::new();
        for region in stored.iter().chain([region]) {
            for keyspace in [Keyspace::Raw, Keyspace::Versioned] {
                cleared.extend(self.clear(region, keyspace)?);
            }
        }
        let family = self.engine.family(Family::RaftState);
        for key in [
            keys::version_floor::key(region.id),
            keys::region::key(region.id),
            keys::applied_position::key(region.id),
            keys::membership::key(region.id),
        ] {
            self.write_batch.delete_cf(family, key);
        }
        let mark = keys::installing::encode(installing);
        let key = keys::installing::key(region.id);
        self.write_batch.put_cf(family, key, mark);
        self.changes_regions = true;
        Ok(cleared)
    }

    /// Puts the records of the region, and removes the mark.
    pub(crate) fn finish_install(&mut self, installing: &Installing) {
        let state = &installing.state;
        let region_id = state.region.id;
        self.put_first_state(&state.region, &state.applied);
        let family = self.engine.family(Family::RaftState);
        let floor = keys::version_floor::encode(state.version_floor);
        let key = keys::version_floor::key(region_id);
        self.write_batch.put_cf(family, key, floor);
        let mark = keys::installing::key(region_id);
        self.write_batch.delete_cf(family, mark);
    }

    /// Deletes the keys of a region, if there are any: a tombstone would keep the files that come from the lowest level.
    fn clear(
        &mut self,
        region: &RegionDescriptor,
        keyspace: Keyspace,
    ) -> Result<Option<Range>, Error> {
        let end_key = if region.end_key.is_empty() {
            Bytes::from_static(&ABOVE_EVERY_KEY)
        } else {
            region.end_key.clone()
        };
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(&region.start_key[..]);
        options.set_iterate_upper_bound(&end_key[..]);
        let family = self.engine.family(keyspace.family());
        let mut stored = self.engine.database.raw_iterator_cf_opt(family, options);
        stored.seek_to_first();
        let has_keys = stored.valid();
        stored.status().map_err(Error::from_read)?;
        if !has_keys {
            return Ok(None);
        }
        self.write_batch
            .delete_range_cf(family, &region.start_key, &end_key);
        Ok(Some((keyspace, region.start_key.clone(), end_key)))
    }
}
