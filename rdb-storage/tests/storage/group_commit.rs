//! Group commit: no acknowledgement before the sync that covers it, and at most one sync a write.
//!
//! The counter is RocksDB's own: it grows when a sync of the write-ahead log has returned. The same checks are run under
//! [`Durability::Os`], where they have to fail.
//!
//! That a sync has returned is all that they show. Whether the disk keeps what it said it has synced, only cutting its power
//! could tell.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use rdb_storage::{
    ApplyOptions, Durability, LogChange, LogEntry, Proposal, Storage, StorageOptions,
};

use crate::fixture::{open, put, synced};

const THREADS: usize = 64;

fn storage_with(durability: Durability) -> (tempfile::TempDir, Storage) {
    let directory = tempfile::tempdir().unwrap();
    let options = StorageOptions {
        durability,
        ..synced()
    };
    let storage = open(directory.path(), &options);
    (directory, storage)
}

fn sync_count(storage: &Storage) -> u64 {
    storage.stats().unwrap().wal_sync_count
}

/// One writer, so nothing else is synced meanwhile: a sync between submission and acknowledgement is its own.
fn a_sync_precedes_each_acknowledgement(storage: &Storage) -> bool {
    (0..50).all(|write| {
        let before = sync_count(storage);
        storage.put_raw("sequential", format!("{write}")).unwrap();
        sync_count(storage) > before
    })
}

/// Every round begins at rest: all earlier writes are acknowledged, and only the round's own can be synced in it. So a
/// writer that is acknowledged before the counter has moved was acknowledged before its sync.
fn a_sync_precedes_each_acknowledgement_under_load(storage: &Storage) -> bool {
    const ROUNDS: usize = 50;
    let start = Barrier::new(THREADS);
    let end = Barrier::new(THREADS);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..THREADS)
            .map(|writer| {
                let (start, end) = (&start, &end);
                scope.spawn(move || {
                    let rounds = (0..ROUNDS).map(|round| {
                        let before = sync_count(storage);
                        start.wait();
                        let key = format!("concurrent {writer}");
                        storage.put_raw(key, format!("{round}")).unwrap();
                        let after = sync_count(storage);
                        end.wait();
                        after > before
                    });
                    rounds.filter(|synced| !synced).count() == 0
                })
            })
            .collect();
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .fold(true, std::ops::BitAnd::bitand)
    })
}

/// A reader that sees a value sees it after its sync.
fn a_sync_precedes_each_appearance(storage: &Storage) -> bool {
    (0..50).all(|write| {
        let before = sync_count(storage);
        let value = Bytes::from(format!("{write}"));
        thread::scope(|scope| {
            scope.spawn(|| storage.put_raw("watched", value.clone()).unwrap());
            while storage.get_raw(b"watched").unwrap().as_ref() != Some(&value) {
                thread::yield_now();
            }
            sync_count(storage) > before
        })
    })
}

#[test]
fn under_sync_every_acknowledgement_and_every_appearance_follows_its_sync() {
    let (_directory, storage) = storage_with(Durability::Sync);
    assert!(a_sync_precedes_each_acknowledgement(&storage));
    assert!(a_sync_precedes_each_acknowledgement_under_load(&storage));
    assert!(a_sync_precedes_each_appearance(&storage));
}

#[test]
fn the_same_checks_fail_under_os_where_nothing_is_synced() {
    let (_directory, storage) = storage_with(Durability::Os);
    assert!(!a_sync_precedes_each_acknowledgement(&storage));
    assert!(!a_sync_precedes_each_acknowledgement_under_load(&storage));
    assert!(!a_sync_precedes_each_appearance(&storage));
    assert_eq!(sync_count(&storage), 0);
}

#[test]
fn every_kind_of_write_is_synced() {
    let (_directory, storage) = storage_with(Durability::Sync);
    let synced = |write: &dyn Fn()| {
        let before = sync_count(&storage);
        write();
        sync_count(&storage) > before
    };
    assert!(synced(&|| storage.put_raw("a", "v").unwrap()));
    assert!(synced(&|| storage.delete_raw("a").unwrap()));
    assert!(synced(&|| storage
        .put_batch_raw(vec![("a".into(), "v".into())])
        .unwrap()));
    assert!(synced(&|| storage.delete_range_raw("a", "b").unwrap()));
    assert!(synced(&|| assert_eq!(
        storage.compare_and_swap("a", 0, "v"),
        Ok(1)
    )));
    assert!(synced(&|| storage.compare_and_delete("a", 1).unwrap()));
}

fn apply(storage: &Storage, durability: Durability) {
    let entry = LogEntry {
        position: "position".into(),
        change: LogChange::Proposal(Proposal {
            epoch_version: 0,
            commands: vec![put("logged", "v")],
        }),
    };
    let options = ApplyOptions {
        write_ahead_log: Some(durability),
        ..ApplyOptions::default()
    };
    storage.apply(7, &[entry], options).unwrap();
}

#[test]
fn a_log_entry_is_synced_when_that_is_asked_for_whatever_the_storage_does() {
    for durability in [Durability::Sync, Durability::Os] {
        let (_directory, storage) = storage_with(durability);
        for asked in [Durability::Os, Durability::Sync, Durability::Os] {
            let before = sync_count(&storage);
            apply(&storage, asked);
            let synced = sync_count(&storage) > before;
            assert_eq!(synced, asked == Durability::Sync, "{durability}, {asked}");
        }
    }
}

/// RocksDB writes what comes at the same time as one group, which must not be led by a write that needs no sync.
#[test]
fn a_submission_is_synced_also_beside_a_log_that_is_not() {
    let (_directory, storage) = storage_with(Durability::Sync);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                apply(&storage, Durability::Os);
            }
        });
        let synced = a_sync_precedes_each_acknowledgement(&storage);
        done.store(true, Ordering::Release);
        assert!(synced);
    });
}

/// How many share one depends on the disk; the unit tests of the writer show that those who can do.
#[test]
fn under_load_no_write_takes_more_than_one_sync() {
    const WRITES_PER_THREAD: usize = 100;
    for durability in [Durability::Sync, Durability::Os] {
        let (_directory, storage) = storage_with(durability);
        let before = sync_count(&storage);
        let began = Instant::now();
        thread::scope(|scope| {
            for writer in 0..THREADS {
                let storage = &storage;
                scope.spawn(move || {
                    for write in 0..WRITES_PER_THREAD {
                        let key = format!("{writer} {write}");
                        storage.put_raw(key, vec![b'v'; 100]).unwrap();
                    }
                });
            }
        });
        let elapsed = began.elapsed();
        let writes = THREADS * WRITES_PER_THREAD;
        let syncs = sync_count(&storage) - before;
        println!(
            "{durability}: {writes} writes by {THREADS} threads, {syncs} syncs, {:.0} writes/s",
            writes as f64 / elapsed.as_secs_f64()
        );
        match durability {
            Durability::Os => assert_eq!(syncs, 0),
            Durability::Sync => {
                assert!(
                    (1..=writes as u64).contains(&syncs),
                    "{syncs} syncs for {writes} writes"
                );
            }
        }
    }
}
