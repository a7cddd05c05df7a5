//! What is wrong with a certificate, a key or a CA.

use std::fmt::Display;

/// Something that TLS needs cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {problem}")]
pub struct TlsError {
    what: String,
    problem: String,
}

impl TlsError {
    /// `what` is the setting, with its file if it has one.
    pub(super) fn new(what: impl Into<String>, problem: impl Display) -> Self {
        Self {
            what: what.into(),
            problem: problem.to_string(),
        }
    }
}
