//! A read that needs the disk leaves the thread that drives async tasks alone.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use rdb_storage::{
    ApplyOptions, Error, Outcome, PointRead, PointValue, Reader, ScanRange, Storage,
    StorageOptions, Submission, Versioned,
};
use tokio::task::spawn_blocking;

use crate::fixture::{noise, one_worker, open, put, read_raw, remove, single, swap, unsynced};
use crate::log::{REGION, entry};

const KEYS: u64 = 1000;

fn key(number: u64) -> Bytes {
    format!("{number:04}").into()
}

/// A storage that has just been opened on flushed data: nothing of it is in memory.
fn cold(options: &StorageOptions) -> (tempfile::TempDir, Storage) {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), options);
    let entries = |from, to| (from..to).map(|number| (key(number), noise(number, 1000)));
    storage.put_batch_raw(entries(0, KEYS).collect()).unwrap();
    for number in 0..KEYS {
        let swapped = storage.compare_and_swap(key(number), 0, noise(number, 100));
        assert_eq!(swapped, Ok(1));
    }
    storage.close().unwrap();
    drop(storage);
    let storage = open(directory.path(), options);
    (directory, storage)
}

fn disk_reads(storage: &Storage) -> u64 {
    storage.stats().unwrap().disk_read_count
}

#[test]
fn a_cold_read_goes_to_the_disk_and_a_warm_one_does_not() {
    let (_directory, storage) = cold(&unsynced());
    let reader = storage.reader();
    one_worker(1).block_on(async {
        for disk_reads_expected in [1, 1] {
            assert_eq!(read_raw(&reader, key(7)).await, Ok(Some(noise(7, 1000))));
            assert_eq!(disk_reads(&storage), disk_reads_expected);
        }
        for disk_reads_expected in [2, 2] {
            let read = PointRead::versioned(key(7)).unwrap();
            let found = reader.read(read, 100).await;
            let expected = Versioned {
                version: 1,
                value: noise(7, 100),
            };
            assert_eq!(found, Ok(PointValue::Versioned(Some(expected))));
            assert_eq!(disk_reads(&storage), disk_reads_expected);
        }
    });
}

#[test]
fn a_multi_key_read_that_is_partly_cold_is_done_again_as_a_whole() {
    let (_directory, storage) = cold(&unsynced());
    let reader = storage.reader();
    storage.put_raw(key(0), "in the memtable").unwrap();
    let keys = [key(0), key(1), key(500), key(KEYS), key(999)];
    let values = vec![
        Some("in the memtable".into()),
        Some(noise(1, 1000)),
        Some(noise(500, 1000)),
        None,
        Some(noise(999, 1000)),
    ];
    one_worker(1).block_on(async {
        read_raw(&reader, key(1)).await.unwrap();
        let before = disk_reads(&storage);
        // Each read gives up a snapshot behind the flush. RocksDB then compacts a flushed file once, at any time, and what comes of that is
        // cold. So one more read may go to the disk.
        for disk_reads_expected in [1..=1, 1..=2, 1..=2] {
            assert_eq!(
                reader
                    .multi_get_raw(keys.to_vec(), usize::MAX)
                    .await
                    .as_ref(),
                Ok(&values)
            );
            assert!(disk_reads_expected.contains(&(disk_reads(&storage) - before)));
        }
        let found = reader
            .multi_get_versioned(keys.to_vec(), usize::MAX)
            .await
            .unwrap();
        let values: Vec<_> = found
            .into_iter()
            .map(|found| found.map(|found| found.value))
            .collect();
        let expected =
            [0, 1, 500, KEYS, 999].map(|number| (number < KEYS).then(|| noise(number, 100)));
        assert_eq!(values, expected);
    });
}

/// Takes the runtime's only blocking thread until the sender goes.
fn hold_the_blocking_thread() -> mpsc::Sender<()> {
    let (hold, held) = mpsc::channel::<()>();
    let (running, runs) = mpsc::channel();
    spawn_blocking(move || {
        running.send(()).unwrap();
        // Ends with an error when the sender goes.
        let _ = held.recv();
    });
    runs.recv().unwrap();
    hold
}

#[test]
fn scans_and_cold_reads_wait_in_queues_of_their_own() {
    let options = StorageOptions {
        disk_reads_max: 1,
        disk_reads_queued_max: 1,
        scans_max: 1,
        scans_queued_max: 1,
        ..unsynced()
    };
    let (_directory, storage) = cold(&options);
    let reader = storage.reader();
    let scan = |reader: Reader| async move { reader.scan_raw(ScanRange::default(), 1 << 20).await };
    one_worker(1).block_on(async {
        let hold = hold_the_blocking_thread();
        let scanning = tokio::spawn(scan(reader.clone()));
        tokio::task::yield_now().await;
        let reading = tokio::spawn(cold_read(reader.clone(), 1));
        tokio::task::yield_now().await;
        let queue_of = |error| match error {
            Error::Busy { queue, .. } => queue,
            other => panic!("{other:?}"),
        };
        let refused = scan(reader.clone()).await.unwrap_err();
        assert_eq!(queue_of(refused), "scan");
        let refused = cold_read(reader.clone(), 500).await.unwrap_err();
        assert_eq!(queue_of(refused), "disk read");
        drop(hold);
        assert!(scanning.await.unwrap().is_ok());
        assert_eq!(reading.await.unwrap(), Ok(Some(noise(1, 1000))));
    });
}

async fn cold_read(reader: Reader, number: u64) -> Result<Option<Bytes>, Error> {
    read_raw(&reader, key(number)).await
}

#[test]
fn cold_reads_that_wait_hold_up_neither_warm_reads_nor_timers_and_a_full_queue_is_busy() {
    let options = StorageOptions {
        disk_reads_max: 2,
        disk_reads_queued_max: 4,
        ..unsynced()
    };
    let (_directory, storage) = cold(&options);
    let reader = storage.reader();
    one_worker(1).block_on(async {
        read_raw(&reader, key(0)).await.unwrap();
        let hold = hold_the_blocking_thread();
        let waiting: Vec<_> = [200, 400, 600, 800]
            .map(|number| tokio::spawn(cold_read(reader.clone(), number)))
            .into();
        // Timers fire, and when this one has, each of the spawned reads has had its turn on this only thread.
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(waiting.iter().all(|read| !read.is_finished()));

        assert_eq!(
            read_raw(&reader, key(0)).await,
            Ok(Some(noise(0, 1000))),
            "it is warm"
        );
        storage
            .submit(single(put("k", "v")))
            .unwrap()
            .await
            .unwrap();
        let busy = Error::Busy {
            queue: "disk read",
            limit: 4,
            unit: "reads",
        };
        assert_eq!(read_raw(&reader, key(900)).await, Err(busy.clone()));
        let multi = reader.multi_get_raw(vec![key(900)], usize::MAX).await;
        assert_eq!(multi, Err(busy));

        drop(hold);
        for (read, number) in waiting.into_iter().zip([200, 400, 600, 800]) {
            assert_eq!(read.await.unwrap(), Ok(Some(noise(number, 1000))));
        }
        assert_eq!(
            read_raw(&reader, key(900)).await,
            Ok(Some(noise(900, 1000)))
        );
    });
}

#[test]
fn a_caller_that_goes_away_gives_its_place_back_when_its_read_has_ended() {
    let options = StorageOptions {
        disk_reads_max: 1,
        disk_reads_queued_max: 1,
        ..unsynced()
    };
    let (_directory, storage) = cold(&options);
    let reader = storage.reader();
    one_worker(1).block_on(async {
        let hold = hold_the_blocking_thread();
        let read = tokio::spawn(cold_read(reader.clone(), 1));
        tokio::task::yield_now().await;
        read.abort();
        assert!(read.await.unwrap_err().is_cancelled());
        assert!(matches!(
            cold_read(reader.clone(), 500).await,
            Err(Error::Busy { .. })
        ));
        drop(hold);
        // The one blocking thread takes its work in order: when this is done, so is the read before it.
        spawn_blocking(|| {}).await.unwrap();
        assert_eq!(
            cold_read(reader.clone(), 500).await,
            Ok(Some(noise(500, 1000)))
        );
    });
}

#[test]
fn a_swap_of_a_cold_key_is_put_aside_once_and_of_a_warm_one_never() {
    let (_directory, storage) = cold(&unsynced());
    let cold_writes = || storage.stats().unwrap().cold_write_count;
    assert_eq!(storage.compare_and_swap(key(7), 1, "v"), Ok(2));
    assert_eq!(cold_writes(), 1);
    assert_eq!(storage.compare_and_swap(key(7), 2, "v"), Ok(3));
    storage.put_raw("k", "v").unwrap();
    assert_eq!(cold_writes(), 1);

    let conflict = storage.compare_and_swap(key(900), 9, "v").unwrap_err();
    assert_eq!(
        conflict,
        Error::Conflict {
            current_version: 1,
            current_value: Some(noise(900, 100))
        }
    );
}

#[test]
fn an_apply_from_memory_finds_what_was_warmed() {
    let (_directory, storage) = cold(&unsynced());
    let commands = vec![
        swap(key(7), 1, "v"),
        remove(key(900), 1),
        swap(key(KEYS), 0, "v"),
    ];
    let log = [entry(1, 0, commands.clone())];
    let apply = || storage.apply_from_memory(REGION, &log, ApplyOptions::default());
    assert_eq!(apply(), Ok(None));
    let submission = Submission::new(REGION, commands);
    let mut admitted = storage.admit(submission).unwrap();
    let here = thread::current().id();
    for warms_here in [false, true] {
        let (sender, answer) = mpsc::channel();
        storage.warm(admitted, move |read| {
            sender.send((read, thread::current().id())).unwrap();
        });
        let (warm, called_on) = answer.recv().unwrap();
        assert_eq!(called_on == here, warms_here);
        admitted = warm.unwrap();
    }
    let outcomes = [
        Outcome::Swapped { version: 2 },
        Outcome::Done,
        Outcome::Swapped { version: 2 },
    ];
    assert_eq!(apply(), Ok(Some(vec![outcomes.into()])));
    assert_eq!(storage.stats().unwrap().cold_write_count, 1);
}

#[test]
fn a_closed_storage_warms_nothing_more() {
    let (_directory, storage) = cold(&unsynced());
    let admitted = storage.admit(single(swap(key(7), 1, "v"))).unwrap();
    storage.close().unwrap();
    let (sender, answer) = mpsc::channel();
    storage.warm(admitted, move |read| sender.send(read.map(drop)).unwrap());
    assert_eq!(answer.try_recv(), Ok(Err(Error::Closed.into())));
}

#[test]
fn what_no_cache_can_hold_is_swapped_all_the_same() {
    let options = StorageOptions {
        block_cache_bytes: 1,
        ..unsynced()
    };
    let (_directory, storage) = cold(&options);
    let swaps: Vec<_> = (0..KEYS)
        .map(|number| storage.submit(single(swap(key(number), 1, "v"))).unwrap())
        .collect();
    for swapped in swaps {
        assert_eq!(swapped.wait(), Ok(vec![Outcome::Swapped { version: 2 }]));
    }
    let cold_writes = storage.stats().unwrap().cold_write_count;
    println!("{cold_writes} times put aside, for {KEYS} swaps");
    assert!(cold_writes > 0);
}

/// Those that are not warm in time are refused.
#[test]
fn closing_answers_swaps_that_were_put_aside_and_makes_those_that_it_says_it_made() {
    let (directory, storage) = cold(&unsynced());
    let swaps: Vec<_> = (0..KEYS)
        .map(|number| storage.submit(single(swap(key(number), 1, "v"))).unwrap())
        .collect();
    storage.close().unwrap();
    assert!(storage.stats().unwrap().cold_write_count > 0);
    drop(storage);
    let storage = open(directory.path(), &unsynced());
    for (number, swapped) in (0..).zip(swaps) {
        let version = match swapped.wait() {
            Ok(outcomes) => {
                assert_eq!(outcomes, [Outcome::Swapped { version: 2 }]);
                2
            }
            Err(error) => {
                assert_eq!(error, Error::Closed);
                1
            }
        };
        let found = storage.get_versioned(&key(number)).unwrap();
        assert_eq!(found.unwrap().version, version);
    }
}
