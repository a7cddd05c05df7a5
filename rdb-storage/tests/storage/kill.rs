//! kill -9: nothing that was acknowledged is missing, and nothing is half there.
//!
//! A child process writes with 16 threads and prints a line for each acknowledged write. Each thread has its own raw key,
//! its own batch of keys and its own versioned key, and one write under way at a time; so after a kill each of them is
//! in the state that was acknowledged last or in the one after it. All threads also count up one key that they share.
//! The child is killed again and again on one directory that is never closed in order.
//!
//! A kill leaves what the operating system has in its cache, so these tests would pass without any sync. That a sync
//! precedes every acknowledgement is shown by `group_commit`.

use std::collections::HashMap;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::str::FromStr;
use std::thread;

use bytes::Bytes;
use rdb_storage::{Error, Storage, StorageOptions};

use crate::child;
use crate::fixture::{open, synced};

const THREADS: usize = 16;
const KILLS: usize = 20;
const BATCH_KEYS: usize = 8;

/// Every fifth write to a versioned key deletes it.
const DELETE_EVERY: u64 = 5;

/// What a line of the child says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acknowledged {
    Raw {
        thread: usize,
        count: u64,
    },
    Batch {
        thread: usize,
        count: u64,
    },
    Versioned {
        thread: usize,
        count: u64,
        version: u64,
    },
    Shared {
        version: u64,
    },
}

impl fmt::Display for Acknowledged {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raw { thread, count } => write!(formatter, "raw {thread} {count} 0"),
            Self::Batch { thread, count } => write!(formatter, "batch {thread} {count} 0"),
            Self::Versioned {
                thread,
                count,
                version,
            } => write!(formatter, "versioned {thread} {count} {version}"),
            Self::Shared { version } => write!(formatter, "shared 0 0 {version}"),
        }
    }
}

impl FromStr for Acknowledged {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let words: Vec<_> = line.split(' ').collect();
        let [kind, thread, count, version] = words[..] else {
            return Err(());
        };
        let number = |word: &str| word.parse::<u64>().map_err(drop);
        let (thread, count, version) = (number(thread)? as usize, number(count)?, number(version)?);
        match kind {
            "raw" => Ok(Self::Raw { thread, count }),
            "batch" => Ok(Self::Batch { thread, count }),
            "versioned" => Ok(Self::Versioned {
                thread,
                count,
                version,
            }),
            "shared" => Ok(Self::Shared { version }),
            _ => Err(()),
        }
    }
}

fn raw_key(thread: usize) -> Bytes {
    format!("raw {thread}").into()
}

fn batch_keys(thread: usize) -> Vec<Bytes> {
    let keys = (0..BATCH_KEYS).map(|number| format!("batch {thread} {number}").into());
    keys.collect()
}

fn versioned_key(thread: usize) -> Bytes {
    format!("versioned {thread}").into()
}

/// A count, padded so that memtables fill up.
fn value(count: u64) -> Bytes {
    let mut value = vec![0; 300];
    value[..8].copy_from_slice(&count.to_be_bytes());
    value.into()
}

fn count_of(value: &[u8]) -> u64 {
    assert_eq!(value.len(), 300, "a value is whole");
    u64::from_be_bytes(value[..8].try_into().unwrap())
}

fn raw_count(storage: &Storage, key: &Bytes) -> u64 {
    storage
        .get_raw(key)
        .unwrap()
        .map_or(0, |value| count_of(&value))
}

/// The count and the version of a thread's versioned key; both 0 when it is missing.
fn versioned_state(storage: &Storage, thread: usize) -> (u64, u64) {
    let found = storage.get_versioned(&versioned_key(thread)).unwrap();
    found.map_or((0, 0), |found| (count_of(&found.value), found.version))
}

#[test]
#[ignore = "runs in the child process of the tests of this module"]
fn child_writes_until_it_is_killed() {
    let Some(directory) = child::directory() else {
        return;
    };
    // Small memtables: some kills hit a flush.
    let options = StorageOptions {
        write_buffer_bytes: 256 << 10,
        ..synced()
    };
    report(&"opening");
    let storage = open(&directory, &options);
    report(&"writing");
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let storage = &storage;
            scope.spawn(move || write_for_ever(storage, thread));
        }
    });
}

/// One line, in one write.
fn report(line: &dyn fmt::Display) {
    std::io::stdout()
        .write_all(format!("\n{line}\n").as_bytes())
        .unwrap();
}

fn write_for_ever(storage: &Storage, thread: usize) -> ! {
    let mut raw = raw_count(storage, &raw_key(thread));
    let mut batch = raw_count(storage, &batch_keys(thread)[0]);
    let (mut count, mut version) = versioned_state(storage, thread);
    let mut shared = 0;
    loop {
        raw += 1;
        storage.put_raw(raw_key(thread), value(raw)).unwrap();
        report(&Acknowledged::Raw { thread, count: raw });

        batch += 1;
        let entries = batch_keys(thread)
            .into_iter()
            .map(|key| (key, value(batch)));
        storage.put_batch_raw(entries.collect()).unwrap();
        report(&Acknowledged::Batch {
            thread,
            count: batch,
        });

        count += 1;
        if version > 0 && count.is_multiple_of(DELETE_EVERY) {
            storage
                .compare_and_delete(versioned_key(thread), version)
                .unwrap();
            version = 0;
        } else {
            let swapped = storage.compare_and_swap(versioned_key(thread), version, value(count));
            version = swapped.unwrap();
        }
        report(&Acknowledged::Versioned {
            thread,
            count,
            version,
        });

        match storage.compare_and_swap("shared", shared, value(0)) {
            Ok(version) => {
                shared = version;
                report(&Acknowledged::Shared { version });
            }
            Err(Error::Conflict {
                current_version, ..
            }) => shared = current_version,
            Err(error) => panic!("{error}"),
        }
    }
}

/// What was acknowledged last, by key.
#[derive(Debug, Default)]
struct Expected {
    raw: HashMap<usize, u64>,
    batch: HashMap<usize, u64>,
    /// Count and version; version 0 when it was deleted last.
    versioned: HashMap<usize, (u64, u64)>,
    /// The highest version that each key has shown.
    highest: HashMap<usize, u64>,
    shared: u64,
}

impl Expected {
    fn note(&mut self, acknowledged: Acknowledged) {
        match acknowledged {
            Acknowledged::Raw { thread, count } => {
                self.raw.insert(thread, count);
            }
            Acknowledged::Batch { thread, count } => {
                self.batch.insert(thread, count);
            }
            Acknowledged::Versioned {
                thread,
                count,
                version,
            } => {
                self.versioned.insert(thread, (count, version));
                self.note_version(thread, version);
            }
            Acknowledged::Shared { version } => self.shared = self.shared.max(version),
        }
    }

    /// A version may be seen twice, but after a higher one or a deletion it never comes again.
    fn note_version(&mut self, thread: usize, version: u64) {
        let highest = self.highest.entry(thread).or_default();
        assert!(
            version == 0 || version >= *highest,
            "version {version} after {highest}"
        );
        *highest = version.max(*highest);
    }

    /// Compares with what is stored, and goes on from there: the one write of a thread that was under way may be there.
    fn compare(&mut self, storage: &Storage) {
        for thread in 0..THREADS {
            let stored = raw_count(storage, &raw_key(thread));
            let acknowledged = self.raw.insert(thread, stored).unwrap_or(0);
            assert!(
                [acknowledged, acknowledged + 1].contains(&stored),
                "raw {stored}, {acknowledged}"
            );

            let values = storage.multi_get_raw(&batch_keys(thread)).unwrap();
            let counts = values
                .iter()
                .map(|value| value.as_ref().map_or(0, |value| count_of(value)));
            let counts: Vec<_> = counts.collect();
            assert!(
                counts.iter().all(|count| *count == counts[0]),
                "half a batch: {counts:?}"
            );
            let acknowledged = self.batch.insert(thread, counts[0]).unwrap_or(0);
            assert!(
                [acknowledged, acknowledged + 1].contains(&counts[0]),
                "batch {}, {acknowledged}",
                counts[0]
            );
            self.compare_versioned(storage, thread);
        }
        let shared = storage
            .get_versioned(b"shared")
            .unwrap()
            .map_or(0, |found| found.version);
        let most = self.shared + THREADS as u64;
        assert!(
            (self.shared..=most).contains(&shared),
            "shared {shared}, {}",
            self.shared
        );
        self.shared = shared;
    }

    fn compare_versioned(&mut self, storage: &Storage, thread: usize) {
        let stored = versioned_state(storage, thread);
        let acknowledged = self.versioned.insert(thread, stored).unwrap_or_default();
        let same = stored == acknowledged || stored.1 == 0 && acknowledged.1 == 0;
        let next = match (stored.1, acknowledged.1) {
            (0, _) => (acknowledged.0 + 1).is_multiple_of(DELETE_EVERY),
            (created, 0) => created > self.highest.get(&thread).copied().unwrap_or(0),
            (version, before) => stored.0 == acknowledged.0 + 1 && version == before + 1,
        };
        assert!(same || next, "versioned {stored:?}, {acknowledged:?}");
        self.note_version(thread, stored.1);
    }
}

/// Starts the child, kills it after a random number of acknowledgements, and notes them all.
fn run_and_kill(directory: &Path, expected: &mut Expected, round: usize) -> usize {
    let mut child = child::spawn("kill::child_writes_until_it_is_killed", directory);
    let output = BufReader::new(child.stdout.take().unwrap());
    // Every fourth child is killed while it opens.
    let kill_after = if round % 4 == 3 {
        0
    } else {
        fastrand::usize(1..2000)
    };
    let mut acknowledged = 0;
    let mut killed = false;
    for line in output.split(b'\n') {
        let line = String::from_utf8(line.unwrap()).unwrap();
        if let Ok(parsed) = line.parse() {
            expected.note(parsed);
            acknowledged += 1;
        }
        let due = acknowledged > 0 || kill_after == 0 && line == "opening";
        if due && acknowledged >= kill_after && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    let status = child.wait().unwrap();
    assert!(killed, "the child ended by itself: {status}");
    acknowledged
}

#[test]
fn nothing_acknowledged_is_missing_after_kills_and_nothing_is_half_there() {
    let directory = tempfile::tempdir().unwrap();
    let mut expected = Expected::default();
    let mut acknowledged = 0;
    for round in 0..KILLS {
        acknowledged += run_and_kill(directory.path(), &mut expected, round);
        // Dropped without closing it: nothing is flushed.
        expected.compare(&open(directory.path(), &synced()));
    }
    println!("{KILLS} kills, {acknowledged} acknowledged writes, all of them there");
}
