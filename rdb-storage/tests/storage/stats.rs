//! The figures that a store reports of itself.

use std::time::{Duration, Instant};

use crate::fixture::{flushing, open, synced};

const HANG_GUARD: Duration = Duration::from_secs(300);

#[test]
fn figures_count_both_keyspaces_and_survive_a_reopen() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &synced());
    let empty = storage.stats().unwrap();
    assert_eq!((empty.key_count, empty.data_bytes), (0, 0));
    assert!(empty.available_bytes > 0 && empty.available_bytes <= empty.capacity_bytes);
    for number in 0..100 {
        storage.put_raw(format!("{number}"), "v").unwrap();
        storage
            .compare_and_swap(format!("{number}"), 0, "v")
            .unwrap();
    }
    assert_eq!(storage.stats().unwrap().key_count, 200);
    storage.close().unwrap();
    drop(storage);
    let stats = open(directory.path(), &synced()).stats().unwrap();
    assert_eq!(stats.key_count, 200);
    assert!(stats.data_bytes > 0);
    assert_eq!((stats.wal_sync_count, stats.disk_read_count), (0, 0));
}

#[test]
fn what_a_database_does_in_the_background_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &flushing());
    let opened = storage.figures();
    assert_eq!(opened.data.compaction_written_bytes, 0);
    assert!(opened.data.available_bytes > 0);
    assert!(opened.data.available_bytes <= opened.data.capacity_bytes);
    let until = Instant::now() + HANG_GUARD;
    for number in 0_u64.. {
        let value: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
            .take(1000)
            .collect();
        storage
            .put_raw(format!("{}", number % 1000), value)
            .unwrap();
        let figures = storage.figures().data;
        let is_counted = figures.compaction_read_bytes > 0
            && figures.compaction_written_bytes > 0
            && figures.flushed_bytes > 0
            && figures.wal_bytes > figures.flushed_bytes / 2
            // These are noted now and then.
            && figures.table_bytes > 0
            && figures.memtable_bytes > 0;
        if is_counted {
            break;
        }
        assert!(Instant::now() < until, "{figures:?}");
    }
    let figures = storage.figures();
    assert_eq!(figures.data.background_errors, 0);
    assert_eq!(figures.write_queue_bytes, 0);
    let options = flushing();
    assert_eq!(
        figures.write_queue_bytes_max,
        options.write_queue_bytes_max as u64
    );
}

#[test]
fn syncs_of_the_log_and_room_in_the_queue_are_counted_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &synced());
    let before = storage.figures();
    for number in 0..10 {
        storage.put_raw(format!("{number}"), "v").unwrap();
    }
    let after = storage.figures();
    assert_eq!(after.data.wal_syncs, before.data.wal_syncs + 10);
    assert!(after.data.wal_bytes > before.data.wal_bytes);
    let room = storage.take_write_room(1000).unwrap();
    assert_eq!(storage.figures().write_queue_bytes, 1000);
    drop(room);
    assert_eq!(storage.figures().write_queue_bytes, 0);
}
