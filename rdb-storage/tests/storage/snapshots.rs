//! A multi-key read beside atomic batches never shows half of one, while memtables are flushed all the time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use rdb_storage::{ScanRange, Storage, Submission};

use crate::fixture::{database_files, flushing, one_worker, open, put, swap};

/// More than are read at a time.
const KEYS: usize = 40;
const GENERATIONS: u64 = 400;

fn keys() -> Vec<Bytes> {
    (0..KEYS)
        .map(|number| format!("{number:02}").into())
        .collect()
}

fn value(generation: u64) -> Bytes {
    let mut value = vec![b'.'; 200];
    value[..8].copy_from_slice(&generation.to_be_bytes());
    value.into()
}

/// Rewrites all raw keys at once and all versioned keys at once.
fn write(storage: &Storage) {
    for generation in 0..GENERATIONS {
        // No two batches write the same values, or half of the second one could not be seen.
        let (first, second) = (2 * generation, 2 * generation + 1);
        let entries = keys().into_iter().map(|key| (key, value(first)));
        storage.put_batch_raw(entries.collect()).unwrap();
        let swaps = keys()
            .into_iter()
            .map(|key| swap(key, generation, value(generation)));
        let submission = Submission::new(1, swaps.collect());
        storage.submit(submission).unwrap().wait().unwrap();
        let puts = keys().into_iter().map(|key| put(key, value(second)));
        let submission = Submission::new(1, puts.collect());
        storage.submit(submission).unwrap().wait().unwrap();
    }
}

/// All values are of one batch; before the first there is none.
fn assert_whole(values: &[Option<Bytes>]) {
    assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
}

fn read_until(done: &AtomicBool, mut read: impl FnMut()) {
    while !done.load(Ordering::Acquire) {
        read();
    }
}

#[test]
fn a_multi_key_read_is_one_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &flushing());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            read_until(&done, || {
                assert_whole(&storage.multi_get_raw(&keys()).unwrap())
            });
        });
        scope.spawn(|| {
            read_until(&done, || {
                let found = storage.multi_get_versioned(&keys()).unwrap();
                let values = found
                    .into_iter()
                    .map(|found| found.map(|found| found.value));
                assert_whole(&values.collect::<Vec<_>>());
            });
        });
        scope.spawn(|| {
            let (runtime, reader) = (one_worker(2), storage.reader());
            read_until(&done, || {
                let values = runtime
                    .block_on(reader.multi_get_raw(keys(), usize::MAX))
                    .unwrap();
                assert_whole(&values);
                let found = runtime
                    .block_on(reader.multi_get_versioned(keys(), usize::MAX))
                    .unwrap();
                let versions = found
                    .iter()
                    .map(|found| found.as_ref().map(|found| found.version));
                let versions: Vec<_> = versions.collect();
                assert!(versions.iter().all(|version| *version == versions[0]));
            });
        });
        scope.spawn(|| {
            read_until(&done, || {
                let page = storage.scan_raw(&ScanRange::default()).unwrap();
                assert!([0, KEYS].contains(&page.entries.len()));
                assert!(
                    page.entries
                        .iter()
                        .all(|entry| entry.value == page.entries[0].value)
                );
            });
        });
        write(&storage);
        done.store(true, Ordering::Release);
    });
    assert!(
        !database_files(directory.path(), ".sst").is_empty(),
        "memtables were flushed"
    );
}
