//! A region as the store keeps it. The store's own descriptors say which keys it holds.

use bytes::Bytes;
use rocksdb::{ColumnFamily, DB, IteratorMode, ReadOptions};

use crate::error::Error;
use crate::keys;

/// One replica of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerDescriptor {
    /// The replica's id, never reused.
    pub id: u64,
    /// The store that holds it.
    pub store_id: u64,
}

/// A contiguous range of keys of both keyspaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionDescriptor {
    /// The region's id, never reused, never 0.
    pub id: u64,
    /// First key. Empty: from the lowest key.
    pub start_key: Bytes,
    /// First key behind the region. Empty: no upper bound.
    pub end_key: Bytes,
    /// Grows with every change of the membership, also when the peers stay and only their roles change.
    pub conf_version: u64,
    /// Grows with every split or merge.
    pub version: u64,
    /// Who holds the region.
    pub peers: Vec<PeerDescriptor>,
}

/// The regions in a column family of an open database, in the order of their ids.
pub(crate) fn stored_regions(
    database: &DB,
    family: &ColumnFamily,
) -> Result<Vec<RegionDescriptor>, Error> {
    let (start, end) = keys::region::range();
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(start);
    options.set_iterate_upper_bound(end);
    let records = database.iterator_cf_opt(family, options, IteratorMode::Start);
    let regions = records.map(|record| {
        let (key, record) = record.map_err(Error::from_read)?;
        Ok(keys::region::decode(&key, &record)?)
    });
    regions.collect()
}

/// The regions in a column family of an open database that a snapshot is to replace. They are not stored.
pub(crate) fn installing_regions(
    database: &DB,
    family: &ColumnFamily,
) -> Result<Vec<RegionDescriptor>, Error> {
    let (start, end) = keys::installing::range();
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(start);
    options.set_iterate_upper_bound(end);
    let records = database.iterator_cf_opt(family, options, IteratorMode::Start);
    let regions = records.map(|record| {
        let (_, record) = record.map_err(Error::from_read)?;
        Ok(keys::installing::decode(&record)?.state.region)
    });
    regions.collect()
}
