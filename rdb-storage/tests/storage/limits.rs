//! Every limit, at it and one over it.

use bytes::Bytes;
use rdb_storage::limits::{
    BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, KEY_BYTES_MAX, SCAN_BOUND_BYTES_MAX, VALUE_BYTES_MAX,
};
use rdb_storage::{Error, OpenError, ScanRange, Storage, StorageOptions, Submission};

use crate::fixture::{invalid_field, open, put, refused, unsynced};

fn storage() -> (tempfile::TempDir, Storage) {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    (directory, storage)
}

fn filled(bytes: usize) -> Bytes {
    vec![b'x'; bytes].into()
}

#[test]
fn a_key_has_1_to_8192_bytes_wherever_it_is_named() {
    let (_directory, storage) = storage();
    let longest = filled(KEY_BYTES_MAX);
    storage.put_raw(longest.clone(), "v").unwrap();
    assert_eq!(storage.get_raw(&longest).unwrap(), Some("v".into()));
    assert_eq!(storage.compare_and_swap(longest.clone(), 0, "v"), Ok(1));
    assert_eq!(storage.get_versioned(&longest).unwrap().unwrap().version, 1);
    storage
        .put_batch_raw(vec![(longest.clone(), "w".into())])
        .unwrap();
    storage.delete_raw(longest.clone()).unwrap();
    storage.compare_and_delete(longest, 1).unwrap();

    for key in [Bytes::new(), filled(KEY_BYTES_MAX + 1)] {
        let keys = [key.clone()];
        let fields = [
            invalid_field(storage.put_raw(key.clone(), "v")),
            invalid_field(storage.delete_raw(key.clone())),
            invalid_field(storage.put_batch_raw(vec![(key.clone(), "v".into())])),
            invalid_field(storage.compare_and_swap(key.clone(), 0, "v")),
            invalid_field(storage.compare_and_delete(key.clone(), 1)),
            invalid_field(storage.get_raw(&key)),
            invalid_field(storage.get_versioned(&key)),
            invalid_field(storage.multi_get_raw(&keys)),
            invalid_field(storage.multi_get_versioned(&keys)),
        ];
        assert_eq!(fields, ["key"; 9]);
    }
}

#[test]
fn a_value_has_0_bytes_to_4_mib_and_an_empty_one_is_a_value() {
    let (_directory, storage) = storage();
    for value in [Bytes::new(), filled(VALUE_BYTES_MAX)] {
        storage.put_raw("k", value.clone()).unwrap();
        assert_eq!(storage.get_raw(b"k").unwrap(), Some(value.clone()));
        let version = storage
            .get_versioned(b"k")
            .unwrap()
            .map_or(0, |found| found.version);
        storage
            .compare_and_swap("k", version, value.clone())
            .unwrap();
        assert_eq!(storage.get_versioned(b"k").unwrap().unwrap().value, value);
    }
    let too_long = filled(VALUE_BYTES_MAX + 1);
    assert_eq!(
        invalid_field(storage.put_raw("k", too_long.clone())),
        "value"
    );
    assert_eq!(
        invalid_field(storage.compare_and_swap("k", 0, too_long.clone())),
        "value"
    );
    let entries = vec![("k".into(), too_long)];
    assert_eq!(invalid_field(storage.put_batch_raw(entries)), "value");
}

#[test]
fn a_batch_has_1_to_4096_entries_and_6_mib() {
    let (_directory, storage) = storage();
    let entries = |count| (0..count).map(|number| (format!("{number:04}").into(), Bytes::new()));
    storage
        .put_batch_raw(entries(BATCH_ENTRIES_MAX).collect())
        .unwrap();
    let too_many = entries(BATCH_ENTRIES_MAX + 1).collect();
    assert_eq!(invalid_field(storage.put_batch_raw(too_many)), "entries");
    assert_eq!(invalid_field(storage.put_batch_raw(Vec::new())), "entries");

    let rest = BATCH_BYTES_MAX - VALUE_BYTES_MAX - 2;
    let sized = |rest| {
        vec![
            ("a".into(), filled(VALUE_BYTES_MAX)),
            ("b".into(), filled(rest)),
        ]
    };
    storage.put_batch_raw(sized(rest)).unwrap();
    assert_eq!(
        invalid_field(storage.put_batch_raw(sized(rest + 1))),
        "entries"
    );
}

#[test]
fn a_multi_key_read_has_1_to_4096_keys_and_returns_6_mib() {
    let (_directory, storage) = storage();
    let keys = |count| vec![Bytes::from_static(b"missing"); count];
    assert_eq!(
        storage
            .multi_get_raw(&keys(BATCH_ENTRIES_MAX))
            .unwrap()
            .len(),
        BATCH_ENTRIES_MAX
    );
    assert_eq!(
        invalid_field(storage.multi_get_raw(&keys(BATCH_ENTRIES_MAX + 1))),
        "keys"
    );
    assert_eq!(
        invalid_field(storage.multi_get_versioned(&keys(BATCH_ENTRIES_MAX + 1))),
        "keys"
    );
    assert_eq!(invalid_field(storage.multi_get_raw(&[])), "keys");

    let too_large = Error::ResultTooLarge {
        limit_bytes: BATCH_BYTES_MAX as u64,
    };
    let rest = BATCH_BYTES_MAX - VALUE_BYTES_MAX - 2;
    storage.put_raw("a", filled(VALUE_BYTES_MAX)).unwrap();
    storage.put_raw("b", filled(rest)).unwrap();
    let both = ["a".into(), "b".into()];
    assert_eq!(storage.multi_get_raw(&both).unwrap().len(), 2);
    storage.put_raw("b", filled(rest + 1)).unwrap();
    assert_eq!(storage.multi_get_raw(&both), Err(too_large.clone()));

    storage
        .compare_and_swap("a", 0, filled(VALUE_BYTES_MAX))
        .unwrap();
    let twice = ["a".into(), "a".into()];
    assert_eq!(storage.multi_get_versioned(&twice), Err(too_large));
}

#[test]
fn a_compare_and_delete_names_a_version() {
    let (_directory, storage) = storage();
    assert_eq!(
        invalid_field(storage.compare_and_delete("k", 0)),
        "expected_version"
    );
}

#[test]
fn a_bound_has_at_most_8193_bytes_and_a_scan_a_limit_of_at_least_1() {
    let (_directory, storage) = storage();
    let scan = |start_key, end_key, limit| {
        storage.scan_raw(&ScanRange {
            start_key,
            end_key,
            limit,
            ..ScanRange::default()
        })
    };
    let longest = filled(SCAN_BOUND_BYTES_MAX);
    let too_long = filled(SCAN_BOUND_BYTES_MAX + 1);
    assert!(scan(longest.clone(), Bytes::new(), None).is_ok());
    assert!(scan(Bytes::new(), longest.clone(), Some(usize::MAX)).is_ok());
    assert!(
        scan(longest.clone(), longest, Some(1)).is_ok(),
        "empty, and so is its page"
    );
    assert_eq!(
        invalid_field(scan(too_long.clone(), Bytes::new(), None)),
        "start_key"
    );
    assert_eq!(invalid_field(scan(Bytes::new(), too_long, None)), "end_key");
    assert_eq!(invalid_field(scan("b".into(), "a".into(), None)), "end_key");
    assert_eq!(
        invalid_field(scan(Bytes::new(), Bytes::new(), Some(0))),
        "limit"
    );
}

#[test]
fn a_refused_command_refuses_its_whole_submission() {
    let (_directory, storage) = storage();
    let commands = vec![put("good", "v"), put("", "v")];
    let submission = Submission::new(1, commands);
    assert_eq!(invalid_field(storage.submit(submission)), "key");
    assert_eq!(storage.get_raw(b"good"), Ok(None));
}

#[test]
fn settings_that_cannot_work_are_refused_by_name_before_anything_is_made() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("data");
    let set = |change: fn(&mut StorageOptions)| {
        let mut options = unsynced();
        change(&mut options);
        match refused(&directory, &options) {
            OpenError::InvalidOption { setting, .. } => setting,
            other => panic!("{other:?}"),
        }
    };
    let queue = set(|options| options.write_queue_bytes_max = (8 << 20) - 1);
    assert_eq!(queue, "write_queue_bytes_max");
    let buffer = set(|options| options.write_buffer_bytes = (64 << 10) - 1);
    assert_eq!(buffer, "write_buffer_bytes");
    let batch = set(|options| options.write_batch_bytes_max = 0);
    assert_eq!(batch, "write_batch_bytes_max");
    assert_eq!(set(|options| options.disk_reads_max = 0), "disk_reads_max");
    assert_eq!(
        set(|options| options.disk_reads_queued_max = 15),
        "disk_reads_max"
    );
    assert_eq!(set(|options| options.scans_max = 0), "scans_max");
    let queue = set(|options| options.scans_queued_max = usize::MAX);
    assert_eq!(queue, "scans_queued_max");
    assert!(!directory.exists());
}
