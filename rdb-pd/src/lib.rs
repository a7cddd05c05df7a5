//! FlareDB's placement driver: the timestamp oracle, and the cluster's metadata.
//!
//! - [`tso`]: timestamps that only grow, across restarts and jumps of the wall clock.
//! - [`cluster`]: the cluster's id, its stores, and which store serves which region.
//! - `auth`: users, and what they may do.
//!
//! All keep their durable state in one [`rdb_storage::Storage`] in the process's own data directory; [`keys`] has the
//! schema. [`Pd::start`] wires everything and is the only place that does. Requests for data never pass the placement
//! driver: clients cache routes, and a registered store serves without it.

#![forbid(unsafe_code)]

mod auth;
pub mod cluster;
mod config;
mod error;
pub mod keys;
mod metrics;
mod page;
mod server;
mod service;
pub mod tso;

pub use config::{Config, ConfigError, ServeFlags};
pub use error::PdError;
pub use server::Pd;
