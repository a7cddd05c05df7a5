//! The data's database: its column families and their settings.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, DBPinnableSlice, DataBlockIndexType, Options,
    Range, ReadOptions, properties,
};

use crate::database::{Database, DatabaseKind, FamilySettings, Opening};
use crate::error::{Error, OpenError};
use crate::identity::DataDirectory;
#[cfg(test)]
use crate::identity::Role;
use crate::keys;
use crate::log_database::bytes_to_apply;
use crate::options::StorageOptions;
use crate::read::{ReadError, Tier, read_options};
use crate::region::{RegionDescriptor, installs, present_regions};
use crate::snapshot::Installing;

/// Bits per key of the bloom filters: about 1 % false positives.
const BLOOM_BITS_PER_KEY: f64 = 10.0;

/// Share of a memtable that its bloom filter takes. With the filter, reads of flushed keys skip the memtable. The filter,
/// the hash index of blocks and the lock-free cache together save an eighth of the CPU time of a batched read of flushed
/// data.
const MEMTABLE_BLOOM_RATIO: f64 = 0.05;

/// Keys per bucket of the hash index that finds a key within a block.
const DATA_BLOCK_HASH_RATIO: f64 = 0.75;

/// Flushes and compactions that run at a time.
const BACKGROUND_JOBS: i32 = 4;

/// Largest memtable of the state column family, in bytes. Every apply writes a position. A full memtable flushes all families.
const STATE_WRITE_BUFFER_BYTES: usize = 32 << 20;

/// The same for a column family that nobody writes to.
const UNUSED_WRITE_BUFFER_BYTES: usize = 4 << 20;

/// The column families. `RaftLog` stays empty: logs are in the [`LogDatabase`](crate::LogDatabase).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Raw,
    Versioned,
    RaftLog,
    RaftState,
}

impl Family {
    const ALL: [Self; 4] = [Self::Raw, Self::Versioned, Self::RaftLog, Self::RaftState];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "default",
            Self::Versioned => "cas",
            Self::RaftLog => "raft_log",
            Self::RaftState => "raft_state",
        }
    }

    fn write_buffer_bytes(self, settings: &StorageOptions) -> usize {
        let bytes_max = match self {
            Self::Raw | Self::Versioned => usize::MAX,
            Self::RaftLog => UNUSED_WRITE_BUFFER_BYTES,
            Self::RaftState => STATE_WRITE_BUFFER_BYTES,
        };
        settings.write_buffer_bytes.min(bytes_max)
    }
}

/// An open database. Fields are dropped in their order: RocksDB closes before the directory's lock is given back.
pub(crate) struct Engine {
    pub(crate) database: Database,
    /// Made once: every point read begins with one of them.
    memory_read_options: ReadOptions,
    disk_read_options: ReadOptions,
    /// The `version` of the epochs that were asked for. The lock is held while one is read, so that a version that a write
    /// has replaced is never kept.
    epochs: Mutex<HashMap<u64, u64>>,
    /// How often table files of a region were dropped since the open, by region.
    drops: Mutex<HashMap<u64, u64>>,
    /// See [`Storage::replacements`](crate::Storage::replacements). Sequentially consistent, so that a read that sees the gap sees
    /// this, too.
    replacements: AtomicU64,
    directory: Arc<DataDirectory>,
}

impl Engine {
    /// Opens the database in `directory`; `create` allows a new one.
    pub(crate) fn open(
        directory: Arc<DataDirectory>,
        settings: &StorageOptions,
        create: bool,
    ) -> Result<Self, OpenError> {
        let later_bytes = bytes_to_apply(&directory, settings).map_err(|error| OpenError::Io {
            directory: directory.path().to_owned(),
            cause: format!("examining its Raft log: {error}"),
        })?;
        let opening = Opening {
            directory: &directory,
            kind: DatabaseKind::Data,
            settings,
            create,
            background_jobs: BACKGROUND_JOBS,
            later_bytes,
        };
        // It is read without a lock, unlike the LRU cache. 0: it chooses the size of its table.
        let cache = Cache::new_hyper_clock_cache(settings.block_cache_bytes, 0);
        let families = Family::ALL.map(|family| FamilySettings {
            name: family.name(),
            write_buffer_bytes: family.write_buffer_bytes(settings),
        });
        let database = opening.open(families.into(), |options| set_options(options, &cache))?;
        Ok(Self {
            database,
            memory_read_options: read_options(Tier::Memory),
            disk_read_options: read_options(Tier::Disk),
            epochs: Mutex::default(),
            drops: Mutex::default(),
            replacements: AtomicU64::new(0),
            directory,
        })
    }

    /// The regions of a database that is not open, and those that a snapshot will replace. The state of its write-ahead log does
    /// not matter. Changes nothing.
    pub(crate) fn regions_of(
        directory: &DataDirectory,
        settings: &StorageOptions,
    ) -> Result<Vec<RegionDescriptor>, OpenError> {
        let opening = Opening {
            directory,
            kind: DatabaseKind::Data,
            settings,
            create: false,
            background_jobs: BACKGROUND_JOBS,
            later_bytes: 0,
        };
        let name = Family::RaftState.name();
        let database = opening.read(name)?;
        let family = database.cf_handle(name);
        let family = family.expect("it was opened with the database");
        present_regions(&database, family).map_err(|error| OpenError::Io {
            directory: directory.path().to_owned(),
            cause: format!("reading its regions: {error}"),
        })
    }

    /// About how many bytes of table files the keys of a region take.
    pub(crate) fn bytes_of(&self, region: &RegionDescriptor) -> u64 {
        let range = [Range::new(&region.start_key, region.upper_bound())];
        let sizes = [Family::Raw, Family::Versioned].map(|family| {
            let family = self.family(family);
            self.database.get_approximate_sizes_cf(family, &range)
        });
        sizes.iter().flatten().sum()
    }

    /// See [`Storage::replacements`](crate::Storage::replacements).
    pub(crate) fn replacements(&self) -> u64 {
        self.replacements.load(Ordering::SeqCst)
    }

    /// Call it before anything shows, and once more before writes are taken again.
    pub(crate) fn begin_replacement(&self) {
        self.replacements.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn directory(&self) -> &Arc<DataDirectory> {
        &self.directory
    }

    pub(crate) fn family(&self, family: Family) -> &rocksdb::ColumnFamily {
        self.database.family(family.name())
    }

    /// The options of a point read.
    pub(crate) fn point_read_options(&self, tier: Tier) -> &ReadOptions {
        match tier {
            Tier::Memory => &self.memory_read_options,
            Tier::Disk => &self.disk_read_options,
        }
    }

    /// Reads a record of the state column family. The family is small.
    pub(crate) fn state(
        &self,
        key: &[u8],
        tier: Tier,
    ) -> Result<Option<DBPinnableSlice<'_>>, ReadError> {
        let family = self.family(Family::RaftState);
        let options = self.point_read_options(tier);
        let record = self.database.get_pinned_cf_opt(&family, key, options);
        record.map_err(ReadError::from)
    }

    /// The version floor of a region; 0: it has none.
    pub(crate) fn version_floor(&self, region_id: u64, tier: Tier) -> Result<u64, ReadError> {
        let stored = self.state(&keys::version_floor::key(region_id), tier)?;
        let floor = stored.map(|record| keys::version_floor::decode(&record));
        Ok(floor.transpose().map_err(Error::from)?.unwrap_or(0))
    }

    /// The `version` of a region's epoch; 0 for a region that is not stored.
    pub(crate) fn epoch_version(&self, region_id: u64) -> Result<u64, Error> {
        let mut epochs = self.epochs();
        if let Some(version) = epochs.get(&region_id) {
            return Ok(*version);
        }
        let version = self.region(region_id)?.map_or(0, |region| region.version);
        epochs.insert(region_id, version);
        Ok(version)
    }

    /// The descriptor of a region; `None`: it is not stored.
    pub(crate) fn region(&self, region_id: u64) -> Result<Option<RegionDescriptor>, Error> {
        let key = keys::region::key(region_id);
        let stored = self.state(&key, Tier::Disk)?;
        let region = stored.map(|record| keys::region::decode(&key, &record));
        Ok(region.transpose()?)
    }

    /// The mark of a region that a snapshot is to replace.
    pub(crate) fn installing(&self, region_id: u64) -> Result<Option<Installing>, Error> {
        let mark = self.state(&keys::installing::key(region_id), Tier::Disk)?;
        let installing = mark.map(|mark| keys::installing::decode(&mark));
        Ok(installing.transpose()?)
    }

    /// All regions that are stored, and those that a snapshot is to replace.
    pub(crate) fn present_regions(&self) -> Result<Vec<RegionDescriptor>, Error> {
        present_regions(&self.database, self.family(Family::RaftState))
    }

    /// The marks of all regions.
    pub(crate) fn installs(&self) -> Result<Vec<Installing>, Error> {
        installs(&self.database, self.family(Family::RaftState))
    }

    /// Call after a write that changed a region.
    pub(crate) fn forget_epochs(&self) {
        self.epochs().clear();
    }

    /// How often table files of a region were dropped since the open.
    pub(crate) fn drops(&self, region_id: u64) -> u64 {
        let drops = self.drops.lock().unwrap_or_else(PoisonError::into_inner);
        drops.get(&region_id).copied().unwrap_or(0)
    }

    /// Drops the table files with only keys of a region. Some of its keys stay, and some that such a file had deleted come back. The
    /// region must no longer have records.
    pub(crate) fn drop_files(&self, region: &RegionDescriptor) -> Result<(), Error> {
        let mut drops = self.drops.lock().unwrap_or_else(PoisonError::into_inner);
        *drops.entry(region.id).or_default() += 1;
        drop(drops);
        let last_key = before(region.upper_bound());
        for family in [Family::Raw, Family::Versioned] {
            let family = self.family(family);
            let dropped =
                self.database
                    .delete_file_in_range_cf(family, &region.start_key[..], &last_key);
            dropped.map_err(|error| Error::io("dropping table files", error))?;
        }
        Ok(())
    }

    fn epochs(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.epochs.lock().unwrap_or_else(PoisonError::into_inner)
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
}

/// A key below a bound, with few keys between the two. RocksDB drops a file whose last key is the bound itself.
fn before(bound: &[u8]) -> Vec<u8> {
    const FILL: [u8; 32] = [0xff; 32];
    match bound.split_last() {
        Some((0, rest)) => rest.to_vec(),
        Some((last, rest)) => [rest, &[last - 1], &FILL].concat(),
        None => Vec::new(),
    }
}

#[cfg(test)]
impl Engine {
    /// A new engine in a temporary directory.
    pub(crate) fn temporary(block_cache_bytes: usize) -> (tempfile::TempDir, Arc<Self>) {
        let temporary = tempfile::tempdir().unwrap();
        let options = StorageOptions {
            block_cache_bytes,
            ..StorageOptions::new(Role::Embedded)
        };
        let directory = DataDirectory::open(temporary.path(), options.role, true).unwrap();
        let engine = Self::open(Arc::new(directory), &options, true).unwrap();
        (temporary, Arc::new(engine))
    }
}

/// The settings of a table file that is made beside the database, and becomes a part of it as it is.
pub(crate) fn table_options() -> &'static Options {
    static OPTIONS: LazyLock<Options> = LazyLock::new(|| {
        let mut options = Options::default();
        // Nothing is read through it.
        set_options(&mut options, &Cache::new_lru_cache(0));
        // It would be used for these files, wherever they come to be.
        options.set_bottommost_compression_type(DBCompressionType::Lz4);
        options
    });
    &OPTIONS
}

fn set_options(options: &mut Options, cache: &Cache) {
    let mut table = BlockBasedOptions::default();
    table.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
    table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    table.set_data_block_hash_ratio(DATA_BLOCK_HASH_RATIO);
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);

    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options.set_memtable_whole_key_filtering(true);
    options.set_memtable_prefix_bloom_ratio(MEMTABLE_BLOOM_RATIO);
}
