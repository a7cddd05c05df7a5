//! Why the placement driver cannot run.

use std::net::SocketAddr;

use rdb_proto::transport::ServeError;

use crate::config::ConfigError;
use crate::tso::ClockJump;

/// The process cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum PdError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be opened.
    #[error(transparent)]
    Open(#[from] rdb_storage::OpenError),
    /// The data directory cannot be read or written.
    #[error("the data directory does not work")]
    Storage(#[from] rdb_storage::Error),
    /// The data directory holds a record that this process cannot have written.
    #[error("the data directory holds a {what} that cannot be read")]
    Damaged {
        /// The kind of the record.
        what: &'static str,
    },
    /// The wall clock is too far ahead of the last timestamp.
    #[error(transparent)]
    ClockJump(#[from] ClockJump),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Serving ended by itself.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// One of the process's own tasks panicked.
    #[error("a task of the placement driver panicked")]
    Task(#[from] tokio::task::JoinError),
}
