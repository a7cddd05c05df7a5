//! Refused changes of users, on the wire.

use rdb_proto::auth::BadGrant;
use rdb_proto::auth::limits::{
    GRANTS_MAX, NAME_BYTES_MAX, PREFIX_BYTES_MAX, RIGHTS_BYTES_MAX, SUBJECT_BYTES_MAX, TOKENS_MAX,
    USERS_MAX,
};
use rdb_proto::error::Fault;
use rdb_proto::errorpb::Fate;
use tonic::{Code, Status};

use crate::auth::{AuthError, Refusal};

/// The status of a change that was not made.
pub(super) fn auth_fault(error: AuthError) -> Status {
    let (code, field, limit) = match &error {
        AuthError::Refused(refusal) => fault_of(refusal),
        AuthError::Denied(fault) => return fault.clone().into(),
        AuthError::Unusable(_) => (Code::Internal, "", None),
        AuthError::Storage(_) | AuthError::Busy | AuthError::Stopping | AuthError::Interrupted => {
            (Code::Unavailable, "", None)
        }
    };
    let fate = match &error {
        AuthError::Refused(_)
        | AuthError::Denied(_)
        | AuthError::Unusable(_)
        | AuthError::Busy
        | AuthError::Stopping => Fate::NotApplied,
        AuthError::Storage(error) => match error.fate() {
            rdb_storage::Fate::NotApplied => Fate::NotApplied,
            rdb_storage::Fate::Unknown => Fate::Unknown,
        },
        AuthError::Interrupted => Fate::Unknown,
    };
    let fault = Fault {
        field,
        limit: limit.map(|limit| limit as u64),
        ..Fault::new(code, error.to_string())
    };
    fault.with_fate(fate).into()
}

/// Whether somebody asks for the first admin who may not have one, and not for what does not fit.
pub(super) fn is_denial(error: &AuthError) -> bool {
    matches!(
        error,
        AuthError::Denied(_) | AuthError::Refused(Refusal::AdminExists)
    )
}

/// Code, field and limit of a refusal.
fn fault_of(refusal: &Refusal) -> (Code, &'static str, Option<usize>) {
    match refusal {
        Refusal::BadName => (Code::InvalidArgument, "name", Some(NAME_BYTES_MAX)),
        Refusal::LongSubject { .. } => (Code::InvalidArgument, "subject", Some(SUBJECT_BYTES_MAX)),
        Refusal::BadSubject { .. } | Refusal::NoCredential => {
            (Code::InvalidArgument, "subject", None)
        }
        Refusal::Grant(grant) => match grant {
            BadGrant::Role => (Code::InvalidArgument, "grant.role", None),
            BadGrant::Keyspace => (Code::InvalidArgument, "grant.keyspace", None),
            BadGrant::PrefixTooLong { .. } => (
                Code::InvalidArgument,
                "grant.prefix",
                Some(PREFIX_BYTES_MAX),
            ),
            BadGrant::Narrowed { .. } => (Code::InvalidArgument, "grant", None),
        },
        Refusal::NoUser { .. } => (Code::NotFound, "name", None),
        Refusal::NoGrant { .. } => (Code::NotFound, "grant", None),
        Refusal::UserExists { .. } => (Code::AlreadyExists, "name", None),
        Refusal::SubjectTaken { .. } => (Code::AlreadyExists, "subject", None),
        Refusal::AdminExists | Refusal::LastAdmin { .. } => (Code::FailedPrecondition, "", None),
        Refusal::TokensFull { .. } => (Code::FailedPrecondition, "change", Some(TOKENS_MAX)),
        Refusal::NoOtherToken { .. } => (Code::FailedPrecondition, "change", None),
        Refusal::UsersFull => (Code::FailedPrecondition, "", Some(USERS_MAX)),
        Refusal::GrantsFull { .. } => (Code::FailedPrecondition, "", Some(GRANTS_MAX)),
        Refusal::RightsFull => (Code::FailedPrecondition, "", Some(RIGHTS_BYTES_MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fate_is_unknown_only_where_the_change_may_have_been_written() {
        use rdb_storage::Error;
        let fate = |status: &Status| rdb_proto::error::details(status).map(|error| error.fate());
        let cause = || "the disk is full".to_owned();
        for (error, expected) in [
            (AuthError::Storage(Error::Closed), Fate::NotApplied),
            (
                AuthError::Storage(Error::WritesStopped { cause: cause() }),
                Fate::NotApplied,
            ),
            (AuthError::Busy, Fate::NotApplied),
            (AuthError::Stopping, Fate::NotApplied),
            (
                AuthError::Storage(Error::Undetermined { cause: cause() }),
                Fate::Unknown,
            ),
            (AuthError::Interrupted, Fate::Unknown),
        ] {
            let status = auth_fault(error);
            assert_eq!(status.code(), Code::Unavailable);
            assert_eq!(fate(&status), Some(expected), "{status}");
        }
        let refused = auth_fault(Refusal::AdminExists.into());
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(is_denial(&Refusal::AdminExists.into()));
        assert!(!is_denial(&Refusal::UsersFull.into()));
        assert_eq!(fate(&refused), Some(Fate::NotApplied));
    }
}
