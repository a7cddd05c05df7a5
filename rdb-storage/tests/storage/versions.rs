//! A key that was deleted and created again never shows a version that it has shown before.

use std::sync::Arc;

use bytes::Bytes;
use rdb_storage::limits::{
    CONFLICT_VALUE_BYTES_MAX, CONFLICT_VALUES_BYTES_MAX, EMBEDDED_REGION_ID,
};
use rdb_storage::{Error, Outcome, Storage, Submission};

use crate::fixture::{open, remove, swap, synced, unsynced};

fn version_of(storage: &Storage, key: &str) -> u64 {
    let found = storage.get_versioned(key.as_bytes()).unwrap();
    found.map_or(0, |found| found.version)
}

#[test]
fn a_missing_key_starts_at_version_1_and_grows_by_1() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    for expected_version in 0..10 {
        let version = storage
            .compare_and_swap("k1", expected_version, "v")
            .unwrap();
        assert_eq!(version, expected_version + 1);
    }
    assert_eq!(storage.compare_and_swap("k2", 0, "v"), Ok(1));
}

#[test]
fn conflict_returns_current_version_and_value() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    for expected_version in 0..10 {
        storage
            .compare_and_swap("k1", expected_version, format!("v{expected_version}"))
            .unwrap();
    }
    let conflict = Error::Conflict {
        current_version: 10,
        current_value: Some("v9".into()),
    };
    assert_eq!(
        storage.compare_and_swap("k1", 5, "lost"),
        Err(conflict.clone())
    );
    assert_eq!(storage.compare_and_delete("k1", 5), Err(conflict));
    let missing = Error::Conflict {
        current_version: 0,
        current_value: None,
    };
    assert_eq!(
        storage.compare_and_swap("k2", 1, "lost"),
        Err(missing.clone())
    );
    assert_eq!(storage.compare_and_delete("k2", 1), Err(missing));
    assert_eq!(version_of(&storage, "k1"), 10);
    assert_eq!(version_of(&storage, "k2"), 0);
}

#[test]
fn conflicts_of_a_submission_carry_values_up_to_a_sum_and_all_their_versions() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    let value = vec![b'v'; CONFLICT_VALUE_BYTES_MAX];
    storage.compare_and_swap("k", 0, value.clone()).unwrap();
    let fit = CONFLICT_VALUES_BYTES_MAX / CONFLICT_VALUE_BYTES_MAX;
    // Once more: the room is that of one submission.
    for _ in 0..2 {
        let commands = (0..fit + 3).map(|_| swap("k", 7, "lost"));
        let submission = Submission::new(EMBEDDED_REGION_ID, commands.collect());
        let outcomes = storage.submit(submission).unwrap().wait().unwrap();
        assert_eq!(outcomes.len(), fit + 3);
        for (number, outcome) in outcomes.into_iter().enumerate() {
            let carried = (number < fit).then(|| value.clone().into());
            let conflict = Outcome::Conflict {
                current_version: 1,
                current_value: carried,
            };
            assert!(outcome == conflict, "conflict {number}");
        }
    }
}

#[test]
fn a_submission_says_how_much_its_conflicts_may_carry() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    storage.compare_and_swap("k", 0, "value").unwrap();
    for (bytes_max, carried) in [(0, 0), (4, 0), (5, 1), (14, 2), (usize::MAX, 3)] {
        let stale = (0..3).map(|_| swap("k", 7, "lost"));
        let submission = Submission::new(EMBEDDED_REGION_ID, stale.collect());
        let submission = submission.with_conflict_values(bytes_max);
        let outcomes = storage.submit(submission).unwrap().wait().unwrap();
        assert_eq!(values(&outcomes).len(), carried, "{bytes_max}");
    }
}

/// The values that conflicts carry.
fn values(outcomes: &[Outcome]) -> Vec<Bytes> {
    let values = outcomes.iter().filter_map(|outcome| match outcome {
        Outcome::Conflict { current_value, .. } => current_value.clone(),
        _ => None,
    });
    values.collect()
}

#[test]
fn conflicts_of_a_batch_share_one_copy_of_a_value_that_keeps_no_message_alive() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    storage.compare_and_swap("stored", 0, "v").unwrap();
    let message = Bytes::from(vec![b'm'; 1000]);
    let room = Arc::new(storage.take_write_room(message.len()).unwrap());
    let mut commands = vec![swap("written", 0, message.slice(10..20))];
    for _ in 0..3 {
        commands.extend([swap("stored", 7, "lost"), swap("written", 7, "lost")]);
    }
    let submission = Submission::new(EMBEDDED_REGION_ID, commands).of_message(room);
    let outcomes = storage.submit(submission).unwrap().wait().unwrap();
    let values = values(&outcomes);
    for (first, same) in [(0, 2), (0, 4), (1, 3), (1, 5)] {
        assert_eq!(values[first].as_ptr(), values[same].as_ptr());
    }
    assert_eq!(values[1], message.slice(10..20));
    assert!(!message.as_ptr_range().contains(&values[1].as_ptr()));
}

#[test]
fn a_key_created_again_starts_above_its_last_version() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    for expected_version in 0..5 {
        storage
            .compare_and_swap("k1", expected_version, "v")
            .unwrap();
    }
    storage.compare_and_delete("k1", 5).unwrap();
    assert_eq!(version_of(&storage, "k1"), 0);
    assert_eq!(storage.compare_and_swap("k1", 0, "again"), Ok(6));
}

#[test]
fn also_after_a_reopen_with_and_without_a_flush() {
    let directory = tempfile::tempdir().unwrap();
    let mut last_version = 0;
    for close_first in [false, true, false, true] {
        let storage = open(directory.path(), &synced());
        let version = storage.compare_and_swap("k1", 0, "v").unwrap();
        assert!(version > last_version, "{version} after {last_version}");
        last_version = version;
        storage.compare_and_delete("k1", version).unwrap();
        if close_first {
            storage.close().unwrap();
        }
    }
}

#[test]
fn also_within_one_batch() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    let commands = vec![
        swap("k1", 0, "a"),
        swap("k1", 1, "b"),
        remove("k1", 2),
        swap("k1", 0, "c"),
        remove("k1", 3),
        swap("k1", 2, "stale"),
        swap("k1", 0, "d"),
    ];
    let pending = storage.submit(Submission::new(1, commands)).unwrap();
    let version = |version| Outcome::Swapped { version };
    let gone = Outcome::Conflict {
        current_version: 0,
        current_value: None,
    };
    assert_eq!(
        pending.wait().unwrap(),
        [
            version(1),
            version(2),
            Outcome::Done,
            version(3),
            Outcome::Done,
            gone,
            version(4)
        ]
    );
}

#[test]
fn a_key_created_in_the_batch_that_deletes_another_starts_above_it() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    for expected_version in 0..7 {
        storage
            .compare_and_swap("k1", expected_version, "v")
            .unwrap();
    }
    let commands = vec![remove("k1", 7), swap("k2", 0, "v")];
    let pending = storage.submit(Submission::new(1, commands)).unwrap();
    assert_eq!(
        pending.wait().unwrap(),
        [Outcome::Done, Outcome::Swapped { version: 8 }]
    );
    drop(storage);
    let storage = open(directory.path(), &unsynced());
    assert_eq!(storage.compare_and_swap("k3", 0, "v"), Ok(8));
}

#[test]
fn floors_are_per_region() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    let submit = |region_id, commands| {
        let pending = storage
            .submit(Submission::new(region_id, commands))
            .unwrap();
        pending.wait().unwrap()
    };
    submit(
        1,
        vec![swap("a", 0, "v"), swap("a", 1, "v"), remove("a", 2)],
    );
    assert_eq!(
        submit(2, vec![swap("b", 0, "v")]),
        [Outcome::Swapped { version: 1 }]
    );
    assert_eq!(
        submit(1, vec![swap("c", 0, "v")]),
        [Outcome::Swapped { version: 3 }]
    );
}

#[test]
fn a_lower_deletion_does_not_lower_the_floor() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    for expected_version in 0..5 {
        storage
            .compare_and_swap("k1", expected_version, "v")
            .unwrap();
    }
    storage.compare_and_swap("k2", 0, "v").unwrap();
    storage.compare_and_delete("k1", 5).unwrap();
    storage.compare_and_delete("k2", 1).unwrap();
    assert_eq!(storage.compare_and_swap("k3", 0, "v"), Ok(6));
}
