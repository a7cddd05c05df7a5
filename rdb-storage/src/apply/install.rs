//! Replacing a region with a snapshot, see [`crate::snapshot`], and removing a region from this store.

use rocksdb::ReadOptions;

use super::Batch;
use crate::engine::Family;
use crate::error::Error;
use crate::keys;
use crate::read::Keyspace;
use crate::region::RegionDescriptor;
use crate::snapshot::Installing;

impl Batch<'_> {
    /// Removes the region, and puts the mark.
    pub(crate) fn begin_install(&mut self, installing: &Installing) -> Result<(), Error> {
        let region = &installing.state.region;
        self.remove_region(region.id)?;
        // It may have another range than what is stored.
        self.clear(region);
        let family = self.engine.family(Family::RaftState);
        let mark = keys::installing::encode(installing);
        let key = keys::installing::key(region.id);
        self.write_batch.put_cf(family, key, mark);
        Ok(())
    }

    /// Removes the region, and notes that its peer was destroyed.
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

    /// Removes the records and keys of a region.
    fn remove_region(&mut self, region_id: u64) -> Result<(), Error> {
        if let Some(stored) = self.engine.region(region_id)? {
            self.clear(&stored);
        }
        // An unfinished install may have left data, too.
        if let Some(installing) = self.engine.installing(region_id)? {
            self.clear(&installing.state.region);
        }
        let family = self.engine.family(Family::RaftState);
        for key in [
            keys::version_floor::key(region_id),
            keys::region::key(region_id),
            keys::applied_position::key(region_id),
            keys::membership::key(region_id),
            keys::installing::key(region_id),
        ] {
            self.write_batch.delete_cf(family, key);
        }
        self.changes_regions = true;
        Ok(())
    }

    /// Deletes the keys of a region, if its range has any. A tombstone over an empty range would keep ingested files from the lowest
    /// level. A range that cannot be read may have keys.
    pub(crate) fn clear(&mut self, region: &RegionDescriptor) {
        let (start_key, end_key) = (&region.start_key[..], region.upper_bound());
        for keyspace in [Keyspace::Raw, Keyspace::Versioned] {
            let mut options = ReadOptions::default();
            options.set_iterate_lower_bound(start_key);
            options.set_iterate_upper_bound(end_key);
            let family = self.engine.family(keyspace.family());
            let mut stored = self.engine.database.raw_iterator_cf_opt(family, options);
            stored.seek_to_first();
            if stored.valid() || stored.status().is_err() {
                self.write_batch.delete_range_cf(family, start_key, end_key);
            }
        }
    }
}
