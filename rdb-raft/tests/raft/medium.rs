//! What logs are kept on while processes come and go: memory, or a data directory.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use rdb_raft::log::{LogDevice, LogWriter, MemoryDevice};
use rdb_storage::{LogDatabase, Role, Storage, StorageOptions};
use tempfile::TempDir;

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The writer writes what is queued, and the device is closed.
    Closed,
    /// The writer writes what is queued, and nothing else happens.
    Left,
    /// How many of the batches that were not synced are kept.
    PowerCut(usize),
}

/// Outlives its processes.
pub(crate) trait Medium: Sized + 'static {
    fn new() -> Self;

    fn device(&self) -> Arc<dyn LogDevice>;

    /// Ends the process with this writer. Nobody else has the device.
    fn restart(self, writer: LogWriter, end: End) -> Self;
}

impl Medium for Arc<MemoryDevice> {
    fn new() -> Self {
        Self::default()
    }

    fn device(&self) -> Arc<dyn LogDevice> {
        Arc::clone(self) as _
    }

    fn restart(self, writer: LogWriter, end: End) -> Self {
        match end {
            End::Closed | End::Left => {
                writer.close();
                Self::new(self.after_power_cut(usize::MAX))
            }
            End::PowerCut(batches) => Self::new(self.after_power_cut(batches)),
        }
    }
}

/// A log database in a data directory. Fields are dropped in their order.
pub(crate) struct Disk {
    log: Arc<LogDatabase>,
    storage: Storage,
    _directory: TempDir,
}

impl Medium for Disk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (storage, log) = open(directory.path());
        Self {
            log: Arc::new(log),
            storage,
            _directory: directory,
        }
    }

    fn device(&self) -> Arc<dyn LogDevice> {
        Arc::clone(&self.log) as _
    }

    /// Opens the log database again. The data has no part in this, and a process cannot cut the power: all that was written
    /// stays.
    fn restart(self, writer: LogWriter, end: End) -> Self {
        drop(writer);
        let log = Arc::into_inner(self.log).unwrap();
        if end == End::Closed {
            log.close().unwrap();
        }
        drop(log);
        Self {
            log: Arc::new(self.storage.open_log().unwrap()),
            ..self
        }
    }
}

/// Memtables so small that they are flushed all the time.
pub(crate) fn open(directory: &Path) -> (Storage, LogDatabase) {
    let options = StorageOptions {
        block_cache_bytes: 1 << 20,
        write_buffer_bytes: 64 << 10,
        disk_reserve_bytes: 0,
        replicated: true,
        ..StorageOptions::new(Role::Embedded)
    };
    let storage = Storage::open(directory, options).unwrap();
    let log = storage.open_log().unwrap();
    (storage, log)
}
