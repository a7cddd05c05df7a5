//! RocksDB: opened with the column families and settings that FlareDB relies on.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rocksdb::statistics::{StatsLevel, Ticker};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBPinnableSlice,
    DBRecoveryMode, DataBlockIndexType, ErrorKind, FlushOptions, Options, ReadOptions, properties,
};

use crate::error::{Error, OpenError};
use crate::identity::DataDirectory;
use crate::info_log::InfoLog;
use crate::keys;
use crate::logs::{Logs, Replay};
use crate::options::{Durability, StorageOptions, WalRecovery};
use crate::read::{Tier, read_options};
use crate::repair::LogDamage;
use crate::reserve::Space;

/// Bits per key of the bloom filters: about 1 % false positives.
const BLOOM_BITS_PER_KEY: f64 = 10.0;

/// Share of a memtable that its bloom filter takes. With the filter, reads of flushed keys skip the memtable. The filter,
/// the hash index of blocks and the lock-free cache together save an eighth of the CPU time of a batched read of flushed
/// data.
const MEMTABLE_BLOOM_RATIO: f64 = 0.05;

/// Keys per bucket of the hash index that finds a key within a block.
const DATA_BLOCK_HASH_RATIO: f64 = 0.75;

/// The operating system writes data back in portions of this size, so that a sync has little left to do.
const BYTES_PER_SYNC: u64 = 1 << 20;

/// Range deletes that a memtable holds before it is flushed. A read of a memtable that has changed since the last read sorts
/// all of them again. Where they are nested, that takes the square of their number.
const MEMTABLE_RANGE_DELETES_MAX: usize = 256;

/// Memtables of the state column families stay small.
const STATE_WRITE_BUFFER_BYTES: usize = 4 << 20;

/// The column families. `RaftLog` stays empty until replication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Raw,
    Versioned,
    RaftLog,
    RaftState,
}

impl Family {
    const ALL: [Self; 4] = [Self::Raw, Self::Versioned, Self::RaftLog, Self::RaftState];

    fn name(self) -> &'static str {
        match self {
            Self::Raw => "default",
            Self::Versioned => "cas",
            Self::RaftLog => "raft_log",
            Self::RaftState => "raft_state",
        }
    }
}

/// An open database. Fields are dropped in their order: RocksDB closes before the directory's lock is given back.
pub(crate) struct Engine {
    pub(crate) database: DB,
    /// Made once: every point read begins with one of them.
    memory_read_options: ReadOptions,
    disk_read_options: ReadOptions,
    /// Shares RocksDB's statistics object, which the database does not hand out.
    options: Options,
    info_log: InfoLog,
    /// The `version` of the epochs that were asked for. The lock is held while one is read, so that a version that a write
    /// has replaced is never kept.
    epochs: Mutex<HashMap<u64, u64>>,
    directory: DataDirectory,
}

impl Engine {
    /// Opens the database in `directory`; `create` allows a new one.
    pub(crate) fn open(
        directory: DataDirectory,
        settings: &StorageOptions,
        create: bool,
    ) -> Result<Self, OpenError> {
        let info_log = InfoLog::default();
        let refused = |error: rocksdb::Error| open_error(&directory, &info_log, &error);
        let (replay, verified) = examine_logs(&directory, settings, create)?;
        let options = database_options(settings, &info_log, create, replay, verified);
        let options = options.map_err(&refused)?;
        // It is read without a lock, unlike the LRU cache. 0: it chooses the size of its table.
        let cache = Cache::new_hyper_clock_cache(settings.block_cache_bytes, 0);
        let mut families = Vec::with_capacity(Family::ALL.len());
        for family in Family::ALL {
            let options = family_options(family, settings, &cache, replay).map_err(&refused)?;
            families.push(ColumnFamilyDescriptor::new(family.name(), options));
        }
        let database = DB::open_cf_descriptors(&options, directory.database_path(), families)
            .map_err(&refused)?;
        info_log.opened();
        Ok(Self {
            database,
            memory_read_options: read_options(Tier::Memory),
            disk_read_options: read_options(Tier::Disk),
            options,
            info_log,
            epochs: Mutex::default(),
            directory,
        })
    }

    pub(crate) fn directory(&self) -> &DataDirectory {
        &self.directory
    }

    pub(crate) fn family(&self, family: Family) -> &rocksdb::ColumnFamily {
        self.database
            .cf_handle(family.name())
            .expect("every family was opened with the database")
    }

    /// The options of a point read.
    pub(crate) fn point_read_options(&self, tier: Tier) -> &ReadOptions {
        match tier {
            Tier::Memory => &self.memory_read_options,
            Tier::Disk => &self.disk_read_options,
        }
    }

    /// Reads a record of the state column family, from memory or from the disk. The family is small.
    pub(crate) fn state(&self, key: &[u8]) -> Result<Option<DBPinnableSlice<'_>>, Error> {
        let family = self.family(Family::RaftState);
        let options = self.point_read_options(Tier::Disk);
        let record = self.database.get_pinned_cf_opt(&family, key, options);
        record.map_err(Error::from_read)
    }

    /// The `version` of a region's epoch; 0 for a region that is not stored.
    pub(crate) fn epoch_version(&self, region_id: u64) -> Result<u64, Error> {
        let mut epochs = self.epochs();
        if let Some(version) = epochs.get(&region_id) {
            return Ok(*version);
        }
        let key = keys::region::key(region_id);
        let stored = self.state(&key)?;
        let region = stored.map(|record| keys::region::decode(&key, &record));
        let version = region.transpose()?.map_or(0, |region| region.version);
        epochs.insert(region_id, version);
        Ok(version)
    }

    /// Call after a write that changed a region.
    pub(crate) fn forget_epochs(&self) {
        self.epochs().clear();
    }

    fn epochs(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.epochs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often the write-ahead log was synced since the open.
    pub(crate) fn wal_sync_count(&self) -> u64 {
        self.options.get_ticker_count(Ticker::WalFileSynced)
    }

    /// The last error in RocksDB's own threads since the open, e.g. of a flush.
    pub(crate) fn background_error(&self) -> Option<String> {
        match self
            .database
            .property_int_value(properties::BACKGROUND_ERRORS)
        {
            Ok(Some(count)) if count > 0 => {
                let told = self.info_log.last_background_error();
                let told = told.unwrap_or_else(|| "its log does not say which".to_owned());
                Some(format!("RocksDB met an error in the background: {told}"))
            }
            _ => None,
        }
    }

    /// Sums an integer property over the two data families.
    pub(crate) fn data_property(&self, property: &properties::PropName) -> Result<u64, Error> {
        let of = |family| {
            let value = self
                .database
                .property_int_value_cf(&self.family(family), property);
            value
                .map_err(Error::from_read)
                .map(Option::unwrap_or_default)
        };
        Ok(of(Family::Raw)? + of(Family::Versioned)?)
    }

    /// Begins no more compactions, and lets neither writes nor flushes wait for one.
    pub(crate) fn stop_compactions(&self) {
        for family in Family::ALL {
            let options = [("disable_auto_compactions", "true")];
            let set = self.database.set_options_cf(self.family(family), &options);
            if let Err(error) = set {
                tracing::warn!(%error, "compactions go on while the database closes");
            }
        }
    }

    /// Cancels compactions, and starts neither compactions nor flushes any more. Reads go on. The process would otherwise
    /// wait for a running compaction before it ends; a cancelled one leaves nothing behind.
    pub(crate) fn stop_background_work(&self) {
        self.database.cancel_all_background_work(true);
    }

    /// Writes all memtables to table files.
    pub(crate) fn flush(&self) -> Result<(), rocksdb::Error> {
        let families = Family::ALL.map(|family| self.family(family));
        self.database
            .flush_cfs_opt(&families, &FlushOptions::default())
    }
}

/// Decides what becomes of the writes that the open replays, and whether each log is checked against what the next one
/// says about it.
fn examine_logs(
    directory: &DataDirectory,
    settings: &StorageOptions,
    create: bool,
) -> Result<(Replay, bool), OpenError> {
    let io_error = |error: std::io::Error| OpenError::Io {
        directory: directory.path().to_owned(),
        cause: format!("examining its write-ahead logs: {error}"),
    };
    let database = directory.database_path();
    let logs = Logs::of(&database).map_err(io_error)?;
    // RocksDB refuses to check when there is a database without any log.
    let verified = !logs.are_missing() || !database.join("CURRENT").exists();
    if settings.wal_recovery == WalRecovery::PointInTime {
        // The damaged log has to be deleted after the replay, or the next strict open would refuse it again.
        return Ok((Replay::Flush, verified));
    }
    if logs.are_missing() && !create {
        return Err(OpenError::Damaged {
            directory: directory.path().to_owned(),
            cause: "its database has no write-ahead log (db/*.log), and there always is one"
                .to_owned(),
            log_damage: None,
            log: Vec::new(),
        });
    }
    let space = Space::of(directory.path()).map_err(io_error)?;
    let replay = logs.replay(space).map_err(io_error)?;
    Ok((replay, verified))
}

fn database_options(
    settings: &StorageOptions,
    info_log: &InfoLog,
    create: bool,
    replay: Replay,
    verified: bool,
) -> Result<Options, rocksdb::Error> {
    // The binding has no functions for these settings. A preallocated log would take the last free space of a full disk.
    // With `track_and_verify_wals`, each log begins with the length of the one before, so that an open notices what a power
    // cut has taken.
    let keeps = replay != Replay::Flush;
    let mut options = Options::default().get_options_from_string(format!(
        "avoid_flush_during_recovery={keeps};allow_fallocate={};track_and_verify_wals={verified}",
        !keeps
    ))?;
    options.create_if_missing(create);
    options.create_missing_column_families(create);
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
    options.set_max_background_jobs(4);
    options.enable_statistics();
    options.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_info_logger(info_log.logger());
    Ok(options)
}

fn family_options(
    family: Family,
    settings: &StorageOptions,
    cache: &Cache,
    replay: Replay,
) -> Result<Options, rocksdb::Error> {
    let mut table = BlockBasedOptions::default();
    table.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
    table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    table.set_data_block_hash_ratio(DATA_BLOCK_HASH_RATIO);
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);

    let range_deletes_max = match replay {
        Replay::Flush => MEMTABLE_RANGE_DELETES_MAX,
        // 0: no limit. A limit would cause a flush.
        Replay::Keep { .. } => 0,
    };
    let mut options = Options::default()
        .get_options_from_string(format!("memtable_max_range_deletions={range_deletes_max}"))?;
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    let write_buffer_bytes = match family {
        Family::Raw | Family::Versioned => settings.write_buffer_bytes,
        Family::RaftLog | Family::RaftState => {
            settings.write_buffer_bytes.min(STATE_WRITE_BUFFER_BYTES)
        }
    };
    options.set_memtable_whole_key_filtering(true);
    options.set_memtable_prefix_bloom_ratio(MEMTABLE_BLOOM_RATIO);
    options.set_write_buffer_size(match replay {
        Replay::Flush => write_buffer_bytes,
        // A memtable that is full would be flushed during the replay.
        Replay::Keep { memory_bytes } => write_buffer_bytes.saturating_add(memory_bytes as usize),
    });
    Ok(options)
}

fn open_error(directory: &DataDirectory, info_log: &InfoLog, error: &rocksdb::Error) -> OpenError {
    let cause = error.to_string();
    let is_damage = match error.kind() {
        ErrorKind::Corruption => true,
        ErrorKind::IOError => cause.contains("No such file"),
        ErrorKind::InvalidArgument => cause.contains("does not exist (create_if_missing is false)"),
        _ => false,
    };
    let path = directory.path().to_owned();
    if !is_damage {
        return OpenError::Io {
            directory: path,
            cause,
        };
    }
    // The error says enough where the logs cannot be read.
    let logs = Logs::of(&directory.database_path());
    let log_damage = logs.and_then(|logs| LogDamage::find(&logs));
    OpenError::Damaged {
        directory: path,
        cause,
        log_damage: log_damage.unwrap_or_default(),
        log: info_log.warnings(),
    }
}
