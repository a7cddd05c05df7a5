//! Errors of the store process: why it cannot run ([`ServerError`]), and why a request is not served ([`Rejection`]).

use std::fmt::Display;
use std::io;
use std::time::Duration;

use rdb_proto::audit::AuditError;
use rdb_proto::error::{Fault, busy};
use rdb_proto::errorpb::{Fate, NotReady, region_error};
use rdb_proto::kvrpc::batch_answer;
use rdb_proto::transport::ServeError;
use rdb_proto::transport::limits::BYTES_BACKOFF;
use rdb_proto::transport::process::{Failure, ListenError, ProcessError};
use rdb_raft::NodeError;
use rdb_storage::OpenError;
use tonic::Code;

use crate::config::ConfigError;

/// The process cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
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
    #[error("the data directory does not work: {0}{next}", next = if is_data_loss(.0) { RESTORE } else { "" })]
    Storage(rdb_storage::Error),
    /// The longest election timeout cannot be noted, which has to be before anything is promised by it.
    #[error("the election timeout cannot be noted in the data directory")]
    ElectionTimeout(#[source] io::Error),
    /// The writer of the Raft log cannot be started.
    #[error(transparent)]
    Log(#[from] NodeError),
    /// A region cannot be served.
    #[error("region {region_id}: {cause}")]
    Region {
        /// The region.
        region_id: u64,
        /// Why not.
        cause: String,
    },
    /// The Raft log of a region and its data do not belong together, or one of them is damaged.
    #[error("region {region_id}: {cause}{next}", next = if *.has_others { REPLACE } else { RESTORE })]
    RegionDamaged {
        /// The region.
        region_id: u64,
        /// What does not fit.
        cause: String,
        /// Whether other stores hold the region, too.
        has_others: bool,
    },
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Serving ended by itself.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The placement driver refuses this store for good.
    #[error("the placement driver refuses this store: {cause}")]
    Refused {
        /// What it said.
        cause: String,
    },
    /// This store has started later from another directory.
    #[error(
        "store {by_store} has met a later start of this store, so this data directory is an older copy: it lacks votes and writes \
         that this store has acknowledged, and must not take part again. It is refused from now on\nServe the newest directory of \
         this store. If that is lost, leave this store stopped, and the others serve without it. Once its peers are removed, a \
         store with an empty directory can take its place."
    )]
    Outdated {
        /// Who has met it.
        by_store: u64,
    },
    /// One of the process's own tasks panicked.
    #[error("a task of the server panicked")]
    Task(#[from] tokio::task::JoinError),
}

impl ServerError {
    pub(crate) fn region(region_id: u64, cause: impl Display) -> Self {
        let cause = cause.to_string();
        Self::Region { region_id, cause }
    }
}

/// Not derived: the message holds that of the storage, which must not come a second time as the source.
impl From<OpenError> for ServerError {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

/// Not derived, either.
impl From<rdb_storage::Error> for ServerError {
    fn from(error: rdb_storage::Error) -> Self {
        Self::Storage(error)
    }
}

impl ProcessError for ServerError {
    fn failure(&self) -> Failure {
        match self {
            Self::Config(_) => Failure::Setting,
            Self::Audit(error) if error.may_pass() => Failure::Passing,
            Self::Audit(_) => Failure::Setting,
            Self::Open(error) if error.may_pass() => Failure::Passing,
            Self::Storage(error) if !is_data_loss(error) => Failure::Passing,
            Self::Open(_)
            | Self::Storage(_)
            | Self::RegionDamaged { .. }
            | Self::Refused { .. }
            | Self::Outdated { .. } => Failure::Refused,
            Self::ElectionTimeout(_)
            | Self::Log(_)
            | Self::Region { .. }
            | Self::Listen(_)
            | Self::Serve(_)
            | Self::Task(_) => Failure::Passing,
        }
    }
}

fn is_data_loss(error: &rdb_storage::Error) -> bool {
    matches!(error, rdb_storage::Error::DataLoss { .. })
}

const RESTORE: &str = "\nCopy the directory before anything else, and restore an older copy if there is one. If other \
                         stores hold its regions, too, leave this store stopped instead.";

/// An older copy would have forgotten what this store has promised to the others.
const REPLACE: &str = "\nThe other stores hold the region. Leave this store stopped, and they serve the region without it. Do not \
                       start it from an older copy. To replace it, start another store with an empty directory, then `rdbctl \
                       store remove` with the id of this one.";

/// What the operator of a damaged directory can do.
fn next_step(error: &OpenError) -> &'static str {
    match error {
        OpenError::Damaged {
            log_damage: Some(_),
            ..
        } => {
            "\nNothing was changed. Copy the directory before anything else. If there is an older copy, decide which one to \
             serve. `rdb-server --repair-wal` cuts the log at its damage: every write after that is lost, acknowledged ones \
             among them. If other stores hold its regions, too, leave this store stopped instead."
        }
        OpenError::Damaged { .. } | OpenError::DamagedIdentity { .. } => RESTORE,
        _ => "",
    }
}

/// A request is not served.
#[derive(Debug, Clone)]
pub(crate) enum Rejection {
    /// A routing answer: the request came to the wrong place or at the wrong time, and was certainly not applied.
    Routing(region_error::Kind),
    /// The caller has no right to it, or there are no rights that hold. It was certainly not applied.
    Denied(Fault),
    /// Anything else.
    Fault(Fault),
}

/// How long a client that met a full queue waits at least. While the disk works, a queue empties with every sync, within milliseconds.
pub(crate) const QUEUE_BACKOFF: Duration = Duration::from_millis(20);

/// The answer of a store that cannot serve now.
pub(crate) fn not_ready(reason: &str) -> NotReady {
    NotReady {
        reason: reason.to_owned(),
    }
}

/// The answer to a command of a stream.
impl From<Rejection> for batch_answer::Response {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::Routing(kind) => Self::RegionError(Box::new(kind.into())),
            Rejection::Denied(fault) | Rejection::Fault(fault) => {
                Self::Fault(Box::new(fault.into()))
            }
        }
    }
}

impl From<NotReady> for Rejection {
    fn from(not_ready: NotReady) -> Self {
        Self::Routing(region_error::Kind::NotReady(not_ready))
    }
}

impl From<rdb_storage::Error> for Rejection {
    fn from(error: rdb_storage::Error) -> Self {
        use rdb_storage::Error;
        let fate = match error.fate() {
            rdb_storage::Fate::NotApplied => Fate::NotApplied,
            rdb_storage::Fate::Unknown => Fate::Unknown,
        };
        let fault = |code| Fault::new(code, error.to_string()).with_fate(fate);
        Self::Fault(match &error {
            Error::InvalidArgument {
                field,
                limit,
                cause,
            } => Fault::invalid_argument(field, *limit, cause.as_str()),
            Error::Busy { .. } => return Self::Routing(busy(QUEUE_BACKOFF)),
            Error::NeedsRoom { .. } => return Self::Routing(busy(BYTES_BACKOFF)),
            Error::Closed => return not_ready("the store is shutting down").into(),
            Error::ResultTooLarge { limit_bytes } => Fault {
                field: "keys",
                limit: Some(*limit_bytes),
                ..fault(Code::ResourceExhausted)
            },
            // The fate says what the error's own words would say.
            Error::Undetermined { cause } => {
                Fault::new(Code::Internal, cause.clone()).with_fate(fate)
            }
            Error::Io { .. } => fault(Code::Internal),
            Error::WritesStopped { .. } => fault(Code::Unavailable),
            Error::DataLoss { .. } => fault(Code::DataLoss),
            // No data request gets these two: an outcome carries a conflict, and only registration assigns.
            Error::Conflict { .. } | Error::ForeignAssignment { .. } => fault(Code::Internal),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_an_older_copy_helps_a_damaged_region_depends_on_other_stores() {
        for has_others in [false, true] {
            let (region_id, cause) = (7, "damaged".to_owned());
            let error = ServerError::RegionDamaged {
                region_id,
                cause,
                has_others,
            };
            assert_eq!(error.failure(), Failure::Refused);
            let told = error.to_string();
            assert!(told.starts_with("region 7: damaged\n"), "{told}");
            assert_eq!(told.contains("restore an older copy"), !has_others);
            assert_eq!(
                told.contains("Do not start it from an older copy"),
                has_others
            );
            assert_eq!(told.contains("`rdbctl store remove`"), has_others);
        }
    }

    #[test]
    fn of_failures_of_the_storage_only_damage_needs_an_operator() {
        use rdb_storage::Error;
        let cause = || "/data/db/7.sst".to_owned();
        let damaged = ServerError::from(Error::DataLoss { cause: cause() });
        assert_eq!(damaged.failure(), Failure::Refused);
        let failed = ServerError::from(Error::Io { cause: cause() });
        assert_eq!(failed.failure(), Failure::Passing);
        for (error, is_damage) in [(damaged, true), (failed, false)] {
            let told = error.to_string();
            assert!(told.contains(": /data/db/7.sst"), "{told}");
            assert_eq!(told.contains("Copy the directory"), is_damage, "{told}");
        }
    }

    #[test]
    fn an_open_fate_is_not_said_in_words_again() {
        let cause = "IO error: no space left".to_owned();
        let rejection = Rejection::from(rdb_storage::Error::Undetermined { cause });
        let Rejection::Fault(fault) = rejection else {
            panic!("{rejection:?}");
        };
        assert_eq!(
            (fault.fate, fault.cause.as_str()),
            (Fate::Unknown, "IO error: no space left")
        );
    }
}
