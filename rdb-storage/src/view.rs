//! A look at a region as it was at one position of its log.
//!
//! A snapshot that replaces the region drops whole table files ([`crate::snapshot`]), even if RocksDB's snapshots still see them. So a
//! read of a view holds all files that it may need, or it fails.

use bytes::Bytes;
use rocksdb::{DB, DBRawIteratorWithThreadMode, ReadOptions, Snapshot};

use crate::engine::{Engine, Family};
use crate::error::Error;
use crate::keys;
use crate::read::Keyspace;
use crate::region::RegionDescriptor;

/// A look at a region as it was at one position of its log. RocksDB keeps what is overwritten for as long as this is there.
pub struct RegionView<'a> {
    engine: &'a Engine,
    snapshot: Snapshot<'a>,
    /// How often its files were dropped before.
    drops: u64,
    pub(crate) region: RegionDescriptor,
    pub(crate) position: Bytes,
    /// Missing only where no log has a membership.
    pub(crate) membership: Option<Bytes>,
    pub(crate) version_floor: u64,
}

impl<'a> RegionView<'a> {
    /// `None`: the region is not stored, or its log was never applied.
    pub(crate) fn take(engine: &'a Engine, region_id: u64) -> Result<Option<Self>, Error> {
        // Files are dropped after the region's records are gone, and that is counted between the two. So a drop that comes after the
        // snapshot is not counted yet.
        let drops = engine.drops(region_id);
        let snapshot = engine.database.snapshot();
        let family = engine.family(Family::RaftState);
        let record = |key: [u8; 9]| snapshot.get_cf(&family, key).map_err(Error::from_read);
        let key = keys::region::key(region_id);
        let region = record(key)?;
        let position = record(keys::applied_position::key(region_id))?;
        let (Some(region), Some(position)) = (region, position) else {
            return Ok(None);
        };
        let region = keys::region::decode(&key, &region)?;
        let membership = record(keys::membership::key(region_id))?;
        let floor = record(keys::version_floor::key(region_id))?;
        let floor = floor.map(|floor| keys::version_floor::decode(&floor));
        Ok(Some(Self {
            engine,
            drops,
            region,
            position: position.into(),
            membership: membership.map(Bytes::from),
            version_floor: floor.transpose()?.unwrap_or(0),
            snapshot,
        }))
    }

    /// The position of the last entry that was applied.
    pub fn position(&self) -> &Bytes {
        &self.position
    }

    /// Its entries of a keyspace, beginning with a key. What is read does not get into the block cache.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when a snapshot has replaced the region since.
    pub(crate) fn entries(
        &self,
        keyspace: Keyspace,
        start_key: &[u8],
        readahead_bytes: usize,
    ) -> Result<DBRawIteratorWithThreadMode<'_, DB>, Error> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_readahead_size(readahead_bytes);
        options.set_iterate_lower_bound(start_key);
        options.set_iterate_upper_bound(self.region.upper_bound());
        let family = self.engine.family(keyspace.family());
        let mut entries = self.snapshot.raw_iterator_cf_opt(&family, options);
        // From here on it holds all files that it will read.
        if self.engine.drops(self.region.id) != self.drops {
            return Err(Error::io("reading a region", "a snapshot has replaced it"));
        }
        entries.seek_to_first();
        Ok(entries)
    }
}
