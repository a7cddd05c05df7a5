use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rocksdb::ErrorKind;

use super::*;
use crate::{Command, LogChange, Role};

fn storage() -> (tempfile::TempDir, Storage) {
    let directory = tempfile::tempdir().unwrap();
    let options = StorageOptions {
        disk_reserve_bytes: 0,
        ..StorageOptions::new(Role::Embedded)
    };
    let storage = Storage::open(directory.path(), options).unwrap();
    (directory, storage)
}

/// RocksDB stops writes while there are so many files that no compaction has taken, and none takes any.
fn hold_writes(engine: &Engine, from_files: &str) {
    let options = [
        ("level0_file_num_compaction_trigger", "100"),
        ("level0_slowdown_writes_trigger", from_files),
        ("level0_stop_writes_trigger", from_files),
    ];
    let family = engine.family(Family::Raw);
    engine.database.set_options_cf(family, &options).unwrap();
}

fn put() -> Submission {
    let put = Command::PutRaw {
        key: "k".into(),
        value: "v".into(),
    };
    Submission::new(1, vec![put])
}

#[test]
fn a_scrape_reads_the_figures_without_the_lock_of_the_writers_queue() {
    let (_directory, storage) = storage();
    let _held = storage.inner.writer.locked_queue();
    let (show, shown) = mpsc::channel();
    thread::spawn({
        let storage = storage.clone();
        move || {
            let _ = show.send(storage.figures());
        }
    });
    // Far above what a busy machine needs.
    let shown = shown.recv_timeout(Duration::from_secs(300)).unwrap();
    assert_eq!(shown.write_queue_bytes, 0);
    assert!(shown.write_queue_bytes_max > 0);
}

/// Compactions cannot be asked for, but stand behind the same switch of RocksDB as flushes, which can.
#[test]
fn a_closed_storage_begins_no_background_work() {
    let (_directory, storage) = storage();
    storage.close().unwrap();
    let engine = &storage.inner.engine;
    // Past the writer, which has ended: there is something to flush again.
    engine.database.put("k", "v").unwrap();
    let refused = engine.database.flush().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ShutdownInProgress);
}

#[test]
fn an_apply_from_memory_does_not_wait_where_a_write_would() {
    let (_directory, storage) = storage();
    let engine = &storage.inner.engine;
    storage.put_raw("flushed", "v").unwrap();
    engine.database.flush().unwrap();
    let apply = || {
        let entry = LogEntry {
            position: "position".into(),
            change: LogChange::Blank,
        };
        storage.apply_from_memory(1, &[entry], ApplyOptions::default())
    };
    hold_writes(engine, "1");
    assert_eq!(apply(), Ok(None));
    assert_eq!(storage.applied_position(1), Ok(None));
    assert_eq!(*storage.write_health().borrow(), WriteHealth::Healthy);
    hold_writes(engine, "100");
    assert_eq!(apply(), Ok(Some(vec![Vec::new()])));
    assert!(storage.applied_position(1).unwrap().is_some());
}

#[test]
fn how_long_a_write_is_held_back_is_counted() {
    let (_directory, storage) = storage();
    let engine = &storage.inner.engine;
    storage.put_raw("flushed", "v").unwrap();
    engine.database.flush().unwrap();
    assert_eq!(storage.figures().data.stalled, Duration::ZERO);
    let until = Instant::now() + Duration::from_secs(300);
    // The writer may come too late to be held back.
    while storage.figures().data.stalled.is_zero() {
        assert!(Instant::now() < until, "it is not counted");
        hold_writes(engine, "1");
        let held = storage.submit(put()).unwrap();
        hold_writes(engine, "100");
        assert_eq!(held.wait(), Ok(vec![Outcome::Done]));
    }
}

/// RocksDB holds writes, and flushes that are asked for, until compactions have left few enough files. Here none ever does.
#[test]
fn closing_does_not_wait_for_compactions() {
    let (_directory, storage) = storage();
    let engine = &storage.inner.engine;
    storage.put_raw("flushed", "v").unwrap();
    engine.database.flush().unwrap();
    hold_writes(engine, "1");
    let held = storage.submit(put()).unwrap();
    let (closed, ended) = mpsc::channel();
    thread::spawn(move || closed.send(storage.close()));
    let ended = ended.recv_timeout(Duration::from_secs(30));
    assert_eq!(ended, Ok(Ok(())));
    assert_eq!(held.wait(), Ok(vec![Outcome::Done]));
}
