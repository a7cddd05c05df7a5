//! The client against a cluster that follows a script: each call's fate is what the client promises, and nothing is ever
//! applied twice.
//!
//! The stores and the placement driver here ([`store`], [`placement_driver`]) run in this process. They behave unless a
//! test scripts the next answer. Stores stand behind a [`proxy`] that can cut connections at a chosen moment, and count
//! what they really applied.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod batches;
pub(crate) mod cluster;
mod connections;
pub(crate) mod leaders;
mod placement;
mod placement_driver;
pub(crate) mod proxy;
mod routes;
mod scans;
mod store;
mod timestamps;
mod updates;
mod users;
mod writes;
