//! The write queue is bounded; what it accepts is applied, what it refuses is not.

use rdb_storage::limits::EMBEDDED_REGION_ID;
use rdb_storage::{Error, Fate, PendingWrite, Storage, StorageOptions, Submission};

use crate::fixture::{all_raw, open, put, single, synced, unsynced};

const QUEUE_BYTES: usize = 8 << 20;

fn small_queue() -> StorageOptions {
    StorageOptions {
        write_queue_bytes_max: QUEUE_BYTES,
        ..synced()
    }
}

/// Submits faster than the disk syncs until the queue is full: the accepted writes, and the number of the refused one.
fn fill(storage: &Storage, charge_bytes: usize) -> (Vec<PendingWrite>, usize, Error) {
    let mut accepted = Vec::new();
    for number in 0..100_000 {
        let key = format!("{number:06}");
        let submission = single(put(key, "v")).charged(charge_bytes);
        match storage.submit(submission) {
            Ok(pending) => accepted.push(pending),
            Err(error) => return (accepted, number, error),
        }
    }
    panic!("the queue never was full");
}

#[test]
fn a_full_queue_refuses_at_once_and_what_it_refused_is_not_applied() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &small_queue());
    let (accepted, refused, error) = fill(&storage, 4 << 20);
    let busy = Error::Busy {
        queue: "write",
        limit: QUEUE_BYTES as u64,
        unit: "bytes",
    };
    assert_eq!(error, busy);
    assert_eq!(error.fate(), Fate::NotApplied);
    for pending in accepted {
        pending.wait().unwrap();
    }
    storage.put_raw("later", "v").unwrap();
    let entries = all_raw(&storage).unwrap();
    assert_eq!(
        entries.len(),
        refused + 1,
        "all that was accepted, and the last"
    );
    assert_eq!(
        storage.get_raw(format!("{refused:06}").as_bytes()),
        Ok(None)
    );
}

#[test]
fn a_submission_is_charged_its_message_and_not_less_than_its_own_bytes() {
    let own = Submission::new(EMBEDDED_REGION_ID, vec![put("key", vec![b'v'; 1000])]);
    assert!(own.charge_bytes >= 1003, "{}", own.charge_bytes);
    let at_least = own.charge_bytes;
    assert_eq!(own.clone().charged(1).charge_bytes, at_least);
    assert_eq!(own.charged(8 << 20).charge_bytes, 8 << 20);
}

#[test]
fn a_submission_that_the_queue_could_never_hold_is_refused_as_wrong_and_not_as_busy() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &small_queue());
    let submission = |bytes| single(put("key", "v")).charged(bytes);
    storage
        .submit(submission(QUEUE_BYTES))
        .unwrap()
        .wait()
        .unwrap();
    let error = storage.submit(submission(QUEUE_BYTES + 1)).unwrap_err();
    assert!(
        matches!(error, Error::InvalidArgument { limit: Some(limit), .. } if limit == QUEUE_BYTES as u64),
        "{error:?}"
    );
}

#[test]
fn closing_finishes_what_was_accepted_and_refuses_what_comes_later() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &synced());
    let accepted: Vec<_> = (0..500)
        .map(|number| {
            storage
                .submit(single(put(format!("{number}"), "v")))
                .unwrap()
        })
        .collect();
    storage.close().unwrap();
    assert_eq!(storage.put_raw("late", "v"), Err(Error::Closed));
    storage.close().unwrap();
    for pending in accepted {
        pending.wait().unwrap();
    }
    assert_eq!(all_raw(&storage).unwrap().len(), 500, "reads go on");
    assert_eq!(storage.get_raw(b"late"), Ok(None));
}

#[test]
fn an_answer_that_nobody_waits_for_does_not_take_the_write_back() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    drop(storage.submit(single(put("k", "v"))).unwrap());
    drop(storage);
    let storage = open(directory.path(), &unsynced());
    assert_eq!(storage.get_raw(b"k").unwrap().as_deref(), Some(&b"v"[..]));
}

#[test]
fn dropping_the_storage_finishes_what_was_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &synced());
    let accepted: Vec<_> = (0..100)
        .map(|number| {
            storage
                .submit(single(put(format!("{number}"), "v")))
                .unwrap()
        })
        .collect();
    drop(storage);
    for pending in accepted {
        pending.wait().unwrap();
    }
}
