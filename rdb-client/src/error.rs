//! Errors, sorted by what the caller can do about them.

use std::error::Error as StdError;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

/// Why a call failed.
///
/// For a write, every variant but [`Error::Undetermined`] says that it was not applied and will not be
/// ([`is_certain`](Self::is_certain)). Messages name fields, lengths and limits, never keys or values.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The key's version is not the expected one; nothing was changed. Decide again with what is reported here, as
    /// [`Client::update`](crate::Client::update) does.
    Conflict {
        /// The key's version; 0: the key does not exist.
        current_version: u64,
        /// The key's value. `None` when the key does not exist, and when the store left the value out, since it is longer
        /// than 64 KiB or there was no room for it. Read it then.
        current_value: Option<Bytes>,
    },
    /// The write may or may not have been applied; a write that spans regions may have been applied in part. It is never
    /// sent again.
    ///
    /// It may also be applied later. So a read does not settle its fate: a write that the read does not see can still be
    /// applied, over a later write. In the versioned keyspace a fence settles it: the same compare-and-swap again, if its
    /// expected version is at least 1. At most one of the two is applied, and once the second has succeeded or met a
    /// conflict, the first can no longer be applied. A value that names its writer then tells whose it is. In the raw
    /// keyspace such a value, read back, shows that a write was applied; nothing shows that it will not be.
    Undetermined {
        /// How certainty was lost.
        cause: Cause,
    },
    /// The request is wrong in any state of the cluster; change it.
    InvalidArgument {
        /// The argument or setting that is wrong; `pd_addresses` also later, when no placement driver answers there.
        field: String,
        /// The limit that was exceeded, in the field's unit.
        limit: Option<u64>,
        /// What is wrong, and what would be right.
        cause: String,
    },
    /// There is no such region, store, operator, user or grant.
    NotFound {
        /// What there is.
        cause: Cause,
    },
    /// The cluster does not do what is asked for, as it is now: most of all, what an operator asks for.
    Refused {
        /// Why not, and what would help.
        cause: Cause,
    },
    /// The user lacks the right that the call needs. An administrator can grant it; it counts some seconds later.
    PermissionDenied {
        /// Which user, and which right is missing.
        cause: Cause,
    },
    /// The cluster does not know who makes the call: there is no token, or it is not a valid token of a user. The client needs a token
    /// ([`Config::with_token_file`](crate::Config::with_token_file)), or a certificate that is a user's.
    Unauthenticated {
        /// What is missing or wrong.
        cause: Cause,
    },
    /// The store had no room for the call until the deadline. Try again later, or send fewer calls.
    Busy {
        /// The last refusal.
        cause: Cause,
    },
    /// No process could serve the call until the deadline. Try again later.
    Unavailable {
        /// The last failure.
        cause: Cause,
    },
    /// The deadline came before a response. A write had not been sent yet.
    DeadlineExceeded {
        /// The time that the call had.
        timeout: Duration,
        /// What it was waiting for.
        cause: Cause,
    },
    /// The stored data is damaged. Trying again does not help; the store needs an operator.
    DataLoss {
        /// What the store reports.
        cause: Cause,
    },
    /// An address that this client uses now belongs to another cluster. Check the addresses.
    ClusterMismatch {
        /// The cluster that this client connected to.
        expected: u64,
        /// The cluster of the process that answered.
        found: u64,
    },
    /// A process failed unexpectedly, or broke the protocol.
    Internal {
        /// What is known.
        cause: Cause,
    },
}

/// The cause of an error: one line of text, and the source error if there is one.
///
/// Two causes are equal when their texts are.
#[derive(Debug, Clone)]
pub struct Cause {
    text: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Whether the same call may succeed later without any change, and may be made again without doing anything twice.
    ///
    /// The client has already tried for the whole timeout of the call. `Undetermined` is not retryable: a second call could
    /// apply the write twice.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Unavailable { .. } | Self::DeadlineExceeded { .. } => true,
            Self::Conflict { .. }
            | Self::Undetermined { .. }
            | Self::InvalidArgument { .. }
            | Self::NotFound { .. }
            | Self::Refused { .. }
            | Self::PermissionDenied { .. }
            | Self::Unauthenticated { .. }
            | Self::DataLoss { .. }
            | Self::ClusterMismatch { .. }
            | Self::Internal { .. } => false,
        }
    }

    /// Whether a write that ended in this error was certainly not applied and will not be: any error but `Undetermined`.
    pub fn is_certain(&self) -> bool {
        !matches!(self, Self::Undetermined { .. })
    }

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

    pub(crate) fn undetermined(cause: impl Into<Cause>) -> Self {
        Self::Undetermined {
            cause: cause.into(),
        }
    }

    pub(crate) fn busy(cause: impl Into<Cause>) -> Self {
        Self::Busy {
            cause: cause.into(),
        }
    }

    pub(crate) fn unavailable(cause: impl Into<Cause>) -> Self {
        Self::Unavailable {
            cause: cause.into(),
        }
    }

    pub(crate) fn internal(cause: impl Into<Cause>) -> Self {
        Self::Internal {
            cause: cause.into(),
        }
    }

    /// Whether a server does not let this client do it.
    pub(crate) fn is_refusal_of_client(&self) -> bool {
        matches!(
            self,
            Self::PermissionDenied { .. } | Self::Unauthenticated { .. }
        )
    }

    /// What happened, without the words that name the kind of error: for an error of another kind that says it, too.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::InvalidArgument { cause, .. } => cause.clone(),
            _ => self
                .cause()
                .map_or_else(|| self.to_string(), Cause::to_string),
        }
    }

    fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Undetermined { cause }
            | Self::NotFound { cause }
            | Self::Refused { cause }
            | Self::PermissionDenied { cause }
            | Self::Unauthenticated { cause }
            | Self::Busy { cause }
            | Self::Unavailable { cause }
            | Self::DeadlineExceeded { cause, .. }
            | Self::DataLoss { cause }
            | Self::Internal { cause } => Some(cause),
            Self::Conflict { .. } | Self::InvalidArgument { .. } | Self::ClusterMismatch { .. } => {
                None
            }
        }
    }

    /// The error of a write if one part was applied and another failed with this error.
    pub(crate) fn after_partial_write(self) -> Self {
        match self {
            Self::Undetermined { .. } => self,
            other => Self::undetermined(Cause::of(
                format!("a part was applied, another failed: {other}"),
                other,
            )),
        }
    }
}

impl Cause {
    /// A text, and the error that it describes.
    pub(crate) fn of(
        text: impl Into<String>,
        source: impl StdError + Send + Sync + 'static,
    ) -> Self {
        Self {
            text: text.into(),
            source: Some(Arc::new(source)),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict {
                current_version, ..
            } => write!(
                formatter,
                "the key's version is {current_version}, not the expected one"
            ),
            Self::Undetermined { cause } => write!(
                formatter,
                "the write may or may not have been applied: {cause}"
            ),
            Self::InvalidArgument { field, cause, .. } => write!(formatter, "{field}: {cause}"),
            Self::NotFound { cause } => write!(formatter, "not found: {cause}"),
            Self::Refused { cause } => write!(formatter, "refused: {cause}"),
            Self::PermissionDenied { cause } => write!(formatter, "not allowed: {cause}"),
            Self::Unauthenticated { cause } => write!(formatter, "not signed in: {cause}"),
            Self::Busy { cause } => write!(formatter, "the store was too busy: {cause}"),
            Self::Unavailable { cause } => write!(formatter, "unavailable: {cause}"),
            Self::DeadlineExceeded { timeout, cause } => {
                write!(formatter, "not done within {timeout:?}: {cause}")
            }
            Self::DataLoss { cause } => write!(formatter, "stored data is damaged: {cause}"),
            Self::ClusterMismatch { expected, found } => write!(
                formatter,
                "this client belongs to cluster {expected}, but the process that answered belongs to {found}"
            ),
            Self::Internal { cause } => write!(formatter, "internal error: {cause}"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.cause()?.source.as_deref()?;
        Some(source)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Deref for Cause {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Cause {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Cause {}

impl<T: Into<String>> From<T> for Cause {
    fn from(text: T) -> Self {
        Self {
            text: text.into(),
            source: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_call_is_made_again_only_where_that_does_nothing_twice() {
        let timeout = Duration::from_secs(1);
        let cause = || Cause::from("gone");
        for (error, is_retryable, is_certain) in [
            (Error::busy("full"), true, true),
            (Error::unavailable("gone"), true, true),
            (
                Error::DeadlineExceeded {
                    timeout,
                    cause: cause(),
                },
                true,
                true,
            ),
            (Error::undetermined("cut"), false, false),
            (Error::internal("bug"), false, true),
            (Error::DataLoss { cause: cause() }, false, true),
            (Error::NotFound { cause: cause() }, false, true),
            (Error::Refused { cause: cause() }, false, true),
            (Error::PermissionDenied { cause: cause() }, false, true),
            (Error::Unauthenticated { cause: cause() }, false, true),
            (
                Error::invalid_argument("key", None, "too long"),
                false,
                true,
            ),
        ] {
            assert_eq!(error.is_retryable(), is_retryable, "{error}");
            assert_eq!(error.is_certain(), is_certain, "{error}");
        }
    }

    #[test]
    fn a_reason_leaves_the_words_for_the_kind_of_error_to_the_error_around_it() {
        let inner = Error::unavailable("cannot connect to 127.0.0.1:1");
        let outer = Error::unavailable(inner.reason());
        assert_eq!(outer, inner);
        let conflict = Error::Conflict {
            current_version: 3,
            current_value: None,
        };
        let wrong = Error::invalid_argument("pd_addresses", None, "no placement driver");
        assert_eq!(conflict.reason(), conflict.to_string());
        assert_eq!(wrong.reason(), "no placement driver");
    }

    #[test]
    fn the_error_underneath_can_be_reached() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = Error::unavailable(Cause::of("store 1: connection refused", refused));
        assert_eq!(
            error.to_string(),
            "unavailable: store 1: connection refused"
        );
        let source = error.source().and_then(|source| source.downcast_ref());
        let kind = source.map(io::Error::kind);
        assert_eq!(kind, Some(io::ErrorKind::ConnectionRefused));
        assert!(Error::unavailable("gone").source().is_none());
    }
}
