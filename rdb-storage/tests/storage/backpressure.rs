//! The write queue is bounded; what it accepts is applied, what it refuses is not.

use std::sync::Arc;

use rdb_storage::{Error, Fate, StorageOptions, Submission, WriteRoom};

use crate::fixture::{all_raw, invalid_field, open, put, single, synced, unsynced};

const QUEUE_BYTES: usize = 8 << 20;

fn small_queue() -> StorageOptions {
    StorageOptions {
        write_queue_bytes_max: QUEUE_BYTES,
        ..synced()
    }
}

#[test]
fn a_full_queue_refuses_at_once_and_what_it_refused_is_not_applied() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &small_queue());
    // Somebody keeps the messages, so that the writer cannot make room.
    let messages: Vec<_> = (0..2)
        .map(|_| Arc::new(storage.take_write_room(3 << 20).unwrap()))
        .collect();
    let submit = |(message, key): (&Arc<WriteRoom>, &'static str)| {
        storage.submit(single(put(key, "v")).of_message(Arc::clone(message)))
    };
    let accepted: Vec<_> = messages.iter().zip(["1", "2"]).map(submit).collect();
    let error = storage.take_write_room(3 << 20).unwrap_err();
    let busy = Error::Busy {
        queue: "write",
        limit: QUEUE_BYTES as u64,
        unit: "bytes",
    };
    assert_eq!(error, busy);
    assert_eq!(error.fate(), Fate::NotApplied);
    let refused = storage.submit(single(put("refused", vec![b'v'; 3 << 20])));
    assert_eq!(refused.unwrap_err(), busy);
    drop(messages);
    for pending in accepted {
        pending.unwrap().wait().unwrap();
    }
    storage.put_raw("later", "v").unwrap();
    let keys = all_raw(&storage)
        .unwrap()
        .into_iter()
        .map(|entry| entry.key);
    assert_eq!(keys.collect::<Vec<_>>(), ["1", "2", "later"]);
}

#[test]
fn a_submission_is_charged_its_own_bytes_before_they_are_copied() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &small_queue());
    let all_but_2000 = storage.take_write_room(QUEUE_BYTES - 2000).unwrap();
    let value = |bytes| single(put("key", vec![b'v'; bytes]));
    assert!(matches!(
        storage.submit(value(2000)),
        Err(Error::Busy { .. })
    ));
    storage.submit(value(1000)).unwrap().wait().unwrap();
    drop(all_but_2000);
    storage.submit(value(2000)).unwrap().wait().unwrap();
}

#[test]
fn a_message_of_several_submissions_is_charged_once_and_until_the_last_is_done() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &small_queue());
    let room = Arc::new(storage.take_write_room(QUEUE_BYTES - 2000).unwrap());
    let submissions = [1, 2, 3].map(|region_id| {
        let command = put(format!("{region_id}"), vec![b'v'; 1000]);
        Submission::new(region_id, vec![command]).of_message(Arc::clone(&room))
    });
    let pending = submissions.map(|submission| storage.submit(submission).unwrap());
    for pending in pending {
        pending.wait().unwrap();
    }
    assert!(matches!(
        storage.take_write_room(QUEUE_BYTES),
        Err(Error::Busy { .. })
    ));
    drop(room);
    assert!(storage.take_write_room(QUEUE_BYTES).is_ok());
}

#[test]
fn what_was_admitted_holds_its_room_and_its_share_of_its_message_until_it_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &small_queue());
    let put = || put("key", vec![b'v'; 1000]);
    let alone = storage.admit(single(put())).unwrap();
    assert_eq!(
        (alone.payload_bytes(), alone.range_delete_count()),
        (1003, 0)
    );
    let refused = storage.take_write_room(QUEUE_BYTES);
    assert!(matches!(refused, Err(Error::Busy { .. })));
    drop(alone);
    let room = Arc::new(storage.take_write_room(QUEUE_BYTES - 1000).unwrap());
    let submission = single(put()).of_message(room).under_epoch(3);
    let shared = storage.admit(submission.with_conflict_values(7)).unwrap();
    assert_eq!((shared.region_id(), shared.commands()), (1, &[put()][..]));
    assert_eq!(shared.epoch_version(), Some(3));
    assert_eq!(shared.conflict_values_bytes_max(), 7);
    let refused = storage.take_write_room(QUEUE_BYTES);
    assert!(matches!(refused, Err(Error::Busy { .. })));
    drop(shared);
    storage.take_write_room(QUEUE_BYTES).unwrap();
}

#[test]
fn what_could_not_be_applied_is_not_admitted() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &small_queue());
    let admit = |command| storage.admit(single(command)).map(drop);
    assert_eq!(invalid_field(admit(put("", "v"))), "key");
    assert_eq!(admit(put("key", "v")), Ok(()));
    storage.close().unwrap();
    assert_eq!(admit(put("key", "v")), Err(Error::Closed));
}

#[test]
fn what_the_queue_could_never_hold_is_refused_as_wrong_and_not_as_busy() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &small_queue());
    drop(storage.take_write_room(QUEUE_BYTES).unwrap());
    let error = storage.take_write_room(QUEUE_BYTES + 1).unwrap_err();
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
