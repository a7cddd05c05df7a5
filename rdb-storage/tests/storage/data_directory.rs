//! Directories that are not what they should be: refused with an error that names them, and left as they were.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use rdb_storage::{OpenError, Role, Storage, StorageOptions, WalRecovery};

use crate::child;
use crate::fixture::{
    all_raw, copy_of, database_files, files, flushing, noise, noted_options, open, put, refused,
    single, synced,
};

const IDENTITY: &str = "flaredb.identity";

fn pd() -> StorageOptions {
    StorageOptions {
        role: Role::Pd,
        ..synced()
    }
}

/// A directory with some data in table files and some in the log.
fn written() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &synced());
    storage.put_raw("flushed", "v").unwrap();
    storage.close().unwrap();
    drop(storage);
    let storage = open(directory.path(), &synced());
    storage.put_raw("logged", "v").unwrap();
    drop(storage);
    directory
}

/// All files but those that RocksDB locks or keeps its own notes in.
fn lasting_files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = files(directory);
    files.retain(|file, _| {
        let name = file.file_name().unwrap().to_str().unwrap();
        name != "LOCK" && !name.starts_with("LOG")
    });
    files
}

/// The error of an open that is refused, twice, and changes nothing.
fn refused_unchanged(directory: &Path, options: &StorageOptions) -> OpenError {
    let before = lasting_files(directory);
    let first = refused(directory, options);
    let second = refused(directory, options);
    assert_eq!(
        std::mem::discriminant(&first),
        std::mem::discriminant(&second)
    );
    let after = lasting_files(directory);
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        after.keys().collect::<Vec<_>>()
    );
    assert!(before == after, "a file was altered");
    let named = directory.canonicalize().unwrap();
    assert!(
        first.to_string().contains(named.to_str().unwrap()),
        "{first}"
    );
    first
}

#[test]
fn a_directory_of_another_role_is_refused() {
    let directory = written();
    let error = refused_unchanged(directory.path(), &pd());
    let OpenError::ForeignRole { found, wanted, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!((found.as_str(), wanted.as_str()), ("embedded", "pd"));
}

#[test]
fn a_directory_with_other_files_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("letter.txt"), "dear").unwrap();
    let error = refused_unchanged(directory.path(), &synced());
    assert!(
        matches!(error, OpenError::NotADataDirectory(_)) && error.to_string().contains(IDENTITY),
        "{error:?}"
    );
    assert!(!directory.path().join("LOCK").exists());
}

#[test]
fn a_data_directory_without_its_identity_file_is_refused() {
    let directory = written();
    fs::remove_file(directory.path().join(IDENTITY)).unwrap();
    let error = refused_unchanged(directory.path(), &synced());
    assert!(
        matches!(error, OpenError::NotADataDirectory(_)),
        "{error:?}"
    );
}

#[test]
fn a_file_in_place_of_a_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    let error = refused(&file, &synced());
    assert!(matches!(error, OpenError::Io { .. }), "{error:?}");
    assert!(
        error.to_string().contains(file.to_str().unwrap()),
        "{error}"
    );
}

#[test]
fn a_newer_format_is_refused_whatever_else_it_says() {
    let directory = written();
    fs::write(
        directory.path().join(IDENTITY),
        "format = 4\nshape = round\n",
    )
    .unwrap();
    let error = refused_unchanged(directory.path(), &synced());
    assert!(
        matches!(
            error,
            OpenError::NewerFormat {
                found: 4,
                supported: 3,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn a_damaged_identity_file_is_refused_by_name() {
    let directory = written();
    for damaged in [
        &b""[..],
        b"role = embedded",
        b"\xff\xfe",
        b"role = king\nformat = 1\ninitialized = yes\n",
    ] {
        fs::write(directory.path().join(IDENTITY), damaged).unwrap();
        let error = refused_unchanged(directory.path(), &synced());
        let OpenError::DamagedIdentity { file, .. } = error else {
            panic!("{error:?}");
        };
        assert!(file.ends_with(IDENTITY));
    }
}

#[test]
fn a_missing_manifest_current_log_or_database_is_refused_and_not_made_new() {
    let directory = written();
    let manifest = database_files(directory.path(), "")
        .into_iter()
        .find(|file| {
            file.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("MANIFEST")
        });
    let manifest = manifest
        .unwrap()
        .strip_prefix(directory.path())
        .unwrap()
        .to_owned();
    let logs = database_files(directory.path(), ".log");
    let log = logs[0].strip_prefix(directory.path()).unwrap().to_owned();
    for missing in [manifest, log, "db/CURRENT".into()] {
        let copy = copy_of(directory.path());
        fs::remove_file(copy.path().join(&missing)).unwrap();
        let error = refused_unchanged(copy.path(), &synced());
        assert!(
            matches!(error, OpenError::Damaged { .. }),
            "{missing:?}: {error:?}"
        );
    }
    fs::remove_dir_all(directory.path().join("db")).unwrap();
    let error = refused_unchanged(directory.path(), &synced());
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
}

#[test]
fn a_directory_is_open_once_at_a_time_in_one_process_and_in_two() {
    let directory = written();
    let storage = open(directory.path(), &synced());
    let error = refused(directory.path(), &synced());
    assert!(matches!(error, OpenError::Locked(_)), "{error:?}");
    assert_eq!(opened_by_a_child(directory.path()), "locked");
    storage.put_raw("still", "works").unwrap();

    let clone = storage.clone();
    drop(storage);
    assert!(
        Storage::open(directory.path(), synced()).is_err(),
        "a clone keeps it open"
    );
    drop(clone);
    assert_eq!(opened_by_a_child(directory.path()), "opened");
    assert_eq!(
        all_raw(&open(directory.path(), &synced())).unwrap().len(),
        3
    );
}

fn opened_by_a_child(directory: &Path) -> String {
    let mut child = child::spawn("data_directory::child_opens", directory);
    let mut output = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut output)
        .unwrap();
    assert!(child.wait().unwrap().success(), "{output}");
    let answer = output
        .lines()
        .find_map(|line| line.strip_prefix("the directory is "));
    answer.unwrap().to_owned()
}

#[test]
#[ignore = "runs in the child process of a test of this module"]
fn child_opens() {
    let Some(directory) = child::directory() else {
        return;
    };
    match Storage::open(directory, synced()) {
        Ok(_) => println!("\nthe directory is opened"),
        Err(OpenError::Locked(_)) => println!("\nthe directory is locked"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_first_open_that_crashed_early_is_finished_by_the_next() {
    let directory = written();
    let identity = fs::read_to_string(directory.path().join(IDENTITY)).unwrap();
    let fresh = tempfile::tempdir().unwrap();
    fs::write(fresh.path().join("flaredb.identity.new"), "role = emb").unwrap();
    fs::write(fresh.path().join("LOCK"), "").unwrap();
    drop(open(fresh.path(), &synced()));
    assert_eq!(
        fs::read_to_string(fresh.path().join(IDENTITY)).unwrap(),
        identity
    );

    let half_made = tempfile::tempdir().unwrap();
    fs::write(
        half_made.path().join(IDENTITY),
        identity.replace("yes", "no"),
    )
    .unwrap();
    fs::create_dir(half_made.path().join("db")).unwrap();
    let storage = open(half_made.path(), &synced());
    storage
        .submit(single(put("k", "v")))
        .unwrap()
        .wait()
        .unwrap();
    drop(storage);
    assert_eq!(
        fs::read_to_string(half_made.path().join(IDENTITY)).unwrap(),
        identity
    );
}

#[test]
fn missing_parents_are_made() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("a/b/c");
    drop(open(&directory, &synced()));
    assert!(directory.join(IDENTITY).exists());
}

#[test]
fn settings_that_the_binding_cannot_name_take_effect_and_leave_the_others_as_they_are() {
    let directory = written();
    let noted = noted_options(directory.path());
    for line in [
        "avoid_flush_during_recovery=false",
        "wal_recovery_mode=kTolerateCorruptedTailRecords",
        "track_and_verify_wals_in_manifest=true",
        "paranoid_checks=true",
        "max_total_wal_size=268435456",
        "create_if_missing=false",
        "memtable_max_range_deletions=256",
    ] {
        assert!(
            noted.iter().any(|noted| noted == line),
            "{line} is not among {noted:?}"
        );
    }
}

#[test]
fn a_repair_of_what_is_no_data_directory_is_refused_and_makes_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let empty = parent.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let repair = StorageOptions {
        wal_recovery: WalRecovery::PointInTime,
        ..synced()
    };
    for directory in [parent.path().join("mistyped"), empty] {
        let error = refused(&directory, &repair);
        assert!(matches!(error, OpenError::NoDataDirectory(_)), "{error:?}");
        assert!(error.to_string().contains(directory.to_str().unwrap()));
    }
    let left: Vec<_> = fs::read_dir(parent.path()).unwrap().collect();
    assert_eq!(left.len(), 1);
    assert!(files(parent.path()).is_empty());
}

#[test]
fn a_closed_storage_leaves_its_tables_alone_and_is_still_read() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &flushing());
    for number in 0..200_u32 {
        let key = number.to_be_bytes().to_vec();
        storage.put_raw(key, noise(number.into(), 10_000)).unwrap();
    }
    let clone = storage.clone();
    storage.close().unwrap();
    let tables = || database_files(directory.path(), ".sst");
    let closed = tables();
    for number in 0..200_u32 {
        let value = clone.get_raw(&number.to_be_bytes()).unwrap();
        assert_eq!(value, Some(noise(number.into(), 10_000)));
    }
    assert_eq!(tables(), closed);
}
