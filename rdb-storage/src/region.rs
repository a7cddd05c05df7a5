//! A region as the store keeps it. The store's own descriptors say which keys it holds.

use bytes::Bytes;
use rocksdb::{ColumnFamily, DB, IteratorMode, ReadOptions};

use crate::error::Error;
use crate::keys::raw::ABOVE_EVERY_KEY;
use crate::keys::{self, DecodeError};
use crate::snapshot::Installing;

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

impl RegionDescriptor {
    /// The first key behind the region, or one above every key.
    pub(crate) fn upper_bound(&self) -> &[u8] {
        if self.end_key.is_empty() {
            &ABOVE_EVERY_KEY
        } else {
            &self.end_key
        }
    }

    /// Whether a store holds the region that is not this one.
    pub fn is_elsewhere(&self, store_id: u64) -> bool {
        self.peers.iter().any(|peer| peer.store_id != store_id)
    }

    /// Whether a key can be in both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.start_key[..] < *other.upper_bound() && other.start_key[..] < *self.upper_bound()
    }
}

/// The regions in a column family of an open database, in the order of their ids.
pub(crate) fn stored_regions(
    database: &DB,
    family: &ColumnFamily,
) -> Result<Vec<RegionDescriptor>, Error> {
    records(
        database,
        family,
        keys::region::range(),
        keys::region::decode,
    )
}

/// The marks in a column family of an open database: the regions that a snapshot is to replace, which are not stored.
pub(crate) fn installs(database: &DB, family: &ColumnFamily) -> Result<Vec<Installing>, Error> {
    let decode = |_: &[u8], mark: &[u8]| keys::installing::decode(mark);
    records(database, family, keys::installing::range(), decode)
}

/// The regions in a column family of an open database, and those that a snapshot is to replace.
pub(crate) fn present_regions(
    database: &DB,
    family: &ColumnFamily,
) -> Result<Vec<RegionDescriptor>, Error> {
    let mut regions = stored_regions(database, family)?;
    let installs = installs(database, family)?.into_iter();
    regions.extend(installs.map(|installing| installing.state.region));
    Ok(regions)
}

/// The tombstones in a column family of an open database: regions, each with the last peer that was destroyed.
pub(crate) fn destroyed(database: &DB, family: &ColumnFamily) -> Result<Vec<(u64, u64)>, Error> {
    let tombstone = |key: &[u8], record: &[u8]| {
        let region_id = keys::tombstone::region_id(key)?;
        Ok((region_id, keys::tombstone::decode(record)?))
    };
    records(database, family, keys::tombstone::range(), tombstone)
}

fn records<T>(
    database: &DB,
    family: &ColumnFamily,
    (start, end): ([u8; 1], [u8; 1]),
    decode: impl Fn(&[u8], &[u8]) -> Result<T, DecodeError>,
) -> Result<Vec<T>, Error> {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(start);
    options.set_iterate_upper_bound(end);
    let records = database.iterator_cf_opt(family, options, IteratorMode::Start);
    let decoded = records.map(|record| {
        let (key, record) = record.map_err(Error::from_read)?;
        Ok(decode(&key, &record)?)
    });
    decoded.collect()
}
