//! A device that waits, fails and panics when it is told to.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use bytes::Bytes;
use rdb_raft::log::{Batch, LogDevice, MemoryDevice, Visit};

#[derive(Default)]
pub(crate) struct TestDevice {
    pub(crate) memory: MemoryDevice,
    pub(crate) writes: Gate,
    pub(crate) scans: Gate,
    fault: Mutex<Option<Fault>>,
    syncs: AtomicUsize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Writes fail.
    Write,
    /// Writes panic.
    Panic,
    /// Writes succeed, but something else failed.
    Background,
}

impl TestDevice {
    pub(crate) fn break_down(&self, fault: Fault) {
        *self.fault.lock().unwrap() = Some(fault);
    }

    pub(crate) fn syncs(&self) -> usize {
        self.syncs.load(Ordering::Relaxed)
    }

    fn has(&self, fault: Fault) -> bool {
        *self.fault.lock().unwrap() == Some(fault)
    }
}

impl LogDevice for TestDevice {
    fn write(&self, batch: &Batch, sync: bool) -> io::Result<()> {
        self.writes.pass();
        if self.has(Fault::Write) {
            return Err(io::Error::other("the device is broken"));
        }
        assert!(!self.has(Fault::Panic), "the device is broken");
        self.syncs.fetch_add(usize::from(sync), Ordering::Relaxed);
        self.memory.write(batch, sync)
    }

    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.memory.get(key)
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) -> io::Result<()> {
        self.scans.pass();
        self.memory.scan(start, end, visit)
    }

    fn last(&self, start: &[u8], end: &[u8]) -> io::Result<Option<(Vec<u8>, Bytes)>> {
        self.memory.last(start, end)
    }

    fn background_error(&self) -> Option<String> {
        self.has(Fault::Background)
            .then(|| "the device is broken".to_owned())
    }
}

/// Lets threads pass while it is open.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    closed: bool,
    waiting: usize,
}

impl Gate {
    pub(crate) fn close(&self) {
        self.state.lock().unwrap().closed = true;
    }

    pub(crate) fn open(&self) {
        self.state.lock().unwrap().closed = false;
        self.changed.notify_all();
    }

    /// Returns when a thread waits at the closed gate.
    pub(crate) fn wait_for_arrival(&self) {
        let state = self.state.lock().unwrap();
        let nobody = |state: &mut GateState| state.waiting == 0;
        drop(self.changed.wait_while(state, nobody).unwrap());
    }

    pub(crate) fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        self.changed.notify_all();
        let closed = |state: &mut GateState| state.closed;
        state = self.changed.wait_while(state, closed).unwrap();
        state.waiting -= 1;
    }
}
