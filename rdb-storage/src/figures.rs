//! Figures of the databases, read without a lock that a write takes.
//!
//! RocksDB counts events by itself, and they are read from its counters. Its sizes can be read only under its own lock. So the
//! thread that looks for background errors notes them now and then, and readers get the last values.

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
    /// How long writes have waited outside of RocksDB until it took some again.
    held_back_us: AtomicU64,
}

impl Noted {
    /// Whether to note sizes now. If so, they are not due again for a while.
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
        if self.noted().is_due() {
            self.note_sizes();
        }
    }

    fn note_sizes(&self) {
        let noted = self.noted();
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

    /// Notes that a write has waited so long until RocksDB took writes again, which it does not count itself.
    pub(crate) fn note_held_back(&self, waited: Duration) {
        let waited_us = waited.as_micros() as u64;
        self.noted().held_back_us.fetch_add(waited_us, Relaxed);
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
            stalled: Duration::from_micros(
                self.ticker(Ticker::StallMicros) + read(&noted.held_back_us),
            ),
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::{Engine, Family};
    use crate::identity::{DataDirectory, Role};
    use crate::options::StorageOptions;

    const MEMTABLE_BYTES: usize = 64 << 10;

    fn engine() -> (tempfile::TempDir, Engine) {
        let temporary = tempfile::tempdir().unwrap();
        let options = StorageOptions {
            write_buffer_bytes: MEMTABLE_BYTES,
            ..StorageOptions::new(Role::Embedded)
        };
        let directory = DataDirectory::open(temporary.path(), options.role, true).unwrap();
        let engine = Engine::open(Arc::new(directory), &options, true).unwrap();
        (temporary, engine)
    }

    fn noted_now(database: &Database) -> DatabaseFigures {
        database.note_sizes();
        database.figures()
    }

    #[test]
    fn a_memtable_that_nobody_flushes_waits_to_be_flushed() {
        let (_directory, engine) = engine();
        let database = &engine.database;
        assert_eq!(noted_now(database).memtables_to_flush, 0);
        // Writes go on, and no flush is begun.
        database.stop_background_work();
        let large = vec![b'v'; 2 * MEMTABLE_BYTES];
        database.put("large", large).unwrap();
        // It finds the memtable full.
        database.put("small", "v").unwrap();
        assert_eq!(noted_now(database).memtables_to_flush, 1);
    }

    #[test]
    fn files_that_no_compaction_takes_are_left_to_compact() {
        let (_directory, engine) = engine();
        let database = &engine.database;
        database.stop_compactions();
        let options = [("level0_file_num_compaction_trigger", "2")];
        let family = engine.family(Family::Raw);
        database.set_options_cf(family, &options).unwrap();
        let pending_bytes = [1_u8, 2].map(|value| {
            database.put("k", [value]).unwrap();
            database.flush().unwrap();
            noted_now(database).compaction_pending_bytes
        });
        assert_eq!(pending_bytes[0], 0);
        assert!(pending_bytes[1] > 0);
    }
}
