//! Reads for async callers.
//!
//! Point and multi-key reads run inline from memory. A read that misses is done again, as a whole, on a bounded number of
//! blocking threads. Scans always run on such threads. Reads never wait behind writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use crate::engine::Engine;
use crate::error::Error;
#[cfg(doc)]
use crate::limits::SCAN_ENTRY_OVERHEAD_BYTES;
use crate::options::StorageOptions;
use crate::read::{PointRead, PointValue, ReadError, Tier, Versioned};
use crate::scan::{KeyValue, Page, ScanRange, VersionedKeyValue};

/// A read of more keys goes to the blocking threads at once. Even from memory it would hold up its async worker.
const INLINE_KEYS_MAX: usize = 64;

/// The async face of reading. Cheap to clone; needs a tokio runtime.
///
/// Every read takes `room`, the bytes that its caller has set aside for the result. A result that does not fit is not copied
/// out of RocksDB: the read fails with [`Error::NeedsRoom`], which names the room that is needed.
#[derive(Clone)]
pub struct Reader {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Arc<Engine>,
    /// Places of point and multi-key reads.
    reads: Places,
    scans: Places,
    /// A count for statistics. Relaxed, since nothing is ordered by it.
    disk_reads: AtomicU64,
}

/// A bounded number of reads on blocking threads, and a bounded queue for them. Scans and other reads have separate places,
/// so that neither can starve the other.
struct Places {
    queue_name: &'static str,
    /// Places to wait in, and to run in afterwards; none left means busy.
    queue: Arc<Semaphore>,
    queue_limit: u64,
    /// Places to run in.
    running: Arc<Semaphore>,
}

impl Places {
    fn new(queue_name: &'static str, running_max: usize, queued_max: usize) -> Self {
        Self {
            queue_name,
            queue: Arc::new(Semaphore::new(queued_max)),
            queue_limit: queued_max as u64,
            running: Arc::new(Semaphore::new(running_max)),
        }
    }

    /// Waits for a place to run in. Dropping the permits frees it.
    async fn enter(&self) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), Error> {
        let queued = Arc::clone(&self.queue).try_acquire_owned();
        let queued = queued.map_err(|_| Error::Busy {
            queue: self.queue_name,
            limit: self.queue_limit,
            unit: "reads",
        })?;
        let running = Arc::clone(&self.running).acquire_owned().await;
        Ok((queued, running.map_err(|_| Error::Closed)?))
    }
}

impl Reader {
    pub(crate) fn new(engine: Arc<Engine>, options: &StorageOptions) -> Self {
        let (reads, queued) = (options.disk_reads_max, options.disk_reads_queued_max);
        Self {
            shared: Arc::new(Shared {
                engine,
                reads: Places::new("disk read", reads, queued),
                scans: Places::new("scan", options.scans_max, options.scans_queued_max),
                disk_reads: AtomicU64::new(0),
            }),
        }
    }

    /// Reads one key. Only its value counts against `room`.
    ///
    /// # Errors
    ///
    /// [`Error::NeedsRoom`], [`Error::DataLoss`], [`Error::Io`], or [`Error::Busy`] when too many reads wait for the disk.
    pub async fn read(&self, read: PointRead, room: usize) -> Result<PointValue, Error> {
        self.memory_first(1, move |engine, tier| engine.read(&read, tier, room))
            .await
    }

    /// Reads one key from memory, without waiting. `None`: it is not in memory; use [`read_several`](Self::read_several).
    ///
    /// # Errors
    ///
    /// [`Error::NeedsRoom`], [`Error::DataLoss`] or [`Error::Io`].
    pub fn read_from_memory(
        &self,
        read: &PointRead,
        room: usize,
    ) -> Result<Option<PointValue>, Error> {
        match self.shared.engine.read(read, Tier::Memory, room) {
            Err(ReadError::NotInMemory) => Ok(None),
            answered => Ok(Some(answered?)),
        }
    }

    /// Reads keys one by one on one blocking thread, from memory or disk, not from one snapshot. Stops before a value that
    /// no longer fits into `room`. The results are those of the first reads, at least one.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] when too many reads wait for the disk. Each result can be an error of [`read`](Self::read), but only
    /// the first can be [`Error::NeedsRoom`].
    pub async fn read_several(
        &self,
        reads: Vec<PointRead>,
        room: usize,
    ) -> Result<Vec<Result<PointValue, Error>>, Error> {
        let places = &self.shared.reads;
        self.blocking(
            places,
            move |engine| Ok(engine.read_from_disk(&reads, room)),
        )
        .await
    }

    /// Reads raw values from one snapshot, in the order of `keys`. The keys and values that are found count against `room`.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read), [`Error::InvalidArgument`], and [`Error::ResultTooLarge`].
    pub async fn multi_get_raw(
        &self,
        keys: Vec<Bytes>,
        room: usize,
    ) -> Result<Vec<Option<Bytes>>, Error> {
        self.memory_first(keys.len(), move |engine, tier| {
            engine.multi_get(&keys, tier, room)
        })
        .await
    }

    /// Reads versioned values, as [`multi_get_raw`](Self::multi_get_raw) does raw ones.
    pub async fn multi_get_versioned(
        &self,
        keys: Vec<Bytes>,
        room: usize,
    ) -> Result<Vec<Option<Versioned>>, Error> {
        self.memory_first(keys.len(), move |engine, tier| {
            engine.multi_get(&keys, tier, room)
        })
        .await
    }

    /// Reads one page of the raw keyspace. The page ends where `room` does: an entry counts its key, its value and
    /// [`SCAN_ENTRY_OVERHEAD_BYTES`].
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`], [`Error::DataLoss`], [`Error::Io`]; [`Error::NeedsRoom`] when not even the first entry
    /// fits; [`Error::Busy`] when too many scans wait.
    pub async fn scan_raw(&self, range: ScanRange, room: usize) -> Result<Page<KeyValue>, Error> {
        self.blocking(&self.shared.scans, move |engine| engine.scan(&range, room))
            .await
    }

    /// Reads one page of the versioned keyspace, as [`scan_raw`](Self::scan_raw) does of the raw one.
    pub async fn scan_versioned(
        &self,
        range: ScanRange,
        room: usize,
    ) -> Result<Page<VersionedKeyValue>, Error> {
        self.blocking(&self.shared.scans, move |engine| engine.scan(&range, room))
            .await
    }

    /// How many reads went to the blocking threads since the open.
    pub(crate) fn disk_read_count(&self) -> u64 {
        self.shared.disk_reads.load(Ordering::Relaxed)
    }

    /// Reads inline from memory if there are few keys. If there are many, or one is not in memory, reads all of them on a
    /// blocking thread.
    async fn memory_first<T: Send + 'static>(
        &self,
        key_count: usize,
        read: impl Fn(&Engine, Tier) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, Error> {
        if key_count <= INLINE_KEYS_MAX {
            match read(&self.shared.engine, Tier::Memory) {
                Err(ReadError::NotInMemory) => {}
                answered => return Ok(answered?),
            }
        }
        let places = &self.shared.reads;
        self.blocking(places, move |engine| Ok(read(engine, Tier::Disk)?))
            .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        places: &Places,
        read: impl FnOnce(&Engine) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let place = places.enter().await?;
        self.shared.disk_reads.fetch_add(1, Ordering::Relaxed);
        let engine = Arc::clone(&self.shared.engine);
        // The thread holds the place: dropping the caller must not free it before the thread is done.
        let read = spawn_blocking(move || {
            let _place = place;
            read(&engine)
        });
        read.await
            .unwrap_or_else(|error| Err(Error::io("the read was not finished", error)))
    }
}
