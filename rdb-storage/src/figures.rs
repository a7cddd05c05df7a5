//! Figures of the databases, read without a lock that a write takes.
//!
//! RocksDB counts events by itself, and they are read from its counters. Its sizes can only be asked for under its own lock. So the
//! thread that looks for background errors anyway notes them now and then, and whoever shows them reads what was noted last.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rocksdb::properties::{self, PropName};
use rocksdb::statistics::Ticker;

use crate::database::Database;
use crate::reserve::Space;

/// Figures of one database. Counts are since the open; sizes are those of a moment ago, see [`Storage::figures`].
///
/// [`Storage::figures`]: crate::Storage::figures
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DatabaseFigures {
    /// Syncs of the write-ahead log.
    pub wal_syncs: u64,
    /// Bytes that were written to it.
    pub wal_bytes: u64,
    /// Blocks that a read found in the block cache.
    pub block_cache_hits: u64,
    /// Blocks that it had to get from a file.
    pub block_cache_misses: u64,
    /// How long writes were held back, added up over all of them.
    pub stalled: Duration,
    /// Bytes that flushes of memtables have written.
    pub flushed_bytes: u64,
    /// Bytes that compactions have read.
    pub compaction_read_bytes: u64,
    /// Bytes that compactions have written.
    pub compaction_written_bytes: u64,
    /// Size of all memtables.
    pub memtable_bytes: u64,
    /// Memtables that wait to be flushed.
    pub memtables_to_flush: u64,
    /// Size of what is in the block cache.
    pub block_cache_bytes: u64,
    /// Size of the table files, without those that only a reader still holds.
    pub table_bytes: u64,
    /// Bytes that compactions have to rewrite, as far as RocksDB can tell.
    pub compaction_pending_bytes: u64,
    /// Errors in RocksDB's own threads.
    pub background_errors: u64,
    /// Size of the file system.
    pub capacity_bytes: u64,
    /// Bytes of it that are free.
    pub available_bytes: u64,
}

/// How often sizes are noted at most.
const NOTE_INTERVAL: Duration = Duration::from_secs(2);

/// What was noted of a database last. All atomics are relaxed: each is a figure by itself.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    /// When that was.
    at: Mutex<Option<Instant>>,
    memtable_bytes: AtomicU64,
    memtables_to_flush: AtomicU64,
    block_cache_bytes: AtomicU64,
    table_bytes: AtomicU64,
    compaction_pending_bytes: AtomicU64,
    background_errors: AtomicU64,
    capacity_bytes: AtomicU64,
    available_bytes: AtomicU64,
}

impl Noted {
    /// Whether sizes are to be noted now. Then they are not for a while.
    fn is_due(&self) -> bool {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = at.is_none_or(|at| at.elapsed() >= NOTE_INTERVAL);
        if is_due {
            *at = Some(Instant::now());
        }
        is_due
    }
}

impl Database {
    /// Notes the sizes of the database, unless that was done a moment ago. Takes RocksDB's lock several times, for a moment each.
    pub(crate) fn note_figures(&self) {
        let noted = self.noted();
        if !noted.is_due() {
            return;
        }
        for (figure, property) in [
            (&noted.memtable_bytes, properties::CUR_SIZE_ALL_MEM_TABLES),
            (
                &noted.memtables_to_flush,
                properties::NUM_IMMUTABLE_MEM_TABLE,
            ),
            (&noted.table_bytes, properties::LIVE_SST_FILES_SIZE),
            (
                &noted.compaction_pending_bytes,
                properties::ESTIMATE_PENDING_COMPACTION_BYTES,
            ),
        ] {
            let of_families = self.families().map(|family| {
                let value = self.property_int_value_cf(family, property);
                value.ok().flatten().unwrap_or(0)
            });
            figure.store(of_families.sum(), Relaxed);
        }
        // These are of the whole database. Its families share one cache.
        for (figure, property) in [
            (&noted.block_cache_bytes, properties::BLOCK_CACHE_USAGE),
            (&noted.background_errors, properties::BACKGROUND_ERRORS),
        ] {
            figure.store(self.whole(property), Relaxed);
        }
        if let Ok(space) = Space::of(self.path()) {
            noted.capacity_bytes.store(space.capacity_bytes, Relaxed);
            noted.available_bytes.store(space.available_bytes, Relaxed);
        }
    }

    /// The figures. Takes no lock that a write takes.
    pub(crate) fn figures(&self) -> DatabaseFigures {
        let noted = self.noted();
        let read = |figure: &AtomicU64| figure.load(Relaxed);
        DatabaseFigures {
            wal_syncs: self.ticker(Ticker::WalFileSynced),
            wal_bytes: self.ticker(Ticker::WalFileBytes),
            block_cache_hits: self.ticker(Ticker::BlockCacheHit),
            block_cache_misses: self.ticker(Ticker::BlockCacheMiss),
            stalled: Duration::from_micros(self.ticker(Ticker::StallMicros)),
            flushed_bytes: self.ticker(Ticker::FlushWriteBytes),
            compaction_read_bytes: self.ticker(Ticker::CompactReadBytes),
            compaction_written_bytes: self.ticker(Ticker::CompactWriteBytes),
            memtable_bytes: read(&noted.memtable_bytes),
            memtables_to_flush: read(&noted.memtables_to_flush),
            block_cache_bytes: read(&noted.block_cache_bytes),
            table_bytes: read(&noted.table_bytes),
            compaction_pending_bytes: read(&noted.compaction_pending_bytes),
            background_errors: read(&noted.background_errors),
            capacity_bytes: read(&noted.capacity_bytes),
            available_bytes: read(&noted.available_bytes),
        }
    }

    fn whole(&self, property: &PropName) -> u64 {
        let value = self.property_int_value(property);
        value.ok().flatten().unwrap_or(0)
    }
}
