//! A full disk: a small file system in memory, filled up with a ballast file.
//!
//! Mounting needs root. Where it is not allowed, these tests are skipped, see `skipped`.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdb_storage::{
    ApplyOptions, Durability, Error, Fate, LogBatch, LogDatabase, OpenError, ScanRange, Storage,
    StorageOptions, WriteHealth,
};

use crate::fixture::{
    database_files, files_of, noise, noted_options, noted_options_of, one_worker, open, put,
    read_raw, refused, synced,
};
use crate::log::{REGION, entry, region};
use crate::skipped::skipped;
use crate::unlogged::first_state;

const FILE_SYSTEM_BYTES: u64 = 48 << 20;
const VALUE_BYTES: usize = 64 << 10;

/// A mounted file system of its own; unmounted when dropped, also by a panic.
struct SmallDisk {
    directory: tempfile::TempDir,
}

impl SmallDisk {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={FILE_SYSTEM_BYTES}"),
                "tmpfs",
            ])
            .arg(directory.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { directory }),
            refused => {
                skipped(&format!(
                    "a small file system cannot be mounted here: {refused:?}"
                ));
                None
            }
        }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn available_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.directory.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Leaves only `bytes` free.
    fn fill_up_to(&self, bytes: u64) {
        let mut ballast = File::options()
            .append(true)
            .create(true)
            .open(self.ballast())
            .unwrap();
        let portion = vec![0; 4096];
        while self.available_bytes() > bytes {
            ballast.write_all(&portion).unwrap();
        }
    }

    fn give_space_back(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.directory.path().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount")
            .arg("--lazy")
            .arg(self.directory.path())
            .status();
        if !matches!(&unmounted, Ok(status) if status.success()) {
            println!(
                "{} could not be unmounted: {unmounted:?}",
                self.directory.path().display()
            );
        }
    }
}

fn with_reserve() -> StorageOptions {
    StorageOptions {
        disk_reserve_bytes: 2 << 20,
        ..synced()
    }
}

fn key(number: u64) -> Bytes {
    format!("{number:04}").into()
}

/// Writes until the disk is full: how many writes were acknowledged, and the error of the one after them.
fn write_until_full(storage: &Storage) -> (u64, Error) {
    for number in 0..FILE_SYSTEM_BYTES / VALUE_BYTES as u64 * 2 {
        if let Err(error) = storage.put_raw(key(number), noise(number, VALUE_BYTES)) {
            return (number, error);
        }
    }
    panic!("the disk never was full");
}

/// The acknowledged writes are there; the undetermined one behind them may be.
fn assert_all_there(storage: &Storage, acknowledged: u64) {
    for number in 0..acknowledged {
        let value = storage.get_raw(&key(number)).unwrap();
        assert_eq!(
            value,
            Some(noise(number, VALUE_BYTES)),
            "{number} of {acknowledged}"
        );
    }
    let undetermined = storage.get_raw(&key(acknowledged)).unwrap();
    assert!(undetermined.is_none_or(|value| value == noise(acknowledged, VALUE_BYTES)));
}

/// Fills the disk under an open storage and checks what is promised then. How many writes were acknowledged.
fn fill_and_check(disk: &SmallDisk) -> u64 {
    let storage = open(&disk.data(), &with_reserve());
    let health = storage.write_health();
    assert_eq!(*health.borrow(), WriteHealth::Healthy);
    disk.fill_up_to(8 << 20);

    let (acknowledged, error) = write_until_full(&storage);
    assert!(matches!(error, Error::Undetermined { .. }), "{error:?}");
    assert_eq!(error.fate(), Fate::Unknown);
    assert!(
        error.to_string().contains("No space left on device"),
        "{error}"
    );

    let WriteHealth::Stopped { cause } = health.borrow().clone() else {
        panic!("writes go on");
    };
    assert!(cause.contains("No space left on device"), "{cause}");
    let later = storage.put_raw("later", "v").unwrap_err();
    assert_eq!(later, Error::WritesStopped { cause });
    assert_eq!(later.fate(), Fate::NotApplied);
    assert_eq!(storage.get_raw(b"later"), Ok(None));

    assert_all_there(&storage, acknowledged);
    let reader = storage.reader();
    let read = one_worker(1).block_on(async {
        let page = reader
            .scan_raw(ScanRange::default(), usize::MAX)
            .await
            .unwrap();
        (read_raw(&reader, key(0)).await.unwrap(), page.entries.len())
    });
    assert_eq!(read.0, Some(noise(0, VALUE_BYTES)));
    assert!(read.1 > 0);

    // There is no space to flush to; that it fails is fine, that it hangs is not.
    if let Err(error) = storage.close() {
        assert!(matches!(error, Error::Io { .. }), "{error:?}");
    }
    assert_eq!(
        storage.put_raw("later", "v").unwrap_err().fate(),
        Fate::NotApplied
    );
    acknowledged
}

#[test]
fn the_write_in_hand_is_undetermined_and_later_ones_are_refused_and_all_is_there_when_space_returns()
 {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let acknowledged = fill_and_check(&disk);
    assert!(acknowledged > 20, "{acknowledged}");
    disk.give_space_back();
    let storage = open(&disk.data(), &with_reserve());
    assert_all_there(&storage, acknowledged);
    storage.put_raw("later", "v").unwrap();
    storage.close().unwrap();
}

#[test]
fn a_disk_that_is_still_full_can_be_opened_and_cleaned_thanks_to_the_reserve() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let acknowledged = fill_and_check(&disk);
    disk.fill_up_to(0);
    assert!(disk.data().join("reserve").exists());

    // The log is longer than a memtable of this open.
    let options = StorageOptions {
        write_buffer_bytes: 1 << 20,
        ..with_reserve()
    };
    let storage = open(&disk.data(), &options);
    assert!(!disk.data().join("reserve").exists(), "it was given up");
    // Replaying took no space, and is as strict as ever.
    assert_eq!(database_files(&disk.data(), ".sst"), Vec::<PathBuf>::new());
    let noted = noted_options(&disk.data());
    for line in [
        "avoid_flush_during_recovery=true",
        "wal_recovery_mode=kTolerateCorruptedTailRecords",
    ] {
        assert!(
            noted.iter().any(|noted| noted == line),
            "{line} is not among {noted:?}"
        );
    }
    assert_all_there(&storage, acknowledged);
    storage.delete_range_raw("", "").unwrap();
    assert_eq!(storage.scan_raw(&ScanRange::default()).unwrap().entries, []);
    storage.close().unwrap();
    drop(storage);
    assert!(
        disk.available_bytes() > 6 << 20,
        "{} bytes are free",
        disk.available_bytes()
    );

    disk.give_space_back();
    let storage = open(&disk.data(), &with_reserve());
    assert!(disk.data().join("reserve").exists(), "it was made again");
    assert_eq!(storage.scan_raw(&ScanRange::default()).unwrap().entries, []);
    storage.put_raw("k", "v").unwrap();
}

#[test]
fn without_its_reserve_a_full_disk_cannot_be_opened_and_says_so() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let acknowledged = fill_and_check(&disk);
    fs::remove_file(disk.data().join("reserve")).unwrap();
    disk.fill_up_to(0);
    let error = refused(&disk.data(), &with_reserve());
    assert!(
        error.to_string().contains("No space left on device"),
        "{error}"
    );
    assert!(matches!(error, OpenError::Io { .. }), "{error:?}");
    disk.give_space_back();
    assert_all_there(&open(&disk.data(), &with_reserve()), acknowledged);
}

/// RocksDB lets a write wait that finds the memtables full before the flush has found the disk full, and would not end that.
#[test]
fn writes_that_fill_the_memory_before_a_flush_meets_the_full_disk_end_too() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let options = StorageOptions {
        write_buffer_bytes: 4 << 20,
        durability: Durability::Os,
        ..with_reserve()
    };
    let storage = open(&disk.data(), &options);
    disk.fill_up_to(14 << 20);
    let (ended, end) = mpsc::channel();
    let writing = storage.clone();
    thread::spawn(move || ended.send(write_until_full(&writing)));
    let (_, error) = end.recv_timeout(Duration::from_secs(120)).unwrap();
    assert!(
        matches!(
            error,
            Error::Undetermined { .. } | Error::WritesStopped { .. }
        ),
        "{error:?}"
    );
    assert!(storage.write_health().borrow().cause().is_some());
}

/// No write-ahead log meets the end of the disk here: it is a flush that does.
#[test]
fn applying_without_the_write_ahead_log_ends_at_a_full_disk_and_what_was_flushed_is_there() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let options = StorageOptions {
        write_buffer_bytes: 4 << 20,
        ..with_reserve()
    };
    let storage = open(&disk.data(), &options);
    let bootstrapped = storage.bootstrap_regions(&[(region(3), first_state())]);
    assert_eq!(bootstrapped, Ok(true));
    let put = |number| {
        entry(
            number,
            3,
            vec![put(key(number), noise(number, VALUE_BYTES))],
        )
    };
    disk.fill_up_to(6 << 20);
    let (ended, end) = mpsc::channel();
    let applying = storage.clone();
    thread::spawn(move || {
        for number in 1.. {
            let applied = applying.apply(REGION, &[put(number)], ApplyOptions::default());
            if let Err(error) = applied {
                return ended.send((number, error));
            }
        }
        Ok(())
    });
    let (failed, error) = end.recv_timeout(Duration::from_secs(120)).unwrap();
    assert!(matches!(error, Error::WritesStopped { .. }), "{error:?}");
    assert_eq!(storage.get_raw(&key(failed)), Ok(None));
    let WriteHealth::Stopped { cause } = storage.write_health().borrow().clone() else {
        panic!("writes go on");
    };
    assert!(cause.contains("No space left on device"), "{cause}");
    for number in 1..failed {
        let value = storage.get_raw(&key(number)).unwrap();
        assert_eq!(value, Some(noise(number, VALUE_BYTES)));
    }
    let flushed = storage.flushed(REGION).unwrap().unwrap();
    assert!(storage.flush(REGION).is_err());
    assert!(storage.close().is_err());
    drop(storage);

    disk.fill_up_to(0);
    let storage = open(&disk.data(), &options);
    assert_eq!(storage.flushed(REGION), Ok(Some(flushed.clone())));
    let first_missing = 1 + u64::from_be_bytes(flushed.position[..].try_into().unwrap());
    assert!((2..failed).contains(&first_missing), "{first_missing}");
    for number in 1..failed {
        let value = storage.get_raw(&key(number)).unwrap();
        let expected = (number < first_missing).then(|| noise(number, VALUE_BYTES));
        assert_eq!(value, expected, "{number} of {first_missing}");
    }
    storage.flush(REGION).unwrap();
}

#[test]
fn a_log_is_applied_again_while_the_disk_is_full() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    const ENTRIES: u64 = 100;
    let put = |number| {
        entry(
            number,
            3,
            vec![put(key(number), noise(number, VALUE_BYTES))],
        )
    };
    let apply = |storage: &Storage, number| {
        let applied = storage.apply(REGION, &[put(number)], ApplyOptions::default());
        applied.unwrap();
    };
    let (storage, log) = open_with_log(&disk);
    let bootstrapped = storage.bootstrap_regions(&[(region(3), first_state())]);
    assert_eq!(bootstrapped, Ok(true));
    for number in 1..=ENTRIES {
        let mut batch = LogBatch::default();
        batch.put(&key(number), &noise(number, VALUE_BYTES));
        log.write(batch, true).unwrap();
        apply(&storage, number);
    }
    disk.fill_up_to(0);
    // There is no space to flush to, so all of it has to be applied again.
    drop((storage, log));
    disk.fill_up_to(0);

    // The log is longer than several memtables of this open.
    let options = StorageOptions {
        write_buffer_bytes: 1 << 20,
        ..with_reserve()
    };
    let storage = open(&disk.data(), &options);
    let log = storage.open_log().unwrap();
    assert_eq!(storage.flushed(REGION), Ok(Some(first_state())));
    for number in 1..=ENTRIES {
        assert!(log.get(&key(number)).unwrap().is_some());
        apply(&storage, number);
    }
    for number in 1..=ENTRIES {
        let value = storage.get_raw(&key(number)).unwrap();
        assert_eq!(value, Some(noise(number, VALUE_BYTES)));
    }
    assert_eq!(*storage.write_health().borrow(), WriteHealth::Healthy);
    assert_eq!(storage.flushed(REGION), Ok(Some(first_state())));
}

#[test]
fn a_log_database_stops_at_a_full_disk_and_is_opened_and_cleaned_while_it_is_full() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let write = |log: &LogDatabase, number: u64| {
        let mut batch = LogBatch::default();
        batch.put(&key(number), &noise(number, VALUE_BYTES));
        log.write(batch, true)
    };
    let (storage, log) = open_with_log(&disk);
    disk.fill_up_to(8 << 20);
    let mut acknowledged = 0;
    let error = loop {
        match write(&log, acknowledged) {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Undetermined { .. }), "{error:?}");
    assert!(acknowledged > 20, "{acknowledged}");
    for told in ["No space left on device", "Raft log"] {
        assert!(error.to_string().contains(told), "{error}");
    }
    let assert_all_there = |log: &LogDatabase| {
        for number in 0..acknowledged {
            let value = log.get(&key(number)).unwrap();
            assert_eq!(value, Some(noise(number, VALUE_BYTES)));
        }
    };
    assert_all_there(&log);
    drop((storage, log));

    disk.fill_up_to(0);
    let (storage, log) = open_with_log(&disk);
    assert!(!disk.data().join("reserve").exists(), "it was given up");
    // Replaying took no space.
    let tables = files_of(&disk.data().join("raft"), ".sst");
    assert_eq!(tables, Vec::<PathBuf>::new());
    assert_all_there(&log);
    let mut all = LogBatch::default();
    all.delete_range(&key(0), &key(9999));
    log.write(all, true).unwrap();
    log.close().unwrap();
    drop((storage, log));
    assert!(disk.available_bytes() > 6 << 20);

    let (_storage, log) = open_with_log(&disk);
    assert_eq!(log.last(&key(0), &key(9999)), Ok(None));
    write(&log, 1).unwrap();
}

#[test]
fn memory_that_an_open_takes_on_a_full_disk_is_given_back_once_there_is_space() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let (storage, log) = open_with_log(&disk);
    for number in 0..20 {
        let value = noise(number, VALUE_BYTES);
        let mut batch = LogBatch::default();
        batch.put(&key(number), &value);
        log.write(batch, true).unwrap();
        storage.put_raw(key(number), value).unwrap();
    }
    disk.fill_up_to(0);
    drop((storage, log));
    disk.fill_up_to(0);

    let (storage, log) = open_with_log(&disk);
    let databases = ["db", "raft"].map(|folder| disk.data().join(folder));
    let largest_memtable = |database: &PathBuf| {
        let noted = noted_options_of(database);
        let sizes = noted
            .iter()
            .filter_map(|line| line.strip_prefix("write_buffer_size="));
        sizes.map(|size| size.parse::<u64>().unwrap()).max()
    };
    for database in &databases {
        assert_eq!(files_of(database, ".sst"), Vec::<PathBuf>::new());
        assert!(largest_memtable(database) > Some(16 << 20));
    }
    disk.give_space_back();
    let hang_guard = Instant::now() + Duration::from_secs(60);
    let is_flushed = |database: &PathBuf| {
        !files_of(database, ".sst").is_empty() && files_of(database, ".log").len() == 1
    };
    while !databases.iter().all(is_flushed) {
        assert!(Instant::now() < hang_guard);
        assert_eq!(log.background_error(), None);
        thread::sleep(Duration::from_millis(1));
    }
    for database in &databases {
        assert_eq!(largest_memtable(database), Some(16 << 20));
        let noted = noted_options_of(database);
        assert!(noted.contains(&"memtable_max_range_deletions=256".to_owned()));
    }
    for number in 0..20 {
        let value = Some(noise(number, VALUE_BYTES));
        assert_eq!(storage.get_raw(&key(number)).unwrap(), value);
        assert_eq!(log.get(&key(number)).unwrap(), value);
    }
}

/// The memtables are smaller than the log.
/// As at an upgrade: the new release needs space to begin, and the old one can make some.
#[test]
fn a_directory_that_was_too_full_to_begin_a_log_is_still_one_of_an_older_release() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let older = StorageOptions {
        replicated: false,
        ..with_reserve()
    };
    let storage = open(&disk.data(), &older);
    let (written, _) = write_until_full(&storage);
    drop(storage);

    let storage = open(&disk.data(), &with_reserve());
    let log = storage.open_log().unwrap();
    disk.fill_up_to(0);
    let bootstrapped = storage.bootstrap_regions(&[(region(3), first_state())]);
    bootstrapped.unwrap_err();
    drop((storage, log));

    disk.give_space_back();
    let storage = open(&disk.data(), &older);
    for number in 0..written {
        let value = storage.get_raw(&key(number)).unwrap();
        assert_eq!(value, Some(noise(number, VALUE_BYTES)));
    }
    for number in 0..written / 2 {
        storage.delete_raw(key(number)).unwrap();
    }
    drop(storage);
    let (storage, log) = open_with_log(&disk);
    let mut batch = LogBatch::default();
    batch.put(b"k", b"v");
    log.write(batch, true).unwrap();
    assert_eq!(storage.get_raw(&key(0)), Ok(None));
}

fn open_with_log(disk: &SmallDisk) -> (Storage, LogDatabase) {
    let options = StorageOptions {
        write_buffer_bytes: 16 << 20,
        ..with_reserve()
    };
    let storage = open(&disk.data(), &options);
    let log = storage.open_log().unwrap();
    (storage, log)
}

#[test]
fn an_install_that_an_open_cannot_repeat_on_a_full_disk_leaves_its_region_out_until_there_is_space()
{
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let source_directory = tempfile::tempdir().unwrap();
    let source = open(source_directory.path(), &synced());
    let target = open(&disk.data(), &synced());
    for storage in [&source, &target] {
        let begun = storage.bootstrap_regions(&[(region(3), first_state())]);
        begun.unwrap();
    }
    let entries = [entry(1, 3, vec![put("key", "of the source")])];
    let applied = source.apply(REGION, &entries, ApplyOptions::default());
    applied.unwrap();
    let mut incoming = target.receive_region(REGION).unwrap();
    let mut snapshot = source.region_snapshot(REGION).unwrap();
    while let Some(chunk) = snapshot.next_chunk().unwrap() {
        incoming.add(chunk).unwrap();
    }
    let received = incoming.complete().unwrap();
    // The install gets no further than its mark.
    let [folder] = &files_of(&disk.data().join("snapshots"), "")[..] else {
        panic!("one snapshot has arrived");
    };
    let away = folder.with_file_name("away");
    fs::rename(folder, &away).unwrap();
    received.install().unwrap_err();
    fs::rename(&away, folder).unwrap();
    drop(target);

    disk.fill_up_to(1 << 20);
    let target = open(&disk.data(), &synced());
    let unfinished = target.unfinished_installs();
    assert!(
        unfinished[&REGION].cause.contains("almost full"),
        "{unfinished:?}"
    );
    assert_eq!(target.regions().unwrap(), []);
    assert_eq!(*target.write_health().borrow(), WriteHealth::Healthy);
    drop(target);

    // Less than what has to be free when a snapshot begins to arrive.
    disk.give_space_back();
    disk.fill_up_to(4 << 20);
    let target = open(&disk.data(), &synced());
    assert!(target.unfinished_installs().is_empty());
    assert_eq!(target.get_raw(b"key"), Ok(Some("of the source".into())));
}
