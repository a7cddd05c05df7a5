//! Damaged table files: found at the open or when a block is read, and never served.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use bytes::Bytes;
use rdb_storage::{
    ApplyOptions, Error, Fate, LogChange, LogEntry, OpenError, Outcome, PendingWrite, Proposal,
    ScanRange, Storage, Submission, WriteHealth,
};

use crate::fixture::{
    all_raw, copy_of, database_files, flip_bit, noise, one_worker, open, put, read_raw, refused,
    single, swap, synced, truncate,
};

const KEYS: u64 = 300;
const VALUE_BYTES: usize = 200;

fn key(number: u64) -> Bytes {
    format!("{number:04}").into()
}

/// A data directory with one table file of raw keys; nothing is in the log.
fn flushed() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &synced());
    let entries = (0..KEYS).map(|number| (key(number), noise(number, VALUE_BYTES)));
    storage.put_batch_raw(entries.collect()).unwrap();
    storage.close().unwrap();
    drop(storage);
    let table = only_table(directory.path());
    (directory, table)
}

fn only_table(directory: &Path) -> PathBuf {
    let tables = database_files(directory, ".sst");
    assert_eq!(tables.len(), 1, "{tables:?}");
    tables[0].clone()
}

fn assert_damaged(directory: &Path, error: &OpenError) {
    let OpenError::Damaged {
        directory: named, ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(*named, directory.canonicalize().unwrap());
}

#[test]
fn a_truncated_table_is_refused_with_its_name() {
    let (directory, table) = flushed();
    let length = fs::metadata(&table).unwrap().len();
    for bytes in [0, 10, length / 2, length - 1] {
        let copy = copy_of(directory.path());
        let table = only_table(copy.path());
        truncate(&table, bytes);
        let error = refused(copy.path(), &synced());
        assert_damaged(copy.path(), &error);
        let name = table.file_name().unwrap().to_str().unwrap();
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_missing_table_is_refused_with_its_name() {
    let (directory, table) = flushed();
    fs::remove_file(&table).unwrap();
    let error = refused(directory.path(), &synced());
    assert_damaged(directory.path(), &error);
    let name = table.file_name().unwrap().to_str().unwrap();
    assert!(error.to_string().contains(name), "{error}");
}

#[test]
fn a_damaged_block_is_data_loss_in_every_way_of_reading_and_other_blocks_are_still_read() {
    let (directory, table) = flushed();
    flip_bit(&table, 100);
    let storage = open(directory.path(), &synced());
    let is_data_loss = |error: Error| matches!(error, Error::DataLoss { .. });
    let (harmed, unharmed) = (key(0), key(KEYS - 1));

    assert!(is_data_loss(storage.get_raw(&harmed).unwrap_err()));
    let both = [unharmed.clone(), harmed.clone()];
    assert!(is_data_loss(storage.multi_get_raw(&both).unwrap_err()));
    assert!(is_data_loss(all_raw(&storage).unwrap_err()));
    let backwards = ScanRange {
        reverse: true,
        end_key: key(1),
        ..ScanRange::default()
    };
    assert!(is_data_loss(storage.scan_raw(&backwards).unwrap_err()));
    let (runtime, reader) = (one_worker(1), storage.reader());
    let read = runtime.block_on(read_raw(&reader, harmed.clone()));
    assert!(is_data_loss(read.unwrap_err()));
    let read = runtime.block_on(reader.multi_get_raw(both.to_vec(), usize::MAX));
    assert!(is_data_loss(read.unwrap_err()));

    assert_eq!(
        storage.get_raw(&unharmed).unwrap(),
        Some(noise(KEYS - 1, VALUE_BYTES))
    );
    storage.put_raw(harmed.clone(), "again").unwrap();
    assert_eq!(storage.get_raw(&harmed).unwrap(), Some("again".into()));
}

#[test]
fn whatever_byte_of_a_table_is_flipped_no_read_gives_wrong_data() {
    let (directory, table) = flushed();
    let length = fs::metadata(&table).unwrap().len() as usize;
    let (mut refusals, mut losses, mut harmless) = (0, 0, 0);
    // The tail holds filter, index, properties and footer: a finer comb there.
    let tail = length - 2000;
    for offset in (0..tail)
        .step_by(tail / 40)
        .chain((tail..length).step_by(40))
    {
        let copy = copy_of(directory.path());
        flip_bit(&only_table(copy.path()), offset);
        match Storage::open(copy.path(), synced()) {
            Err(error) => {
                assert_damaged(copy.path(), &error);
                refusals += 1;
            }
            Ok(storage) => match read_all(&storage) {
                0 => harmless += 1,
                _ => losses += 1,
            },
        }
    }
    println!(
        "flipped bits of a table of {length} bytes: {refusals} refused, {losses} lost a block, {harmless} harmless"
    );
    assert!(refusals > 0 && losses > 0);
}

/// Reads every key; each is right or lost. How many are lost.
fn read_all(storage: &Storage) -> usize {
    let lost = (0..KEYS).filter(|number| match storage.get_raw(&key(*number)) {
        Ok(value) => {
            assert_eq!(value, Some(noise(*number, VALUE_BYTES)), "key {number}");
            false
        }
        Err(Error::DataLoss { .. }) => true,
        Err(other) => panic!("{other:?}"),
    });
    lost.count()
}

/// A directory whose versioned key 0 lies in a damaged block.
fn with_a_damaged_versioned_key() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &synced());
    for number in 0..KEYS {
        let swapped = storage.compare_and_swap(key(number), 0, noise(number, VALUE_BYTES));
        assert_eq!(swapped, Ok(1));
    }
    storage.close().unwrap();
    drop(storage);
    flip_bit(&only_table(directory.path()), 100);
    directory
}

/// Submits to region 2, which is not concerned.
fn bystander(number: u64) -> Submission {
    Submission::new(
        2,
        vec![put(key(number), "v"), swap(key(1000 + number), 0, "v")],
    )
}

#[test]
fn a_swap_that_cannot_read_its_key_stops_its_region_and_no_other() {
    let directory = with_a_damaged_versioned_key();
    let storage = open(directory.path(), &synced());
    let health = storage.write_health();
    // Many at once, so that some share a take with the damaged one.
    let damaged = single(swap(key(0), 1, "v"));
    let submissions = (0..50).map(bystander).chain([damaged]);
    let submissions = submissions.chain((50..100).map(bystander));
    let pending: Vec<_> = submissions
        .map(|submission| storage.submit(submission))
        .collect();
    let answers = pending
        .into_iter()
        .map(|pending| pending.and_then(PendingWrite::wait));
    for (number, answer) in answers.enumerate() {
        match answer {
            Err(Error::DataLoss { .. }) => assert_eq!(number, 50, "{answer:?}"),
            Ok(_) => assert_ne!(number, 50, "{answer:?}"),
            other => panic!("{other:?}"),
        }
    }
    let WriteHealth::RegionsStopped { causes } = health.borrow().clone() else {
        panic!("{health:?}");
    };
    assert_eq!(causes.keys().collect::<Vec<_>>(), [&1]);

    let later = storage.compare_and_swap(key(KEYS - 1), 1, "v").unwrap_err();
    let Error::WritesStopped { cause } = &later else {
        panic!("{later:?}");
    };
    assert!(cause.starts_with("region 1: "), "{cause}");
    assert_eq!(later.fate(), Fate::NotApplied);
    let found = storage.get_versioned(&key(KEYS - 1)).unwrap().unwrap();
    assert_eq!(found.version, 1);
    let found = storage.get_versioned(&key(0));
    assert!(matches!(found, Err(Error::DataLoss { .. })));
    storage.submit(bystander(100)).unwrap().wait().unwrap();

    drop(storage);
    let storage = open(directory.path(), &synced());
    for number in 0..=100 {
        assert_eq!(storage.get_raw(&key(number)), Ok(Some("v".into())));
        assert!(
            storage
                .get_versioned(&key(1000 + number))
                .unwrap()
                .is_some()
        );
    }
    storage.put_raw("k", "v").unwrap();
}

#[test]
fn writes_to_the_region_that_wait_beside_damage_are_made_or_refused_as_not_applied() {
    let directory = with_a_damaged_versioned_key();
    let storage = open(directory.path(), &synced());
    let beside = |number| single(put(key(number), "v"));
    let damaged = || single(swap(key(0), 1, "v"));
    let submissions = (0..50).map(beside).chain([damaged()]);
    let submissions = submissions.chain((50..100).map(beside));
    let pending: Vec<_> = submissions
        .map(|submission| storage.submit(submission))
        .collect();
    let mut answers: Vec<_> = pending
        .into_iter()
        .map(|pending| pending.and_then(PendingWrite::wait))
        .collect();
    let met = answers.remove(50);
    assert!(matches!(met, Err(Error::DataLoss { .. })), "{met:?}");
    for (number, answer) in (0..).zip(answers) {
        let stored = storage.get_raw(&key(number)).unwrap();
        match answer {
            Ok(_) => assert_eq!(stored, Some("v".into())),
            Err(Error::WritesStopped { .. }) => assert_eq!(stored, None),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_swap_that_cannot_read_its_key_is_known_before_it_is_in_a_log() {
    let directory = with_a_damaged_versioned_key();
    let storage = open(directory.path(), &synced());
    let warm = |region_id, number| {
        let swap = swap(key(number), 1, "v");
        let admitted = storage.admit(Submission::new(region_id, vec![swap]))?;
        let (sender, answer) = mpsc::channel();
        storage.warm(admitted, move |read| sender.send(read.map(drop)).unwrap());
        answer.recv().unwrap().map_err(|met| met.error)
    };
    let met = warm(1, 0);
    assert!(matches!(met, Err(Error::DataLoss { .. })), "{met:?}");
    let later = warm(1, KEYS - 2);
    assert!(
        matches!(later, Err(Error::WritesStopped { .. })),
        "{later:?}"
    );
    assert_eq!(warm(2, KEYS - 1), Ok(()));
    let in_the_log = crate::log::entry(1, 0, vec![swap(key(KEYS - 1), 1, "v")]);
    let applied = storage.apply(1, &[in_the_log], ApplyOptions::default());
    assert_eq!(applied, Ok(vec![vec![Outcome::Swapped { version: 2 }]]));
    let health = storage.write_health().borrow().clone();
    let WriteHealth::RegionsStopped { causes } = health else {
        panic!("{health:?}");
    };
    assert_eq!(causes.keys().collect::<Vec<_>>(), [&1]);
}

#[test]
fn a_log_that_meets_damage_stops_its_region_and_nothing_of_it_is_applied() {
    let directory = with_a_damaged_versioned_key();
    let storage = open(directory.path(), &synced());
    let entry = |position: &'static str, key| LogEntry {
        position: position.into(),
        change: LogChange::Proposal(Proposal {
            epoch_version: 0,
            commands: vec![put("raw", position), swap(key, 1, "v")],
        }),
    };
    let entries = [entry("1", key(KEYS - 1)), entry("2", key(0))];
    let options = ApplyOptions::default();
    assert_eq!(storage.apply_from_memory(7, &entries, options), Ok(None));
    let met = storage.apply(7, &entries, options);
    assert!(matches!(met, Err(Error::DataLoss { .. })), "{met:?}");
    assert_eq!(storage.get_raw(b"raw"), Ok(None));
    assert_eq!(storage.applied_position(7), Ok(None));
    let again = storage.apply_from_memory(7, &entries[..1], options);
    assert!(matches!(again, Err(Error::WritesStopped { .. })));
    let other = storage.apply(8, &entries[..1], options);
    assert!(other.is_ok(), "{other:?}");
}
