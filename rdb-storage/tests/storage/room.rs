//! A result that is larger than the room for it is not copied out of RocksDB, and its reader is told what it needs.

use bytes::Bytes;
use rdb_storage::limits::{
    BATCH_BYTES_MAX, SCAN_ENTRY_OVERHEAD_BYTES, SCAN_PAGE_BYTES, VALUE_BYTES_MAX,
};
use rdb_storage::{Error, PointRead, PointValue, Reader, ScanRange, Storage};
use tokio::runtime::Runtime;

use crate::fixture::{noise, one_worker, open, unsynced};

/// The length of the value of key `number`: from none to 4,900 bytes.
fn length(number: u64) -> usize {
    number as usize * 100
}

const KEYS: u64 = 50;

fn key(number: u64) -> Bytes {
    format!("{number:04}").into()
}

struct Store {
    runtime: Runtime,
    reader: Reader,
    storage: Storage,
    _directory: tempfile::TempDir,
}

/// `cold`: nothing of it is in memory.
fn store(cold: bool) -> Store {
    let directory = tempfile::tempdir().unwrap();
    let mut storage = open(directory.path(), &unsynced());
    for number in 0..KEYS {
        let value = noise(number, length(number));
        storage.put_raw(key(number), value.clone()).unwrap();
        storage.compare_and_swap(key(number), 0, value).unwrap();
    }
    if cold {
        storage.close().unwrap();
        drop(storage);
        storage = open(directory.path(), &unsynced());
    }
    Store {
        runtime: one_worker(1),
        reader: storage.reader(),
        storage,
        _directory: directory,
    }
}

fn needs(bytes: usize) -> Error {
    Error::NeedsRoom { bytes }
}

#[test]
fn a_point_read_needs_room_for_its_value_and_not_a_byte_more() {
    for cold in [false, true] {
        let store = store(cold);
        for number in [0, 7, KEYS - 1] {
            for read in [PointRead::raw, PointRead::versioned] {
                let read = read(key(number)).unwrap();
                if length(number) > 0 {
                    let refused = store.reader.read(read.clone(), length(number) - 1);
                    let refused = store.runtime.block_on(refused);
                    assert_eq!(refused, Err(needs(length(number))));
                    let refused = store.reader.read_from_memory(&read, length(number) - 1);
                    assert_eq!(refused, Err(needs(length(number))), "it is warm now");
                }
                let found = store.reader.read(read, length(number));
                let found = store.runtime.block_on(found).unwrap();
                assert_eq!(found.value_bytes(), length(number));
            }
        }
        let missing = store.reader.read(PointRead::raw(key(KEYS)).unwrap(), 0);
        assert_eq!(
            store.runtime.block_on(missing),
            Ok(PointValue::Raw(None)),
            "nothing needs no room"
        );
    }
}

#[test]
fn several_reads_end_before_the_value_that_does_not_fit_and_only_the_first_can_need_room() {
    for cold in [false, true] {
        let store = store(cold);
        let reads: Vec<_> = (1..KEYS)
            .map(|number| PointRead::raw(key(number)).unwrap())
            .collect();
        let read = |room| {
            let values = store.reader.read_several(reads.clone(), room);
            store.runtime.block_on(values).unwrap()
        };
        // 100 + 200 + 300.
        for (room, count) in [(100, 1), (599, 2), (600, 3), (999, 3), (1000, 4)] {
            let values = read(room);
            assert_eq!(values.len(), count, "{room}");
            assert!(values.iter().all(Result::is_ok));
        }
        assert_eq!(read(99), [Err(needs(100))]);
    }
}

#[test]
fn a_multi_key_read_says_exactly_what_it_needs() {
    for cold in [false, true] {
        let store = store(cold);
        let keys: Vec<_> = (0..=KEYS).map(key).collect();
        let needed: usize = (0..KEYS).map(|number| 4 + length(number)).sum();
        let raw = |room| {
            let values = store.reader.multi_get_raw(keys.clone(), room);
            store.runtime.block_on(values)
        };
        let versioned = |room| {
            let values = store.reader.multi_get_versioned(keys.clone(), room);
            store.runtime.block_on(values)
        };
        for room in [0, 1, 500, needed - 1] {
            assert_eq!(raw(room), Err(needs(needed)));
            assert_eq!(versioned(room), Err(needs(needed)));
        }
        let values = raw(needed).unwrap();
        let expected = (0..KEYS).map(|number| Some(noise(number, length(number))));
        assert_eq!(values, expected.chain([None]).collect::<Vec<_>>());
        assert_eq!(versioned(needed).unwrap().len(), keys.len());
    }
}

#[test]
fn a_multi_key_read_that_is_too_large_for_any_room_is_not_told_to_ask_for_more() {
    let store = store(false);
    store
        .storage
        .put_raw("large", vec![0; VALUE_BYTES_MAX])
        .unwrap();
    let keys = vec![Bytes::from_static(b"large"); 2];
    for room in [0, BATCH_BYTES_MAX, usize::MAX] {
        let values = store.reader.multi_get_raw(keys.clone(), room);
        let refused = store.runtime.block_on(values);
        assert!(
            matches!(refused, Err(Error::ResultTooLarge { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn a_page_ends_with_its_room_and_only_a_first_entry_that_does_not_fit_needs_more() {
    for cold in [false, true] {
        let store = store(cold);
        let scan = |range, room| {
            let page = store.reader.scan_raw(range, room);
            store.runtime.block_on(page)
        };
        let range = |start, reverse, keys_only| ScanRange {
            start_key: key(start),
            reverse,
            keys_only,
            ..ScanRange::default()
        };
        let entry = |bytes| 4 + bytes + SCAN_ENTRY_OVERHEAD_BYTES;
        let page = scan(range(1, false, false), entry(100) + entry(200)).unwrap();
        assert_eq!(page.entries.len(), 2);
        assert_eq!(page.resume_key, Some("0002\0".into()));
        let first = scan(range(1, false, false), entry(100) - 1);
        assert_eq!(first, Err(needs(entry(100))));
        let last = scan(range(0, true, false), entry(length(KEYS - 1)) - 1);
        assert_eq!(last, Err(needs(entry(length(KEYS - 1)))));
        let page = scan(range(0, true, false), entry(length(KEYS - 1))).unwrap();
        assert_eq!(page.entries.len(), 1);
        let page = scan(range(0, false, true), entry(0) * 7).unwrap();
        assert_eq!(page.entries.len(), 7, "values that are left out need none");
        let found = store
            .reader
            .scan_versioned(range(1, false, false), entry(100));
        let page = store.runtime.block_on(found).unwrap();
        assert_eq!(page.entries.len(), 1);
    }
}

#[test]
fn a_page_is_about_1_mib_whatever_the_room() {
    let store = store(false);
    for number in 0..20 {
        store
            .storage
            .put_raw(key(number), vec![0; 100_000])
            .unwrap();
    }
    let page = store.reader.scan_raw(ScanRange::default(), usize::MAX);
    let page = store.runtime.block_on(page).unwrap();
    assert_eq!(page.entries.len(), SCAN_PAGE_BYTES / 100_100);
}
