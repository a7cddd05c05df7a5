//! A scan over many deleted keys gets on page by page, each of a bounded number of skipped entries.

use std::time::Instant;

use bytes::Bytes;
use rdb_storage::{Command, KeyValue, Page, ScanRange, Storage, Submission};

use crate::fixture::{open, put, unsynced};

const DELETED: u32 = 200_000;

fn key(number: u32) -> Bytes {
    format!("queue/{number:08}").into()
}

fn is_live(number: u32, live_every: u32) -> bool {
    number % live_every == live_every / 2
}

/// Deleted keys, one in `live_every` of them live, between two more live ones.
fn storage(live_every: u32, flushed: bool) -> (tempfile::TempDir, Storage) {
    let directory = tempfile::tempdir().unwrap();
    let mut storage = open(directory.path(), &unsynced());
    for key in ["a", "z"] {
        storage.put_raw(key, "v").unwrap();
    }
    for from in (0..DELETED).step_by(2000) {
        let commands = (from..from + 2000).map(|number| {
            if is_live(number, live_every) {
                put(key(number), "v")
            } else {
                Command::DeleteRaw { key: key(number) }
            }
        });
        let submission = Submission::new(1, commands.collect());
        storage.submit(submission).unwrap().wait().unwrap();
    }
    if flushed {
        storage.close().unwrap();
        drop(storage);
        storage = open(directory.path(), &unsynced());
    }
    (directory, storage)
}

/// All pages; each gets on.
fn pages(storage: &Storage, mut range: ScanRange) -> Vec<Page<KeyValue>> {
    let mut pages = Vec::new();
    loop {
        let page = storage.scan_raw(&range).unwrap();
        let resume_key = page.resume_key.clone();
        pages.push(page);
        match resume_key {
            None => return pages,
            Some(key) if range.reverse => {
                assert!(range.end_key.is_empty() || key < range.end_key);
                range.end_key = key;
            }
            Some(key) => {
                assert!(key > range.start_key);
                range.start_key = key;
            }
        }
    }
}

fn keys(pages: &[Page<KeyValue>]) -> Vec<Bytes> {
    let entries = pages.iter().flat_map(|page| &page.entries);
    entries.map(|entry| entry.key.clone()).collect()
}

fn backwards(reverse: bool) -> ScanRange {
    ScanRange {
        reverse,
        ..ScanRange::default()
    }
}

/// Checks with all keys in one memtable, and with all in a table.
fn check(live_every: u32, pages_min: usize) {
    for flushed in [false, true] {
        let (_directory, storage) = storage(live_every, flushed);
        let live = (0..DELETED).filter(|number| is_live(*number, live_every));
        let mut expected: Vec<_> = live.map(key).collect();
        expected.insert(0, "a".into());
        expected.push("z".into());
        for reverse in [false, true] {
            let pages = pages(&storage, backwards(reverse));
            let empty = pages.iter().filter(|page| page.entries.is_empty()).count();
            let count = pages.len();
            println!("flushed {flushed}, reverse {reverse}: {count} pages, {empty} empty");
            assert!(count >= pages_min);
            assert_eq!(keys(&pages), expected);
            expected.reverse();
        }
    }
}

#[test]
fn a_scan_over_deleted_keys_finds_the_live_one_among_them_in_bounded_pages() {
    check(DELETED, 3);
}

#[test]
fn a_page_among_deleted_keys_ends_though_it_is_not_full() {
    check(1000, 3);
}

/// RocksDB does not count what a range delete covers. It jumps over all of it in older files, and goes key by key within
/// one memtable.
#[test]
fn a_scan_over_a_deleted_range_is_one_page() {
    let (_directory, storage) = storage(1, false);
    storage.delete_range_raw("b", "y").unwrap();
    for reverse in [false, true] {
        let began = Instant::now();
        let pages = pages(&storage, backwards(reverse));
        println!("{} pages in {:?}", pages.len(), began.elapsed());
        assert_eq!((pages.len(), keys(&pages).len()), (1, 2));
    }
}
