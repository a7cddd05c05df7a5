//! FlareDB's placement driver: the timestamp oracle, and the cluster's metadata.
//!
//! - [`tso`]: timestamps that only grow, over restarts and whatever the wall clock does.
//! - [`cluster`]: the cluster's id, its stores, and which store serves which region.
//!
//! Both keep their durable state in one [`rdb_storage::Storage`] in the process's own data directory; [`keys`] has the
//! schema. [`Pd::start`] wires everything and is the only place that does. The placement driver is never on the path of
//! data: clients keep what they learned, and a store that has registered serves without it.

#![forbid(unsafe_code)]

pub mod cluster;
mod config;
mod error;
pub mod keys;
mod server;
mod service;
pub mod tso;

pub use config::{Config, ConfigError};
pub use error::PdError;
pub use server::Pd;
