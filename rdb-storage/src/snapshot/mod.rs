//! Snapshots of regions: how a replica that the log cannot help any more gets the data itself.
//!
//! ```text
//! Storage::region_snapshot ─► RegionSnapshot ─ chunks ─► IncomingRegion ─► ReceivedRegion::install
//!   as of an applied position                              table files in `snapshots/`
//! ```
//!
//! What is sent is one RocksDB snapshot: the region's records (descriptor, position, membership, version floor) and its ranges of both
//! keyspaces. So it is the state after exactly one entry of the log. It is cut into chunks, each with a checksum.
//!
//! What arrives is written to table files beside the database, in order. Nothing that is stored changes until all of it is
//! there. The install then takes the files as they are (RocksDB *ingests* them). Plain writes would take memory from all other regions,
//! make them wait for flushes, and write all of it twice more.
//!
//! # Install
//!
//! 1. One write takes the region's records and ranges away, and puts a *mark* ([`keys::installing`](crate::keys::installing)) that names the
//!    files and holds the records to come. A flush makes that durable. Before it, a crash leaves what was there.
//! 2. Table files that have nothing but keys of the region are dropped, so that this does not take longer the more there was. A dropped
//!    file also takes away what it deletes in deeper files that were not dropped: what shows again is deleted again, durably.
//! 3. The files are ingested, each into the lowest level where nothing of the region is in it or above it. What was not dropped, and what
//!    deletes it, is in the way: few files may lie on top of that. For more it is compacted first, since the highest level, that of the
//!    flushes, holds writes back when it has many files. That is as much as that level has, and about two files of each other one.
//! 4. One write puts the records and removes the mark. A flush makes that durable.
//!
//! An open that finds a mark repeats all of it but the first write, which was flushed: the files are still there, and what an attempt
//! before has ingested is deleted as what was there before. So after a crash the region is what it was or what was received, never a part
//! of either. As with applies, nothing is written to the write-ahead log.
//!
//! # An install that cannot be finished
//!
//! A disk may be full when an install is to be finished, also when an open is to repeat it, and a file may be damaged or gone. Then the region
//! is left out: it has no records, as if it had never been here, and [`Storage::unfinished_installs`](crate::Storage::unfinished_installs)
//! says why. Mark and files stay, and the next open tries again. Another snapshot takes its place, and its files go once the mark of that
//! one is durable. Destroying the region ends it, too.
//!
//! Its group must not be opened, and `rdb-raft` refuses to open one with a log and without a state. The vote and the log are all there,
//! but not what the entries before the log's first one have led to: what its leader sends next would be applied to nothing, and a
//! peer cannot ask for a snapshot. Nor may the log be emptied, so that the peer begins anew: it may hold entries behind the snapshot which
//! this peer has acknowledged and a leader has counted. A peer that is silent breaks no promise. For the others it is down.
//!
//! # What is dropped
//!
//! The end of a region drops files, too. So neither that nor an install fails for a block that cannot be read, and few files that have one
//! stay: where it is not known whether there is a key, all of the range is deleted.
//!
//! Files are dropped one record in RocksDB's manifest at a time, so a crash leaves all of a file or nothing. With them goes what
//! snapshots of RocksDB from before step 1 see. Those that are kept for long are in a [`RegionView`](crate::RegionView), which notices.

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
