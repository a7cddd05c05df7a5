//! Range deletes: what is inverted or empty never reaches RocksDB, which would log it first and fail at every replay.

use std::path::Path;

use bytes::Bytes;
use rdb_storage::limits::{KEY_BYTES_MAX, SCAN_BOUND_BYTES_MAX};
use rdb_storage::{Command, Submission};

use crate::fixture::{all_raw, invalid_field, open, put, single, unsynced};

fn keys(directory: &Path) -> Vec<Bytes> {
    let storage = open(directory, &unsynced());
    let entries = all_raw(&storage).unwrap();
    entries.into_iter().map(|entry| entry.key).collect()
}

#[test]
fn inverted_and_empty_ranges_are_refused_and_leave_a_storage_that_works_and_reopens() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    storage.put_raw("b", "v").unwrap();
    let above_every_key = vec![0xff; SCAN_BOUND_BYTES_MAX];
    for (start_key, end_key) in [
        ("b".into(), "a".into()),
        ("b".into(), "b".into()),
        (above_every_key.clone(), above_every_key.clone()),
        (above_every_key, Vec::new()),
    ] {
        let field = invalid_field(storage.delete_range_raw(start_key, end_key));
        assert!(["start_key", "end_key"].contains(&field), "{field}");
    }
    storage.put_raw("c", "v").unwrap();
    drop(storage);
    assert_eq!(keys(directory.path()), ["b", "c"]);
}

#[test]
fn a_range_is_deleted_from_its_start_to_before_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    for key in ["a", "b", "b\0", "c", "d"] {
        storage.put_raw(key, "v").unwrap();
    }
    storage.delete_range_raw("b", "c").unwrap();
    drop(storage);
    assert_eq!(keys(directory.path()), ["a", "c", "d"]);
}

#[test]
fn an_unbounded_range_removes_the_highest_legal_key() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    let highest = vec![0xff; KEY_BYTES_MAX];
    storage.put_raw("a", "v").unwrap();
    storage.put_raw(highest.clone(), "v").unwrap();
    storage.delete_range_raw("b", "").unwrap();
    assert_eq!(storage.get_raw(&highest).unwrap(), None);
    storage.put_raw(highest.clone(), "v").unwrap();
    storage.delete_range_raw(highest, "").unwrap();
    drop(storage);
    assert_eq!(keys(directory.path()), ["a"]);
}

#[test]
fn a_fully_unbounded_range_removes_everything_raw_and_nothing_versioned() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    storage.put_raw(vec![0], "v").unwrap();
    storage.put_raw("k", "v").unwrap();
    storage.compare_and_swap("k", 0, "v").unwrap();
    storage.delete_range_raw("", "").unwrap();
    assert_eq!(all_raw(&storage).unwrap(), []);
    assert!(storage.get_versioned(b"k").unwrap().is_some());
}

#[test]
fn a_range_may_end_at_a_continuation() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    let longest = vec![b'k'; KEY_BYTES_MAX];
    let behind = [longest.as_slice(), &[0]].concat();
    storage.put_raw(longest.clone(), "v").unwrap();
    storage
        .delete_range_raw(longest.clone(), behind.clone())
        .unwrap();
    assert_eq!(storage.get_raw(&longest).unwrap(), None);
    let too_long = [behind.as_slice(), &[0]].concat();
    assert_eq!(
        invalid_field(storage.delete_range_raw("a", too_long)),
        "end_key"
    );
}

fn number(number: u32) -> Bytes {
    format!("{number:06}").into()
}

fn delete_range(start: u32, end: u32) -> Command {
    Command::DeleteRangeRaw {
        start_key: number(start),
        end_key: number(end),
    }
}

/// A few keys are deleted one by one, many by a range tombstone, and both also see what their own batch has put.
#[test]
fn a_range_delete_takes_what_is_stored_and_what_its_batch_put_before_and_nothing_put_after() {
    for count in [1, 63, 64, 65, 66, 500] {
        let directory = tempfile::tempdir().unwrap();
        let storage = open(directory.path(), &unsynced());
        for stored in 0..count {
            storage.put_raw(number(2 * stored), "v").unwrap();
        }
        let end = 2 * count;
        let mut commands: Vec<_> = (0..count)
            .map(|key| put(number(2 * key + 1), "v"))
            .collect();
        commands.push(put(number(end), "beyond"));
        commands.push(delete_range(0, end));
        commands.push(put(number(0), "after"));
        storage
            .submit(Submission::new(1, commands))
            .unwrap()
            .wait()
            .unwrap();
        let left: Vec<_> = all_raw(&storage).unwrap();
        let left: Vec<_> = left.iter().map(|entry| &entry.key).collect();
        assert_eq!(left, [&number(0), &number(end)], "{count} keys");
    }
}

#[test]
fn a_queue_that_is_trimmed_from_one_end_keeps_exactly_its_tail_also_after_a_kill() {
    const TRIMS: u32 = 3_000;
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    for trim in 1..TRIMS {
        storage.put_raw(number(trim), "v").unwrap();
        let trimmed = storage.submit(single(delete_range(0, trim))).unwrap();
        trimmed.wait().unwrap();
        assert!(storage.get_raw(&number(trim)).unwrap().is_some());
    }
    // Dropped without being closed: the log is replayed.
    drop(storage);
    assert_eq!(keys(directory.path()), [number(TRIMS - 1)]);
}
