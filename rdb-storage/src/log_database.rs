//! [`LogDatabase`]: the logs of all replicated regions of a store, in a separate RocksDB.
//!
//! It is apart from the data so that an apply never waits for the sync of a log, and so that a full memtable of log does not
//! flush the data. It does not interpret its keys and values.

use std::fs;
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, DBRawIterator, Env, Options, ReadOptions,
    WriteBatch, WriteOptions,
};

use crate::database::{Database, DatabaseKind, FamilySettings, Opening};
use crate::error::{Error, OpenError};
use crate::figures::DatabaseFigures;
use crate::identity::DataDirectory;
use crate::options::{Durability, StorageOptions, WalRecovery};

/// Its only column family, RocksDB's own.
const FAMILY: &str = "default";

/// Flushes and compactions that run at a time.
const BACKGROUND_JOBS: i32 = 2;

/// Threads for flushes in the process. All databases of a process share them. RocksDB's default is one, and then the log
/// would wait for a flush of the data.
const FLUSH_THREADS: i32 = 2;

/// Threads for compactions in the process: those that RocksDB makes for the data, and one.
const COMPACTION_THREADS: i32 = 4;

/// Largest size of a memtable, in bytes. There are two at most.
const WRITE_BUFFER_BYTES_MAX: usize = 32 << 20;

/// Size of the block cache, in bytes. Table files are read only once, after an open or for a replica that is far behind.
const BLOCK_CACHE_BYTES: usize = 8 << 20;

/// An ordered map from keys to values, in the folder `raft` of a data directory. Opened with
/// [`Storage::open_log`](crate::Storage::open_log).
///
/// - A batch is written as a whole or not at all, also across a crash. Reads see it when [`write`](Self::write) returns.
/// - A crash leaves every batch up to the last one that was synced, and a prefix of those after it.
/// - Under [`Durability::Os`] nothing is synced; what a power cut leaves then is a prefix.
/// - A missing or damaged log is refused at open, like that of the data.
///
/// The directory stays locked until both the storage and this are dropped. All methods block.
pub struct LogDatabase {
    database: Database,
    synced: WriteOptions,
    unsynced: WriteOptions,
    closed: AtomicBool,
    /// Whether the identity file says that there is a log. Acquire and release: a writer that finds it set writes after that.
    is_noted: AtomicBool,
    /// Dropped last: RocksDB closes before the directory's lock is given back.
    directory: Arc<DataDirectory>,
}

/// Changes that are written together. A later one wins over an earlier one.
#[derive(Default)]
pub struct LogBatch(WriteBatch);

impl LogBatch {
    /// Sets the value of a key.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.0.put(key, value);
    }

    /// Removes a key. It may be unknown.
    pub fn delete(&mut self, key: &[u8]) {
        self.0.delete(key);
    }

    /// Removes the keys from `start` until before `end`.
    pub fn delete_range(&mut self, start: &[u8], end: &[u8]) {
        // RocksDB writes an inverted range to its log, and then fails on it, now and at every replay.
        if start < end {
            self.0.delete_range(start, end);
        }
    }
}

impl LogDatabase {
    /// Opens the log database of a directory. One that never had any gets an empty one.
    pub(crate) fn open(
        directory: Arc<DataDirectory>,
        settings: &StorageOptions,
    ) -> Result<Self, OpenError> {
        let io_error = |cause: io::Error| OpenError::Io {
            directory: directory.path().to_owned(),
            cause: format!("creating its Raft log: {cause}"),
        };
        let is_missing = !directory.identity().has_log;
        let create = is_missing && settings.wal_recovery == WalRecovery::Strict;
        if create {
            let written = data_files(&directory).map_err(io_error)?;
            if let Some((file, _)) = written.into_iter().find(|(_, bytes)| *bytes > 0) {
                return Err(OpenError::UnknownLog { file });
            }
            // An open that was cut short left the rest.
            remove_directory(&directory).map_err(io_error)?;
        }
        make_threads().map_err(|error| OpenError::Io {
            directory: directory.path().to_owned(),
            cause: error.to_string(),
        })?;
        let opening = Opening {
            directory: &directory,
            kind: DatabaseKind::RaftLog,
            settings,
            create,
            background_jobs: BACKGROUND_JOBS,
            later_bytes: 0,
        };
        let family = FamilySettings {
            name: FAMILY,
            write_buffer_bytes: settings.write_buffer_bytes.min(WRITE_BUFFER_BYTES_MAX),
        };
        let database = opening.open(vec![family], set_options)?;
        let mut synced = WriteOptions::default();
        synced.set_sync(settings.durability == Durability::Sync);
        Ok(Self {
            database,
            synced,
            unsynced: WriteOptions::default(),
            closed: AtomicBool::new(false),
            is_noted: AtomicBool::new(!is_missing),
            directory,
        })
    }

    /// Writes a batch. The first one is noted in the identity file before. With `sync` it and all batches before it are durable when this
    /// returns, unless the storage has [`Durability::Os`].
    ///
    /// # Errors
    ///
    /// [`Error::Undetermined`]. Write no more then: only the next open shows what was written. A sync that failed may succeed
    /// when it is tried again, without what the first one lost.
    pub fn write(&self, batch: LogBatch, sync: bool) -> Result<(), Error> {
        self.note()?;
        let options = if sync { &self.synced } else { &self.unsynced };
        let written = self.database.write_opt(batch.0, options);
        written.map_err(|error| Error::Undetermined {
            cause: self.database.write_failure(&error),
        })
    }

    /// The value of a key.
    ///
    /// # Errors
    ///
    /// [`Error::DataLoss`] and [`Error::Io`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let value = self.database.get_pinned(key).map_err(Error::from_read)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// Calls `visit` with the keys from `start` up to but not including `end` and their values, in key order and as of one
    /// moment, until it breaks.
    ///
    /// # Errors
    ///
    /// [`Error::DataLoss`] and [`Error::Io`]. What was visited before is right.
    pub fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let mut stored = self.iterator(start, end);
        stored.seek_to_first();
        while let Some((key, value)) = stored.item() {
            if visit(key, value).is_break() {
                return Ok(());
            }
            stored.next();
        }
        stored.status().map_err(Error::from_read)
    }

    /// The last key from `start` up to but not including `end`, and its value.
    ///
    /// # Errors
    ///
    /// [`Error::DataLoss`] and [`Error::Io`].
    pub fn last(&self, start: &[u8], end: &[u8]) -> Result<Option<(Vec<u8>, Bytes)>, Error> {
        let mut stored = self.iterator(start, end);
        stored.seek_to_last();
        if let Some((key, value)) = stored.item() {
            return Ok(Some((key.to_vec(), Bytes::copy_from_slice(value))));
        }
        stored.status().map_err(Error::from_read)?;
        Ok(None)
    }

    /// An error that no write was told of, e.g. one of a flush. RocksDB does not announce it: ask now and then. After an open on
    /// a full disk, this also gives back the memory that the open took, once there is space. It notes the sizes that
    /// [`figures`](Self::figures) has.
    pub fn background_error(&self) -> Option<String> {
        let error = self.database.background_error();
        if error.is_none() {
            self.database.make_up_for_flush();
        }
        self.database.note_figures();
        error
    }

    /// Figures that are cheap to read at any time. Sizes are as of a call of [`background_error`](Self::background_error) a moment ago.
    pub fn figures(&self) -> DatabaseFigures {
        self.database.figures()
    }

    /// How often the write-ahead log was synced since the open.
    pub fn wal_sync_count(&self) -> u64 {
        self.database.wal_sync_count()
    }

    /// Begins no more compactions, and writes no longer wait for one. Call it before the last writes of a process that ends:
    /// they could wait for as long as a compaction takes.
    pub fn stop_compactions(&self) {
        self.database.stop_compactions();
    }

    /// Flushes, so that the next open is quick, and cancels compactions. Call it after the last write. Reads go on. A second
    /// call does nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the flush failed, e.g. on a full disk. Nothing is lost: the write-ahead log has the data.
    pub fn close(&self) -> Result<(), Error> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.stop_compactions();
        let flushed = self.database.flush();
        self.database.stop_background_work();
        flushed.map_err(|error| Error::io("flushing the Raft log at close", error))
    }

    /// Notes in the identity file that there is a log. From then on a missing log is damage, and releases that do not know the
    /// log database refuse the directory. So this waits for the first write: until then such a release can still open the
    /// directory, e.g. after this one could not start on a full disk.
    fn note(&self) -> Result<(), Error> {
        if self.is_noted.load(Ordering::Acquire) {
            return Ok(());
        }
        let noted = self.directory.note_log();
        noted.map_err(|error| Error::Undetermined {
            cause: format!("noting the Raft log in the identity file: {error}"),
        })?;
        self.is_noted.store(true, Ordering::Release);
        Ok(())
    }

    fn iterator(&self, start: &[u8], end: &[u8]) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(start);
        options.set_iterate_upper_bound(end.max(start));
        self.database.raw_iterator_opt(options)
    }
}

/// Upper bound on the bytes of log in a data directory that are applied again after an open.
pub(crate) fn bytes_to_apply(
    directory: &DataDirectory,
    settings: &StorageOptions,
) -> io::Result<u64> {
    if !directory.identity().has_log {
        return Ok(0);
    }
    let bytes = data_files(directory)?.into_iter().map(|(_, bytes)| bytes);
    // Before there are more, the data is flushed.
    Ok(bytes.sum::<u64>().min(settings.wal_bytes_max))
}

/// The files that hold what was written, and their lengths. A log that nothing was written to is empty.
fn data_files(directory: &DataDirectory) -> io::Result<Vec<(PathBuf, u64)>> {
    let entries = match fs::read_dir(directory.path().join(DatabaseKind::RaftLog.folder())) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        let extension = path.extension();
        if extension.is_some_and(|extension| extension == "log" || extension == "sst") {
            files.push((path, entry.metadata()?.len()));
        }
    }
    Ok(files)
}

fn remove_directory(directory: &DataDirectory) -> io::Result<()> {
    match fs::remove_dir_all(directory.path().join(DatabaseKind::RaftLog.folder())) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn make_threads() -> Result<(), rocksdb::Error> {
    let mut env = Env::new()?;
    env.set_high_priority_background_threads(FLUSH_THREADS);
    env.set_background_threads(COMPACTION_THREADS);
    Ok(())
}

/// Entries are read at most once, and deleted soon: filters and compression do not pay.
fn set_options(options: &mut Options) {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_hyper_clock_cache(BLOCK_CACHE_BYTES, 0));
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::None);
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    use rocksdb::properties;

    use super::*;
    use crate::{Role, Storage};

    fn open() -> (tempfile::TempDir, Storage, Arc<LogDatabase>) {
        let directory = tempfile::tempdir().unwrap();
        let settings = StorageOptions {
            disk_reserve_bytes: 0,
            replicated: true,
            ..StorageOptions::new(Role::Embedded)
        };
        let storage = Storage::open(directory.path(), settings).unwrap();
        let log = storage.open_log().unwrap();
        (directory, storage, Arc::new(log))
    }

    /// A memtable is flushed when it has many of them, and a compaction of some flushed ones drops them.
    #[test]
    fn logs_that_are_trimmed_again_and_again_leave_few_range_deletions() {
        const TRIMS: u64 = 4000;
        const ENTRIES: u64 = 4;
        // A compaction begins when there are four files. Each has those of a memtable, 256.
        const LEFT_MAX: u64 = 1500;
        let (_directory, _storage, log) = open();
        let key = |index: u64| index.to_be_bytes();
        let trim = |number: u64| {
            let mut batch = LogBatch::default();
            let (first, end) = (number * ENTRIES, (number + 1) * ENTRIES);
            for index in first..end {
                batch.put(&key(index), b"v");
            }
            batch.delete_range(&key(first.saturating_sub(ENTRIES)), &key(first));
            log.write(batch, false).unwrap();
        };
        let left = || {
            let (database, family) = (&log.database, log.database.family(FAMILY));
            let told = database.property_value_cf(family, properties::AGGREGATED_TABLE_PROPERTIES);
            let told = told.unwrap().expect("a family has it");
            let (_, count) = told.split_once("# range deletions=").unwrap();
            let (count, _) = count.split_once(';').unwrap();
            count.parse::<u64>().unwrap()
        };
        for number in 0..10 {
            trim(number);
        }
        log.database.flush().unwrap();
        assert!(left() > 0, "they are counted");
        for number in 10..TRIMS {
            trim(number);
        }
        log.database.flush().unwrap();
        let flushed = Instant::now();
        while left() > LEFT_MAX {
            let waited = flushed.elapsed();
            assert!(waited < Duration::from_secs(300), "{} are left", left());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// RocksDB holds writes until compactions have left few enough files. Here none ever does.
    #[test]
    fn no_write_waits_for_a_compaction_once_they_are_stopped() {
        let (_directory, _storage, log) = open();
        let put = |log: &LogDatabase| {
            let mut batch = LogBatch::default();
            batch.put(b"k", b"v");
            log.write(batch, true)
        };
        put(&log).unwrap();
        log.database.flush().unwrap();
        let options = [
            ("level0_file_num_compaction_trigger", "100"),
            ("level0_slowdown_writes_trigger", "1"),
            ("level0_stop_writes_trigger", "1"),
        ];
        let family = log.database.family(FAMILY);
        log.database.set_options_cf(family, &options).unwrap();
        assert!(log.database.holds_writes());
        let (written, held) = mpsc::channel();
        let writing = Arc::clone(&log);
        thread::spawn(move || written.send(put(&writing)));
        log.stop_compactions();
        assert_eq!(held.recv_timeout(Duration::from_secs(60)), Ok(Ok(())));
        log.close().unwrap();
    }
}
