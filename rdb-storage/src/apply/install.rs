//! A snapshot in the place of a region, see [`crate::snapshot`], and the end of a region on this store.

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
        // It may have another range than what is stored.
        let mut cleared = self.remove_region(region.id)?;
        cleared.extend(self.clear(region)?);
        let family = self.engine.family(Family::RaftState);
        let mark = keys::installing::encode(installing);
        let key = keys::installing::key(region.id);
        self.write_batch.put_cf(family, key, mark);
        Ok(cleared)
    }

    /// Takes away what is stored of the region, and notes that its peer was destroyed.
    pub(crate) fn destroy_region(&mut self, region_id: u64, peer_id: u64) -> Result<(), Error> {
        self.remove_region(region_id)?;
        let family = self.engine.family(Family::RaftState);
        let (key, record) = (
            keys::tombstone::key(region_id),
            keys::tombstone::encode(peer_id),
        );
        self.write_batch.put_cf(family, key, record);
        Ok(())
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

    /// Takes away what is stored of a region. Returns the ranges that had keys.
    fn remove_region(&mut self, region_id: u64) -> Result<Vec<Range>, Error> {
        let cleared = match self.engine.region(region_id)? {
            Some(stored) => self.clear(&stored)?,
            None => Vec::new(),
        };
        let family = self.engine.family(Family::RaftState);
        for key in [
            keys::version_floor::key(region_id),
            keys::region::key(region_id),
            keys::applied_position::key(region_id),
            keys::membership::key(region_id),
        ] {
            self.write_batch.delete_cf(family, key);
        }
        self.changes_regions = true;
        Ok(cleared)
    }

    /// Deletes the keys of a region. A tombstone where there are none would keep the files that come from the lowest level.
    fn clear(&mut self, region: &RegionDescriptor) -> Result<Vec<Range>, Error> {
        let end_key = if region.end_key.is_empty() {
            Bytes::from_static(&ABOVE_EVERY_KEY)
        } else {
            region.end_key.clone()
        };
        let mut cleared = Vec::new();
        for keyspace in [Keyspace::Raw, Keyspace::Versioned] {
            let mut options = ReadOptions::default();
            options.set_iterate_lower_bound(&region.start_key[..]);
            options.set_iterate_upper_bound(&end_key[..]);
            let family = self.engine.family(keyspace.family());
            let mut stored = self.engine.database.raw_iterator_cf_opt(family, options);
            stored.seek_to_first();
            stored.status().map_err(Error::from_read)?;
            if stored.valid() {
                let start_key = &region.start_key;
                self.write_batch
                    .delete_range_cf(family, start_key, &end_key);
                cleared.push((keyspace, start_key.clone(), end_key.clone()));
            }
        }
        Ok(cleared)
    }
}
