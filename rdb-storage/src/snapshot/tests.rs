//! What an install does to the old data, and crashes during an install.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rocksdb::{IngestExternalFileOptions, SstFileWriter};

use super::*;
use crate::apply::Batch;
use crate::engine::{Engine, Family};
use crate::error::Error;
use crate::identity::Role;
use crate::log_entry::{ApplyOptions, LogChange, LogEntry};
use crate::options::StorageOptions;
use crate::proposal::Proposal;
use crate::read::Keyspace;
use crate::{Command, Storage, WriteHealth};

const REGION: u64 = 7;

fn open(directory: &tempfile::TempDir) -> Storage {
    let options = StorageOptions {
        disk_reserve_bytes: 0,
        write_buffer_bytes: 64 << 10,
        ..StorageOptions::new(Role::Embedded)
    };
    Storage::open(directory.path(), options).unwrap()
}

fn region() -> RegionDescriptor {
    RegionDescriptor {
        id: REGION,
        start_key: Bytes::new(),
        end_key: "p".into(),
        conf_version: 1,
        version: 1,
        peers: Vec::new(),
    }
}

/// A storage whose region holds one value under one key.
fn holding(key: &'static str, value: &'static str) -> (tempfile::TempDir, Storage) {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(&directory);
    let state = AppliedState {
        position: Bytes::from_static(b"first"),
        membership: Bytes::from_static(b"membership"),
    };
    storage.bootstrap_regions(&[(region(), state)]).unwrap();
    let put = Command::PutRaw {
        key: key.into(),
        value: value.into(),
    };
    let swap = Command::CompareAndSwap {
        key: key.into(),
        expected_version: 0,
        value: value.into(),
    };
    apply(&storage, value, vec![put, swap]);
    storage.flush(REGION).unwrap();
    (directory, storage)
}

/// What `holding` made.
fn holds(storage: &Storage, key: &str, value: &'static str) -> bool {
    let raw = storage.get_raw(key.as_bytes()).unwrap();
    let versioned = storage.get_versioned(key.as_bytes()).unwrap();
    raw == Some(value.into())
        && versioned.is_some_and(|versioned| versioned.value == value)
        && storage.applied_position(REGION).unwrap() == Some(value.into())
}

#[derive(Debug, Clone, Copy)]
enum Crash {
    MarkPut,
    FilesLinked,
    FilesIngested,
}

fn install_until(crash: Crash, engine: &Engine, installing: &Installing) {
    let mut batch = Batch::new(engine);
    batch.begin_install(installing).unwrap();
    engine.database.write(batch.into_write_batch()).unwrap();
    engine.database.flush().unwrap();
    if let Crash::MarkPut = crash {
        return;
    }
    for keyspace in [Keyspace::Raw, Keyspace::Versioned] {
        let staged = staged(engine.directory().path(), installing, keyspace).unwrap();
        assert_eq!((staged.files.len(), staged.can_move), (1, true));
        if let Crash::FilesIngested = crash {
            let mut options = IngestExternalFileOptions::default();
            options.set_move_files(true);
            let family = engine.family(keyspace.family());
            let ingested =
                engine
                    .database
                    .ingest_external_file_cf_opts(&family, &options, staged.files);
            ingested.unwrap();
        }
    }
}

fn receive(source: &Storage, target: &Storage) -> ReceivedRegion {
    let mut incoming = target.receive_region(REGION).unwrap();
    let mut snapshot = source.region_snapshot(REGION).unwrap();
    while let Some(chunk) = snapshot.next_chunk().unwrap() {
        incoming.add(chunk).unwrap();
    }
    incoming.complete().unwrap()
}

/// Applies an entry to the region.
fn apply(storage: &Storage, position: &'static str, commands: Vec<Command>) {
    try_to_apply(storage, position, commands).unwrap();
}

fn try_to_swap(storage: &Storage, key: &'static str) -> Result<(), Error> {
    let swap = Command::CompareAndSwap {
        key: key.into(),
        expected_version: 0,
        value: key.into(),
    };
    try_to_apply(storage, "swapped", vec![swap])
}

fn try_to_apply(
    storage: &Storage,
    position: &'static str,
    commands: Vec<Command>,
) -> Result<(), Error> {
    let entry = LogEntry {
        position: position.into(),
        change: LogChange::Proposal(Proposal {
            epoch_version: 1,
            commands,
        }),
    };
    let applied = storage.apply(REGION, &[entry], ApplyOptions::default());
    applied.map(drop)
}

fn noise(seed: u64, bytes: usize) -> Bytes {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut noise = vec![0; bytes];
    random.fill(&mut noise);
    noise.into()
}

#[test]
fn an_install_does_not_read_what_was_there() {
    const BYTES: u64 = 4 << 20;
    let puts = |seed| {
        let puts = (0..BYTES >> 16).map(move |number| Command::PutRaw {
            key: format!("key {number:03}").into(),
            value: noise(seed + number, 1 << 16),
        });
        puts.collect::<Vec<_>>()
    };
    let (_source_directory, source) = holding("new", "of the source");
    apply(&source, "large", puts(1000));
    let (_directory, storage) = holding("old", "of the target");
    apply(&storage, "large", puts(0));
    let database = &storage.engine().database;
    database.compact_range(None::<&[u8]>, None::<&[u8]>);
    // With nothing but a range deletion in the highest level, RocksDB would spare itself the files below.
    apply(&storage, "later", puts(0).split_off(60));
    storage.flush(REGION).unwrap();

    let compacted = database.compacted_bytes();
    receive(&source, &storage).install().unwrap();
    let compacted = database.compacted_bytes() - compacted;
    assert!(compacted < BYTES / 2, "{compacted} bytes");
    assert_eq!(storage.get_raw(b"key 007"), Ok(Some(noise(1007, 1 << 16))));
}

/// A storage that has deleted the key `old` of the region. The key is in a file with keys of the region and others; its deletion is
/// in a file with only keys of the region, one level above.
fn with_a_deleting_file() -> (tempfile::TempDir, Storage) {
    let (directory, storage) = holding("old", "of the target");
    let database = &storage.engine().database;
    let family = storage.engine().family(Family::Raw);
    let options = [
        ("max_bytes_for_level_base", "1024"),
        ("disable_auto_compactions", "true"),
    ];
    database.set_options_cf(family, &options).unwrap();
    database.put("old", "of the target").unwrap();
    database.put("x", noise(1, 100 << 10)).unwrap();
    database.compact_range(None::<&[u8]>, None::<&[u8]>);
    let file = directory.path().join("deleting");
    let mut deleting = SstFileWriter::create(crate::engine::table_options());
    deleting.open(&file).unwrap();
    deleting.delete("old").unwrap();
    deleting.finish().unwrap();
    database.ingest_external_file(vec![file]).unwrap();
    assert_eq!(storage.get_raw(b"old"), Ok(None));
    let files = database.live_files().unwrap();
    let mut raw_files = files
        .iter()
        .filter(|file| file.column_family_name == "default");
    assert!(raw_files.all(|file| file.level > 0), "{files:?}");
    (directory, storage)
}

#[test]
fn what_a_dropped_file_had_deleted_does_not_come_back() {
    let (_source_directory, source) = holding("new", "of the source");
    let (_directory, storage) = with_a_deleting_file();
    receive(&source, &storage).install().unwrap();
    assert!(holds(&storage, "new", "of the source"));
    assert_eq!(storage.get_raw(b"old"), Ok(None));
    assert_eq!(storage.get_raw(b"x"), Ok(Some(noise(1, 100 << 10))));
}

/// What a crash would leave of a storage.
fn after_crash(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for folder in ["", "db"] {
        let (from, to) = (directory.join(folder), copy.path().join(folder));
        fs::create_dir_all(&to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            // RocksDB may be removing files that it needs no more.
            if path.is_file()
                && let Err(error) = fs::copy(&path, to.join(path.file_name().unwrap()))
            {
                assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
            }
        }
    }
    copy
}

/// The last number of RocksDB's tables and logs.
fn last_number(database: &Path) -> u64 {
    let names = fs::read_dir(database)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files = names.filter(|path| {
        let extension = path.extension();
        extension.is_some_and(|extension| extension == "sst" || extension == "log")
    });
    let number = |file: PathBuf| file.file_stem()?.to_str()?.parse().ok();
    files.filter_map(number).max().unwrap()
}

/// Table files cannot be written one after the other: some before the tombstone is durable, and one behind it.
#[test]
fn a_region_that_cannot_be_destroyed_has_no_tombstone_and_what_fails_behind_it_is_no_failure() {
    let mut has_failed_behind = false;
    for ahead in 1..=12 {
        let (directory, storage) = with_a_deleting_file();
        let database = directory.path().join("db");
        // No file can be made where there is a folder.
        let taken = format!("{:06}.sst", last_number(&database) + ahead);
        fs::create_dir(database.join(taken)).unwrap();
        let destroyed = storage.destroy_region(REGION, 3);
        let left = after_crash(directory.path());
        let has_tombstone = open(&left).tombstone(REGION).unwrap() == Some(3);
        assert_eq!(destroyed.is_ok(), has_tombstone, "{destroyed:?}");
        let has_failed = storage.engine().database.background_error().is_some();
        has_failed_behind |= destroyed.is_ok() && has_failed;
    }
    assert!(has_failed_behind);
}

#[test]
fn a_damaged_block_keeps_a_region_neither_from_being_replaced_nor_from_its_end() {
    for is_replaced in [true, false] {
        let (_source_directory, source) = holding("new", "of the source");
        let (directory, storage) = holding("old", "of the target");
        let database = &storage.engine().database;
        for keyspace in [Keyspace::Raw, Keyspace::Versioned] {
            let family = storage.engine().family(keyspace.family());
            database.compact_range_cf(&family, None::<&[u8]>, None::<&[u8]>);
        }
        let names = || {
            let families = [Keyspace::Raw, Keyspace::Versioned].map(|of| of.family().name());
            let files = database.live_files().unwrap().into_iter();
            let of_keys = files.filter(|file| families.contains(&&*file.column_family_name));
            of_keys.map(|file| file.name).collect::<Vec<_>>()
        };
        let damaged = names();
        assert_eq!(damaged.len(), 2, "one file has the raw key, one the other");
        for name in &damaged {
            let file = directory.path().join("db").join(&name[1..]);
            let mut bytes = fs::read(&file).unwrap();
            bytes[1] ^= 1;
            fs::write(&file, bytes).unwrap();
        }
        let lost = storage.get_raw(b"old");
        assert!(matches!(lost, Err(Error::DataLoss { .. })), "{lost:?}");
        let stuck = try_to_swap(&storage, "old");
        assert!(matches!(stuck, Err(Error::DataLoss { .. })), "{stuck:?}");
        let health = storage.write_health();
        assert_ne!(*health.borrow(), WriteHealth::Healthy);

        if is_replaced {
            receive(&source, &storage).install().unwrap();
            assert!(holds(&storage, "new", "of the source"));
            try_to_swap(&storage, "old").expect("its data is another one");
        } else {
            storage.destroy_region(REGION, 3).unwrap();
            assert_eq!(storage.get_raw(b"old"), Ok(None));
        }
        assert!(!names().iter().any(|name| damaged.contains(name)));
        assert_eq!(*health.borrow(), WriteHealth::Healthy);
    }
}

#[test]
fn an_install_looks_for_the_space_that_it_needs_after_it_has_dropped_files() {
    let (_source_directory, source) = holding("new", "of the source");
    let (_directory, storage) = holding("old", "of the target");
    let database = &storage.engine().database;
    let large = Command::PutRaw {
        key: "large".into(),
        value: noise(1, 4 << 20),
    };
    apply(&storage, "large", vec![large]);
    storage.flush(REGION).unwrap();
    database.compact_range(None::<&[u8]>, None::<&[u8]>);
    let (installing, staging) = receive(&source, &storage).into_parts();
    staging.keep();
    install_until(Crash::MarkPut, storage.engine(), &installing);
    let data_bytes = || {
        let files = database.live_files().unwrap();
        files.iter().map(|file| file.size).sum::<usize>()
    };
    assert!(data_bytes() > 4 << 20);
    let full = Error::io("looking for space", "the disk is full");
    let refused = storage.install_if(&installing, |bytes| {
        assert!(data_bytes() < 1 << 20, "the old data is gone");
        assert!(bytes < 4 << 20, "{bytes} bytes");
        Err(full.clone())
    });
    assert_eq!(refused, Err(full));
    storage.install(&installing).unwrap();
    assert!(holds(&storage, "new", "of the source"));
}

#[test]
fn whoever_reads_a_region_notices_that_a_snapshot_replaces_it() {
    let (_source_directory, source) = holding("new", "of the source");
    let (_directory, storage) = holding("old", "of the target");
    storage
        .engine()
        .database
        .compact_range(None::<&[u8]>, None::<&[u8]>);
    let mut snapshot = storage.region_snapshot(REGION).unwrap();
    let summed = storage.view_region(REGION, |view| {
        receive(&source, &storage).install().unwrap();
        view.checksum(|_| true)
    });
    let replaced = Error::io("reading a region", "a snapshot has replaced it");
    assert_eq!(summed.unwrap().unwrap(), Err(replaced.clone()));
    let read = std::iter::from_fn(|| snapshot.next_chunk().transpose());
    assert_eq!(read.last(), Some(Err(replaced)));
}

#[test]
fn an_open_finishes_the_install_that_a_crash_has_interrupted() {
    for crash in [Crash::MarkPut, Crash::FilesLinked, Crash::FilesIngested] {
        let (_source_directory, source) = holding("new", "of the source");
        let (directory, storage) = holding("old", "of the target");
        let received = receive(&source, &storage);
        assert!(
            holds(&storage, "old", "of the target"),
            "nothing has changed"
        );
        let (installing, staging) = received.into_parts();
        staging.keep();
        install_until(crash, storage.engine(), &installing);
        assert_eq!(storage.regions().unwrap(), []);
        assert_eq!(storage.flushed(REGION), Ok(None));
        drop(storage);

        let storage = open(&directory);
        assert!(holds(&storage, "new", "of the source"), "{crash:?}");
        assert_eq!(storage.get_raw(b"old"), Ok(None));
        assert_eq!(storage.get_versioned(b"old"), Ok(None));
        assert_eq!(storage.regions().unwrap().len(), 1);
        let leftovers = directory.path().join("snapshots");
        assert!(!leftovers.exists());
        let mark = storage
            .engine()
            .state(&keys::installing::key(REGION), crate::read::Tier::Disk);
        assert!(mark.is_ok_and(|mark| mark.is_none()));
    }
}

/// A storage whose install a crash has interrupted, and one of its files.
fn interrupted(source: &Storage) -> (tempfile::TempDir, PathBuf) {
    let (directory, storage) = holding("old", "of the target");
    let (installing, staging) = receive(source, &storage).into_parts();
    let file = staging.file(Keyspace::Raw, 0);
    staging.keep();
    install_until(Crash::MarkPut, storage.engine(), &installing);
    (directory, file)
}

#[test]
fn a_region_whose_install_cannot_be_finished_is_left_out_until_an_open_can() {
    let (_source_directory, source) = holding("new", "of the source");
    let (directory, file) = interrupted(&source);
    let content = fs::read(&file).unwrap();
    let damage: [&dyn Fn(); 2] = [&|| fs::write(&file, "damaged").unwrap(), &|| {
        fs::remove_file(&file).unwrap();
    }];
    for damage in damage {
        damage();
        let storage = open(&directory);
        let unfinished = storage.unfinished_installs();
        assert_eq!(unfinished.keys().collect::<Vec<_>>(), [&REGION]);
        assert_eq!(unfinished[&REGION].region, region());
        let cause = &unfinished[&REGION].cause;
        assert!(cause.contains("snapshot"), "{cause}");
        assert_eq!(storage.regions().unwrap(), []);
        assert_eq!(storage.flushed(REGION), Ok(None));
        let first_state = AppliedState {
            position: "first".into(),
            membership: "membership".into(),
        };
        let begun = storage.bootstrap_regions(&[(region(), first_state)]);
        assert_eq!(begun, Ok(false), "it would be below what the log has");
        storage.put_raw("z", "of another region").unwrap();
    }
    fs::write(&file, content).unwrap();
    let storage = open(&directory);
    assert_eq!(storage.unfinished_installs(), BTreeMap::new());
    assert!(holds(&storage, "new", "of the source"));
    assert!(!directory.path().join("snapshots").exists());
}

/// Its log is that of a later peer.
#[test]
fn a_region_whose_install_is_not_finished_does_not_count_as_destroyed() {
    let (_source_directory, source) = holding("new", "of the source");
    let (_directory, storage) = holding("old", "of the target");
    storage.destroy_region(REGION, 2).unwrap();
    assert_eq!(storage.destroyed_regions(), Ok(vec![(REGION, 2)]));
    let (installing, staging) = receive(&source, &storage).into_parts();
    staging.keep();
    install_until(Crash::MarkPut, storage.engine(), &installing);
    assert_eq!(storage.destroyed_regions(), Ok(Vec::new()));
}

fn staged_folders(directory: &tempfile::TempDir) -> usize {
    let folders = fs::read_dir(directory.path().join("snapshots"));
    folders.unwrap().count()
}

#[test]
fn the_files_of_an_install_that_has_failed_go_with_its_region() {
    let (_source_directory, source) = holding("new", "of the source");
    let (directory, storage) = holding("old", "of the target");
    let (installing, staging) = receive(&source, &storage).into_parts();
    fs::remove_file(staging.file(Keyspace::Raw, 0)).unwrap();
    staging.keep();
    storage.install(&installing).unwrap_err();
    assert_eq!(staged_folders(&directory), 1);
    storage.destroy_region(REGION, 3).unwrap();
    assert_eq!(staged_folders(&directory), 0);
}

#[test]
fn a_region_whose_install_fails_while_the_storage_is_open_is_left_out_with_the_last_files_only() {
    let (_source_directory, source) = holding("new", "of the source");
    let (directory, storage) = holding("old", "of the target");
    for _ in 0..3 {
        let (installing, staging) = receive(&source, &storage).into_parts();
        fs::remove_file(staging.file(Keyspace::Raw, 0)).unwrap();
        staging.keep();
        let failed = storage.install(&installing).unwrap_err();
        assert_eq!(staged_folders(&directory), 1);
        let unfinished = storage.unfinished_installs();
        assert_eq!(unfinished[&REGION].region, region());
        assert_eq!(unfinished[&REGION].cause, failed.to_string());
    }
    receive(&source, &storage).install().unwrap();
    assert_eq!(staged_folders(&directory), 0);
    assert_eq!(storage.unfinished_installs(), BTreeMap::new());
    assert!(holds(&storage, "new", "of the source"));
    // One that was not begun leaves nothing.
    storage.close().unwrap();
    let (installing, staging) = receive(&source, &storage).into_parts();
    staging.keep();
    storage.install(&installing).unwrap_err();
    assert_eq!(staged_folders(&directory), 0);
    assert_eq!(storage.unfinished_installs(), BTreeMap::new());
}

/// Table files cannot be written one after the other: that of the mark, or one behind it. What the flush has not made durable may be so later.
#[test]
fn the_files_of_an_install_stay_while_its_mark_may_become_durable() {
    let (_source_directory, source) = holding("new", "of the source");
    let mut failed = 0;
    for ahead in 1..=6 {
        let (directory, storage) = holding("old", "of the target");
        let received = receive(&source, &storage);
        let database = directory.path().join("db");
        let taken = format!("{:06}.sst", last_number(&database) + ahead);
        fs::create_dir(database.join(taken)).unwrap();
        let has_failed = received.install().is_err();
        assert_eq!(staged_folders(&directory) > 0, has_failed, "{ahead}");
        let is_left_out = storage.unfinished_installs().contains_key(&REGION);
        assert_eq!(is_left_out, has_failed, "{ahead}");
        failed += usize::from(has_failed);
    }
    assert!(failed > 0);
}

#[test]
fn another_snapshot_or_the_end_of_the_region_takes_the_place_of_an_unfinished_install() {
    let (_source_directory, source) = holding("new", "of the source");
    let (_later_directory, later) = holding("latest", "of another source");
    type TakePlace<'a> = &'a dyn Fn(&Storage);
    let others: [(TakePlace<'_>, bool); 2] = [
        (&|storage| receive(&later, storage).install().unwrap(), true),
        (&|storage| storage.destroy_region(REGION, 3).unwrap(), false),
    ];
    for (take_place, has_region) in others {
        let (directory, file) = interrupted(&source);
        fs::remove_file(&file).unwrap();
        let storage = open(&directory);
        take_place(&storage);
        assert_eq!(staged_folders(&directory), 0);
        let check = |storage: &Storage| {
            assert_eq!(storage.unfinished_installs(), BTreeMap::new());
            assert_eq!(storage.regions().unwrap().len(), usize::from(has_region));
            assert_eq!(holds(storage, "latest", "of another source"), has_region);
            assert_eq!(storage.get_raw(b"old"), Ok(None));
        };
        check(&storage);
        drop(storage);
        check(&open(&directory));
        assert!(!directory.path().join("snapshots").exists());
    }
}
