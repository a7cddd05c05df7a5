//! Whether logs can be written.

use std::io;

use rdb_storage::remedy;

/// Whether logs are written. Once stopped, they are until the process starts again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogHealth {
    /// They are.
    Healthy,
    /// They are not, for no group: the device failed.
    Stopped {
        /// What failed.
        cause: String,
    },
}

impl LogHealth {
    /// Why logs are not written, and what can be done.
    pub fn cause(&self) -> Option<String> {
        match self {
            Self::Healthy => None,
            Self::Stopped { cause } => Some(format!(
                "writes have stopped: the Raft log: {cause}; {}",
                remedy(cause)
            )),
        }
    }
}

/// The answer to a change that came too late.
pub(super) fn stopped(cause: &str) -> io::Error {
    io::Error::other(format!("the Raft log has stopped: {cause}"))
}
