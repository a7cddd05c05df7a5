//! [`Storage`], the embedded API: thin calls over the one write path and the reads.

mod embedded;
mod regions;
#[cfg(test)]
mod tests;

pub use regions::UnfinishedInstall;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rocksdb::properties;
use tokio::sync::watch;

use crate::applied::{AppliedState, applied_position, flushed};
use crate::command::Outcome;
use crate::engine::{Engine, Family};
use crate::error::{Error, OpenError};
use crate::figures::DatabaseFigures;
use crate::identity::{DataDirectory, Identity};
use crate::log_database::LogDatabase;
use crate::log_entry::{ApplyOptions, LogEntry};
use crate::options::{StorageOptions, WalRecovery};
use crate::reader::Reader;
use crate::region::{RegionDescriptor, stored_regions};
use crate::reserve::{DiskReserve, Space};
use crate::view::RegionView;
use crate::writer::{
    Admitted, NotWarmed, PendingWrite, Submission, WriteHealth, WriteRoom, WriteShare, Writer,
};

/// An open data directory. Cheap to clone; the directory stays locked until the last clone is dropped.
///
/// Its methods block, and name the region [`EMBEDDED_REGION_ID`](crate::limits::EMBEDDED_REGION_ID). Async callers use
/// [`submit`](Self::submit) and [`reader`](Self::reader) instead; on a thread that drives async tasks the blocking writes panic.
///
/// If a method does not say how it fails, a write fails as [`submit`](Self::submit) does, and a read with
/// [`Error::InvalidArgument`], [`Error::DataLoss`] or [`Error::Io`].
#[derive(Clone)]
pub struct Storage {
    inner: Arc<Inner>,
}

/// The fields are dropped in their order: the writer ends before the engine closes.
struct Inner {
    writer: Writer,
    reader: Reader,
    engine: Arc<Engine>,
    options: StorageOptions,
    /// Held while the log database is opened: one that is half made is removed.
    opening_log: Mutex<()>,
    /// The first call of `close` wins the exchange; what it closes has its own locks.
    closed: AtomicBool,
    /// See `Storage::unfinished_installs`.
    unfinished: Mutex<BTreeMap<u64, UnfinishedInstall>>,
}

/// Figures of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageStats {
    /// Size of the file system, in bytes.
    pub capacity_bytes: u64,
    /// Bytes of it that are free.
    pub available_bytes: u64,
    /// RocksDB's estimate of the number of keys in both keyspaces together.
    pub key_count: u64,
    /// Bytes of table files.
    pub data_bytes: u64,
    /// Syncs of the data's write-ahead log since the open. The log database has a separate figure ([`LogDatabase::wal_sync_count`]).
    pub wal_sync_count: u64,
    /// Reads of [`Reader`] that went to a blocking thread since the open: scans, reads of many keys, and those of data that
    /// was not in memory.
    pub disk_read_count: u64,
    /// How often, since the open, a submission was put aside or given back because its keys were not in memory, or their records too
    /// large to be read at once. Submissions that are only warmed count, too. [`Storage::warm_from_disk`] does not count.
    pub cold_write_count: u64,
}

/// Figures of a storage that are read without a lock that a write takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageFigures {
    /// The figures of the data's database.
    pub data: DatabaseFigures,
    /// Bytes of writes that hold room in the write queue.
    pub write_queue_bytes: u64,
    /// Most that it has room for.
    pub write_queue_bytes_max: u64,
    /// See [`StorageStats::disk_read_count`].
    pub disk_reads: u64,
    /// See [`StorageStats::cold_write_count`].
    pub cold_writes: u64,
}

impl Storage {
    /// Opens `directory`, creating it where it is missing. An open that cuts a damaged log
    /// ([`WalRecovery::PointInTime`]) creates nothing.
    ///
    /// # Errors
    ///
    /// [`OpenError`] says why not, and names the directory.
    pub fn open(directory: impl AsRef<Path>, options: StorageOptions) -> Result<Self, OpenError> {
        options.validate()?;
        let create = options.wal_recovery == WalRecovery::Strict;
        let directory = DataDirectory::open(directory.as_ref(), options.role, create)?;
        Self::open_locked(Arc::new(directory), &options)
    }

    /// Opens a directory that is locked, with valid options.
    pub(crate) fn open_locked(
        directory: Arc<DataDirectory>,
        options: &StorageOptions,
    ) -> Result<Self, OpenError> {
        let path = directory.path().to_owned();
        if !options.replicated {
            directory.refuse_log()?;
        }
        let io_error = |cause: std::io::Error| OpenError::Io {
            directory: path.clone(),
            cause: cause.to_string(),
        };
        let reserve = DiskReserve::new(&path, options.disk_reserve_bytes).map_err(io_error)?;
        reserve.release_if_full().map_err(io_error)?;

        let create = !directory.identity().initialized;
        let engine = Arc::new(Engine::open(directory, options, create)?);
        engine.directory().note_initialized().map_err(io_error)?;
        reserve.make_if_roomy();

        let writer = Writer::start(Arc::clone(&engine), options).map_err(io_error)?;
        let unfinished = regions::finish_installs(&engine, &writer).map_err(io_error)?;
        Ok(Self {
            inner: Arc::new(Inner {
                writer,
                reader: Reader::new(Arc::clone(&engine), options),
                engine,
                options: options.clone(),
                opening_log: Mutex::default(),
                closed: AtomicBool::new(false),
                unfinished: Mutex::new(unfinished),
            }),
        })
    }

    /// Opens the log database of the directory, with the settings of this storage. The first time creates it. From its first
    /// write on, releases without replication refuse the directory, and a missing log database is damage. It can be open only
    /// once at a time.
    ///
    /// # Errors
    ///
    /// [`OpenError`], as of [`open`](Self::open); without [`StorageOptions::replicated`], too.
    pub fn open_log(&self) -> Result<LogDatabase, OpenError> {
        if !self.inner.options.replicated {
            return Err(OpenError::InvalidOption {
                setting: "replicated",
                value: 0,
                problem: "a storage without logs was opened",
            });
        }
        let opening = self.inner.opening_log.lock();
        let _opening = opening.unwrap_or_else(PoisonError::into_inner);
        let directory = Arc::clone(self.inner.engine.directory());
        LogDatabase::open(directory, &self.inner.options)
    }

    /// The data directory.
    pub fn directory(&self) -> PathBuf {
        self.inner.engine.directory().path().to_owned()
    }

    /// What the identity file of the directory says.
    pub fn identity(&self) -> Identity {
        self.inner.engine.directory().identity()
    }

    /// Assigns the directory to a cluster, and to a store of it, for good. The same assignment again succeeds. An
    /// incarnation replaces the one before.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignAssignment`] when the directory belongs to another; [`Error::Io`] when it could not be written.
    pub fn assign(
        &self,
        cluster_id: u64,
        store_id: Option<u64>,
        incarnation: Option<u64>,
    ) -> Result<(), Error> {
        let directory = self.inner.engine.directory();
        directory.assign(cluster_id, store_id, incarnation)
    }

    /// Queues writes and returns at once. The commands are applied in order, as a whole or not at all. The [`PendingWrite`]
    /// resolves to one outcome for each of them. Submissions that wait at the same time are applied in any order: one whose
    /// keys are not in memory lets others pass.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`], [`Error::Busy`], [`Error::WritesStopped`] and [`Error::Closed`] at once;
    /// [`Error::Undetermined`] and [`Error::WritesStopped`] as the answer.
    pub fn submit(&self, submission: Submission) -> Result<PendingWrite, Error> {
        self.inner.writer.submit(submission)
    }

    /// Admits a submission, as [`submit`](Self::submit) does before it queues it, for a caller that applies it in another way,
    /// e.g. through a replicated log. Its room in the write queue is held until the [`Admitted`] is dropped.
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit) at once.
    pub fn admit(&self, submission: Submission) -> Result<Admitted, Error> {
        self.inner.writer.admit(submission)
    }

    /// A share of the write queue's room, for one region. While several regions have shares, one whose writes wait leaves room to the
    /// others.
    pub fn write_share(&self) -> Arc<WriteShare> {
        self.inner.writer.share()
    }

    /// The same as [`admit`](Self::admit) within the share of the submission's region.
    ///
    /// # Errors
    ///
    /// As [`admit`](Self::admit); [`Error::Busy`] also when the region holds so much room that others would have too little.
    pub fn admit_within(
        &self,
        share: &Arc<WriteShare>,
        submission: Submission,
    ) -> Result<Admitted, Error> {
        self.inner.writer.admit_within(share, submission)
    }

    /// Whether a write that was admitted before would still be, whatever room there is.
    ///
    /// # Errors
    ///
    /// [`Error::WritesStopped`] and [`Error::Closed`]: it would not.
    pub fn check_writes(&self, region_id: u64) -> Result<(), Error> {
        self.inner.writer.check(region_id)
    }

    /// Reads into memory what applying a submission reads: the versioned keys of its swaps and deletes. An
    /// [`apply_from_memory`](Self::apply_from_memory) that comes soon finds it then.
    ///
    /// `then` is called exactly once. If all is in memory and not much, it is called right here, else on another thread, or on the
    /// one that closes the storage. It must not block.
    ///
    /// # Errors
    ///
    /// What `then` gets. [`Error::DataLoss`] and [`Error::Io`]: a key cannot be read, and writes to the region have stopped until
    /// the next open. Such a submission must not get into a replicated log, since it could not be applied here. What is in the
    /// log already still is. The command that needs the key is named, so that the others can be refused with
    /// [`Error::WritesStopped`]. [`Error::Closed`]: a key was not read before the storage was closed.
    pub fn warm(
        &self,
        admitted: Admitted,
        then: impl FnOnce(Result<Admitted, NotWarmed>) + Send + 'static,
    ) {
        self.inner.writer.warm(admitted, then);
    }

    /// The same without another thread. Returns what [`warm`](Self::warm) would call `then` with.
    ///
    /// # Errors
    ///
    /// The submission is given back if not all is in memory, or if it is much.
    pub fn warm_from_memory(
        &self,
        admitted: Admitted,
    ) -> Result<Result<Admitted, NotWarmed>, Admitted> {
        self.inner.writer.warm_from_memory(admitted)
    }

    /// As [`warm`](Self::warm), but reads nothing right here. For what [`warm_from_memory`](Self::warm_from_memory) gave back.
    pub fn warm_from_disk(
        &self,
        admitted: Admitted,
        then: impl FnOnce(Result<Admitted, NotWarmed>) + Send + 'static,
    ) {
        self.inner.writer.warm_from_disk(admitted, then);
    }

    /// Takes room in the write queue for a message. The commands of several submissions can share its buffer.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] when the queue is full; [`Error::InvalidArgument`] when the message is larger than the queue.
    pub fn take_write_room(&self, message_bytes: usize) -> Result<WriteRoom, Error> {
        self.inner.writer.take_room(message_bytes)
    }

    /// Applies entries of a region's replicated log in their order, and stores the position of the last as the region's
    /// applied position. All of it is one write: after a crash all of it is there or none. If the entries delete many ranges, it is
    /// several writes of whole entries, each with its position: after a crash a first part may be there. Returns one outcome for
    /// each command of each entry. Blocks while it reads from the disk, and while RocksDB holds writes back.
    ///
    /// The effect of an entry depends only on the entry and on the data that earlier entries left. So replicas that apply
    /// the same log hold the same data. An entry that was proposed under another epoch than the stored one changes nothing
    /// ([`Outcome::EpochChanged`]), and neither does a command that breaks a limit ([`Outcome::Invalid`]). The position is
    /// stored in these cases, too. A membership, a check and a blank entry have no
    /// outcomes.
    ///
    /// A region gets its writes from one log or from [`submit`](Self::submit), never from both, and from one thread at a time.
    /// Positions are not compared: the caller begins behind [`applied_position`](Self::applied_position). Keys that were read
    /// when their entry was proposed ([`warm`](Self::warm)) are in memory mostly, and keep the disk out of this. The values
    /// that the conflicts of one call carry are held together.
    ///
    /// Without the write-ahead log a crash leaves the state that [`flushed`](Self::flushed) returned or a later one, and the log has
    /// to hold the entries behind it. When they are more than [`wal_bytes_max`](StorageOptions::wal_bytes_max), the data is
    /// flushed within a second.
    ///
    /// With the write-ahead log and without a sync ([`Durability::Os`](crate::Durability::Os)) a power cut may take the last
    /// entries back, with their positions, never one and not the next. A storage with such entries is opened with that setting,
    /// too: another open may refuse what the power cut left.
    ///
    /// # Errors
    ///
    /// [`Error::DataLoss`] and [`Error::Io`]: nothing was applied, and writes to the region have stopped until the next
    /// open. [`Error::WritesStopped`] and [`Error::Closed`]: nothing was applied. Without the write-ahead log, an IO error of this
    /// very write is [`Error::WritesStopped`], too. [`Error::Undetermined`]: all writes have stopped, and only the next open
    /// shows what was applied.
    pub fn apply(
        &self,
        region_id: u64,
        entries: &[LogEntry],
        options: ApplyOptions,
    ) -> Result<Vec<Vec<Outcome>>, Error> {
        let applied = self.inner.writer.apply(region_id, entries, options, true)?;
        applied.ok_or_else(|| Error::Undetermined {
            cause: "RocksDB answered a write that may wait as one that may not".to_owned(),
        })
    }

    /// The same without blocking. `None`: nothing was applied, since a key is not in memory, there is too much to read, several
    /// writes are needed, or RocksDB holds writes back; use [`apply`](Self::apply). The few records of the region itself may still be
    /// read from the disk.
    ///
    /// # Errors
    ///
    /// As [`apply`](Self::apply).
    pub fn apply_from_memory(
        &self,
        region_id: u64,
        entries: &[LogEntry],
        options: ApplyOptions,
    ) -> Result<Option<Vec<Vec<Outcome>>>, Error> {
        self.inner.writer.apply(region_id, entries, options, false)
    }

    /// The position of the last entry that was applied to a region. `None`: no entry ever was, and it has no first state.
    pub fn applied_position(&self, region_id: u64) -> Result<Option<Bytes>, Error> {
        applied_position(&self.inner.engine, region_id)
    }

    /// What a crash would leave of a region that is applied without the write-ahead log. `None`: the region has no first
    /// state. Later calls never return an earlier state. After an open it is the stored state.
    pub fn flushed(&self, region_id: u64) -> Result<Option<AppliedState>, Error> {
        flushed(&self.inner.engine, region_id)
    }

    /// Makes what is applied to a region durable, and with it that of all other regions. Does nothing if it already is,
    /// so that a region can be opened on a full disk. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the flush failed; all writes stop soon then. Otherwise as a read.
    pub fn flush(&self, region_id: u64) -> Result<(), Error> {
        let engine = &self.inner.engine;
        let flushed = flushed(engine, region_id)?.map(|state| state.position);
        if flushed == applied_position(engine, region_id)? {
            return Ok(());
        }
        let flushed = engine.database.flush();
        flushed.map_err(|error| Error::io("flushing the data", error))
    }

    /// Gives regions their descriptors and the states that their logs begin behind, all of them or none, and flushes them. Returns
    /// whether it did so for any: a region that has a state keeps it, and a region that a snapshot will replace gets none. Data that a
    /// region got through [`submit`](Self::submit) stays; from now on the region is written by [`apply`](Self::apply) only, without the
    /// write-ahead log. Blocks.
    ///
    /// # Errors
    ///
    /// As [`apply`](Self::apply), and [`Error::Io`] when the flush failed. The regions may have their states after the next open.
    pub fn bootstrap_regions(
        &self,
        regions: &[(RegionDescriptor, AppliedState)],
    ) -> Result<bool, Error> {
        self.inner.writer.bootstrap(regions)
    }

    /// The regions written with [`Command::PutRegion`](crate::Command::PutRegion), in the order of their ids.
    pub fn regions(&self) -> Result<Vec<RegionDescriptor>, Error> {
        let engine = &self.inner.engine;
        stored_regions(&engine.database, engine.family(Family::RaftState))
    }

    /// About how many bytes of table files the keys of a region take, as RocksDB estimates it. What is only in memory does not count.
    /// `None`: the region is not stored. Cheap beside a read, but it may read indexes from the disk. Blocks.
    pub fn region_bytes(&self, region_id: u64) -> Result<Option<u64>, Error> {
        let region = self.inner.engine.region(region_id)?;
        Ok(region.map(|region| self.inner.engine.bytes_of(&region)))
    }

    /// Has `work` look at a region as it is now; later writes are not seen. Blocks. `None`: the region is not stored here, or its log was
    /// never applied. The storage cannot be dropped while `work` runs.
    pub fn view_region<T>(
        &self,
        region_id: u64,
        work: impl FnOnce(&RegionView<'_>) -> T,
    ) -> Result<Option<T>, Error> {
        let snapshot = RegionView::take(&self.inner.engine, region_id)?;
        Ok(snapshot.map(|snapshot| work(&snapshot)))
    }

    /// Reads for async callers.
    pub fn reader(&self) -> Reader {
        self.inner.reader.clone()
    }

    /// Whether writes are accepted. The receiver sees every later change.
    pub fn write_health(&self) -> watch::Receiver<WriteHealth> {
        self.inner.writer.health()
    }

    /// Figures of this storage. Cheap, but asks the file system.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the file system or RocksDB does not answer.
    pub fn stats(&self) -> Result<StorageStats, Error> {
        let inner = &self.inner;
        let unanswered = "the file system of the data directory does not answer";
        let space = Space::of(inner.engine.directory().path());
        let space = space.map_err(|error| Error::io(unanswered, error))?;
        Ok(StorageStats {
            capacity_bytes: space.capacity_bytes,
            available_bytes: space.available_bytes,
            key_count: inner.engine.data_property(properties::ESTIMATE_NUM_KEYS)?,
            data_bytes: inner
                .engine
                .data_property(properties::TOTAL_SST_FILES_SIZE)?,
            wal_sync_count: inner.engine.database.wal_sync_count(),
            disk_read_count: inner.reader.disk_read_count(),
            cold_write_count: inner.writer.cold_write_count(),
        })
    }

    /// Figures that are cheap to read at any time: counts, and sizes that were noted up to three seconds ago.
    pub fn figures(&self) -> StorageFigures {
        let inner = &self.inner;
        let (taken_bytes, bytes_max) = inner.writer.room_bytes();
        StorageFigures {
            data: inner.engine.database.figures(),
            write_queue_bytes: taken_bytes as u64,
            write_queue_bytes_max: bytes_max as u64,
            disk_reads: inner.reader.disk_read_count(),
            cold_writes: inner.writer.cold_write_count(),
        }
    }

    /// Refuses new writes, finishes the queued ones, flushes memtables so that the next open is quick, and cancels
    /// compactions so that the process need not wait for one. Queued writes whose keys are not in memory get
    /// [`Error::Closed`]. Reads go on. A second call does nothing. The directory is unlocked when the last clone is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the flush failed, e.g. on a full disk. Nothing is lost: the write-ahead log has the data, or the log
    /// that it was applied from.
    pub fn close(&self) -> Result<(), Error> {
        let was_closed = self.inner.closed.swap(true, Ordering::AcqRel);
        if !was_closed {
            self.inner.engine.database.stop_compactions();
        }
        self.inner.writer.close();
        if was_closed {
            return Ok(());
        }
        let database = &self.inner.engine.database;
        let flushed = database.flush();
        database.stop_background_work();
        flushed.map_err(|error| Error::io("flushing the data at close", error))
    }
}
