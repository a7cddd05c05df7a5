//! kill -9 while snapshots of a region are received and installed: what an open finds is one of them as a whole, and none older than
//! what was installed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use rdb_storage::{AppliedState, ApplyOptions, Command, Storage, StorageOptions};

use crate::child;
use crate::fixture::{all_raw, noise, open, put, swap, synced};
use crate::log::{REGION, entry, region};
use crate::unlogged::{first_state, index_of};

const KILLS: usize = 20;

fn options() -> StorageOptions {
    StorageOptions {
        write_buffer_bytes: 128 << 10,
        ..synced()
    }
}

/// The raw keys after an entry.
fn expected(index: u64) -> Vec<(Bytes, Bytes)> {
    let keys = (0..20 + index % 40).map(|number| {
        let value = noise(index << 8 | number, 20_000);
        (format!("key {number:02}").into(), value)
    });
    keys.collect()
}

/// Puts other keys in the place of those before, and raises the version of one.
fn advance(source: &Storage, index: u64) {
    let clear = Command::DeleteRangeRaw {
        start_key: "key".into(),
        end_key: "kez".into(),
    };
    let puts = expected(index)
        .into_iter()
        .map(|(key, value)| put(key, value));
    let swap = swap("version", index - 1, "v");
    let commands = std::iter::once(clear).chain(puts).chain([swap]);
    let entries = [entry(index, 3, commands.collect())];
    source
        .apply(REGION, &entries, ApplyOptions::default())
        .unwrap();
}

fn applied(storage: &Storage) -> u64 {
    index_of(&storage.applied_position(REGION).unwrap().unwrap())
}

fn tell(what: &str, index: u64) {
    let line = format!("\n{what} {index}\n");
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

#[test]
#[ignore = "runs in the child process of the test of this module"]
fn child_installs_until_it_is_killed() {
    let Some(directory) = child::directory() else {
        return;
    };
    tell("opening", 0);
    let target = open(&directory, &options());
    let source_directory = tempfile::tempdir_in(&directory).unwrap();
    let source = open(source_directory.path(), &synced());
    let first = applied(&target) + 1;
    let before = AppliedState {
        position: (first - 1).to_be_bytes().to_vec().into(),
        ..first_state()
    };
    source.bootstrap_regions(&[(region(3), before)]).unwrap();
    for version in 1..first {
        let commands = vec![swap("version", version - 1, "v")];
        let entries = [entry(first - 1, 3, commands)];
        source
            .apply(REGION, &entries, ApplyOptions::default())
            .unwrap();
    }
    for index in first.. {
        advance(&source, index);
        let mut snapshot = source.region_snapshot(REGION).unwrap();
        tell("receiving", index);
        let mut incoming = target.receive_region(REGION).unwrap();
        while let Some(chunk) = snapshot.next_chunk().unwrap() {
            incoming.add(chunk).unwrap();
        }
        let received = incoming.complete().unwrap();
        tell("installing", index);
        received.install().unwrap();
        tell("installed", index);
    }
}

/// The last snapshot that was installed, and the last that was to be.
fn run_and_kill(directory: &Path, round: usize) -> (u64, u64) {
    let test = "region_snapshot_kill::child_installs_until_it_is_killed";
    let mut child = child::spawn(test, directory);
    let output = BufReader::new(child.stdout.take().unwrap());
    let kill_after = fastrand::usize(1..5);
    let (mut installed, mut installing, mut killed) = (0, 0, false);
    for line in output.split(b'\n') {
        let line = String::from_utf8(line.unwrap()).unwrap();
        let Some((what, index)) = line.split_once(' ') else {
            continue;
        };
        let Ok(index) = index.parse::<u64>() else {
            continue;
        };
        match what {
            "installing" => installing = index,
            "installed" => installed = index,
            _ => {}
        }
        // Every fifth child is killed while it opens, and so while it finishes what the one before has begun.
        let is_due = match round % 5 {
            4 => what == "opening",
            _ => what == "installing" && index as usize % 5 == kill_after,
        };
        if is_due && !killed {
            thread::sleep(Duration::from_micros(fastrand::u64(..60_000)));
            child.kill().unwrap();
            killed = true;
        }
    }
    let status = child.wait().unwrap();
    assert!(killed, "the child ended by itself: {status}");
    (installed, installing)
}

#[test]
fn after_a_crash_a_region_is_what_it_was_or_what_was_received() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &options());
    storage
        .bootstrap_regions(&[(region(3), first_state())])
        .unwrap();
    drop(storage);
    let (mut last, mut not_told) = (0, 0);
    for round in 0..KILLS {
        let (installed, installing) = run_and_kill(directory.path(), round);
        let storage = open(directory.path(), &options());
        let found = applied(&storage);
        assert!(found >= installed.max(last), "{found}, {installed}, {last}");
        assert!(
            found <= installing.max(last),
            "{found}, {installing}, {last}"
        );
        not_told += u64::from(found > installed.max(last));
        last = found;
        if found > 0 {
            let raw = all_raw(&storage).unwrap().into_iter();
            let raw: Vec<_> = raw.map(|stored| (stored.key, stored.value)).collect();
            assert_eq!(raw, expected(found), "of {found}");
            let stored = storage.get_versioned(b"version").unwrap().unwrap();
            assert_eq!(stored.version, found);
        }
        assert!(!directory.path().join("snapshots").exists());
    }
    println!(
        "{KILLS} kills, {last} installs, {not_told} were finished without a word or by an open"
    );
}
