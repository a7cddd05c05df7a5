//! An error of RocksDB's own threads, which no write meets.

use std::time::Duration;

use bytes::Bytes;
use rdb_storage::{Error, StorageOptions, WriteHealth};

use crate::fixture::{
    database_files, free_table_files, noise, occupy_table_files, one_worker, open, synced,
};

fn key(number: u64) -> Bytes {
    format!("{number:04}").into()
}

#[test]
fn a_failed_flush_stops_writing_though_no_write_met_it_and_nothing_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let options = StorageOptions {
        write_buffer_bytes: 1 << 20,
        ..synced()
    };
    let storage = open(directory.path(), &options);
    let mut health = storage.write_health();
    let taken = occupy_table_files(directory.path());
    let mut written = 0;
    // A second log says that the memtable is full and about to be flushed.
    while database_files(directory.path(), ".log").len() < 2 {
        storage
            .put_raw(key(written), noise(written, 10_000))
            .unwrap();
        written += 1;
    }
    one_worker(1).block_on(async {
        let stopped = health.wait_for(|health| *health != WriteHealth::Healthy);
        let hang_guard = tokio::time::timeout(Duration::from_secs(60), stopped);
        hang_guard.await.unwrap().unwrap();
    });
    let later = storage.put_raw("later", "v").unwrap_err();
    let Error::WritesStopped { cause } = later else {
        panic!("{later:?}");
    };
    for told in [".sst", "the data: "] {
        assert!(cause.contains(told), "{cause}");
    }
    for number in 0..written {
        assert_eq!(
            storage.get_raw(&key(number)).unwrap(),
            Some(noise(number, 10_000))
        );
    }
    assert!(
        storage.close().is_err(),
        "there is still nothing to flush to"
    );
    drop(storage);

    free_table_files(taken);
    let storage = open(directory.path(), &options);
    for number in 0..written {
        assert_eq!(
            storage.get_raw(&key(number)).unwrap(),
            Some(noise(number, 10_000))
        );
    }
    assert_eq!(storage.get_raw(b"later"), Ok(None));
    storage.put_raw("later", "v").unwrap();
}
