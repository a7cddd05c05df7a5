//! FlareDB's store process: gRPC services over [`rdb_storage`], and its place in the cluster.
//!
//! [`Server::start`] wires everything and is the only place that does. A request goes
//!
//! ```text
//! service (validate, respond) ── router (is this the right place?) ── region (takes commands, permits reads) ─┬─ group ─ log
//!                                                                                                             └─ storage
//! ```
//!
//! The services do not know what is behind a region: a Raft group, whose log is applied to the storage. A store alone is a
//! group of one voter.
//!
//! One task talks to the placement driver: it registers the store at every start, and sends heartbeats. A store that has registered
//! before serves at once, whether the placement driver answers or not. Another task changes the regions as other stores, their logs,
//! and the placement driver ask.

#![forbid(unsafe_code)]

mod addresses;
mod checks;
mod config;
mod error;
mod leaderless;
mod metrics;
mod placement;
mod placement_drivers;
mod region;
mod regions;
mod result_sizes;
mod rights;
mod router;
mod server;
mod service;
mod starts;

pub use config::{Config, ConfigError, ServeFlags};
pub use error::ServerError;
pub use server::Server;
