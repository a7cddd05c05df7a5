//! Faults under load: three stores, or four, in real processes, clients that record what they see, and the checks of that record.
//!
//! Each test is one kind of fault. A run fails if what the clients saw is not linearizable, if an acknowledged write is lost, if
//! the replicas differ at the end, if service does not go on after the fault, and also if the fault did not take hold. Nothing here
//! depends on how fast the machine is, except that everything has to happen within `harness::HANG_GUARD`.
//!
//! - `RDB_FAULTS_SEED=N` repeats the choices of a run, but not the moments at which packets and threads meet.
//! - `RDB_FAULTS_ROUNDS=N` is the long form: each run repeats its faults.
//! - `RDB_FAULTS_TIMED=1` has runs fail whose clients had to wait for an answer for longer than a failover may take. It is for a machine
//!   with nothing else to do, and there is one run at a time. All runs print how long it was.
//! - `RDB_FAULTS_MUTANT=NAME` makes the stores break a promise; `scripts/mutants.sh` tries all.
//! - A history that cannot be is written to a file, and checked again by `replay`.
//!
//! Some runs need root, for network namespaces and small disks, and some a C compiler.

#![forbid(unsafe_code)]

mod clocks;
mod disks;
mod four_stores;
#[path = "../e2e/harness/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "the end-to-end tests use more of it"
)]
mod harness;
mod history;
mod janitor;
mod linearizability;
mod links;
mod load;
mod members;
mod network;
mod partitions;
mod processes;
mod proxies;
mod replicas;
mod run;
mod shim;
mod snapshots;
mod stores;
mod storm;
mod wire_cut;

#[test]
#[ignore = "checks the history in the file RDB_FAULTS_HISTORY"]
fn replay() {
    let file = std::env::var_os("RDB_FAULTS_HISTORY").expect("RDB_FAULTS_HISTORY names a file");
    let text = std::fs::read_to_string(file).expect("it can be read");
    let history = history::History::parse(&text).expect("a history");
    let findings = history.check();
    if let Some(verdict) = findings.verdict() {
        panic!("{verdict}:\n{findings}");
    }
}
