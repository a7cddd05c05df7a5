//! Failures of the targets, grouped.

use rdb_client::Error;
use tonic::Status;

use crate::bench::recorder::OperationError;

impl From<Error> for OperationError {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Conflict { .. } => "conflict",
            Error::Undetermined { .. } => "undetermined",
            Error::InvalidArgument { .. } => "invalid argument",
            Error::Busy { .. } => "busy",
            Error::Unavailable { .. } => "unavailable",
            Error::DeadlineExceeded { .. } => "deadline exceeded",
            Error::DataLoss { .. } => "data loss",
            Error::ClusterMismatch { .. } => "cluster mismatch",
            _ => "internal",
        };
        Self {
            kind: kind.to_owned(),
            message: error.to_string(),
        }
    }
}

impl From<Status> for OperationError {
    fn from(status: Status) -> Self {
        Self {
            kind: format!("gRPC {:?}", status.code()),
            message: status.to_string(),
        }
    }
}
