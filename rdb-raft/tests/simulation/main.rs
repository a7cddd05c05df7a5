//! Stores in a simulated world: of one thread, one clock, and one seed, from which all follows. The same seed gives the same trace,
//! down to the bytes that are written to connections.
//!
//! # What is simulated
//!
//! - A store runs all of this crate that a process runs: its [`Node`](rdb_raft::Node) with the writer of the logs, groups with leases
//!   and quarantine, [`Starts`](rdb_raft::transport::Starts), and the transport, with HTTP/2 on both ends as it is.
//! - The network is `turmoil`'s, below the connections: bytes are late, wait, or are lost, in both directions or in one. A connection
//!   that has lost some is of no use any more, and has to be given up.
//! - The disk is a [`MemoryDevice`](rdb_raft::log::MemoryDevice). A crash ends all tasks of a store at once, in the middle of
//!   anything. What was synced is there at the next start, and some of what was not. The state machine is as it was flushed last.
//!   A disk can fail, which ends the groups of its store.
//! - Clients are on the stores. They write, read, and now and then hand the leadership over, mostly where the leader is, or believes
//!   to be.
//!
//! Not simulated: snapshots, changes of members, clocks that run at different rates.
//!
//! # What is checked
//!
//! What was acknowledged is there in the end, what was refused is not, nothing is there twice, and no read is stale (`history`). All
//! stores apply the same in the same order. A term has one leader. No group ends while its disk is well, and nothing panics. After the
//! faults, each group serves again, and all stores become equal.
//!
//! # How it comes to be the same
//!
//! The seed drives `turmoil`, `fastrand`, and the random bytes of the system (`entropy`). tokio's clock is paused, and `simulation` in
//! this crate runs as tasks what would be other threads. What counts in the process, as tokio's seeds do, begins anew, since each run has
//! a process to itself: this binary starts itself again.
//!
//! A store runs for a tick before the next one does. So two stores can be a tick apart, which is far less than the margin of a lease.
//!
//! # Running more
//!
//! `RDB_SIMULATION_SEEDS=1000..2000` runs other seeds than the usual ones. A run that fails says how to repeat it. Promises that are
//! broken are noticed within a few seeds: `every_promise_that_is_broken_is_noticed`, which is ignored for its time.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails here fails the test, also in functions that several tests share"
)]

mod device;
mod entropy;
mod faults;
mod history;
mod machine;
mod run;
mod store;
mod wire;
mod world;

use std::sync::Mutex;
use std::sync::mpsc;
use std::thread;

use run::{Run, VIOLATION};

/// Seeds, and how many stores there are.
const USUAL: [(u64, u64); 3] = [(1, 3), (2, 3), (4, 5)];

/// Runs at a time.
const RUNS_MAX: usize = 2;

/// Those that were asked for. Every fourth world has five stores.
fn runs() -> Vec<Run> {
    let Ok(seeds) = std::env::var("RDB_SIMULATION_SEEDS") else {
        return USUAL.map(|(seed, stores)| Run { seed, stores }).into();
    };
    let (first, end) = seeds.split_once("..").expect("FIRST..END");
    let seeds = first.parse::<u64>().unwrap()..end.parse().unwrap();
    let stores = |seed| if seed % 4 == 0 { 5 } else { 3 };
    let runs = seeds.map(|seed| Run {
        seed,
        stores: stores(seed),
    });
    runs.collect()
}

#[test]
fn whatever_befalls_stores_what_they_acknowledge_stays_and_their_reads_are_not_stale() {
    let runs = Mutex::new(runs().into_iter());
    let (failed, failures) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..RUNS_MAX {
            let (runs, failed) = (&runs, failed.clone());
            scope.spawn(move || {
                loop {
                    let next = runs.lock().unwrap().next();
                    let Some(run) = next else {
                        return;
                    };
                    if let Err(failure) = run.in_a_process(None) {
                        println!("{failure}");
                        failed.send(run).unwrap();
                    }
                }
            });
        }
    });
    drop(failed);
    let failures: Vec<_> = failures.iter().collect();
    assert!(failures.is_empty(), "{failures:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let run = Run { seed: 5, stores: 3 };
    let trace = || {
        run.in_a_process(None)
            .unwrap_or_else(|failure| panic!("{failure}"))
    };
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(trace);
        (trace(), first.join().unwrap())
    });
    let mut lines = first.lines().zip(second.lines()).enumerate();
    if let Some((at, (first, second))) = lines.find(|(_, (first, second))| first != second) {
        panic!("line {at} of the traces differs:\n{first}\n{second}");
    }
    assert_eq!(first.lines().count(), second.lines().count());
}

/// Those of `rdb_raft::mutant` that a world can notice. What is wrong with a position in a batch is seen with `rdb-server` only, and all
/// stores of a world have the same clock.
const MUTANTS: [&str; 5] = [
    "acknowledge-before-sync",
    "read-without-lease",
    "vote-at-once",
    "apply-before-commit",
    "not-leader-after-proposal",
];

/// How many seeds a mutant may survive.
const SURVIVED_MAX: u64 = 20;

#[test]
#[ignore = "it takes minutes"]
fn every_promise_that_is_broken_is_noticed() {
    for mutant in MUTANTS {
        let noticed = (1..=SURVIVED_MAX).find_map(|seed| {
            let failure = Run { seed, stores: 3 }.in_a_process(Some(mutant)).err()?;
            let what = failure.lines().find(|line| line.contains(VIOLATION));
            let what = what.unwrap_or_else(|| panic!("{failure}"));
            Some(format!("seed {seed}: {what}"))
        });
        println!("{mutant}: {}", noticed.as_deref().expect(mutant));
    }
}

/// What runs in another process.
#[test]
#[ignore = "only as a process of its own, which the other tests start"]
fn one_run() {
    if let Some((run, trace)) = run::told() {
        run.here(trace.as_deref());
    }
}
