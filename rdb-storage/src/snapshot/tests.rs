//! A crash within an install.

use bytes::Bytes;
use rocksdb::IngestExternalFileOptions;

use super::*;
use crate::apply::Batch;
use crate::engine::Engine;
use crate::error::Error;
use crate::identity::Role;
use crate::log_entry::{ApplyOptions, LogChange, LogEntry};
use crate::options::StorageOptions;
use crate::proposal::Proposal;
use crate::read::Keyspace;
use crate::{Command, Storage};

const REGION: u64 = 7;

fn open(directory: &tempfile::TempDir) -> Storage {
    let options = StorageOptions {
        disk_reserve_bytes: 0,
        ..StorageOptions::new(Role::Embedded)
    };
    Storage::open(directory.path(), options).unwrap()
}

/// A storage whose region holds one value under one key.
fn holding(key: &'static str, value: &'static str) -> (tempfile::TempDir, Storage) {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(&directory);
    let region = RegionDescriptor {
        id: REGION,
        start_key: Bytes::new(),
        end_key: Bytes::new(),
        conf_version: 1,
        version: 1,
        peers: Vec::new(),
    };
    let state = AppliedState {
        position: Bytes::from_static(b"first"),
        membership: Bytes::from_static(b"membership"),
    };
    storage.bootstrap_regions(&[(region, state)]).unwrap();
    let put = Command::PutRaw {
        key: key.into(),
        value: value.into(),
    };
    let swap = Command::CompareAndSwap {
        key: key.into(),
        expected_version: 0,
        value: value.into(),
    };
    let entry = LogEntry {
        position: value.into(),
        change: LogChange::Proposal(Proposal {
            epoch_version: 1,
            commands: vec![put, swap],
        }),
    };
    let applied = storage.apply(REGION, &[entry], ApplyOptions::default());
    applied.unwrap();
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
        let files = staged(engine.directory().path(), installing, keyspace).unwrap();
        assert_eq!(files.len(), 1);
        if let Crash::FilesIngested = crash {
            let mut options = IngestExternalFileOptions::default();
            options.set_move_files(true);
            let family = engine.family(keyspace.family());
            let ingested = engine
                .database
                .ingest_external_file_cf_opts(&family, &options, files);
            ingested.unwrap();
        }
    }
}

#[test]
fn an_open_finishes_the_install_that_a_crash_has_interrupted() {
    for crash in [Crash::MarkPut, Crash::FilesLinked, Crash::FilesIngested] {
        let (_source_directory, source) = holding("new", "of the source");
        let (directory, storage) = holding("old", "of the target");
        let mut incoming = storage.receive_region(REGION).unwrap();
        let mut snapshot = source.region_snapshot(REGION).unwrap();
        while let Some(chunk) = snapshot.next_chunk().unwrap() {
            incoming.add(chunk).unwrap();
        }
        let received = incoming.complete().unwrap();
        assert!(
            holds(&storage, "old", "of the target"),
            "nothing has changed"
        );
        let (installing, staging) = received.into_parts();
        staging.keep();
        install_until(crash, storage.engine(), &installing);
        assert_eq!(storage.regions().unwrap(), []);
        assert_eq!(storage.flushed(REGION), Ok(None));
        let first = [(
            installing.state.region.clone(),
            installing.state.applied.clone(),
        )];
        for refused in [
            storage.bootstrap_regions(&first).map(drop),
            storage.destroy_region(REGION, 1),
        ] {
            assert!(
                matches!(refused, Err(Error::WritesStopped { .. })),
                "{refused:?}"
            );
        }
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
