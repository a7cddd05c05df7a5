//! A region as the store keeps it. The store's own descriptors say which keys it holds.

use bytes::Bytes;

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
