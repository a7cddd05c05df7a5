//! The database of the logs: what it keeps, what it refuses, and that it is not mixed up with the data.
//!
//! It is opened by the same code as that of the data, so what `damaged_log` shows is not all shown again.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdb_storage::{
    DatabaseKind, Error, LogBatch, LogDatabase, OpenError, PeerDescriptor, RegionDescriptor,
    Repair, Storage, StorageOptions, WalRecovery,
};

use crate::fixture::{
    copy_of, files, files_of, flip_bit, flushing, free_table_files, noise, occupy_table_files_of,
    open, refused, synced, truncate, unsynced,
};
use crate::log::{REGION, region};
use crate::unlogged::first_state;

const VALUE_BYTES: usize = 1000;

/// Long enough for several of RocksDB's 32 KiB blocks.
const WRITES: u64 = 200;

fn open_both(directory: &Path, options: &StorageOptions) -> (Storage, LogDatabase) {
    let storage = open(directory, options);
    let log = storage.open_log().unwrap();
    (storage, log)
}

fn key(number: u64) -> Vec<u8> {
    format!("{number:08}").into()
}

fn put(log: &LogDatabase, number: u64, sync: bool) -> Result<(), Error> {
    let mut batch = LogBatch::default();
    batch.put(&key(number), &noise(number, VALUE_BYTES));
    log.write(batch, sync)
}

fn keys(log: &LogDatabase, start: &[u8], end: &[u8]) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    let visit = |key: &[u8], _: &[u8]| {
        keys.push(key.to_vec());
        ControlFlow::Continue(())
    };
    log.scan(start, end, visit).unwrap();
    keys
}

/// How many writes are there; they are the first ones, and unharmed.
fn prefix(log: &LogDatabase) -> u64 {
    let mut count = 0;
    let visit = |found: &[u8], value: &[u8]| {
        assert_eq!(found, key(count));
        assert_eq!(value, noise(count, VALUE_BYTES));
        count += 1;
        ControlFlow::Continue(())
    };
    log.scan(b"", b"a", visit).unwrap();
    count
}

/// A log of [`WRITES`] that was left without a flush.
fn written() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let (storage, log) = open_both(directory.path(), &synced());
    storage.put_raw("data", "v").unwrap();
    for number in 0..WRITES {
        put(&log, number, true).unwrap();
    }
    drop((storage, log));
    let file = files_of(&directory.path().join("raft"), ".log").pop();
    (directory, file.unwrap())
}

fn refused_log(directory: &Path) -> OpenError {
    match open(directory, &synced()).open_log() {
        Ok(_) => panic!("the log of {} was opened", directory.display()),
        Err(error) => error,
    }
}

#[test]
fn ranges_are_read_and_deleted_without_their_ends() {
    let directory = tempfile::tempdir().unwrap();
    let (_storage, log) = open_both(directory.path(), &unsynced());
    let mut batch = LogBatch::default();
    for key in [b"a", b"b", b"c", b"d"] {
        batch.put(key, key);
    }
    log.write(batch, false).unwrap();
    assert_eq!(log.get(b"b"), Ok(Some(Bytes::from_static(b"b"))));
    assert_eq!(log.get(b"bb"), Ok(None));
    assert_eq!(keys(&log, b"b", b"d"), [b"b", b"c"]);
    assert!(keys(&log, b"d", b"b").is_empty());
    let last = log.last(b"a", b"d").unwrap();
    assert_eq!(last, Some((b"c".to_vec(), Bytes::from_static(b"c"))));
    assert_eq!(log.last(b"e", b"z"), Ok(None));
    assert_eq!(log.last(b"d", b"a"), Ok(None));
    let mut visited = 0;
    let first = |_: &[u8], _: &[u8]| {
        visited += 1;
        ControlFlow::Break(())
    };
    log.scan(b"a", b"z", first).unwrap();
    assert_eq!(visited, 1);

    // In their order: the later change of a key wins.
    let mut batch = LogBatch::default();
    batch.delete_range(b"b", b"d");
    batch.put(b"c", b"new");
    batch.put(b"d", b"new");
    batch.delete(b"d");
    log.write(batch, false).unwrap();
    assert_eq!(keys(&log, b"a", b"z"), [b"a", b"c"]);
}

/// RocksDB would write the range to its log and then fail, now and at every replay.
#[test]
fn an_empty_or_inverted_range_deletes_nothing_and_does_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let (storage, log) = open_both(directory.path(), &synced());
    put(&log, 0, true).unwrap();
    let mut batch = LogBatch::default();
    batch.delete_range(b"9", b"0");
    batch.delete_range(&key(0), &key(0));
    log.write(batch, true).unwrap();
    put(&log, 1, true).unwrap();
    drop((storage, log));
    let (_storage, log) = open_both(directory.path(), &synced());
    assert_eq!(prefix(&log), 2);
}

#[test]
fn what_was_written_is_there_after_an_open_whether_it_was_closed_or_not() {
    let directory = tempfile::tempdir().unwrap();
    let mut number = 0;
    for close in [false, true, false] {
        // Tables and logs both have some of it.
        let (storage, log) = open_both(directory.path(), &flushing());
        assert_eq!(prefix(&log), number);
        for _ in 0..WRITES {
            put(&log, number, true).unwrap();
            number += 1;
        }
        if close {
            log.close().unwrap();
            log.close().unwrap();
            storage.close().unwrap();
            assert_eq!(prefix(&log), number, "reads go on");
        }
    }
    let (storage, log) = open_both(directory.path(), &flushing());
    assert_eq!(prefix(&log), number);
    assert_eq!(storage.get_raw(&key(0)), Ok(None), "it is not the data");
    assert!(!files_of(&directory.path().join("raft"), ".sst").is_empty());
}

#[test]
fn only_what_is_to_be_synced_is_synced() {
    for (options, syncs) in [(synced(), 1), (unsynced(), 0)] {
        let directory = tempfile::tempdir().unwrap();
        let (_storage, log) = open_both(directory.path(), &options);
        for number in 0..20 {
            let before = log.wal_sync_count();
            put(&log, number, false).unwrap();
            assert_eq!(log.wal_sync_count(), before);
            put(&log, number, true).unwrap();
            assert_eq!(log.wal_sync_count(), before + syncs);
        }
    }
}

#[test]
fn the_directory_is_locked_until_the_log_is_closed_too_and_a_log_is_open_once() {
    let directory = tempfile::tempdir().unwrap();
    let (storage, log) = open_both(directory.path(), &synced());
    let again = storage.open_log();
    assert!(matches!(again, Err(OpenError::Io { .. })));
    drop(storage);
    let error = refused(directory.path(), &synced());
    assert!(matches!(error, OpenError::Locked(_)), "{error:?}");
    drop(log);
    drop(open_both(directory.path(), &synced()));
}

#[test]
fn the_first_write_makes_a_directory_that_an_older_release_refuses() {
    let directory = tempfile::tempdir().unwrap();
    let identity = || fs::read_to_string(directory.path().join("flaredb.identity")).unwrap();
    let storage = open(directory.path(), &synced());
    assert!(identity().contains("format = 2\n"));
    // An open that was cut short left this.
    fs::create_dir(directory.path().join("raft")).unwrap();
    fs::write(directory.path().join("raft/CURRENT"), "half").unwrap();
    let log = storage.open_log().unwrap();
    assert!(identity().contains("format = 2\n"));
    put(&log, 0, true).unwrap();
    assert!(identity().contains("format = 3\n"));
    drop((storage, log));
    let (storage, log) = open_both(directory.path(), &synced());
    assert_eq!(prefix(&log), 1);
    storage.assign(1, Some(2), Some(3)).unwrap();
    assert!(identity().contains("format = 3\n"));
}

#[test]
fn only_what_a_first_open_left_is_removed() {
    let set_format = |directory: &Path, from: &str, to: &str| {
        let identity = directory.join("flaredb.identity");
        let text = fs::read_to_string(&identity).unwrap();
        fs::write(&identity, text.replace(from, to)).unwrap();
    };
    // As of an older copy.
    let forget_log = |directory: &Path| set_format(directory, "format = 3", "format = 2");
    let recall_log = |directory: &Path| set_format(directory, "format = 2", "format = 3");
    let (directory, file) = written();
    forget_log(directory.path());
    let refusal = refused_log(directory.path());
    let OpenError::UnknownLog { file: told } = &refusal else {
        panic!("{refusal:?}");
    };
    assert_eq!(told.file_name(), file.file_name());
    recall_log(directory.path());
    let (storage, log) = open_both(directory.path(), &synced());
    log.close().unwrap();
    drop((storage, log));
    forget_log(directory.path());
    let refusal = refused_log(directory.path());
    assert!(refusal.to_string().contains(".sst"), "{refusal}");
    recall_log(directory.path());
    assert_eq!(prefix(&open_both(directory.path(), &synced()).1), WRITES);

    let directory = tempfile::tempdir().unwrap();
    drop(open_both(directory.path(), &synced()));
    drop(open_both(directory.path(), &synced()));
}

#[test]
fn an_owner_that_keeps_no_logs_is_refused_a_directory_that_has_some() {
    let alone = StorageOptions {
        replicated: false,
        ..synced()
    };
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &alone);
    let refusal = storage.open_log().err().unwrap();
    assert!(refusal.to_string().contains("replicated"), "{refusal}");
    drop(storage);
    drop(open_both(directory.path(), &synced()));
    drop(open(directory.path(), &alone));
    let (storage, log) = open_both(directory.path(), &synced());
    put(&log, 0, true).unwrap();
    drop((storage, log));
    let newer = OpenError::NewerFormat {
        directory: directory.path().to_owned(),
        found: 3,
        supported: 2,
    };
    assert_eq!(refused(directory.path(), &alone), newer);
    assert_eq!(Repair::of(directory.path(), alone), Err(newer));
}

#[test]
fn a_log_database_that_is_gone_or_has_no_log_is_damage_and_is_not_made_anew() {
    let (directory, file) = written();
    let harms: [&dyn Fn(); 2] = [&|| fs::remove_file(&file).unwrap(), &|| {
        fs::remove_dir_all(directory.path().join("raft")).unwrap()
    }];
    for harm in harms {
        harm();
        for _ in 0..2 {
            let error = refused_log(directory.path());
            assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
            let told = error.to_string();
            assert!(told.contains("the Raft log in"), "{told}");
            assert!(told.contains("raft/*.log"), "{told}");
        }
    }
    assert!(!directory.path().join("raft").exists());
    let storage = open(directory.path(), &synced());
    assert_eq!(storage.get_raw(b"data"), Ok(Some("v".into())));
}

#[test]
fn a_torn_tail_is_dropped_and_other_damage_is_refused_by_name_until_a_repair() {
    let (directory, file) = written();
    let length = fs::metadata(&file).unwrap().len();
    truncate(&file, length - 10);
    let repair = Repair::of(directory.path(), synced());
    assert_eq!(repair, Ok(Repair::NotNeeded));
    let (storage, log) = open_both(directory.path(), &synced());
    assert_eq!(prefix(&log), WRITES - 1);
    drop((storage, log));

    let (directory, file) = written();
    flip_bit(&file, length as usize / 2);
    let error = refused_log(directory.path());
    let name = Path::new("raft").join(file.file_name().unwrap());
    let name = name.to_str().unwrap();
    assert!(error.to_string().contains(name), "{error}");
    let Ok(Repair::Cut(cut)) = Repair::of(directory.path(), synced()) else {
        panic!("it is damaged");
    };
    let [cut] = &cut[..] else {
        panic!("one log is damaged: {cut:?}");
    };
    let told = cut.to_string();
    assert!(told.starts_with("the Raft log: "), "{told}");
    let damage = cut.log_damage.as_ref().unwrap();
    assert!(damage.file.ends_with(name), "{damage}");
    let (storage, log) = open_both(directory.path(), &synced());
    let kept = prefix(&log);
    assert!(kept.abs_diff(WRITES / 2) <= 1, "{kept}");
    assert_eq!(storage.get_raw(b"data"), Ok(Some("v".into())));
    put(&log, kept, true).unwrap();
    drop((storage, log));
    let repair = Repair::of(directory.path(), synced());
    assert_eq!(repair, Ok(Repair::NotNeeded));
    let (_storage, log) = open_both(directory.path(), &synced());
    assert_eq!(prefix(&log), kept + 1);
}

/// Both logs are needed: no flush of the first can have succeeded.
#[test]
fn a_log_that_a_newer_one_builds_on_is_not_missed_in_silence() {
    let directory = tempfile::tempdir().unwrap();
    let options = StorageOptions {
        write_buffer_bytes: 256 << 10,
        ..synced()
    };
    let (storage, log) = open_both(directory.path(), &options);
    let database = directory.path().join("raft");
    let taken = occupy_table_files_of(&database);
    let mut written = 0;
    while files_of(&database, ".log").len() < 2 {
        put(&log, written, true).unwrap();
        written += 1;
    }
    drop((storage, log));
    free_table_files(taken);
    let harms: [&dyn Fn(&Path); 3] = [
        &|log| fs::remove_file(log).unwrap(),
        &|log| truncate(log, 100_000),
        &|log| flip_bit(log, 100_000),
    ];
    for harm in harms {
        let copy = copy_of(directory.path());
        harm(&files_of(&copy.path().join("raft"), ".log")[0]);
        let error = refused_log(copy.path());
        assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    }
    let (_storage, log) = open_both(directory.path(), &synced());
    assert_eq!(prefix(&log), written);
}

#[test]
fn a_damaged_table_is_found_when_it_is_read_and_what_is_read_before_is_right() {
    let (directory, _file) = written();
    let (storage, log) = open_both(directory.path(), &synced());
    log.close().unwrap();
    drop((storage, log));
    let tables = files_of(&directory.path().join("raft"), ".sst");
    let [table] = &tables[..] else {
        panic!("all is in one table: {tables:?}");
    };
    flip_bit(table, 100_000);
    let (_storage, log) = open_both(directory.path(), &synced());
    let mut count = 0;
    let visit = |found: &[u8], value: &[u8]| {
        assert_eq!((found, value), (&*key(count), &*noise(count, VALUE_BYTES)));
        count += 1;
        ControlFlow::Continue(())
    };
    let error = log.scan(b"", b"a", visit).unwrap_err();
    assert!(matches!(error, Error::DataLoss { .. }), "{error:?}");
    assert!((80..100).contains(&count), "{count}");
    let error = log.get(&key(count)).unwrap_err();
    assert!(matches!(error, Error::DataLoss { .. }), "{error:?}");
    let error = log.last(b"", &key(count + 1)).unwrap_err();
    assert!(matches!(error, Error::DataLoss { .. }), "{error:?}");
    assert!(log.get(&key(WRITES - 1)).unwrap().is_some());
}

#[test]
fn a_repair_cuts_both_logs_and_makes_no_log_database() {
    let (directory, log_file) = written();
    let storage = open(directory.path(), &synced());
    for number in 0..WRITES {
        let value = noise(number, VALUE_BYTES);
        storage.put_raw(key(number), value).unwrap();
    }
    drop(storage);
    let data_file = files_of(&directory.path().join("db"), ".log").pop();
    let damaged = [data_file.unwrap(), log_file];
    for file in &damaged {
        flip_bit(file, 100_000);
    }
    let Ok(Repair::Cut(cut)) = Repair::of(directory.path(), synced()) else {
        panic!("both are damaged");
    };
    let told = cut.iter().map(|cut| cut.database);
    let both = [DatabaseKind::Data, DatabaseKind::RaftLog];
    assert_eq!(told.collect::<Vec<_>>(), both);
    let names = |files: &mut dyn Iterator<Item = &PathBuf>| {
        let names = files.map(|file| file.file_name().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    let told = names(
        &mut cut
            .iter()
            .flat_map(|cut| &cut.log_damage)
            .map(|damage| &damage.file),
    );
    assert_eq!(told, names(&mut damaged.iter()));
    let (storage, log) = open_both(directory.path(), &synced());
    assert!((90..100).contains(&prefix(&log)));
    assert_eq!(storage.get_raw(&key(100)), Ok(None));
    assert!(storage.get_raw(&key(80)).unwrap().is_some());
    drop((storage, log));

    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path(), &synced()));
    let repair = Repair::of(directory.path(), synced());
    assert_eq!(repair, Ok(Repair::NotNeeded));
    assert!(!directory.path().join("raft").exists());
}

/// Whichever of the two logs is damaged.
#[test]
fn a_repair_cuts_the_log_of_a_sole_voter_and_refuses_that_of_one_of_several() {
    // In the last one as it was stored before this store had a peer.
    let of_stores = [&[1][..], &[1, 2, 3], &[2]];
    let cases = of_stores.map(|stores| [(stores, "raft"), (stores, "db")]);
    for (stores, folder) in cases.into_iter().flatten() {
        let (directory, _) = written();
        let (storage, log) = open_both(directory.path(), &synced());
        storage.assign(10, Some(1), None).unwrap();
        let peer = |&id| PeerDescriptor { id, store_id: id };
        let region = RegionDescriptor {
            peers: stores.iter().map(peer).collect(),
            ..region(1)
        };
        let bootstrapped = storage.bootstrap_regions(&[(region, first_state())]);
        assert_eq!(bootstrapped, Ok(true));
        // RocksDB flushes at its end what was written without the log of the data.
        drop((storage, log));
        let (storage, log) = open_both(directory.path(), &synced());
        for number in 0..WRITES {
            let value = noise(number, VALUE_BYTES);
            storage.put_raw(key(number), value).unwrap();
            put(&log, number, true).unwrap();
        }
        drop((storage, log));
        let database = directory.path().join(folder);
        let file = files_of(&database, ".log").pop().unwrap();
        flip_bit(&file, 100_000);
        let before = fs::read(&file).unwrap();
        let repair = Repair::of(directory.path(), synced());
        if stores == [1] {
            assert!(matches!(repair, Ok(Repair::Cut(_))), "{repair:?}");
            continue;
        }
        let refused = repair.unwrap_err();
        assert!(
            matches!(
                refused,
                OpenError::Replicated {
                    region_id: REGION,
                    ..
                }
            ),
            "{refused:?}"
        );
        assert!(!refused.may_pass());
        assert_eq!(fs::read(&file).unwrap(), before, "it was cut");
    }
}

/// A table of the log is gone, which no cut mends.
#[test]
fn a_repair_that_cannot_cut_the_log_leaves_the_data_as_it_was() {
    let (directory, _file) = written();
    drop(open_both(directory.path(), &synced()));
    let storage = open(directory.path(), &synced());
    for number in 0..WRITES {
        let value = noise(number, VALUE_BYTES);
        storage.put_raw(key(number), value).unwrap();
    }
    drop(storage);
    let table = files_of(&directory.path().join("raft"), ".sst").pop();
    fs::remove_file(table.unwrap()).unwrap();
    let data = files_of(&directory.path().join("db"), ".log").pop();
    flip_bit(&data.unwrap(), 100_000);
    let before = files(&directory.path().join("db"));
    let refused = Repair::of(directory.path(), synced()).unwrap_err();
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused:?}");
    assert!(refused.to_string().contains("Raft log"), "{refused}");
    assert!(files(&directory.path().join("db")) == before);
}

/// The newest write-ahead log is gone, and an older one is not there either: no record is damaged.
#[test]
fn a_repair_tells_of_a_log_that_is_refused_though_no_record_is_damaged() {
    let (directory, file) = written();
    fs::remove_file(&file).unwrap();
    let Ok(Repair::Cut(cut)) = Repair::of(directory.path(), synced()) else {
        panic!("it is refused");
    };
    let [cut] = &cut[..] else {
        panic!("one log is missing: {cut:?}");
    };
    assert_eq!(cut.database, DatabaseKind::RaftLog);
    assert_eq!(cut.log_damage, None);
    let told = cut.to_string();
    assert!(told.contains("raft/*.log"), "{told}");
    let (_storage, log) = open_both(directory.path(), &synced());
    assert_eq!(prefix(&log), 0);
}

#[test]
fn a_failed_flush_is_told_though_no_write_met_it_and_nothing_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let options = StorageOptions {
        write_buffer_bytes: 256 << 10,
        ..synced()
    };
    let (storage, log) = open_both(directory.path(), &options);
    assert_eq!(log.background_error(), None);
    let database = directory.path().join("raft");
    let taken = occupy_table_files_of(&database);
    let mut written = 0;
    // A second log says that the memtable is full and about to be flushed.
    while files_of(&database, ".log").len() < 2 {
        put(&log, written, true).unwrap();
        written += 1;
    }
    let hang_guard = Instant::now() + Duration::from_secs(60);
    let cause = loop {
        if let Some(cause) = log.background_error() {
            break cause;
        }
        assert!(Instant::now() < hang_guard);
        thread::sleep(Duration::from_millis(1));
    };
    assert!(cause.contains(".sst"), "the cause names the file: {cause}");
    assert!(cause.contains("Raft log"), "{cause}");
    assert_eq!(prefix(&log), written);
    assert!(log.close().is_err(), "there is still nothing to flush to");
    assert_eq!(storage.put_raw("data", "v"), Ok(()), "the data goes on");
    drop((storage, log));

    free_table_files(taken);
    let (_storage, log) = open_both(directory.path(), &options);
    assert_eq!(prefix(&log), written);
}

/// An open that cuts is for a damaged log. It keeps an undamaged one whole.
#[test]
fn an_open_that_cuts_keeps_what_is_not_damaged() {
    let (directory, _file) = written();
    let options = StorageOptions {
        wal_recovery: WalRecovery::PointInTime,
        ..synced()
    };
    let (_storage, log) = open_both(directory.path(), &options);
    assert_eq!(prefix(&log), WRITES);
}
