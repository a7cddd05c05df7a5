//! A disk for logs that can fail.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rdb_raft::log::{Batch, LogDevice, MemoryDevice, Visit};

/// Keeps what is written until the next start, unless it fails. Then it may or may not keep what it says it does not.
#[derive(Default)]
pub(crate) struct Device {
    memory: MemoryDevice,
    fails: AtomicBool,
}

impl Device {
    /// What a crash leaves: all that was synced, and up to `unsynced` batches of the rest.
    pub(crate) fn after_crash(&self, unsynced: usize) -> Arc<Self> {
        Arc::new(Self {
            memory: self.memory.after_power_cut(unsynced),
            fails: AtomicBool::new(false),
        })
    }

    /// From now on it fails.
    pub(crate) fn fail(&self) {
        self.fails.store(true, Ordering::Relaxed);
    }

    pub(crate) fn fails(&self) -> bool {
        self.fails.load(Ordering::Relaxed)
    }
}

impl LogDevice for Device {
    fn write(&self, batch: &Batch, sync: bool) -> io::Result<()> {
        if !self.fails() {
            return self.memory.write(batch, sync);
        }
        if fastrand::bool() {
            self.memory.write(batch, false)?;
        }
        Err(io::Error::other("the disk fails"))
    }

    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.memory.get(key)
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) -> io::Result<()> {
        self.memory.scan(start, end, visit)
    }

    fn last(&self, start: &[u8], end: &[u8]) -> io::Result<Option<(Vec<u8>, Bytes)>> {
        self.memory.last(start, end)
    }

    fn background_error(&self) -> Option<String> {
        None
    }
}
