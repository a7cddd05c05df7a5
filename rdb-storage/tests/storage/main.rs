//! What the storage promises, one module per promise. One binary, so that it is linked once.
//!
//! Tests that are about the disk use [`Durability::Sync`](rdb_storage::Durability); the others use `Os`, which takes the
//! same path without waiting for the disk.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails here fails the test, also in functions that several tests share"
)]

mod fixture;

mod background_errors;
mod backpressure;
mod checksum;
mod child;
mod cold_reads;
mod damaged_log;
mod damaged_table;
mod data_directory;
mod deleted_keys;
mod disk_full;
mod group_commit;
mod kill;
mod limits;
mod log;
mod log_database;
mod model;
mod ranges;
mod regions;
mod room;
mod scan_pages;
mod skipped;
mod snapshots;
mod stats;
mod unlogged;
mod unlogged_kill;
mod versions;
