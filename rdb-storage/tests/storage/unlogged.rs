//! Applying a replicated log without the write-ahead log: what was flushed is durable, all of it or nothing, and known.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdb_storage::{
    AppliedState, ApplyOptions, Error, LogChange, LogEntry, Outcome, Storage, StorageOptions,
    Submission, WriteHealth,
};

use crate::fixture::{
    copy_of_open, free_table_files, noise, occupy_table_files, open, put, swap, synced,
};
use crate::log::{REGION, entry, membership, of, region};

/// For what has to happen, and does at once mostly.
const HANG_GUARD: Duration = Duration::from_secs(60);

pub(crate) fn first_state() -> AppliedState {
    AppliedState {
        position: 0_u64.to_be_bytes().to_vec().into(),
        membership: "the first".into(),
    }
}

fn bootstrap(storage: &Storage) -> bool {
    let bootstrapped = storage.bootstrap_regions(&[(region(3), first_state())]);
    bootstrapped.unwrap()
}

fn apply(storage: &Storage, entries: &[LogEntry]) -> Vec<Vec<Outcome>> {
    let applied = storage.apply(REGION, entries, ApplyOptions::default());
    applied.unwrap()
}

pub(crate) fn index_of(position: &[u8]) -> u64 {
    u64::from_be_bytes(position.try_into().unwrap())
}

/// The index and the membership that a crash would leave.
fn flushed(storage: &Storage) -> (u64, Bytes) {
    let flushed = storage.flushed(REGION).unwrap().unwrap();
    (index_of(&flushed.position), flushed.membership)
}

fn applied(storage: &Storage) -> u64 {
    let position = storage.applied_position(REGION).unwrap().unwrap();
    index_of(&position)
}

/// What a crash at this moment leaves, opened. Nothing may be writing.
fn after_a_crash(directory: &Path) -> (tempfile::TempDir, Storage) {
    let copy = copy_of_open(directory);
    let storage = open(copy.path(), &synced());
    (copy, storage)
}

#[test]
fn a_crash_leaves_what_was_flushed_and_takes_the_rest_with_its_position_and_membership() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &synced());
    assert_eq!(storage.flushed(REGION), Ok(None));
    assert!(bootstrap(&storage));
    apply(&storage, &[entry(1, 3, vec![put("raw", "1")])]);
    apply(&storage, &[entry(2, 3, vec![swap("k", 0, "2")])]);
    apply(&storage, &[membership(3, &[1, 2])]);
    assert_eq!(flushed(&storage), (0, "the first".into()));
    let (_copy, crashed) = after_a_crash(directory.path());
    assert_eq!(flushed(&crashed), (0, "the first".into()));
    assert_eq!(applied(&crashed), 0);
    assert_eq!(crashed.get_raw(b"raw"), Ok(None));
    assert_eq!(crashed.get_versioned(b"k"), Ok(None));
    assert_eq!(crashed.regions().unwrap(), [region(3)]);

    storage.flush(REGION).unwrap();
    assert_eq!(flushed(&storage), (3, "as of 3".into()));
    apply(&storage, &[entry(4, 3, vec![put("raw", "4")])]);
    apply(&storage, &[membership(5, &[1])]);
    assert_eq!(flushed(&storage), (3, "as of 3".into()));
    assert_eq!(applied(&storage), 5);
    let (_copy, crashed) = after_a_crash(directory.path());
    assert_eq!(flushed(&crashed), (3, "as of 3".into()));
    assert_eq!(applied(&crashed), 3);
    assert_eq!(crashed.get_raw(b"raw"), Ok(Some("1".into())));
    assert_eq!(crashed.get_versioned(b"k").unwrap().unwrap().version, 1);
    assert_eq!(crashed.regions().unwrap()[0].conf_version, 2);
}

/// A write without the write-ahead log, of any region, hides from [`Storage::flushed`] what is in the write-ahead log only.
#[test]
fn the_first_state_of_a_region_is_durable_at_once_and_stays_known_while_others_are_applied() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &synced());
    // As a release without replication left it: in the write-ahead log.
    let before = vec![
        rdb_storage::Command::PutRegion(region(3)),
        put("raw", "before"),
    ];
    let submitted = storage.submit(Submission::new(REGION, before)).unwrap();
    submitted.wait().unwrap();
    let elsewhere = |index| [entry(index, 0, vec![put("elsewhere", "v")])];
    let apply_elsewhere = |index| {
        let applied = storage.apply(9, &elsewhere(index), ApplyOptions::default());
        applied.unwrap();
    };
    apply_elsewhere(1);
    assert!(bootstrap(&storage));
    apply_elsewhere(2);
    assert_eq!(flushed(&storage), (0, "the first".into()));
    let (_copy, crashed) = after_a_crash(directory.path());
    assert_eq!(flushed(&crashed), (0, "the first".into()));
    assert_eq!(crashed.get_raw(b"raw"), Ok(Some("before".into())));
    let without_a_first_state = crashed.flushed(9);
    assert!(matches!(without_a_first_state, Err(Error::DataLoss { .. })));

    apply(&storage, &[entry(1, 3, vec![put("raw", "1")])]);
    assert!(!bootstrap(&storage), "it has a state");
    assert_eq!(applied(&storage), 1);
}

#[test]
fn a_storage_that_is_closed_or_dropped_has_flushed_what_was_applied() {
    for close in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let storage = open(directory.path(), &synced());
        bootstrap(&storage);
        apply(&storage, &[entry(1, 3, vec![put("raw", "1")])]);
        if close {
            storage.close().unwrap();
            let late = [of(2, LogChange::Blank)];
            for refused in [
                storage.apply(REGION, &late, ApplyOptions::default()).err(),
                storage
                    .bootstrap_regions(&[(region(3), first_state())])
                    .err(),
            ] {
                assert_eq!(refused, Some(Error::Closed));
            }
        }
        drop(storage);
        let storage = open(directory.path(), &synced());
        assert_eq!(flushed(&storage).0, 1);
        assert_eq!(storage.get_raw(b"raw"), Ok(Some("1".into())));
    }
}

#[test]
fn a_log_whose_entries_leave_nothing_is_flushed_before_a_start_would_apply_too_much_of_it_again() {
    let directory = tempfile::tempdir().unwrap();
    let options = StorageOptions {
        wal_bytes_max: 1 << 20,
        ..synced()
    };
    let storage = open(directory.path(), &options);
    bootstrap(&storage);
    let conflict = || swap("missing", 7, noise(1, 64 << 10));
    for index in 1..=17 {
        apply(&storage, &[entry(index, 3, vec![conflict()])]);
    }
    let began = Instant::now();
    while flushed(&storage).0 == 0 {
        assert!(began.elapsed() < HANG_GUARD);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(flushed(&storage).0 >= 16);
}

#[test]
fn when_nothing_can_be_flushed_applying_stops_and_never_hangs_and_a_region_that_is_durable_can_be_opened()
 {
    let directory = tempfile::tempdir().unwrap();
    let options = StorageOptions {
        write_buffer_bytes: 256 << 10,
        ..synced()
    };
    let storage = open(directory.path(), &options);
    bootstrap(&storage);
    apply(&storage, &[entry(1, 3, vec![put("raw", "1")])]);
    storage.flush(REGION).unwrap();
    let health = storage.write_health();
    let taken = occupy_table_files(directory.path());
    storage.flush(REGION).unwrap();

    let mut index = 1;
    let stopped = loop {
        let value = noise(index, 10_000);
        let next = [entry(index + 1, 3, vec![put("raw", value)])];
        let options = ApplyOptions::default();
        let applied = match storage.apply_from_memory(REGION, &next, options) {
            Ok(None) => storage.apply(REGION, &next, options).map(drop),
            applied => applied.map(drop),
        };
        match applied {
            Ok(()) => index += 1,
            Err(error) => break error,
        }
    };
    // RocksDB refuses a write before its background error is noticed, or we do it afterwards.
    assert!(
        matches!(
            stopped,
            Error::Undetermined { .. } | Error::WritesStopped { .. }
        ),
        "{stopped:?}"
    );
    assert!(matches!(*health.borrow(), WriteHealth::Stopped { .. }));
    assert!(index > 1, "memory had room");
    assert_eq!(applied(&storage), index);
    assert_eq!(flushed(&storage).0, 1);
    assert_eq!(
        storage.get_raw(b"raw"),
        Ok(Some(noise(index - 1, 10_000))),
        "reads go on"
    );
    assert!(matches!(storage.flush(REGION), Err(Error::Io { .. })));
    assert!(storage.close().is_err());
    drop(storage);

    free_table_files(taken);
    let storage = open(directory.path(), &options);
    assert_eq!(flushed(&storage).0, 1);
    assert_eq!(storage.get_raw(b"raw"), Ok(Some("1".into())));
    apply(&storage, &[entry(2, 3, vec![put("raw", "2")])]);
}
