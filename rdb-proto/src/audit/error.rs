//! Why there can be no audit log.

use std::io;
use std::path::PathBuf;

/// The audit log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A file does not work.
    #[error("--audit-log: {} cannot be {what}", path.display())]
    Io {
        /// The log, or the file of its secret.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it does not work.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("--audit-log: another process writes into {}; each needs a file of its own", path.display())]
    Held {
        /// The log.
        path: PathBuf,
    },
    /// It is a directory, a link, a pipe or a device.
    #[error("--audit-log: {} is no regular file", path.display())]
    NoFile {
        /// The log.
        path: PathBuf,
    },
    /// Hashes of keys cannot be made.
    #[error(
        "--audit-log: {} is not the secret that hashes of keys are made with, 64 digits of 0-9 and a-f; restore it, or remove it for a new one",
        path.display()
    )]
    BadSecret {
        /// The file of the secret.
        path: PathBuf,
    },
}

impl AuditError {
    /// Whether starting again may help.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Held { .. })
    }
}
