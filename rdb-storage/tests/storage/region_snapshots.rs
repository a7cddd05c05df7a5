//! Snapshots of regions: what is received is what was sent, or nothing.

use std::path::Path;

use bytes::Bytes;
use rdb_storage::{
    AppliedState, ApplyOptions, Command, LogEntry, Outcome, PeerDescriptor, RegionDescriptor,
    RegionSnapshot, Storage,
};

use crate::fixture::{
    all_raw, copy_of_open, invalid_field, noise, open, put, remove, swap, synced,
};
use crate::log::{REGION, entry, membership};
use crate::unlogged::{first_state, index_of};

/// All keys that begin with `m`.
fn region() -> RegionDescriptor {
    RegionDescriptor {
        id: REGION,
        start_key: "m".into(),
        end_key: "n".into(),
        conf_version: 1,
        version: 3,
        peers: vec![PeerDescriptor { id: 1, store_id: 1 }],
    }
}

/// A storage with the first state of the region, and keys around it.
fn storage() -> (tempfile::TempDir, Storage) {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &synced());
    storage
        .bootstrap_regions(&[(region(), first_state())])
        .unwrap();
    for key in ["l", "n", "o"] {
        storage.put_raw(key, "around").unwrap();
        storage.compare_and_swap(key, 0, "around").unwrap();
    }
    (directory, storage)
}

fn apply(storage: &Storage, entries: &[LogEntry]) -> Vec<Vec<Outcome>> {
    let applied = storage.apply(REGION, entries, ApplyOptions::default());
    applied.unwrap()
}

fn of_version_3(index: u64, commands: Vec<Command>) -> LogEntry {
    entry(index, 3, commands)
}

fn chunks(mut snapshot: RegionSnapshot) -> Vec<Bytes> {
    std::iter::from_fn(|| snapshot.next_chunk().unwrap()).collect()
}

fn install(storage: &Storage, chunks: Vec<Bytes>) -> AppliedState {
    let mut incoming = storage.receive_region(REGION).unwrap();
    for chunk in chunks {
        incoming.add(chunk).unwrap();
    }
    let received = incoming.complete().unwrap();
    let applied = received.applied().clone();
    received.install().unwrap();
    applied
}

fn raw(storage: &Storage) -> Vec<(Bytes, Bytes)> {
    let stored = all_raw(storage).unwrap().into_iter();
    stored.map(|entry| (entry.key, entry.value)).collect()
}

fn staged(directory: &Path) -> usize {
    let folder = std::fs::read_dir(directory.join("snapshots"));
    folder.map_or(0, Iterator::count)
}

#[test]
fn what_is_installed_is_the_region_as_of_the_position_of_the_snapshot_and_nothing_around_it() {
    let (_source_directory, source) = storage();
    let large = (0..10).map(|number| put(format!("m large {number}"), noise(number, 700_000)));
    apply(&source, &[of_version_3(1, large.collect())]);
    let small = (0..4000).map(|number| put(format!("m small {number}"), noise(number, 20)));
    apply(&source, &[of_version_3(2, small.collect())]);
    let swaps = (0..100).map(|number| swap(format!("m {number}"), 0, noise(number, 100)));
    apply(&source, &[of_version_3(3, swaps.collect())]);
    apply(
        &source,
        &[of_version_3(
            4,
            vec![swap("m 7", 1, "second"), remove("m 8", 1)],
        )],
    );
    apply(
        &source,
        &[of_version_3(5, vec![put("m longest", vec![7; 4 << 20])])],
    );
    apply(&source, &[membership(6, &[1, 2])]);
    let expected = raw(&source);
    let snapshot = source.region_snapshot(REGION).unwrap();
    assert_eq!(index_of(&snapshot.applied().position), 6);
    assert_eq!(snapshot.applied().membership, "as of 6");
    // What comes after it is not in it.
    apply(
        &source,
        &[of_version_3(
            7,
            vec![put("m small 0", "later"), swap("m 9", 1, "later")],
        )],
    );
    let sent = chunks(snapshot);
    assert!(sent.len() > 8, "{} chunks", sent.len());
    assert!(sent.iter().all(|chunk| chunk.len() <= 5 << 20));

    let (directory, target) = storage();
    apply(
        &target,
        &[of_version_3(
            1,
            vec![put("m stale", "v"), swap("m stale", 0, "v")],
        )],
    );
    let applied = install(&target, sent);
    assert_eq!(index_of(&applied.position), 6);
    assert_eq!(staged(directory.path()), 0);
    let check = |target: &Storage| {
        assert_eq!(raw(target), expected);
        let version = |key: &str| {
            let stored = target.get_versioned(key.as_bytes()).unwrap();
            stored.map(|stored| stored.version)
        };
        let versions = ["m 7", "m 8", "m 9", "m stale", "l", "n"].map(version);
        assert_eq!(versions, [Some(2), None, Some(1), None, Some(1), Some(1)]);
        assert_eq!(target.flushed(REGION).unwrap().unwrap(), applied);
        let stored = target.regions().unwrap();
        assert_eq!((stored[0].conf_version, stored[0].peers.len()), (2, 2));
    };
    check(&target);
    drop(target);
    let target = open(directory.path(), &synced());
    check(&target);
    // The version floor came with it.
    let outcomes = apply(&target, &[of_version_3(7, vec![swap("m 8", 0, "again")])]);
    assert_eq!(outcomes, [[Outcome::Swapped { version: 2 }]]);
}

#[test]
fn a_region_can_be_received_where_there_was_none_and_be_empty() {
    let (_source_directory, source) = storage();
    let sent = chunks(source.region_snapshot(REGION).unwrap());
    assert_eq!(sent.len(), 2);
    let directory = tempfile::tempdir().unwrap();
    let target = open(directory.path(), &synced());
    install(&target, sent);
    assert_eq!(target.regions().unwrap(), [region()]);
    assert_eq!(target.flushed(REGION).unwrap(), Some(first_state()));
    let missing = target.region_snapshot(REGION + 1).err().unwrap();
    assert_eq!(
        missing.to_string(),
        "stored data is damaged: region 8 has no state"
    );
}

#[test]
fn a_chunk_that_is_damaged_or_missing_or_out_of_order_is_refused_and_nothing_changes() {
    let (_source_directory, source) = storage();
    let puts = (0..3).map(|number| put(format!("m {number}"), noise(number, 600_000)));
    let swaps = vec![swap("m", 0, "v")];
    apply(
        &source,
        &[of_version_3(1, puts.collect()), of_version_3(2, swaps)],
    );
    let sent = chunks(source.region_snapshot(REGION).unwrap());
    assert_eq!(
        sent.len(),
        5,
        "the records, two of raw keys, one of versioned keys, the end"
    );

    let (directory, target) = storage();
    let before = raw(&target);
    let refuse = |chunks: &[Bytes]| {
        let mut incoming = target.receive_region(REGION).unwrap();
        let added = chunks
            .iter()
            .try_for_each(|chunk| incoming.add(chunk.clone()));
        assert_eq!(
            invalid_field(added.and_then(|()| incoming.complete().map(drop))),
            "chunk"
        );
        assert_eq!(staged(directory.path()), 0);
    };
    for missing in 0..sent.len() {
        let mut sent = sent.clone();
        sent.remove(missing);
        refuse(&sent);
    }
    for first in 0..sent.len() - 1 {
        let mut sent = sent.clone();
        sent.swap(first, first + 1);
        refuse(&sent);
        let mut sent = sent.clone();
        sent.insert(first, sent[first].clone());
        refuse(&sent);
    }
    for damaged in 0..sent.len() {
        let mut sent = sent.clone();
        let mut bytes = sent[damaged].to_vec();
        let place = bytes.len() / 2;
        bytes[place] ^= 1;
        sent[damaged] = bytes.into();
        refuse(&sent);
    }
    let mut other = target.receive_region(REGION + 1).unwrap();
    assert_eq!(invalid_field(other.add(sent[0].clone())), "chunk");
    assert_eq!(raw(&target), before);
    assert_eq!(target.flushed(REGION).unwrap(), Some(first_state()));
}

#[test]
fn a_region_that_overlaps_another_one_is_refused() {
    let (_source_directory, source) = storage();
    let sent = chunks(source.region_snapshot(REGION).unwrap());
    for (start_key, end_key, overlaps) in [
        ("a", "m", false),
        ("n", "", false),
        ("", "ma", true),
        ("mz", "", true),
        ("", "", true),
        ("ma", "mb", true),
    ] {
        let other = RegionDescriptor {
            id: REGION + 1,
            start_key: start_key.into(),
            end_key: end_key.into(),
            ..region()
        };
        let directory = tempfile::tempdir().unwrap();
        let target = open(directory.path(), &synced());
        target.bootstrap_regions(&[(other, first_state())]).unwrap();
        let mut incoming = target.receive_region(REGION).unwrap();
        let added = incoming.add(sent[0].clone());
        assert_eq!(added.is_err(), overlaps, "{start_key} to {end_key}");
    }
}

#[test]
fn a_region_that_is_destroyed_leaves_a_tombstone_and_nothing_else_and_can_be_received_again() {
    let (directory, storage) = storage();
    let commands = vec![put("m 1", "v"), swap("m 2", 0, "v"), remove("m 2", 1)];
    apply(&storage, &[of_version_3(1, commands)]);
    let sent = chunks(storage.region_snapshot(REGION).unwrap());
    assert_eq!(storage.tombstone(REGION), Ok(None));
    storage.destroy_region(REGION, 9).unwrap();
    let is_gone = |storage: &Storage| {
        assert_eq!(storage.tombstone(REGION), Ok(Some(9)));
        assert_eq!(storage.regions().unwrap(), []);
        assert_eq!(storage.flushed(REGION), Ok(None));
        assert_eq!(storage.applied_position(REGION), Ok(None));
        let keys: Vec<_> = raw(storage).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["l", "n", "o"]);
    };
    is_gone(&storage);
    let crashed = copy_of_open(directory.path());
    is_gone(&open(crashed.path(), &synced()));

    install(&storage, sent);
    assert_eq!(storage.tombstone(REGION), Ok(Some(9)));
    assert_eq!(storage.get_raw(b"m 1"), Ok(Some("v".into())));
    let outcomes = apply(&storage, &[of_version_3(2, vec![swap("m 2", 0, "again")])]);
    assert_eq!(outcomes, [[Outcome::Swapped { version: 2 }]]);
}

#[test]
fn a_snapshot_that_is_given_up_lets_go_of_the_storage() {
    let (directory, source) = storage();
    let puts = (0..30).map(|number| put(format!("m {number}"), noise(number, 200_000)));
    apply(&source, &[of_version_3(1, puts.collect())]);
    let mut snapshot = source.region_snapshot(REGION).unwrap();
    snapshot.next_chunk().unwrap();
    drop(snapshot);
    source.close().unwrap();
    drop(source);
    open(directory.path(), &synced());
}
