//! Applying a replicated log: data and position in one write, whatever the entries come to.

use std::io::{BufRead, BufReader};

use bytes::Bytes;
use rdb_storage::limits::{CONFLICT_VALUE_BYTES_MAX, CONFLICT_VALUES_BYTES_MAX};
use rdb_storage::{
    ApplyOptions, Command, Durability, Error, LogChange, LogEntry, Outcome, PeerDescriptor,
    Proposal, RegionDescriptor, RegionMembership, ScanRange, Storage, Submission,
};

use crate::child;
use crate::fixture::{open, put, remove, single, swap, synced, unsynced};

pub(crate) const REGION: u64 = 7;

pub(crate) fn region(version: u64) -> RegionDescriptor {
    RegionDescriptor {
        id: REGION,
        start_key: Bytes::new(),
        end_key: Bytes::new(),
        conf_version: 1,
        version,
        peers: Vec::new(),
    }
}

/// A storage with the region at the version 3 of its epoch.
fn storage() -> (tempfile::TempDir, Storage) {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    let create = Submission::new(REGION, vec![Command::PutRegion(region(3))]);
    storage.submit(create).unwrap().wait().unwrap();
    (directory, storage)
}

pub(crate) fn entry(index: u64, epoch_version: u64, commands: Vec<Command>) -> LogEntry {
    let proposal = Proposal {
        epoch_version,
        commands,
    };
    of(index, LogChange::Proposal(proposal))
}

pub(crate) fn of(index: u64, change: LogChange) -> LogEntry {
    LogEntry {
        position: index.to_be_bytes().to_vec().into(),
        change,
    }
}

/// Entry `index` is a membership of these peers.
pub(crate) fn membership(index: u64, peers: &[u64]) -> LogEntry {
    let peers = peers.iter().map(|id| PeerDescriptor {
        id: *id,
        store_id: id + 100,
    });
    let membership = RegionMembership {
        record: format!("as of {index}").into(),
        peers: peers.collect(),
    };
    of(index, LogChange::Membership(membership))
}

fn apply(storage: &Storage, entries: &[LogEntry]) -> Vec<Vec<Outcome>> {
    let options = ApplyOptions::default();
    storage.apply(REGION, entries, options).unwrap()
}

fn apply_to_wal(storage: &Storage, entries: &[LogEntry]) {
    let options = ApplyOptions {
        write_ahead_log: Some(Durability::Os),
        ..ApplyOptions::default()
    };
    storage.apply(REGION, entries, options).unwrap();
}

fn position(storage: &Storage) -> Option<u64> {
    let position = storage.applied_position(REGION).unwrap();
    position.map(|position| u64::from_be_bytes(position[..].try_into().unwrap()))
}

fn conflict(current_version: u64, value: &'static str) -> Outcome {
    Outcome::Conflict {
        current_version,
        current_value: (current_version > 0).then(|| value.into()),
    }
}

#[test]
fn a_position_is_noted_with_the_data_and_also_when_every_command_was_a_conflict() {
    let (directory, storage) = storage();
    assert_eq!(position(&storage), None);
    let written = apply(&storage, &[entry(1, 3, vec![swap("k", 0, "v")])]);
    assert_eq!(written, [[Outcome::Swapped { version: 1 }]]);
    assert_eq!(position(&storage), Some(1));
    let conflicts = vec![swap("k", 5, "w"), remove("k", 2), swap("missing", 1, "w")];
    let stale = apply(&storage, &[entry(2, 3, conflicts)]);
    assert_eq!(
        stale,
        [[conflict(1, "v"), conflict(1, "v"), conflict(0, "")]]
    );
    assert_eq!(apply(&storage, &[entry(3, 3, Vec::new())]), [[]]);
    drop(storage);
    let storage = open(directory.path(), &unsynced());
    assert_eq!(position(&storage), Some(3));
    assert_eq!(storage.applied_position(1), Ok(None), "another region's");
}

#[test]
fn an_entry_of_another_epoch_changes_nothing_but_the_position() {
    let (_directory, storage) = storage();
    let commands = || vec![put("k", "v"), swap("k", 0, "v")];
    let changed = |current_version| vec![Outcome::EpochChanged { current_version }; 2];
    assert_eq!(apply(&storage, &[entry(1, 2, commands())]), [changed(3)]);
    assert_eq!(apply(&storage, &[entry(2, 4, commands())]), [changed(3)]);
    assert_eq!(position(&storage), Some(2));
    assert_eq!(storage.get_raw(b"k"), Ok(None));
    assert_eq!(storage.get_versioned(b"k"), Ok(None));
    let elsewhere = storage.apply(9, &[entry(1, 1, commands())], ApplyOptions::default());
    assert_eq!(elsewhere.unwrap(), [changed(0)], "the region is not here");
}

#[test]
fn an_epoch_that_changes_in_a_batch_counts_for_the_entries_behind() {
    let (_directory, storage) = storage();
    let entries = [
        entry(1, 3, vec![put("before", "v")]),
        entry(2, 3, vec![Command::PutRegion(region(4))]),
        entry(3, 3, vec![put("late", "v")]),
        entry(4, 4, vec![put("after", "v")]),
    ];
    let outcomes = apply(&storage, &entries);
    let changed = Outcome::EpochChanged { current_version: 4 };
    assert_eq!(
        outcomes,
        [[Outcome::Done], [Outcome::Done], [changed], [Outcome::Done]]
    );
    assert!(storage.get_raw(b"before").unwrap().is_some());
    assert_eq!(storage.get_raw(b"late"), Ok(None));
    assert!(storage.get_raw(b"after").unwrap().is_some());
}

#[test]
fn a_membership_replaces_the_peers_and_a_blank_entry_only_moves_the_position() {
    let (directory, storage) = storage();
    let descriptor = |storage: &Storage| storage.regions().unwrap().remove(0);
    let before = descriptor(&storage);
    assert_eq!(apply(&storage, &[of(1, LogChange::Blank)]), [[]]);
    assert_eq!(position(&storage), Some(1));
    assert_eq!(descriptor(&storage), before);

    // In one batch with what it depends on, and with what depends on it.
    let entries = [
        entry(2, 3, vec![Command::PutRegion(region(4))]),
        membership(3, &[1, 2]),
        entry(4, 4, vec![put("k", "v")]),
        membership(5, &[2]),
    ];
    let outcomes = apply(&storage, &entries);
    assert_eq!(outcomes[1..], [vec![], vec![Outcome::Done], vec![]]);
    drop(storage);
    let storage = open(directory.path(), &unsynced());
    let expected = RegionDescriptor {
        conf_version: 3,
        peers: vec![PeerDescriptor {
            id: 2,
            store_id: 102,
        }],
        ..region(4)
    };
    assert_eq!(descriptor(&storage), expected);
    assert_eq!(position(&storage), Some(5));
    assert_eq!(apply(&storage, &[membership(6, &[3])]), [[]]);
    assert_eq!(descriptor(&storage).conf_version, 4);
    let elsewhere = storage.apply(9, &[membership(1, &[3])], ApplyOptions::default());
    assert_eq!(elsewhere.unwrap(), [[]], "a region without a descriptor");
    assert_eq!(storage.regions().unwrap().len(), 1);
}

#[test]
fn a_submission_may_name_its_epoch_too() {
    let (_directory, storage) = storage();
    let submit = |version| {
        let submission = Submission::new(REGION, vec![put("k", "v")]).under_epoch(version);
        storage.submit(submission).unwrap().wait().unwrap()
    };
    assert_eq!(submit(2), [Outcome::EpochChanged { current_version: 3 }]);
    assert_eq!(storage.get_raw(b"k"), Ok(None));
    assert_eq!(submit(3), [Outcome::Done]);
}

/// What another release may have let into the log. An inverted range would make RocksDB fail at every replay.
#[test]
fn commands_that_break_a_limit_are_outcomes_and_leave_a_storage_that_works_and_reopens() {
    let (directory, storage) = storage();
    let inverted = Command::DeleteRangeRaw {
        start_key: "z".into(),
        end_key: "a".into(),
    };
    let empty = Command::PutBatchRaw {
        entries: Vec::new(),
    };
    let commands = vec![
        put("m", "v"),
        inverted,
        put("", "v"),
        empty,
        swap("", 0, "v"),
        remove("k", 0),
        swap("k", 0, "v"),
    ];
    let outcomes = apply(&storage, &[entry(1, 3, commands)]).remove(0);
    let invalid = outcomes
        .iter()
        .map(|outcome| matches!(outcome, Outcome::Invalid { .. }));
    assert_eq!(
        invalid.collect::<Vec<_>>(),
        [false, true, true, true, true, true, false]
    );
    drop(storage);
    let storage = open(directory.path(), &unsynced());
    assert_eq!(position(&storage), Some(1));
    assert_eq!(storage.get_raw(b"m"), Ok(Some("v".into())));
    assert_eq!(storage.get_versioned(b"k").unwrap().unwrap().version, 1);
    storage.put_raw("later", "v").unwrap();
}

#[test]
fn each_entry_of_a_batch_has_its_own_room_for_values() {
    let (_directory, storage) = storage();
    let value = vec![b'v'; CONFLICT_VALUE_BYTES_MAX];
    let fit = (CONFLICT_VALUES_BYTES_MAX / CONFLICT_VALUE_BYTES_MAX) as u64;
    // No two entries name the same key: each reads, and copies, what it carries.
    let keys = |number: u64| (0..=fit).map(move |key| format!("{number} {key}"));
    for number in 1..=3 {
        let created = keys(number).map(|key| swap(key, 0, value.clone()));
        apply(&storage, &[entry(number, 3, created.collect())]);
    }
    let stale = |number| keys(number).map(|key| swap(key, 7, "lost"));
    let entries = [1, 2, 3].map(|number| entry(number, 3, stale(number).collect()));
    for outcomes in apply(&storage, &entries) {
        let carried = outcomes.iter().filter(|outcome| {
            matches!(
                outcome,
                Outcome::Conflict {
                    current_value: Some(_),
                    ..
                }
            )
        });
        assert_eq!(carried.count() as u64, fit);
    }
}

/// Entries that depend on each other in every way.
fn random_entries() -> Vec<LogEntry> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut epoch = 3;
    let mut entries = Vec::new();
    for index in 1..=300 {
        match random.u32(0..20) {
            0 => {
                entries.push(membership(index, &[1, random.u64(2..9)]));
                continue;
            }
            1 => {
                entries.push(of(index, LogChange::Blank));
                continue;
            }
            _ => {}
        }
        let mut commands = Vec::new();
        for _ in 0..random.usize(0..6) {
            let key = format!("{}", random.u32(0..8));
            commands.push(match random.u32(0..8) {
                0 => remove(key, random.u64(1..9)),
                1..4 => swap(key, random.u64(0..9), format!("{index}")),
                4 => Command::DeleteRangeRaw {
                    start_key: key.into(),
                    end_key: Bytes::new(),
                },
                _ => put(key, format!("{index}")),
            });
        }
        if random.u32(0..20) == 0 {
            epoch += 1;
            commands.push(Command::PutRegion(region(epoch)));
            entries.push(entry(index, epoch - 1, commands));
        } else {
            entries.push(entry(
                index,
                epoch - u64::from(random.u32(0..10) == 0),
                commands,
            ));
        }
    }
    entries
}

#[test]
fn however_a_log_is_cut_into_batches_the_data_and_the_outcomes_are_the_same() {
    let entries = random_entries();
    let copies = [1, 3, 50, 1000].map(|batch| {
        let (_directory, storage) = storage();
        let batches = entries.chunks(batch);
        let outcomes = batches.flat_map(|batch| apply(&storage, batch));
        let outcomes: Vec<_> = outcomes.collect();
        let raw = storage.scan_raw(&ScanRange::default()).unwrap();
        let versioned = storage.scan_versioned(&ScanRange::default()).unwrap();
        let created = storage.submit(Submission::new(REGION, vec![swap("new", 0, "v")]));
        let floor = created.unwrap().wait().unwrap();
        let regions = storage.regions().unwrap();
        (outcomes, raw, versioned, floor, regions, position(&storage))
    });
    let [first, others @ ..] = copies;
    assert!(others.iter().all(|copy| *copy == first));
    let happened = |kind: fn(&Outcome) -> bool| first.0.iter().flatten().any(kind);
    assert!(happened(|outcome| matches!(
        outcome,
        Outcome::EpochChanged { .. }
    )));
    assert!(happened(|outcome| matches!(
        outcome,
        Outcome::Swapped { version: 3.. }
    )));
    assert!(happened(|outcome| matches!(
        outcome,
        Outcome::Conflict { .. }
    )));
}

#[test]
fn proposals_go_through_their_encoding_and_are_applied_as_they_were() {
    let (_directory, storage) = storage();
    let encoded = Proposal {
        epoch_version: 3,
        commands: vec![put("k", "v"), swap("k", 0, "w")],
    };
    let proposal = Proposal::decode(encoded.encode()).unwrap();
    let position = Bytes::from_static(b"a log id of any form");
    let entry = LogEntry {
        position: position.clone(),
        change: LogChange::Proposal(proposal),
    };
    apply(&storage, &[entry]);
    assert_eq!(storage.get_raw(b"k"), Ok(Some("v".into())));
    assert_eq!(storage.applied_position(REGION), Ok(Some(position)));
}

/// Entry `index`. Every third comes to conflicts only.
fn counted(index: u64) -> LogEntry {
    let value = Bytes::from(index.to_be_bytes().to_vec());
    match index % 3 {
        0 => entry(
            index,
            3,
            vec![swap("k", u64::MAX - 1, "w"), remove("k", u64::MAX - 1)],
        ),
        _ => entry(
            index,
            3,
            vec![
                put("raw", value.clone()),
                swap("k", swaps(index - 1), value),
            ],
        ),
    }
}

/// How many swaps the entries up to `index` make.
fn swaps(index: u64) -> u64 {
    index - index / 3
}

#[test]
#[ignore = "runs in the child process of a test of this module"]
fn child_applies_a_log_until_it_is_killed() {
    let Some(directory) = child::directory() else {
        return;
    };
    let storage = open(&directory, &synced());
    let mut next = position(&storage).unwrap_or(0) + 1;
    loop {
        let entries: Vec<_> = (next..next + 1 + next % 4).map(counted).collect();
        apply_to_wal(&storage, &entries);
        next += entries.len() as u64;
        println!("\n{}", next - 1);
    }
}

/// A kill shows that position and data go together and that none is lost; that they reach the disk cannot be shown without
/// cutting the power, and nobody relies on it: the log is what is synced.
#[test]
fn after_kills_the_data_is_that_of_the_position_exactly() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &synced());
    let create = Submission::new(REGION, vec![Command::PutRegion(region(3))]);
    storage.submit(create).unwrap().wait().unwrap();
    drop(storage);
    for _ in 0..10 {
        let mut child = child::spawn(
            "log::child_applies_a_log_until_it_is_killed",
            directory.path(),
        );
        let output = BufReader::new(child.stdout.take().unwrap());
        let kill_after = fastrand::usize(1..300);
        let (mut told, mut lines) = (0, 0);
        for line in output.lines() {
            let Ok(index) = line.unwrap().parse::<u64>() else {
                continue;
            };
            told = index;
            lines += 1;
            if lines == kill_after {
                child.kill().unwrap();
            }
        }
        assert!(
            lines >= kill_after,
            "the child ended by itself: {:?}",
            child.wait()
        );
        child.wait().unwrap();
        let storage = open(directory.path(), &synced());
        let found = position(&storage).unwrap();
        assert!(found >= told, "{found}, {told} was applied");
        let last_write = found - u64::from(found.is_multiple_of(3));
        let value = Some(Bytes::from(last_write.to_be_bytes().to_vec()));
        assert_eq!(storage.get_raw(b"raw").unwrap(), value);
        let versioned = storage.get_versioned(b"k").unwrap().unwrap();
        assert_eq!(
            (versioned.version, Some(versioned.value)),
            (swaps(found), value)
        );
    }
}

#[test]
fn a_region_is_written_by_its_log_while_others_take_submissions() {
    let (_directory, storage) = storage();
    let pending = storage.submit(single(put("other", "v"))).unwrap();
    apply(&storage, &[entry(1, 3, vec![put("mine", "v")])]);
    pending.wait().unwrap();
    storage.close().unwrap();
    let closed = storage.submit(single(put("other", "v")));
    assert_eq!(closed.unwrap_err(), Error::Closed);
    let closed = storage.apply(REGION, &[entry(2, 3, Vec::new())], ApplyOptions::default());
    assert_eq!(closed, Err(Error::Closed));
}
