//! kill -9 while a log is applied without the write-ahead log: what is left is the state after some entry, in all column
//! families and with its position, and at least what the storage said was flushed.
//!
//! Two threads of a child process apply entries that depend on each other, each to its region, while small memtables are
//! flushed all the time and another thread submits writes through the write-ahead log. The child is killed again and again on
//! one directory. The next one goes on from the positions that it finds, and every outcome has to be that of a model.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use rdb_storage::{
    ApplyOptions, Command, LogChange, LogEntry, Outcome, RegionDescriptor, Storage, StorageOptions,
};

use crate::child;
use crate::fixture::{all_raw, noise, open, put, remove, swap, synced};
use crate::log::{entry, membership, of, region};
use crate::unlogged::{first_state, index_of};

const KILLS: usize = 20;
const REGIONS: [u64; 2] = [7, 8];
const KEYS: u32 = 8;

/// Most entries that the child applies at once.
const BATCH_MAX: u64 = 4;

/// Of the thread that goes through the write-ahead log. It is behind all keys of the regions.
const OTHER: &str = "other";

/// What the entries of a region up to an index come to.
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
    fn new(region_id: u64) -> Self {
        Self {
            index: 0,
            raw: BTreeMap::new(),
            versioned: BTreeMap::new(),
            floor: 0,
            membership: first_state().membership,
            region: RegionDescriptor {
                id: region_id,
                ..region(3)
            },
        }
    }

    fn bootstrap(&self, storage: &Storage) {
        let bootstrapped = storage.bootstrap_regions(&[(self.region.clone(), first_state())]);
        bootstrapped.unwrap();
    }

    fn key(&self, number: u32) -> Bytes {
        format!("{} key {number}", self.region.id).into()
    }

    /// The first key behind all of the region.
    fn end_key(&self) -> Bytes {
        format!("{} key ~", self.region.id).into()
    }

    fn applied(&self, storage: &Storage) -> u64 {
        let position = storage.applied_position(self.region.id).unwrap();
        index_of(&position.unwrap())
    }

    fn advance_to(&mut self, index: u64) {
        while self.index < index {
            self.next();
        }
    }

    /// The next entry, always the same after the same entries, and what it has to come to.
    fn next(&mut self) -> (LogEntry, Vec<Outcome>) {
        self.index += 1;
        let mut random = fastrand::Rng::with_seed(self.index << 8 | self.region.id);
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
        let key = self.key(random.u32(0..KEYS));
        let value = noise(random.u64(..), 300);
        match random.u32(0..12) {
            0 => {
                self.raw.retain(|stored, _| *stored < key);
                let command = Command::DeleteRangeRaw {
                    start_key: key,
                    end_key: self.end_key(),
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
        let flushed = storage.flushed(self.region.id).unwrap().unwrap();
        assert_eq!(index_of(&flushed.position), self.index);
        assert_eq!(flushed.membership, self.membership, "of {}", self.index);
        assert_eq!(self.applied(storage), self.index);
        assert!(storage.regions().unwrap().contains(&self.region));
        let raw = all_raw(storage).unwrap().into_iter();
        let raw = raw.map(|stored| (stored.key, stored.value));
        let range = self.key(0)..self.end_key();
        let raw: BTreeMap<_, _> = raw.filter(|(key, _)| range.contains(key)).collect();
        assert_eq!(raw, self.raw, "after {}", self.index);
        for number in 0..KEYS {
            let key = self.key(number);
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
fn report(what: &str, region_id: u64, number: u64) {
    let line = format!("\n{what} {region_id} {number}\n");
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
    report("opening", 0, 0);
    let storage = open(&directory, &options);
    let submitting = storage.clone();
    let mut threads = vec![thread::spawn(move || submit_for_ever(&submitting))];
    threads.extend(REGIONS.map(|region_id| {
        let storage = storage.clone();
        thread::spawn(move || apply_for_ever(&storage, region_id))
    }));
    // Whichever of them panics ends the process.
    while !threads.iter().any(JoinHandle::is_finished) {
        thread::sleep(Duration::from_millis(10));
    }
}

fn apply_for_ever(storage: &Storage, region_id: u64) {
    let mut flushed = 0;
    let mut model = Model::new(region_id);
    model.advance_to(model.applied(storage));
    loop {
        let batch = (0..=model.index % BATCH_MAX).map(|_| model.next());
        let (entries, expected): (Vec<_>, Vec<_>) = batch.unzip();
        let options = ApplyOptions::default();
        let applied = storage.apply_from_memory(region_id, &entries, options);
        let outcomes = match applied.unwrap() {
            Some(outcomes) => outcomes,
            None => storage.apply(region_id, &entries, options).unwrap(),
        };
        assert_eq!(outcomes, expected, "up to {}", model.index);
        report("applied", region_id, model.index);
        let state = storage.flushed(region_id).unwrap().unwrap();
        let now = index_of(&state.position);
        assert!(now >= flushed, "{now} after {flushed}");
        if now > flushed {
            report("flushed", region_id, now);
            flushed = now;
        }
    }
}

/// Every few writes it also flushes, beside the applies.
fn submit_for_ever(storage: &Storage) {
    for number in other(storage) + 1.. {
        let value = number.to_be_bytes().to_vec();
        storage.put_raw(OTHER, value).unwrap();
        report(OTHER, 0, number);
        if number % 50 == 0 {
            storage.flush(REGIONS[0]).unwrap();
        }
    }
}

/// The highest number of each kind of line that the child printed, by region.
#[derive(Debug, Default)]
struct Told {
    applied: BTreeMap<u64, u64>,
    flushed: BTreeMap<u64, u64>,
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
        let words: Vec<_> = line.split(' ').collect();
        let [what, region_id, number] = words[..] else {
            continue;
        };
        let (Ok(region_id), Ok(number)) = (region_id.parse(), number.parse()) else {
            continue;
        };
        let is_due = match what {
            "opening" => kill_after == 0,
            "applied" => {
                applied += 1;
                told.applied.insert(region_id, number);
                applied >= kill_after
            }
            "flushed" => {
                told.flushed.insert(region_id, number);
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
fn after_a_crash_each_region_has_the_state_of_a_prefix_with_its_position() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &synced());
    let mut models = REGIONS.map(Model::new);
    for model in &models {
        model.bootstrap(&storage);
    }
    drop(storage);
    let (mut told, mut lost) = (Told::default(), 0);
    for round in 0..KILLS {
        run_and_kill(directory.path(), round, &mut told);
        let storage = open(directory.path(), &synced());
        for model in &mut models {
            let found = model.applied(&storage);
            let of = |told: &BTreeMap<_, _>| told.get(&model.region.id).copied().unwrap_or(0);
            let (applied, flushed) = (of(&told.applied), of(&told.flushed));
            assert!(found >= flushed, "{found}, {told:?}");
            assert!(found <= applied + BATCH_MAX, "{found}, {told:?}");
            model.advance_to(found);
            model.compare(&storage);
            lost += applied.saturating_sub(found);
            told.applied.insert(model.region.id, found);
        }
        assert!(other(&storage) >= told.other, "{told:?}");
    }
    let applied = models.map(|model| model.index);
    println!("{KILLS} kills, {lost} entries to be applied again, {applied:?} in the end");
}
