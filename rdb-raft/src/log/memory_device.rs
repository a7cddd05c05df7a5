//! A device in memory, for tests and simulations.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Batch, Change, LogDevice, Visit};

/// A [`LogDevice`] in memory that knows what a power cut would leave of it.
#[derive(Default)]
pub struct MemoryDevice {
    state: Mutex<State>,
}

type Records = BTreeMap<Vec<u8>, Bytes>;

#[derive(Default)]
struct State {
    written: Records,
    /// What was synced, and what was written after it.
    durable: Records,
    unsynced: Vec<Batch>,
}

impl MemoryDevice {
    /// What a power cut leaves: everything that was synced, and up to `batches` batches written after it.
    pub fn after_power_cut(&self, batches: usize) -> Self {
        let state = self.state();
        let mut left = state.durable.clone();
        for batch in state.unsynced.iter().take(batches) {
            change(&mut left, batch);
        }
        Self {
            state: Mutex::new(State {
                written: left.clone(),
                durable: left,
                unsynced: Vec::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogDevice for MemoryDevice {
    fn write(&self, batch: &Batch, sync: bool) -> io::Result<()> {
        let mut state = self.state();
        let State {
            written,
            durable,
            unsynced,
        } = &mut *state;
        change(written, batch);
        unsynced.push(batch.clone());
        if sync {
            for batch in unsynced.drain(..) {
                change(durable, &batch);
            }
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        Ok(self.state().written.get(key).cloned())
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) -> io::Result<()> {
        let state = self.state();
        for (key, value) in state.written.range::<[u8], _>(range(start, end)) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, start: &[u8], end: &[u8]) -> io::Result<Option<(Vec<u8>, Bytes)>> {
        let state = self.state();
        let last = state
            .written
            .range::<[u8], _>(range(start, end))
            .next_back();
        Ok(last.map(|(key, value)| (key.clone(), value.clone())))
    }

    fn background_error(&self) -> Option<String> {
        None
    }
}

fn change(records: &mut Records, batch: &Batch) {
    for change in batch.changes() {
        match change {
            Change::Put { key, value } => {
                records.insert(key.to_vec(), Bytes::copy_from_slice(value));
            }
            Change::Delete { key } => {
                records.remove(key);
            }
            Change::DeleteRange { start, end } => {
                records.retain(|key, _| key.as_slice() < start || key.as_slice() >= end);
            }
        }
    }
}

fn range<'a>(start: &'a [u8], end: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    // A map refuses a range that ends before it starts.
    (Bound::Included(start), Bound::Excluded(end.max(start)))
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;

    fn keys(device: &MemoryDevice, start: &[u8], end: &[u8]) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        let mut visit = |key: &[u8], _: &[u8]| {
            keys.push(key.to_vec());
            ControlFlow::Continue(())
        };
        device.scan(start, end, &mut visit).unwrap();
        keys
    }

    fn put(device: &MemoryDevice, key: &[u8], sync: bool) {
        let mut batch = Batch::default();
        batch.put(key, |_| {});
        device.write(&batch, sync).unwrap();
    }

    #[test]
    fn ranges_are_read_and_deleted_without_their_ends() {
        let device = MemoryDevice::default();
        for key in [b"a", b"b", b"c", b"d"] {
            put(&device, key, true);
        }
        assert_eq!(keys(&device, b"b", b"d"), [b"b", b"c"]);
        assert!(keys(&device, b"d", b"b").is_empty());
        let last = device.last(b"a", b"d").unwrap();
        assert_eq!(last, Some((b"c".to_vec(), Bytes::new())));
        let mut batch = Batch::default();
        batch.delete_range(b"b", b"d");
        batch.put(b"c", |_| {});
        device.write(&batch, true).unwrap();
        assert_eq!(keys(&device, b"a", b"z"), [b"a", b"c", b"d"]);
    }

    #[test]
    fn a_power_cut_leaves_a_prefix_of_what_was_not_synced() {
        let device = MemoryDevice::default();
        put(&device, b"a", false);
        put(&device, b"b", true);
        put(&device, b"c", false);
        put(&device, b"d", false);
        let left = |batches| keys(&device.after_power_cut(batches), b"a", b"z");
        assert_eq!(left(0), [b"a", b"b"]);
        assert_eq!(left(1), [b"a", b"b", b"c"]);
        assert_eq!(left(9), [b"a", b"b", b"c", b"d"]);
        assert_eq!(keys(&device, b"a", b"z"), left(9));
    }
}
