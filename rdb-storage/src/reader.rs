//! Reads for async callers.
//!
//! A point or multi-key read runs inline from memory. What is not there is read again, as a whole, on a bounded number of
//! blocking threads; scans always run there. Reads never wait behind writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::engine::Engine;
use crate::error::Error;
use crate::options::StorageOptions;
use crate::read::{PointRead, PointValue, ReadError, Tier, Versioned};
use crate::scan::{KeyValue, Page, ScanRange, VersionedKeyValue};

/// A read of more keys goes to the blocking threads right away: from memory alone it would hold its async worker up.
const INLINE_KEYS_MAX: usize = 64;

/// The async face of reading. Cheap to clone; needs a tokio runtime.
#[derive(Clone)]
pub struct Reader {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Arc<Engine>,
    /// Places to wait in; none left means busy.
    queue: Arc<Semaphore>,
    queue_limit: u64,
    /// Places to run in.
    running: Arc<Semaphore>,
    disk_reads: AtomicU64,
}

impl Reader {
    pub(crate) fn new(engine: Arc<Engine>, options: &StorageOptions) -> Self {
        Self {
            shared: Arc::new(Shared {
                engine,
                queue: Arc::new(Semaphore::new(options.disk_reads_queued_max)),
                queue_limit: options.disk_reads_queued_max as u64,
                running: Arc::new(Semaphore::new(options.disk_reads_max)),
                disk_reads: AtomicU64::new(0),
            }),
        }
    }

    /// Reads a raw value.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`], [`Error::DataLoss`], [`Error::Io`], or [`Error::Busy`] when too many reads wait for
    /// the disk.
    pub async fn get_raw(&self, key: Bytes) -> Result<Option<Bytes>, Error> {
        self.read(1, move |engine, tier| engine.get_raw(&key, tier))
            .await
    }

    /// Reads a versioned value.
    ///
    /// # Errors
    ///
    /// As [`get_raw`](Self::get_raw).
    pub async fn get_versioned(&self, key: Bytes) -> Result<Option<Versioned>, Error> {
        self.read(1, move |engine, tier| engine.get_versioned(&key, tier))
            .await
    }

    /// Reads one key from memory, without waiting; `None`: it is not there, see [`read_several`](Self::read_several).
    ///
    /// # Errors
    ///
    /// [`Error::DataLoss`] or [`Error::Io`].
    pub fn read_from_memory(&self, read: &PointRead) -> Result<Option<PointValue>, Error> {
        self.shared.engine.read_from_memory(read)
    }

    /// Reads keys from wherever they are, each by itself (so not from one snapshot), in one go on one blocking thread.
    /// Stops when the values read have `value_bytes_max` bytes: the results are of the first of `reads`, one at least.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] when too many reads wait for the disk; of a single key, within the results, as
    /// [`get_raw`](Self::get_raw).
    pub async fn read_several(
        &self,
        reads: Vec<PointRead>,
        value_bytes_max: usize,
    ) -> Result<Vec<Result<PointValue, Error>>, Error> {
        self.blocking(move |engine| Ok(engine.read_from_disk(&reads, value_bytes_max)))
            .await
    }

    /// Reads raw values from one snapshot, in the order of `keys`.
    ///
    /// # Errors
    ///
    /// As [`get_raw`](Self::get_raw), and [`Error::ResultTooLarge`].
    pub async fn multi_get_raw(&self, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>, Error> {
        self.read(keys.len(), move |engine, tier| {
            engine.multi_get_raw(&keys, tier)
        })
        .await
    }

    /// Reads versioned values from one snapshot, in the order of `keys`.
    ///
    /// # Errors
    ///
    /// As [`multi_get_raw`](Self::multi_get_raw).
    pub async fn multi_get_versioned(
        &self,
        keys: Vec<Bytes>,
    ) -> Result<Vec<Option<Versioned>>, Error> {
        self.read(keys.len(), move |engine, tier| {
            engine.multi_get_versioned(&keys, tier)
        })
        .await
    }

    /// Reads one page of the raw keyspace.
    ///
    /// # Errors
    ///
    /// As [`get_raw`](Self::get_raw).
    pub async fn scan_raw(&self, range: ScanRange) -> Result<Page<KeyValue>, Error> {
        self.blocking(move |engine| engine.scan_raw(&range)).await
    }

    /// Reads one page of the versioned keyspace.
    ///
    /// # Errors
    ///
    /// As [`get_raw`](Self::get_raw).
    pub async fn scan_versioned(&self, range: ScanRange) -> Result<Page<VersionedKeyValue>, Error> {
        self.blocking(move |engine| engine.scan_versioned(&range))
            .await
    }

    /// How many reads went to the blocking threads since the open.
    pub(crate) fn disk_read_count(&self) -> u64 {
        self.shared.disk_reads.load(Ordering::Relaxed)
    }

    /// Reads `key_count` keys: few from memory right here, and what is not there, or many, on a blocking thread, as a whole.
    async fn read<T: Send + 'static>(
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
        self.blocking(move |engine| Ok(read(engine, Tier::Disk)?))
            .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Engine) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let shared = &self.shared;
        let queued = Arc::clone(&shared.queue)
            .try_acquire_owned()
            .map_err(|_| Error::Busy {
                queue: "disk read",
                limit: shared.queue_limit,
                unit: "reads",
            })?;
        let running = Arc::clone(&shared.running)
            .acquire_owned()
            .await
            .map_err(|_| Error::Closed)?;
        shared.disk_reads.fetch_add(1, Ordering::Relaxed);
        let engine = Arc::clone(&shared.engine);
        // The places go with the read: dropping the caller does not make room before the thread is free again.
        let read = spawn_blocking(move || {
            let _places = (queued, running);
            read(&engine)
        });
        read.await.unwrap_or_else(|error| {
            Err(Error::Io {
                cause: format!("the read was not finished: {error}"),
            })
        })
    }
}
