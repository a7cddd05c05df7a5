//! The checksum of a region: the same wherever the same log was applied, and another for any other content.

use rdb_storage::{ApplyOptions, Command, LogEntry, RegionChecksum, RegionDescriptor, Storage};

use crate::fixture::{open, put, remove, swap, unsynced};
use crate::log::{REGION, entry, of, region};

fn apply(storage: &Storage, entries: &[LogEntry]) {
    storage
        .apply(REGION, entries, ApplyOptions::default())
        .unwrap();
}

/// A storage that has applied the log in batches of this many entries.
fn applied(log: &[LogEntry], batch: usize) -> (tempfile::TempDir, Storage) {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    log.chunks(batch).for_each(|batch| apply(&storage, batch));
    (directory, storage)
}

fn log(commands: Vec<Command>) -> Vec<LogEntry> {
    let create = vec![Command::PutRegion(region(3))];
    let commands = commands.into_iter().map(|command| vec![command]);
    let entries = (2..).zip(commands);
    let entries = entries.map(|(index, commands)| entry(index, 3, commands));
    std::iter::once(entry(1, 0, create))
        .chain(entries)
        .collect()
}

fn checksum(storage: &Storage) -> RegionChecksum {
    let summed = storage.view_region(REGION, |snapshot| snapshot.checksum(|_| true));
    summed
        .unwrap()
        .expect("it is there")
        .unwrap()
        .expect("it went on")
}

fn contents() -> Vec<Command> {
    vec![
        put("a", "1"),
        put("b", "2"),
        swap("c", 0, "3"),
        swap("d", 0, "4"),
        remove("d", 1),
    ]
}

/// The bytes that are summed up never change: stores of different releases compare them.
#[test]
fn golden_checksum() {
    let (_directory, storage) = applied(&log(contents()), 1);
    let RegionChecksum {
        digest,
        key_count,
        bytes,
    } = checksum(&storage);
    assert_eq!((key_count, bytes), (3, 3 + 3 + 8));
    assert_eq!(format!("{digest:032x}"), "2eb6601d1f0ea7e4488ab2ae60f6bba4");
}

#[test]
fn batches_and_restarts_make_no_difference_and_any_other_content_does() {
    let (directory, storage) = applied(&log(contents()), 1);
    let expected = checksum(&storage);
    assert_eq!(checksum(&applied(&log(contents()), 100).1), expected);
    storage.flush(REGION).unwrap();
    drop(storage);
    assert_eq!(checksum(&open(directory.path(), &unsynced())), expected);

    let changed = |change: &dyn Fn(&mut Vec<Command>)| {
        let mut commands = contents();
        change(&mut commands);
        checksum(&applied(&log(commands), 1).1).digest
    };
    let others = [
        changed(&|commands| commands[0] = put("a", "x")),
        changed(&|commands| commands[0] = put("a1", "")),
        changed(&|commands| drop(commands.remove(1))),
        changed(&|commands| commands.push(put("e", ""))),
        // The same values, one with another version.
        changed(&|commands| commands.push(swap("c", 1, "3"))),
        // The same entries, and another floor.
        changed(&|commands| commands.truncate(3)),
        changed(&|commands| commands.push(Command::PutRegion(region(4)))),
    ];
    for other in others {
        assert_ne!(other, expected.digest);
    }
}

#[test]
fn a_snapshot_holds_what_was_there_when_it_was_taken() {
    let (_directory, storage) = applied(&log(contents()), 1);
    let before = checksum(&storage);
    let summed = storage.view_region(REGION, |snapshot| {
        assert_eq!(
            *snapshot.position(),
            of(6, rdb_storage::LogChange::Blank).position
        );
        let later = vec![put("a", "later"), put("e", "later"), swap("c", 1, "later")];
        apply(&storage, &[entry(7, 3, later)]);
        storage.flush(REGION).unwrap();
        snapshot.checksum(|_| true).unwrap()
    });
    assert_eq!(summed.unwrap(), Some(Some(before)));
    assert_ne!(checksum(&storage), before);
}

#[test]
fn only_the_range_of_the_region_is_read_and_slice_by_slice() {
    const KEYS: usize = 12;
    let part = RegionDescriptor {
        start_key: "b".into(),
        end_key: "c".into(),
        ..region(3)
    };
    let value = "v".repeat(1 << 20);
    let keys = (0..KEYS).map(|number| put(format!("b{number:02}"), value.clone()));
    let mut commands = vec![Command::PutRegion(part)];
    commands.extend(keys);
    let (_directory, storage) = applied(&log(commands.clone()), 1);
    let expected = checksum(&storage);
    assert_eq!(expected.key_count, KEYS as u64);

    let index = commands.len() as u64 + 2;
    let outside = vec![put("a", "1"), put("c", "1"), swap("c", 0, "1")];
    apply(&storage, &[entry(index, 3, outside)]);
    assert_eq!(checksum(&storage), expected);

    let mut told = Vec::new();
    let summed = storage.view_region(REGION, |snapshot| {
        snapshot.checksum(|bytes| {
            told.push(bytes);
            bytes < 8 << 20
        })
    });
    assert_eq!(summed.unwrap().unwrap(), Ok(None), "it was told to stop");
    assert!(told.len() >= 3 && told.is_sorted(), "{told:?}");
    assert!(told.last().is_some_and(|last| *last < expected.bytes));
}

#[test]
fn a_region_that_is_not_there_has_none() {
    let (_directory, storage) = applied(&[], 1);
    let found = storage.view_region(REGION, |_| ());
    assert_eq!(found, Ok(None));
}
