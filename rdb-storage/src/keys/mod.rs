//! The key schema of the data. All integers are big-endian, so that byte order is numeric order.
//!
//! | column family | key | value | module |
//! | --- | --- | --- | --- |
//! | `default` | the raw key, 1 to 8,192 bytes | the value's bytes | [`raw`] |
//! | `cas` | the versioned key, 1 to 8,192 bytes | `[u64 version][value bytes]` | [`versioned`] |
//! | `raft_log` | none: logs are in the [`LogDatabase`](crate::LogDatabase) | | |
//! | `raft_state` | `[0x01][u64 region id]` | `[u64 version floor]` | [`version_floor`] |
//! | `raft_state` | `[0x02][u64 region id]` | a region descriptor, see the module | [`region`] |
//! | `raft_state` | `[0x03][u64 region id]` | the applied position, opaque bytes | [`applied_position`] |
//! | `raft_state` | `[0x04][u64 region id]` | the membership, opaque bytes | [`membership`] |
//! | `raft_state` | `[0x05][u64 region id]` | the mark of a snapshot that is being installed | [`installing`] |
//! | `raft_state` | `[0x06][u64 region id]` | the tombstone of a peer that was destroyed | [`tombstone`] |
//!
//! Keys of the two data keyspaces are stored without a prefix or suffix: a range of a region is a range of the column
//! family.

pub mod applied_position;
pub mod fields;
pub mod installing;
pub mod membership;
pub mod raw;
pub mod region;
pub mod tombstone;
pub mod version_floor;
pub mod versioned;

/// The key of a region's record in `raft_state`.
fn of_region(tag: u8, region_id: u64) -> [u8; 9] {
    let mut key = [tag; 9];
    key[1..].copy_from_slice(&region_id.to_be_bytes());
    key
}

/// A stored value that the module of its kind cannot have written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {what} of {bytes} bytes cannot be read: {problem}")]
pub struct DecodeError {
    /// What it should have been.
    pub what: &'static str,
    /// How long it is.
    pub bytes: usize,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl From<DecodeError> for crate::Error {
    fn from(error: DecodeError) -> Self {
        Self::DataLoss {
            cause: error.to_string(),
        }
    }
}

impl From<DecodeError> for std::io::Error {
    fn from(error: DecodeError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}
