//! The figures that a store reports of itself.

use crate::fixture::{open, synced};

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
