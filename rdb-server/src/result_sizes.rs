//! Sizes of the last large results of reads.
//!
//! RocksDB copies a value out of a memtable before it tells the length. Without this, many reads of one large value would
//! each copy it, only to learn that there is no room for it yet. A remembered size is a guess: the value may have
//! changed, and two reads may share a slot. A wrong guess costs a reservation or a copy, and the read corrects it.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::region::ReadFailure;

/// More than the largest values that memtables hold.
const SLOTS: usize = 256;

/// The sizes, by a hash of the read. Relaxed: each slot is an independent guess.
pub(crate) struct ResultSizes {
    hashes: RandomState,
    /// The upper half of the hash, then the size; 0 where nothing is known.
    slots: [AtomicU64; SLOTS],
}

/// What is known about the result of one read.
pub(crate) struct KnownSize<'a> {
    slot: &'a AtomicU64,
    tag: u64,
    /// 0: nothing is known, and the result is probably small.
    bytes: usize,
}

impl ResultSizes {
    pub(crate) fn new() -> Self {
        Self {
            hashes: RandomState::new(),
            slots: [const { AtomicU64::new(0) }; SLOTS],
        }
    }

    pub(crate) fn of(&self, read: &impl Hash) -> KnownSize<'_> {
        let hash = self.hashes.hash_one(read);
        let slot = &self.slots[hash as usize % SLOTS];
        let (known, tag) = (slot.load(Relaxed), hash >> 32);
        let is_of_read = known >> 32 == tag;
        let bytes = if is_of_read { known as u32 as usize } else { 0 };
        KnownSize { slot, tag, bytes }
    }
}

impl KnownSize<'_> {
    /// Refuses a read whose result would not fit into `room`.
    pub(crate) fn check(&self, room: usize) -> Result<(), ReadFailure> {
        if self.bytes > room {
            let bytes = self.bytes;
            return Err(ReadFailure::NeedsRoom { bytes });
        }
        Ok(())
    }

    /// Learns from the result of the read, which has `bytes_of` bytes.
    pub(crate) fn learn<T>(
        self,
        result: Result<T, ReadFailure>,
        bytes_of: impl Fn(&T) -> usize,
    ) -> Result<T, ReadFailure> {
        match &result {
            Err(ReadFailure::NeedsRoom { bytes }) => {
                let bytes = u32::try_from(*bytes).unwrap_or(u32::MAX);
                self.slot.store(self.tag << 32 | u64::from(bytes), Relaxed);
            }
            Ok(found) if self.bytes > 0 && bytes_of(found) < self.bytes / 2 => {
                self.slot.store(0, Relaxed);
            }
            Ok(_) | Err(ReadFailure::Rejected(_)) => {}
        }
        result
    }
}
