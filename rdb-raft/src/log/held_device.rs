//! A log device in memory for tests, whose writes can be held up, and can fail.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use futures::FutureExt;
use openraft::storage::{IOFlushed, RaftLogStorage};

use super::{Batch, LogDevice, LogStore, MemoryDevice, Visit};
use crate::types::{Content, Entry, LogId, Payload};

/// A device that writes nothing while somebody has the lock.
#[derive(Default)]
pub(crate) struct HeldDevice {
    memory: MemoryDevice,
    pub(crate) lock: Mutex<()>,
    /// How many writes were begun.
    pub(crate) begun: AtomicUsize,
    /// Whether writes fail.
    pub(crate) is_broken: AtomicBool,
}

impl LogDevice for HeldDevice {
    fn write(&self, batch: &Batch, sync: bool) -> io::Result<()> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let _turn = self.lock.lock().unwrap();
        if self.is_broken.load(Ordering::SeqCst) {
            return Err(io::Error::other("it is broken"));
        }
        self.memory.write(batch, sync)
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

/// Appends more than may be unwritten before groups are refused. It returns at once, while the device is held.
pub(crate) fn append_too_much(log: &mut LogStore) {
    let payload = Payload(vec![0; 1 << 20].into());
    let entries = (0..=64).map(|index| Entry {
        log_id: LogId::new_term_index(1, index),
        payload: Content::Normal(payload.clone()),
    });
    let entries: Vec<_> = entries.collect();
    let appended = log.append(entries, IOFlushed::noop()).now_or_never();
    appended.unwrap().unwrap();
}
