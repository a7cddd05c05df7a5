//! Tests of the store process from outside: a real process, real sockets, a real disk, and mostly the bare wire.
//!
//! The harness is that of the end-to-end tests of `rdb-client`, which has more about it. What a client makes of a store's
//! answers is tested there.

#![forbid(unsafe_code)]

mod audit;
mod bad_input;
mod configuration;
mod disk_full;
mod drain;
mod format_2;
// Only a part of it is used here.
#[allow(dead_code, unused_imports, unused_macros)]
#[path = "../../../rdb-client/tests/e2e/harness/mod.rs"]
mod harness;
mod held_disk;
mod membership;
mod operator;
mod placement;
mod raft_log;
mod region_admin;
mod repair_wal;
mod rights;
mod scrape;
mod scripted_pd;
mod service_manager;
#[allow(dead_code, reason = "no power is cut here")]
#[path = "../../../rdb-client/tests/faults/shim.rs"]
mod shim;
mod slow_log;
#[cfg(feature = "otlp")]
mod spans;
mod status;
mod traces;
mod upgrade_kill;
