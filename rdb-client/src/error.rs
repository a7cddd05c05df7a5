//! What a call can end in, arranged by what the caller can do about it.

use std::time::Duration;

use bytes::Bytes;

/// Why a call failed.
///
/// Of a write, every variant but [`Error::Undetermined`] says that it was not applied and will not be. Messages name
/// fields, lengths and limits, never keys or values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key's version is not the expected one; nothing was changed. Decide anew with what is reported here.
    #[error("the key's version is {current_version}, not the expected one")]
    Conflict {
        /// The key's version; 0: the key does not exist.
        current_version: u64,
        /// The key's value. `None` when the key does not exist, and when the value is longer than 64 KiB, or many
        /// calls met conflicts with large values at once; read it then.
        current_value: Option<Bytes>,
    },
    /// The write may or may not have been applied, in part when it spans regions. Read to find out.
    #[error("the write may or may not have been applied: {cause}")]
    Undetermined {
        /// How certainty was lost.
        cause: String,
    },
    /// The request is wrong whatever the state of the cluster; change it.
    #[error("{field}: {cause}")]
    InvalidArgument {
        /// The argument or setting that is wrong.
        field: String,
        /// The limit that was exceeded, in the field's unit.
        limit: Option<u64>,
        /// What is wrong, and what would be right.
        cause: String,
    },
    /// The store refused for want of room until the deadline came. Try again later, or slower.
    #[error("the store was too busy: {cause}")]
    Busy {
        /// The last refusal.
        cause: String,
    },
    /// Nobody could serve the call until the deadline came. Try again later.
    #[error("unavailable: {cause}")]
    Unavailable {
        /// The last failure.
        cause: String,
    },
    /// The deadline came before an answer did; a write had not been sent yet.
    #[error("not done within {timeout:?}: {cause}")]
    DeadlineExceeded {
        /// The time that the call had.
        timeout: Duration,
        /// What it was waiting for.
        cause: String,
    },
    /// The stored data is damaged. Trying again does not help; the store needs an operator.
    #[error("stored data is damaged: {cause}")]
    DataLoss {
        /// What the store reports.
        cause: String,
    },
    /// An address that this client uses now belongs to another cluster. Check the addresses.
    #[error(
        "this client belongs to cluster {expected}, but the process that answered belongs to {found}"
    )]
    ClusterMismatch {
        /// The cluster that this client connected to.
        expected: u64,
        /// The cluster of the process that answered.
        found: u64,
    },
    /// A process failed in a way it did not foresee, or does not keep to the protocol.
    #[error("internal error: {cause}")]
    Internal {
        /// What is known.
        cause: String,
    },
}

impl Error {
    pub(crate) fn invalid_argument(
        field: impl Into<String>,
        limit: Option<u64>,
        cause: impl Into<String>,
    ) -> Self {
        Self::InvalidArgument {
            field: field.into(),
            limit,
            cause: cause.into(),
        }
    }

    pub(crate) fn undetermined(cause: impl Into<String>) -> Self {
        Self::Undetermined {
            cause: cause.into(),
        }
    }

    pub(crate) fn busy(cause: impl Into<String>) -> Self {
        Self::Busy {
            cause: cause.into(),
        }
    }

    pub(crate) fn unavailable(cause: impl Into<String>) -> Self {
        Self::Unavailable {
            cause: cause.into(),
        }
    }

    pub(crate) fn internal(cause: impl Into<String>) -> Self {
        Self::Internal {
            cause: cause.into(),
        }
    }

    /// What to report of a write that was applied in one part and failed with this error in another.
    pub(crate) fn after_partial_write(self) -> Self {
        match self {
            Self::Undetermined { .. } => self,
            other => Self::undetermined(format!("a part was applied, another failed: {other}")),
        }
    }
}
