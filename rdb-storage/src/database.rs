//! Opening and closing RocksDB, for both databases of a data directory: the same rules for damage, for a full disk and for
//! RocksDB's messages.

use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rocksdb::statistics::{StatsLevel, Ticker};
use rocksdb::{
    ColumnFamilyDescriptor, DB, DBRecoveryMode, ErrorKind, FlushOptions, Options, properties,
};

use crate::error::OpenError;
use crate::figures::Noted;
use crate::identity::DataDirectory;
use crate::info_log::InfoLog;
use crate::logs::{Logs, Replay};
use crate::options::{Durability, StorageOptions, WalRecovery};
use crate::repair::LogDamage;
use crate::reserve::Space;

/// The operating system writes data back in portions of this size, so that a sync has little left to do.
const BYTES_PER_SYNC: u64 = 1 << 20;

/// Range deletes that a memtable holds before it is flushed. A read of a memtable that has changed since the last read sorts
/// all of them again. If they are nested, that takes time quadratic in their number.
const MEMTABLE_RANGE_DELETES_MAX: usize = 256;

/// Which of the two databases of a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseKind {
    /// The database of the keys and values.
    Data,
    /// The database of the logs of replicated regions, the [`LogDatabase`](crate::LogDatabase).
    RaftLog,
}

impl DatabaseKind {
    /// Where in the directory RocksDB's files are.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::Data => "db",
            Self::RaftLog => "raft",
        }
    }
}

impl fmt::Display for DatabaseKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Data => "data",
            Self::RaftLog => "Raft log",
        })
    }
}

/// An open RocksDB. It is used as RocksDB's own handle.
pub(crate) struct Database {
    rocksdb: DB,
    kind: DatabaseKind,
    families: Vec<FamilySettings>,
    /// Shares RocksDB's statistics object, which the database does not hand out.
    options: Options,
    info_log: InfoLog,
    /// See [`Opening`].
    later_bytes: u64,
    /// Whether the open left writes in memory and in their logs, and larger memtables for them. Relaxed: if it is seen late,
    /// the flush comes later.
    keeps_logs: AtomicBool,
    noted: Noted,
}

/// The memory of a large memtable comes in blocks of this size. RocksDB's own choice, 1 MiB, is less than a huge page, which the
/// allocator asks for if it is set up to.
const MEMTABLE_BLOCK_BYTES: usize = 8 << 20;

/// The smallest memtable that has such blocks. A memtable may be as much too large as a part of a block.
const LARGE_MEMTABLE_BYTES: usize = 4 * MEMTABLE_BLOCK_BYTES;

/// What is special about a column family of a database.
pub(crate) struct FamilySettings {
    pub(crate) name: &'static str,
    /// Size of a memtable, in bytes.
    pub(crate) write_buffer_bytes: usize,
}

/// What an open should do.
pub(crate) struct Opening<'a> {
    pub(crate) directory: &'a DataDirectory,
    pub(crate) kind: DatabaseKind,
    pub(crate) settings: &'a StorageOptions,
    /// Whether a new database is allowed.
    pub(crate) create: bool,
    /// Flushes and compactions that run at a time.
    pub(crate) background_jobs: i32,
    /// What may be written to it right after the open without being in its write-ahead log, in bytes.
    pub(crate) later_bytes: u64,
}

impl Database {
    /// How often the write-ahead log was synced since the open.
    pub(crate) fn wal_sync_count(&self) -> u64 {
        self.ticker(Ticker::WalFileSynced)
    }

    /// One of RocksDB's counts of events since the open. Recording an event takes no lock that this takes.
    pub(crate) fn ticker(&self, ticker: Ticker) -> u64 {
        self.options.get_ticker_count(ticker)
    }

    /// What was noted last.
    pub(crate) fn noted(&self) -> &Noted {
        &self.noted
    }

    /// Bytes that compactions have read since the open.
    #[cfg(test)]
    pub(crate) fn compacted_bytes(&self) -> u64 {
        self.options.get_ticker_count(Ticker::CompactReadBytes)
    }

    /// The last error in RocksDB's own threads since the open, e.g. of a flush.
    pub(crate) fn background_error(&self) -> Option<String> {
        match self
            .rocksdb
            .property_int_value(properties::BACKGROUND_ERRORS)
        {
            Ok(Some(count)) if count > 0 => {
                let told = self.info_log.last_background_error();
                let told = told.unwrap_or_else(|| "its log does not say which".to_owned());
                let kind = self.kind;
                Some(format!(
                    "RocksDB met an error in the background of the {kind}: {told}"
                ))
            }
            _ => None,
        }
    }

    /// What to say of a write that failed.
    pub(crate) fn write_failure(&self, error: &rocksdb::Error) -> String {
        format!("writing the {}: {error}", self.kind)
    }

    /// Begins no more compactions. Writes and flushes no longer wait for one.
    pub(crate) fn stop_compactions(&self) {
        for family in self.families() {
            let options = [("disable_auto_compactions", "true")];
            if let Err(error) = self.rocksdb.set_options_cf(family, &options) {
                tracing::warn!(database = %self.kind, %error, "compactions go on while the database closes");
            }
        }
    }

    /// Cancels compactions, and starts no more compactions or flushes. Reads go on. The process would otherwise wait for
    /// a running compaction before it ends; a cancelled one leaves nothing behind.
    pub(crate) fn stop_background_work(&self) {
        self.rocksdb.cancel_all_background_work(true);
    }

    /// After an open that had no space to flush: flushes once there is, and gives the memtables their size back. Call it now
    /// and then.
    pub(crate) fn make_up_for_flush(&self) {
        if !self.keeps_logs.load(Ordering::Relaxed) || !self.has_space_to_flush() {
            return;
        }
        self.keeps_logs.store(false, Ordering::Relaxed);
        let resized = self.families.iter().try_for_each(|family| {
            let size = family.write_buffer_bytes.to_string();
            let range_deletes_max = MEMTABLE_RANGE_DELETES_MAX.to_string();
            let options = [
                ("write_buffer_size", &*size),
                ("memtable_max_range_deletions", &*range_deletes_max),
            ];
            self.rocksdb
                .set_options_cf(self.family(family.name), &options)
        });
        if let Err(error) = resized.and_then(|()| self.begin_flush()) {
            tracing::warn!(database = %self.kind, %error, "memory that was taken on a full disk is kept until the next open");
        }
    }

    fn has_space_to_flush(&self) -> bool {
        let database = self.rocksdb.path();
        match (Logs::of(database), Space::of(database)) {
            (Ok(logs), Ok(space)) => logs.can_be_flushed(self.later_bytes, space),
            _ => false,
        }
    }

    /// Begins to write all memtables to table files. Waits only until that holds up no writes.
    pub(crate) fn begin_flush(&self) -> Result<(), rocksdb::Error> {
        let mut options = FlushOptions::default();
        options.set_wait(false);
        self.flush_with(&options)
    }

    /// Writes all memtables to table files.
    pub(crate) fn flush(&self) -> Result<(), rocksdb::Error> {
        self.flush_with(&FlushOptions::default())
    }

    fn flush_with(&self, options: &FlushOptions) -> Result<(), rocksdb::Error> {
        let families: Vec<_> = self.families().collect();
        self.rocksdb.flush_cfs_opt(&families, options)
    }

    /// Whether the next write might have to wait: a memtable is waiting to be flushed, or writes wait already.
    pub(crate) fn may_hold_writes(&self) -> bool {
        let is_waiting = |family| {
            let property = properties::NUM_IMMUTABLE_MEM_TABLE;
            let waiting = self.rocksdb.property_int_value_cf(family, property);
            !matches!(waiting, Ok(Some(0)))
        };
        self.families().any(is_waiting) || self.holds_writes()
    }

    /// Whether RocksDB lets writes wait until a flush or a compaction is done.
    pub(crate) fn holds_writes(&self) -> bool {
        let stopped = self
            .rocksdb
            .property_int_value(properties::IS_WRITE_STOPPED);
        matches!(stopped, Ok(Some(1)))
    }

    /// A column family that was named at the open.
    pub(crate) fn family(&self, name: &str) -> &rocksdb::ColumnFamily {
        self.rocksdb
            .cf_handle(name)
            .expect("every family was opened with the database")
    }

    pub(crate) fn families(&self) -> impl Iterator<Item = &rocksdb::ColumnFamily> {
        self.families.iter().map(|family| self.family(family.name))
    }
}

impl Deref for Database {
    type Target = DB;

    fn deref(&self) -> &DB {
        &self.rocksdb
    }
}

impl Opening<'_> {
    /// Opens the database with column families, which share the options that `set_options` sets.
    pub(crate) fn open(
        &self,
        families: Vec<FamilySettings>,
        set_options: impl Fn(&mut Options),
    ) -> Result<Database, OpenError> {
        let info_log = InfoLog::new(self.kind);
        let refused = |error: rocksdb::Error| self.refused(&info_log, &error);
        let (replay, verified) = self.examine_logs()?;
        let options = self.options(&info_log, replay, verified);
        let options = options.map_err(&refused)?;
        let descriptors = families.iter().map(|family| {
            let mut options = memtable_options(family.write_buffer_bytes, replay)?;
            set_options(&mut options);
            Ok(ColumnFamilyDescriptor::new(family.name, options))
        });
        let descriptors = descriptors
            .collect::<Result<Vec<_>, _>>()
            .map_err(&refused)?;
        let opened = DB::open_cf_descriptors(&options, self.path(), descriptors);
        let rocksdb = opened.map_err(&refused)?;
        info_log.opened();
        let database = Database {
            rocksdb,
            kind: self.kind,
            families,
            options,
            info_log,
            later_bytes: self.later_bytes,
            keeps_logs: AtomicBool::new(replay != Replay::Flush),
            noted: Noted::default(),
        };
        database.note_figures();
        Ok(database)
    }

    /// Opens a database to read a column family of it. Changes nothing. What comes behind damage in its logs is not seen.
    pub(crate) fn read(&self, family: &str) -> Result<DB, OpenError> {
        let info_log = InfoLog::new(self.kind);
        let refused = |error: rocksdb::Error| self.refused(&info_log, &error);
        let mut options = self
            .options(&info_log, Replay::Flush, false)
            .map_err(&refused)?;
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options.set_track_and_verify_wals_in_manifest(false);
        let opened = DB::open_cf_for_read_only(&options, self.path(), [family], false);
        opened.map_err(&refused)
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join(self.kind.folder())
    }

    /// Decides the fate of the writes that the open replays, and whether each log is checked against what the next one says about it.
    fn examine_logs(&self) -> Result<(Replay, bool), OpenError> {
        let io_error = |error: std::io::Error| OpenError::Io {
            directory: self.directory.path().to_owned(),
            cause: format!(
                "examining the write-ahead logs of its {}: {error}",
                self.kind
            ),
        };
        let database = self.path();
        let logs = Logs::of(&database).map_err(io_error)?;
        // RocksDB refuses to check when there is a database without any log.
        let verified = !logs.are_missing() || !database.join("CURRENT").exists();
        if self.settings.wal_recovery == WalRecovery::PointInTime {
            // The damaged log has to be deleted after the replay, or the next strict open would refuse it again.
            return Ok((Replay::Flush, verified));
        }
        if logs.are_missing() && !self.create {
            let folder = self.kind.folder();
            return Err(OpenError::Damaged {
                database: self.kind,
                directory: self.directory.path().to_owned(),
                cause: format!(
                    "its database has no write-ahead log ({folder}/*.log), and there always is one"
                ),
                log_damage: None,
                log: Vec::new(),
            });
        }
        let space = Space::of(self.directory.path()).map_err(io_error)?;
        let replay = logs.replay(self.later_bytes, space).map_err(io_error)?;
        Ok((replay, verified))
    }

    fn options(
        &self,
        info_log: &InfoLog,
        replay: Replay,
        verified: bool,
    ) -> Result<Options, rocksdb::Error> {
        // The binding has no functions for these settings. A preallocated log would take the last free space of a full disk.
        // With `track_and_verify_wals`, each log begins with the length of the one before, so that an open notices what a
        // power cut has removed.
        let keeps = replay != Replay::Flush;
        let mut options = Options::default().get_options_from_string(format!(
            "avoid_flush_during_recovery={keeps};allow_fallocate={};track_and_verify_wals={verified}",
            !keeps
        ))?;
        let settings = self.settings;
        options.create_if_missing(self.create);
        options.create_missing_column_families(self.create);
        options.set_paranoid_checks(true);
        // Without it, families can be flushed up to different points, and an open at a point between them fails.
        options.set_atomic_flush(true);
        // Without syncs a power cut can damage a log anywhere, and keep later ones. What comes before the damage is a prefix.
        options.set_wal_recovery_mode(match (settings.wal_recovery, settings.durability) {
            (WalRecovery::Strict, Durability::Sync) => DBRecoveryMode::TolerateCorruptedTailRecords,
            _ => DBRecoveryMode::PointInTime,
        });
        options.set_track_and_verify_wals_in_manifest(settings.wal_recovery == WalRecovery::Strict);
        options.set_max_total_wal_size(settings.wal_bytes_max);
        options.set_bytes_per_sync(BYTES_PER_SYNC);
        options.set_wal_bytes_per_sync(BYTES_PER_SYNC);
        options.set_max_background_jobs(self.background_jobs);
        options.enable_statistics();
        options.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options.set_info_logger(info_log.logger());
        Ok(options)
    }

    fn refused(&self, info_log: &InfoLog, error: &rocksdb::Error) -> OpenError {
        let cause = error.to_string();
        let is_damage = match error.kind() {
            ErrorKind::Corruption => true,
            ErrorKind::IOError => cause.contains("No such file"),
            ErrorKind::InvalidArgument => {
                cause.contains("does not exist (create_if_missing is false)")
            }
            _ => false,
        };
        let directory = self.directory.path().to_owned();
        if !is_damage {
            let cause = format!("opening its {}: {cause}", self.kind);
            return OpenError::Io { directory, cause };
        }
        // The error says enough where the logs cannot be read.
        let logs = Logs::of(&self.path());
        let log_damage = logs.and_then(|logs| LogDamage::find(&logs));
        OpenError::Damaged {
            database: self.kind,
            directory,
            cause,
            log_damage: log_damage.unwrap_or_default(),
            log: info_log.warnings(),
        }
    }
}

/// Options of a column family whose memtables hold the replayed writes, too, if there is no room to flush them.
fn memtable_options(write_buffer_bytes: usize, replay: Replay) -> Result<Options, rocksdb::Error> {
    let (write_buffer_bytes, range_deletes_max) = match replay {
        Replay::Flush => (write_buffer_bytes, MEMTABLE_RANGE_DELETES_MAX),
        // A memtable that is full would be flushed during the replay. 0: no limit. A limit would cause a flush, too.
        Replay::Keep { memory_bytes } => {
            (write_buffer_bytes.saturating_add(memory_bytes as usize), 0)
        }
    };
    let mut options = Options::default()
        .get_options_from_string(format!("memtable_max_range_deletions={range_deletes_max}"))?;
    options.set_write_buffer_size(write_buffer_bytes);
    if write_buffer_bytes >= LARGE_MEMTABLE_BYTES {
        options.set_arena_block_size(MEMTABLE_BLOCK_BYTES);
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread::sleep;
    use std::time::Duration;

    use rocksdb::compaction_filter::Decision;

    use super::*;
    use crate::identity::Role;

    /// The compaction would take as many seconds as there are keys.
    #[test]
    fn a_compaction_that_runs_is_cancelled_when_background_work_stops() {
        const KEYS: usize = 1000;
        let temporary = tempfile::tempdir().unwrap();
        let settings = StorageOptions::new(Role::Embedded);
        let directory = DataDirectory::open(temporary.path(), settings.role, true).unwrap();
        let opening = Opening {
            directory: &directory,
            kind: DatabaseKind::Data,
            settings: &settings,
            create: true,
            background_jobs: 2,
            later_bytes: 0,
        };
        let (compacting, compacted) = mpsc::channel();
        let slow = move |_: u32, _: &[u8], _: &[u8]| {
            let _ = compacting.send(());
            sleep(Duration::from_secs(1));
            Decision::Keep
        };
        let family = FamilySettings {
            name: "default",
            write_buffer_bytes: settings.write_buffer_bytes,
        };
        let opened = opening.open(vec![family], |options| {
            options.set_level_zero_file_num_compaction_trigger(2);
            options.set_compaction_filter("slow", slow.clone());
        });
        let database = opened.unwrap();
        for _ in 0..2 {
            for number in 0..KEYS {
                database.put(number.to_string(), "v").unwrap();
            }
            database.flush().unwrap();
        }
        let began = compacted.recv_timeout(Duration::from_secs(300));
        began.expect("a compaction begins");
        database.stop_background_work();
        let running = database.property_int_value(properties::NUM_RUNNING_COMPACTIONS);
        assert_eq!(running, Ok(Some(0)));
        assert!(compacted.try_iter().count() < KEYS - 1);
    }
}
