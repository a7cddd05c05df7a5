//! A page of a scan: about 1 MiB, at least one entry, and where to go on.

use bytes::Bytes;
use rdb_storage::limits::{KEY_BYTES_MAX, SCAN_PAGE_BYTES, VALUE_BYTES_MAX};
use rdb_storage::{KeyValue, Page, ScanRange, Storage};

use crate::fixture::{open, unsynced};

fn storage() -> (tempfile::TempDir, Storage) {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    (directory, storage)
}

/// All pages of a range.
fn pages(storage: &Storage, mut range: ScanRange) -> Vec<Page<KeyValue>> {
    let mut pages = Vec::new();
    loop {
        let page = storage.scan_raw(&range).unwrap();
        let resume_key = page.resume_key.clone();
        pages.push(page);
        match resume_key {
            None => return pages,
            Some(resume_key) if range.reverse => range.end_key = resume_key,
            Some(resume_key) => range.start_key = resume_key,
        }
    }
}

fn keys(pages: &[Page<KeyValue>]) -> Vec<Bytes> {
    let entries = pages.iter().flat_map(|page| &page.entries);
    entries.map(|entry| entry.key.clone()).collect()
}

#[test]
fn a_value_larger_than_a_page_comes_alone() {
    let (_directory, storage) = storage();
    for key in ["a", "b", "c"] {
        storage.put_raw(key, vec![0; VALUE_BYTES_MAX]).unwrap();
    }
    for reverse in [false, true] {
        let pages = pages(
            &storage,
            ScanRange {
                reverse,
                ..ScanRange::default()
            },
        );
        assert_eq!(
            pages
                .iter()
                .map(|page| page.entries.len())
                .collect::<Vec<_>>(),
            [1, 1, 1]
        );
        assert!(
            pages
                .iter()
                .all(|page| page.entries[0].value.len() == VALUE_BYTES_MAX)
        );
    }
}

#[test]
fn a_page_has_about_1_mib() {
    let (_directory, storage) = storage();
    for number in 0..300 {
        storage
            .put_raw(format!("{number:04}"), vec![0; 10_000])
            .unwrap();
    }
    for reverse in [false, true] {
        let pages = pages(
            &storage,
            ScanRange {
                reverse,
                ..ScanRange::default()
            },
        );
        let mut found = keys(&pages);
        if reverse {
            found.reverse();
        }
        assert_eq!(
            found,
            (0..300)
                .map(|number| format!("{number:04}"))
                .collect::<Vec<_>>()
        );
        let (_last, full) = pages.split_last().unwrap();
        for page in full {
            let bytes = page.entries.len() * 10_004;
            assert!(
                (SCAN_PAGE_BYTES - 20_000..=SCAN_PAGE_BYTES).contains(&bytes),
                "{bytes}"
            );
        }
    }
    let keys_only = ScanRange {
        keys_only: true,
        ..ScanRange::default()
    };
    let pages = pages(&storage, keys_only);
    assert_eq!(pages.len(), 1, "only what is returned counts");
    assert!(pages[0].entries.iter().all(|entry| entry.value.is_empty()));
}

#[test]
fn a_page_of_tiny_keys_is_bounded_too() {
    let (_directory, storage) = storage();
    let entries = |thousand: u32| {
        let numbers = thousand * 1000..(thousand + 1) * 1000;
        numbers.map(|number| (Bytes::from(number.to_be_bytes().to_vec()), Bytes::new()))
    };
    for thousand in 0..40 {
        storage.put_batch_raw(entries(thousand).collect()).unwrap();
    }
    let pages = pages(&storage, ScanRange::default());
    assert!(pages.len() > 1);
    assert_eq!(keys(&pages).len(), 40_000);
}

#[test]
fn a_scan_continues_behind_the_longest_key() {
    let (_directory, storage) = storage();
    let longest = Bytes::from(vec![b'k'; KEY_BYTES_MAX]);
    storage.put_raw(longest.clone(), "1").unwrap();
    storage.put_raw("l", "2").unwrap();
    let range = ScanRange {
        limit: Some(1),
        ..ScanRange::default()
    };
    let first = storage.scan_raw(&range).unwrap();
    assert_eq!(first.resume_key.as_ref().unwrap().len(), KEY_BYTES_MAX + 1);
    assert_eq!(
        keys(&pages(&storage, range.clone())),
        [longest.clone(), "l".into()]
    );
    let reverse = ScanRange {
        reverse: true,
        ..range
    };
    assert_eq!(keys(&pages(&storage, reverse)), ["l".into(), longest]);
}

#[test]
fn a_limit_that_ends_with_the_range_leaves_nothing_to_resume() {
    let (_directory, storage) = storage();
    for key in ["a", "b", "c"] {
        storage.put_raw(key, "v").unwrap();
    }
    let range = |start_key: &'static str, end_key: &'static str, limit, reverse| ScanRange {
        start_key: start_key.into(),
        end_key: end_key.into(),
        limit: Some(limit),
        reverse,
        keys_only: false,
    };
    let scan = |range| storage.scan_raw(&range).unwrap();
    assert_eq!(scan(range("", "", 3, false)).resume_key, None);
    assert_eq!(scan(range("", "c", 2, false)).resume_key, None);
    assert_eq!(scan(range("b", "", 2, true)).resume_key, None);
    assert_eq!(scan(range("", "", 2, false)).resume_key, Some("b\0".into()));
    assert_eq!(scan(range("", "", 2, true)).resume_key, Some("b".into()));
    assert_eq!(scan(range("b", "b", 2, true)).entries, []);
    assert_eq!(scan(range("x", "", 2, true)).entries, []);
}
