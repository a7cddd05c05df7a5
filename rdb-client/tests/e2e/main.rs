//! End-to-end tests: real processes, real sockets, real disks.
//!
//! Each module is one subject, each test a promise. [`harness`] starts the placement driver and stores as child processes
//! from the binaries beside this test's own executable, and runs the examples there; build both first:
//! `cargo build --workspace --all-features` and the same with `--examples`.
//! [`fates`] has a scripted cluster of its own, since real ones do not fail on demand.
//! Nothing here sleeps to wait for something; durations are printed, and asserted only as guards against hanging.

#![forbid(unsafe_code)]

mod acceptance;
mod batched;
#[cfg(feature = "cli")]
mod bench;
mod examples;
mod fates;
mod harness;
mod idle;
mod load;
#[cfg(feature = "cli")]
mod membership;
#[cfg(feature = "metrics")]
mod monitoring;
#[cfg(feature = "cli")]
mod page;
#[cfg(feature = "cli")]
mod rdbctl;
mod replicated;
mod restarts;
#[cfg(feature = "cli")]
mod tls;
mod tso;
mod tso_stream;
