//! What the crate promises, one module per promise. One binary, so that it is linked once.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails here fails the test, also in functions that several tests share"
)]

mod bounds;
mod calling;
#[path = "../../../rdb-storage/tests/storage/child.rs"]
mod child;
mod device;
mod entries;
mod machine;
mod medium;
mod network;
mod payloads;
mod proxy;
mod scripted;
mod stores;
mod told;
mod voters;

mod initial_state;
mod kill;
mod lease;
mod log_model;
mod membership;
mod node;
mod one_voter;
mod snapshots;
mod standstill;
mod suite;
mod three_voters;
mod transport;
mod writer;
