//! Why the placement driver cannot run.

use rdb_proto::audit::AuditError;
use rdb_proto::transport::ServeError;
use rdb_proto::transport::process::{Failure, ListenError, ProcessError};
use rdb_storage::OpenError;

use crate::auth::Damage;
use crate::config::ConfigError;
use crate::tso::ClockError;

/// The process cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum PdError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The audit log cannot be opened.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The data directory cannot be opened.
    #[error("{0}{next}", next = next_step(.0))]
    Open(OpenError),
    /// The data directory cannot be read or written.
    #[error("the data directory does not work")]
    Storage(#[from] rdb_storage::Error),
    /// The data directory holds a record that this process cannot have written.
    #[error("the data directory holds a {what} that cannot be read")]
    Damaged {
        /// The kind of the record.
        what: &'static str,
    },
    /// The record of users and rights is not one that this program has written.
    #[error(
        "the data directory holds a record of users and rights that cannot be used: {cause}{RESTORE}"
    )]
    DamagedRights {
        /// What is wrong with it.
        cause: String,
    },
    /// The record of users and rights holds what this release does not know.
    #[error(
        "the data directory holds a record of users and rights with what this release does not know, so a newer one has written it. \
         This one would forget that with the next change, and somebody might have more rights. Nothing was changed. Start a \
         release that is at least as new."
    )]
    NewerRights,
    /// The wall clock cannot be believed.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Serving ended by itself.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// One of the process's own tasks panicked.
    #[error("a task of the placement driver panicked")]
    Task(#[from] tokio::task::JoinError),
}

/// Not derived: the message holds that of the storage, which must not come a second time as the source.
impl From<OpenError> for PdError {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

impl ProcessError for PdError {
    fn failure(&self) -> Failure {
        match self {
            Self::Config(_) => Failure::Setting,
            Self::Audit(error) if error.may_pass() => Failure::Passing,
            Self::Audit(_) => Failure::Setting,
            Self::Open(error) if error.may_pass() => Failure::Passing,
            Self::Open(_)
            | Self::Damaged { .. }
            | Self::DamagedRights { .. }
            | Self::NewerRights
            | Self::Clock(_) => Failure::Refused,
            Self::Storage(_) | Self::Listen(_) | Self::Serve(_) | Self::Task(_) => Failure::Passing,
        }
    }
}

impl From<Damage> for PdError {
    fn from(damage: Damage) -> Self {
        match damage {
            Damage::Newer => Self::NewerRights,
            Damage::Encoding(_)
            | Damage::Version(_)
            | Damage::Unusable(_)
            | Damage::NoCredential { .. } => Self::DamagedRights {
                cause: damage.to_string(),
            },
        }
    }
}

/// What the operator of a damaged directory can do.
const RESTORE: &str = "\nNothing was changed. Restore a copy of the directory, and start once with --tso-advance-ms, at least the age \
                       of the copy. Users, tokens and grants are then those of the copy: what was revoked since is back, so look at \
                       `rdbctl auth user list`. Do not start with an empty directory: that makes a new cluster, which refuses the stores of \
                       this one.";

fn next_step(error: &OpenError) -> &'static str {
    match error {
        OpenError::Damaged { .. } | OpenError::DamagedIdentity { .. } => RESTORE,
        _ => "",
    }
}
