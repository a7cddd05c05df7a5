//! kill -9 while a log is applied without the write-ahead log: what is left is the state after some entry, in all column
//! families and with its position, and at least what the storage said was flushed.
//!
//! A child process applies entries that depend on each other, while small memtables are flushed all the time and another
//! thread submits writes through the write-ahead log. It is killed again and again on one directory. Each child goes on from
//! the position that it finds, and every outcome has to be that of a model.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::slice;
use std::thread;

use bytes::Bytes;
use rdb_storage::{
    ApplyOptions, Command, LogChange, LogEntry, Outcome, RegionDescriptor, Storage, StorageOptions,
};

use crate::child;
use crate::fixture::{all_raw, noise, open, put, remove, swap, synced};
use crate::log::{REGION, entry, membership, of, region};
use crate::unlogged::{bootstrap, first_state, index_of};

const KILLS: usize = 20;
const KEYS: u32 = 8;

/// Most entries that the child applies at once.
const BATCH_MAX: u64 = 4;

/// Of the thread that goes through the write-ahead log. It is behind all keys of the region.
const OTHER: &str = "other";

/// What the entries up to an index come to.
#[derive(Debug, Clone, PartialEq)]
struct Model {
    index: u64,
    raw: BTreeMap<Bytes, Bytes>,
    versioned: BTreeMap<Bytes, (u64, Bytes)>,
    floor: u64,
    membership: Bytes,
    region: RegionDescriptor,
}

impl Model {
    fn new() -> Self {
        Self {
            index: 0,
            raw: BTreeMap::new(),
            versioned: BTreeMap::new(),
            floor: 0,
            membership: first_state().membership,
            region: region(3),
        }
    }

    fn advance_to(&mut self, index: u64) {
        while self.index < index {
            self.next();
        }
    }

    /// The next entry, always the same after the same entries, and what it has to come to.
    fn next(&mut self) -> (LogEntry, Vec<Outcome>) {
        self.index += 1;
        let mut random = fastrand::Rng::with_seed(self.index);
        match random.u32(0..12) {
            0 => {
                let entry = membership(self.index, &[1, random.u64(2..9)]);
                if let LogChange::Membership(membership) = &entry.change {
                    self.membership = membership.record.clone();
                    self.region.peers = membership.peers.clone();
                    self.region.conf_version += 1;
                }
                (entry, Vec::new())
            }
            1 => (of(self.index, LogChange::Blank), Vec::new()),
            _ => {
                let commands = (0..random.u32(0..6)).map(|_| self.command(&mut random));
                let (commands, outcomes) = commands.unzip();
                (entry(self.index, 3, commands), outcomes)
            }
        }
    }

    fn command(&mut self, random: &mut fastrand::Rng) -> (Command, Outcome) {
        let key = Bytes::from(format!("key {}", random.u32(0..KEYS)));
        let value = noise(random.u64(..), 300);
        match random.u32(0..12) {
            0 => {
                self.raw.retain(|stored, _| *stored < key);
                let command = Command::DeleteRangeRaw {
                    start_key: key,
                    end_key: OTHER.into(),
                };
                (command, Outcome::Done)
            }
            1..5 => {
                self.raw.insert(key.clone(), value.clone());
                (put(key, value), Outcome::Done)
            }
            kind => {
                let current = self.versioned.get(&key).cloned();
                let version = current.as_ref().map_or(0, |(version, _)| *version);
                if kind == 5 {
                    let conflict = Outcome::Conflict {
                        current_version: version,
                        current_value: current.map(|(_, value)| value),
                    };
                    return (swap(key, version + 7, value), conflict);
                }
                if kind < 8 && version > 0 {
                    self.floor = self.floor.max(version);
                    self.versioned.remove(&key);
                    return (remove(key, version), Outcome::Done);
                }
                let next = 1 + if version > 0 { version } else { self.floor };
                self.versioned.insert(key.clone(), (next, value.clone()));
                let swapped = Outcome::Swapped { version: next };
                (swap(key, version, value), swapped)
            }
        }
    }

    /// What is stored; the floor shows in the versions that the next child gets.
    fn compare(&self, storage: &Storage) {
        let flushed = storage.flushed(REGION).unwrap().unwrap();
        assert_eq!(index_of(&flushed.position), self.index);
        assert_eq!(flushed.membership, self.membership, "of {}", self.index);
        let position = storage.applied_position(REGION).unwrap();
        assert_eq!(position, Some(flushed.position));
        assert_eq!(storage.regions().unwrap(), slice::from_ref(&self.region));
        let raw = all_raw(storage).unwrap().into_iter();
        let raw = raw.map(|stored| (stored.key, stored.value));
        let raw: BTreeMap<_, _> = raw.filter(|(key, _)| key != OTHER).collect();
        assert_eq!(raw, self.raw, "after {}", self.index);
        for number in 0..KEYS {
            let key = Bytes::from(format!("key {number}"));
            let stored = storage.get_versioned(&key).unwrap();
            let stored = stored.map(|stored| (stored.version, stored.value));
            assert_eq!(stored.as_ref(), self.versioned.get(&key));
        }
    }
}

fn other(storage: &Storage) -> u64 {
    let stored = storage.get_raw(OTHER.as_bytes()).unwrap();
    stored.map_or(0, |stored| index_of(&stored))
}

/// One line, in one write.
fn report(what: &str, number: u64) {
    let line = format!("\n{what} {number}\n");
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

#[test]
#[ignore = "runs in the child process of the test of this module"]
fn child_applies_until_it_is_killed() {
    let Some(directory) = child::directory() else {
        return;
    };
    let options = StorageOptions {
        write_buffer_bytes: 128 << 10,
        ..synced()
    };
    report("opening", 0);
    let storage = open(&directory, &options);
    bootstrap(&storage);
    let other = storage.clone();
    // Whichever thread panics ends the process.
    let submitting = thread::spawn(move || submit_for_ever(&other));
    apply_while(&storage, || !submitting.is_finished());
}

fn apply_while(storage: &Storage, goes_on: impl Fn() -> bool) {
    let mut flushed = 0;
    let mut model = Model::new();
    let position = storage.applied_position(REGION).unwrap().unwrap();
    model.advance_to(index_of(&position));
    while goes_on() {
        let batch = (0..=model.index % BATCH_MAX).map(|_| model.next());
        let (entries, expected): (Vec<_>, Vec<_>) = batch.unzip();
        let options = ApplyOptions::default();
        let applied = storage.apply_from_memory(REGION, &entries, options);
        let outcomes = match applied.unwrap() {
            Some(outcomes) => outcomes,
            None => storage.apply(REGION, &entries, options).unwrap(),
        };
        assert_eq!(outcomes, expected, "up to {}", model.index);
        report("applied", model.index);
        let state = storage.flushed(REGION).unwrap().unwrap();
        let now = index_of(&state.position);
        assert!(now >= flushed, "{now} after {flushed}");
        if now > flushed {
            report("flushed", now);
            flushed = now;
        }
    }
}

/// Every few writes it also flushes, beside the applies.
fn submit_for_ever(storage: &Storage) {
    for number in other(storage) + 1.. {
        let value = number.to_be_bytes().to_vec();
        storage.put_raw(OTHER, value).unwrap();
        report(OTHER, number);
        if number % 50 == 0 {
            storage.flush(REGION).unwrap();
        }
    }
}

/// The highest number of each kind of line that the child printed.
#[derive(Debug, Default)]
struct Told {
    applied: u64,
    flushed: u64,
    other: u64,
}

fn run_and_kill(directory: &Path, round: usize, told: &mut Told) {
    let mut child = child::spawn("unlogged_kill::child_applies_until_it_is_killed", directory);
    let output = BufReader::new(child.stdout.take().unwrap());
    // Every fifth child is killed while it opens.
    let kill_after = if round % 5 == 4 {
        0
    } else {
        fastrand::usize(1..1500)
    };
    let (mut applied, mut killed) = (0, false);
    for line in output.split(b'\n') {
        let line = String::from_utf8(line.unwrap()).unwrap();
        let Some((what, number)) = line.split_once(' ') else {
            continue;
        };
        let Ok(number) = number.parse() else {
            continue;
        };
        let is_due = match what {
            "opening" => kill_after == 0,
            "applied" => {
                applied += 1;
                told.applied = number;
                applied >= kill_after
            }
            "flushed" => {
                told.flushed = number;
                false
            }
            OTHER => {
                told.other = number;
                false
            }
            _ => false,
        };
        if is_due && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    let status = child.wait().unwrap();
    assert!(killed, "the child ended by itself: {status}");
}

#[test]
fn after_a_crash_the_state_is_that_of_a_prefix_with_its_position() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &synced());
    bootstrap(&storage);
    drop(storage);
    let (mut told, mut model, mut lost) = (Told::default(), Model::new(), 0);
    for round in 0..KILLS {
        run_and_kill(directory.path(), round, &mut told);
        let storage = open(directory.path(), &synced());
        let position = storage.applied_position(REGION).unwrap().unwrap();
        let found = index_of(&position);
        assert!(found >= told.flushed, "{found}, {told:?}");
        assert!(found <= told.applied + BATCH_MAX, "{found}, {told:?}");
        model.advance_to(found);
        model.compare(&storage);
        assert!(other(&storage) >= told.other, "{told:?}");
        lost += told.applied.saturating_sub(found);
        told.applied = found;
    }
    println!(
        "{KILLS} kills, {lost} entries to be applied again of {}",
        model.index
    );
}
