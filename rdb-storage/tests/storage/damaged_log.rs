//! Damage to the write-ahead log: a torn tail is dropped in silence, anything else is refused, and what is served is
//! always what was written, up to some point.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rdb_storage::{DatabaseKind, OpenError, Repair, Storage, StorageOptions, WalRecovery};

use crate::fixture::{
    all_raw, copy_of, database_files, files, flip_bit, flushing, free_table_files, noise,
    occupy_table_files, open, refused, synced, truncate, unsynced,
};

const WRITES: u64 = 200;
const VALUE_BYTES: usize = 1000;

fn key(number: u64) -> Bytes {
    format!("{number:04}").into()
}

/// A data directory that was left without a flush, and its newest log. The log has several of RocksDB's 32 KiB blocks.
fn written(writes: u64) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &synced());
    for number in 0..writes {
        storage
            .put_raw(key(number), noise(number, VALUE_BYTES))
            .unwrap();
    }
    drop(storage);
    let log = newest_log(directory.path());
    (directory, log)
}

fn newest_log(directory: &Path) -> PathBuf {
    database_files(directory, ".log").pop().unwrap()
}

fn point_in_time() -> StorageOptions {
    StorageOptions {
        wal_recovery: WalRecovery::PointInTime,
        ..synced()
    }
}

/// How many writes are there; they are the first ones, and unharmed.
fn prefix(storage: &Storage) -> u64 {
    let entries = all_raw(storage).unwrap();
    for (number, entry) in (0..).zip(&entries) {
        assert_eq!(
            (&entry.key, &entry.value),
            (&key(number), &noise(number, VALUE_BYTES))
        );
    }
    entries.len() as u64
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
fn an_untouched_log_gives_everything_back() {
    let (directory, _log) = written(WRITES);
    assert_eq!(prefix(&open(directory.path(), &synced())), WRITES);
}

#[test]
fn a_torn_tail_is_dropped_in_silence_and_everything_before_it_is_there() {
    let (directory, log) = written(WRITES);
    let length = fs::metadata(&log).unwrap().len();
    // A record of one put: 7 bytes of log header, 12 of batch header, tag, lengths, key, value.
    let record = (length / WRITES) as i64;
    for lost in [
        1,
        500,
        record,
        record + 1,
        record * 3 + 10,
        length as i64 - 5,
        length as i64,
    ] {
        let copy = copy_of(directory.path());
        truncate(&newest_log(copy.path()), length - lost as u64);
        let recovered = prefix(&open(copy.path(), &synced()));
        let lost_writes = (WRITES - recovered) as i64;
        assert!(
            lost_writes >= 1 && (lost_writes - 1) * record <= lost,
            "{lost} bytes, {lost_writes} writes"
        );
    }
}

#[test]
fn a_repair_says_where_it_cuts_a_damaged_log_and_leaves_a_torn_one_alone() {
    let (directory, log) = written(WRITES);
    let length = fs::metadata(&log).unwrap().len();
    let torn = copy_of(directory.path());
    truncate(&newest_log(torn.path()), length - 10);
    let repair = Repair::of(torn.path(), synced());
    assert_eq!(repair, Ok(Repair::NotNeeded));
    assert_eq!(prefix(&open(torn.path(), &synced())), WRITES - 1);

    let middle = length / 2;
    flip_bit(&log, middle as usize);
    let Ok(Repair::Cut(cut)) = Repair::of(directory.path(), synced()) else {
        panic!("it is damaged");
    };
    let [cut] = &cut[..] else {
        panic!("one log is damaged: {cut:?}");
    };
    assert_eq!(cut.database, DatabaseKind::Data);
    let damage = cut.log_damage.as_ref().unwrap();
    assert_eq!(damage.file.file_name(), log.file_name());
    let before = middle - damage.offset;
    assert!(before < 2 * VALUE_BYTES as u64, "{damage:?}");
    assert_eq!(damage.rest_bytes, length - damage.offset);
    let kept = prefix(&open(directory.path(), &synced()));
    assert!(kept.abs_diff(WRITES / 2) <= 1, "{kept}");
    let again = Repair::of(directory.path(), synced());
    assert_eq!(again, Ok(Repair::NotNeeded));
    let refused = Repair::of(directory.path().join("mistyped"), synced());
    assert!(matches!(refused, Err(OpenError::NoDataDirectory(_))));
}

#[test]
fn writing_goes_on_behind_a_torn_tail() {
    let (directory, log) = written(WRITES);
    truncate(&log, fs::metadata(&log).unwrap().len() - 10);
    for number in WRITES - 1..WRITES + 3 {
        let storage = open(directory.path(), &synced());
        assert_eq!(prefix(&storage), number);
        storage
            .put_raw(key(number), noise(number, VALUE_BYTES))
            .unwrap();
    }
    let storage = open(directory.path(), &synced());
    assert_eq!(prefix(&storage), WRITES + 3);
    storage.close().unwrap();
    drop(storage);
    assert_eq!(prefix(&open(directory.path(), &synced())), WRITES + 3);
}

#[test]
fn a_flipped_payload_byte_is_refused_with_the_directory_and_the_file_and_nothing_is_changed() {
    let (directory, log) = written(WRITES);
    flip_bit(&log, 100_000);
    let before = files(directory.path());
    for _ in 0..2 {
        let error = refused(directory.path(), &synced());
        assert_damaged(directory.path(), &error);
        let name = log.file_name().unwrap().to_str().unwrap();
        assert!(
            error.to_string().contains(name),
            "{error} does not name {name}"
        );
        assert_eq!(
            changed_files(&before, directory.path()),
            Vec::<PathBuf>::new()
        );
    }
}

/// Files that were added, removed or altered.
fn changed_files(
    before: &std::collections::BTreeMap<PathBuf, Vec<u8>>,
    directory: &Path,
) -> Vec<PathBuf> {
    let after = files(directory);
    let names = before
        .keys()
        .chain(after.keys().filter(|name| !before.contains_key(*name)));
    names
        .filter(|name| before.get(*name) != after.get(*name))
        .cloned()
        .collect()
}

#[test]
fn point_in_time_gives_what_comes_before_the_damage_and_heals_the_directory() {
    let (directory, log) = written(WRITES);
    flip_bit(&log, 100_000);
    for reopen_closed in [false, true] {
        let copy = copy_of(directory.path());
        let storage = open(copy.path(), &point_in_time());
        let recovered = prefix(&storage);
        assert!((90..100).contains(&recovered), "{recovered}");
        storage
            .put_raw(key(recovered), noise(recovered, VALUE_BYTES))
            .unwrap();
        if reopen_closed {
            storage.close().unwrap();
        }
        drop(storage);
        let storage = open(copy.path(), &synced());
        assert_eq!(
            prefix(&storage),
            recovered + 1,
            "the strict open finds nothing damaged any more"
        );
    }
}

#[test]
fn whatever_byte_of_the_log_is_flipped_the_open_is_refused_or_serves_a_prefix() {
    const FEW: u64 = 40;
    let (directory, log) = written(FEW);
    let length = fs::metadata(&log).unwrap().len() as usize;
    let (mut refusals, mut shorter) = (0, 0);
    for offset in (0..length).step_by(length / 60).chain(0..20) {
        let copy = copy_of(directory.path());
        flip_bit(&newest_log(copy.path()), offset);
        match Storage::open(copy.path(), synced()) {
            Err(error) => {
                assert_damaged(copy.path(), &error);
                refusals += 1;
            }
            Ok(storage) => shorter += u32::from(prefix(&storage) < FEW),
        }
    }
    println!(
        "flipped bits of a log of {length} bytes: {refusals} refused, {shorter} served as a shorter log"
    );
    assert!(refusals > 40);
}

#[test]
fn a_flipped_length_in_the_last_block_reads_as_a_torn_tail() {
    const FEW: u64 = 40;
    let (directory, log) = written(FEW);
    let length = fs::metadata(&log).unwrap().len();
    // One header of 7 bytes more than there are writes, since one write goes on in the second block.
    let record = (length - 7) / FEW;
    let high_byte_of_the_last_length = length - record + 5;
    flip_bit(&log, high_byte_of_the_last_length as usize);
    assert_eq!(prefix(&open(directory.path(), &synced())), FEW - 1);
}

#[test]
fn what_an_open_replays_it_flushes_so_that_no_log_stays_behind_a_newer_one() {
    let (directory, log) = written(WRITES);
    let storage = open(directory.path(), &synced());
    assert_eq!(prefix(&storage), WRITES);
    drop(storage);
    let logs = database_files(directory.path(), ".log");
    assert_eq!(logs.len(), 1);
    assert_ne!(logs[0], log);
    assert!(!database_files(directory.path(), ".sst").is_empty());
}

#[test]
fn a_database_without_any_log_is_refused_until_a_point_in_time_open() {
    let (directory, log) = written(WRITES);
    fs::remove_file(log).unwrap();
    for _ in 0..2 {
        assert_damaged(directory.path(), &refused(directory.path(), &synced()));
    }
    assert_eq!(prefix(&open(directory.path(), &point_in_time())), 0);
    assert_eq!(prefix(&open(directory.path(), &synced())), 0);
}

/// Families that were flushed one by one would leave later writes without earlier ones.
#[test]
fn a_flush_takes_all_families_so_that_without_any_log_there_is_no_hole() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &flushing());
    storage.compare_and_swap("first", 0, "v").unwrap();
    let log = newest_log(directory.path());
    let mut number = 0;
    // A log goes when all that it holds was flushed.
    while log.exists() {
        assert!(number < 5_000, "one family is never flushed");
        storage
            .put_raw(key(number), noise(number, VALUE_BYTES))
            .unwrap();
        number += 1;
    }
    drop(storage);
    for log in database_files(directory.path(), ".log") {
        fs::remove_file(log).unwrap();
    }
    let storage = open(directory.path(), &point_in_time());
    assert!(prefix(&storage) > 0);
    let first = storage.get_versioned(b"first").unwrap();
    assert_eq!(first.unwrap().version, 1);
}

/// Two logs that are both needed: the memtables were switched, and no flush of the first can have succeeded. A flush that
/// did would make the first log obsolete, and any harm to it harmless.
fn two_logs() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let options = StorageOptions {
        write_buffer_bytes: 256 << 10,
        ..synced()
    };
    let storage = open(directory.path(), &options);
    let taken = occupy_table_files(directory.path());
    storage.compare_and_swap("k", 0, "v").unwrap();
    let mut number = 0;
    // The write that begins the second log notes in the manifest how long the first one is.
    while database_files(directory.path(), ".log").len() < 2 {
        storage
            .put_raw(key(number), noise(number, VALUE_BYTES))
            .unwrap();
        number += 1;
    }
    drop(storage);
    free_table_files(taken);
    let older = database_files(directory.path(), ".log").swap_remove(0);
    (directory, older)
}

#[test]
fn a_missing_shortened_or_flipped_log_behind_a_newer_one_is_refused() {
    let (directory, older) = two_logs();
    let older = older.strip_prefix(directory.path()).unwrap();
    let length = fs::metadata(directory.path().join(older)).unwrap().len();
    let harms: [&dyn Fn(&Path); 4] = [
        &|log| fs::remove_file(log).unwrap(),
        &|log| truncate(log, length - 10),
        &|log| truncate(log, 0),
        &|log| flip_bit(log, 100_000),
    ];
    for harm in harms {
        let copy = copy_of(directory.path());
        harm(&copy.path().join(older));
        assert_damaged(copy.path(), &refused(copy.path(), &synced()));
    }
    let storage = open(directory.path(), &synced());
    assert_eq!(storage.get_versioned(b"k").unwrap().unwrap().version, 1);
}

/// Two logs without syncs, and a manifest that knows the length of none of them. A power cut can leave that in the moment before
/// RocksDB has synced the logs that it closed.
fn unsynced_logs() -> (tempfile::TempDir, u64) {
    let directory = tempfile::tempdir().unwrap();
    let options = StorageOptions {
        write_buffer_bytes: 64 << 10,
        ..unsynced()
    };
    let storage = open(directory.path(), &options);
    let taken = occupy_table_files(directory.path());
    let manifest = database_files(directory.path(), "")
        .into_iter()
        .find(|file| file.to_str().unwrap().contains("MANIFEST"))
        .unwrap();
    let length_before = fs::metadata(&manifest).unwrap().len();
    let mut written = 0;
    while database_files(directory.path(), ".log").len() < 2 {
        let value = noise(written, VALUE_BYTES);
        storage.put_raw(key(written), value).unwrap();
        written += 1;
    }
    // The newer log has more than the write that began it, unless RocksDB has stopped writes already: its flush fails.
    let more = written..written + 10;
    for number in more {
        let put = storage.put_raw(key(number), noise(number, VALUE_BYTES));
        if put.is_err() {
            break;
        }
        written += 1;
    }
    drop(storage);
    free_table_files(taken);
    truncate(&manifest, length_before);
    (directory, written)
}

/// Where the records of a log end: RocksDB's blocks of 32 KiB, each a row of fragments with headers of 7 bytes.
fn record_ends(log: &Path) -> Vec<u64> {
    const BLOCK: usize = 32 << 10;
    const HEADER: usize = 7;
    let contents = fs::read(log).unwrap();
    let (mut offset, mut ends) = (0, Vec::new());
    while offset + HEADER <= contents.len() {
        if BLOCK - offset % BLOCK < HEADER {
            offset = offset.next_multiple_of(BLOCK);
            continue;
        }
        let header = &contents[offset..offset + HEADER];
        let (length, kind) = (u16::from_le_bytes([header[4], header[5]]), header[6]);
        offset += HEADER + usize::from(length);
        let (is_full, is_last) = (kind == 1, kind == 4);
        if is_full || is_last {
            ends.push(offset as u64);
        }
    }
    ends
}

/// The older log or the newer one loses its end, within a record or between two, or all of it.
#[test]
fn without_syncs_a_power_cut_leaves_a_prefix_of_what_was_written() {
    let (directory, written) = unsynced_logs();
    let logs = database_files(directory.path(), ".log");
    for (log, is_older) in logs.iter().zip([true, false]) {
        let ends = record_ends(log);
        assert_eq!(ends.last(), Some(&fs::metadata(log).unwrap().len()));
        let whole_records = ends.iter().rev().skip(1).step_by(9).copied();
        let lengths = whole_records.chain(ends.iter().rev().step_by(13).map(|end| end - 10));
        for length in lengths.chain([0]) {
            let copy = copy_of(directory.path());
            truncate(
                &copy
                    .path()
                    .join(log.strip_prefix(directory.path()).unwrap()),
                length,
            );
            if is_older {
                assert_damaged(copy.path(), &refused(copy.path(), &synced()));
            }
            let repaired = copy_of(copy.path());
            let left = prefix(&open(copy.path(), &unsynced()));
            assert!(
                left < written,
                "{length} bytes of {} are left",
                log.display()
            );
            assert_eq!(prefix(&open(repaired.path(), &point_in_time())), left);
            assert_eq!(prefix(&open(copy.path(), &synced())), left, "it is healed");
        }
    }
    fs::remove_file(&logs[0]).unwrap();
    assert_damaged(directory.path(), &refused(directory.path(), &synced()));
    assert_eq!(prefix(&open(directory.path(), &unsynced())), 0);
}
