//! Snapshots of regions: how a replica gets the data itself when the log no longer reaches back far enough.
//!
//! ```text
//! Storage::region_snapshot ─► RegionSnapshot ─ chunks ─► IncomingRegion ─► ReceivedRegion::install
//!   as of an applied position                              table files in `snapshots/`
//! ```
//!
//! The sender reads one RocksDB snapshot: the region's records (descriptor, position, membership, version floor) and its ranges of
//! both keyspaces. So what it sends is the state after exactly one entry of the log. It is cut into chunks, each with a checksum.
//!
//! The receiver writes the chunks to table files beside the database, in order. Stored data does not change until all of them are
//! there. The install then takes the files as they are (RocksDB *ingests* them). Plain writes would take memory from all other regions,
//! make them wait for flushes, and write everything twice more.
//!
//! # Install
//!
//! 1. One write deletes the region's records and ranges, and puts a *mark* ([`keys::installing`](crate::keys::installing)) that names the
//!    files and holds the new records. A flush makes that durable. A crash before it leaves the old region.
//! 2. Table files with only keys of the region are dropped, so that the time does not grow with the old data. A dropped file may have
//!    held deletions for deeper files that were not dropped: what shows again is deleted again, durably.
//! 3. The files are ingested, each into the lowest level such that neither it nor any level above has anything of the region. Data that
//!    was not dropped, and deletions of it, are in the way, so the ingested files lie on top of them. A few files may. Before more are
//!    ingested, the old data is compacted away, since RocksDB holds writes back when the level of the flushes has many files. The
//!    compaction reads up to all of that level, and of each other level about two files, those across the region's borders; in both
//!    cases also what they overlap in the next level.
//! 4. One write puts the new records and removes the mark. A flush makes that durable.
//!
//! An open that finds a mark repeats everything but the first write, which was flushed. The files are still there, and what an earlier
//! attempt has ingested is deleted like the old data. So after a crash the region is what it was or what was received, never a part of
//! either. As with applies, nothing is written to the write-ahead log.
//!
//! # An install that cannot be finished
//!
//! An install may find the disk full, also when an open repeats it, and a file may be damaged or gone. Then the region is left out: it has
//! no records, as if it had never been here, and [`Storage::unfinished_installs`](crate::Storage::unfinished_installs) says why. Mark and
//! files stay, and the next open tries again. Another snapshot replaces the unfinished one, whose files are removed once the new mark is
//! durable. Destroying the region ends the install, too.
//!
//! Its group must not be opened, and `rdb-raft` refuses to open a group that has a log and no state. The vote and the log are complete,
//! but the state before the log's first entry is missing: the leader's next entries would be applied to nothing, and a peer cannot ask for
//! a snapshot. The log must not be emptied either, to let the peer begin anew: it may hold entries behind the snapshot that this peer has
//! acknowledged and a leader has counted. A silent peer breaks no promise. For the others it is down.
//!
//! # What is dropped
//!
//! Destroying a region drops files, too. So neither that nor an install fails because a block cannot be read, and few files with such a
//! block stay: if it is not known whether a range has a key, all of the range is deleted.
//!
//! Each file is dropped by one record in RocksDB's manifest, so a crash leaves all of a file or nothing. RocksDB snapshots from before step
//! 1 lose what they saw in these files. Snapshots that are kept for long are in a [`RegionView`](crate::RegionView), which notices.

mod chunk;
mod incoming;
mod install;
mod outgoing;
#[cfg(test)]
mod tests;

use bytes::{Buf, BufMut, Bytes};

use crate::applied::AppliedState;
use crate::keys::fields::{Problem, decode_bytes, encode_bytes};
use crate::keys::{self, DecodeError};
use crate::region::RegionDescriptor;

pub use incoming::{IncomingRegion, ReceivedRegion};
pub(crate) use install::{Installing, Staged, find_bytes, remove_leftovers, remove_staged, staged};
pub use outgoing::RegionSnapshot;

/// The records of a region, beside its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RegionState {
    pub(crate) region: RegionDescriptor,
    pub(crate) applied: AppliedState,
    pub(crate) version_floor: u64,
}

impl RegionState {
    /// Appends `[u64 region id][descriptor][position][membership][u64 version floor]`, those without a size with their lengths.
    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.put_u64(self.region.id);
        encode_bytes(&keys::region::encode(&self.region), bytes);
        encode_bytes(&self.applied.position, bytes);
        encode_bytes(&self.applied.membership, bytes);
        bytes.put_u64(self.version_floor);
    }

    pub(crate) fn decode(rest: &mut Bytes) -> Result<Self, Problem> {
        let id = rest.try_get_u64()?;
        let region = keys::region::decode(&keys::region::key(id), &decode_bytes(rest)?);
        let region = region.map_err(|DecodeError { problem, .. }| Problem(problem))?;
        let is_upright = region.end_key.is_empty() || region.start_key < region.end_key;
        if !is_upright {
            return Err(Problem("its range is empty"));
        }
        Ok(Self {
            region,
            applied: AppliedState {
                position: decode_bytes(rest)?,
                membership: decode_bytes(rest)?,
            },
            version_floor: rest.try_get_u64()?,
        })
    }
}
