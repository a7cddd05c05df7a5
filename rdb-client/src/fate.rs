//! The fate of a request that got a gRPC status instead of a response.
//!
//! For a write there is one question: is it certain that it was not applied? It is certain when the server says so in the
//! details of the status, and when the connection knows that the server never processed the request ([`ConnectionError`]).
//! In any other case its fate is unknown, even if the status code suggests otherwise. (A routing answer is certain, too.
//! `routing` handles those.)

use rdb_proto::error::details;
use rdb_proto::errorpb::{self, Fate};
use rdb_proto::transport::limits::BYTES_BACKOFF;
use tonic::{Code, Status};

use crate::connection::ConnectionError;
use crate::retry::{Failure, Pace};
use crate::rpc::Access;
use crate::{Cause, Error};

/// The failure of an attempt that ended in `status`.
pub(crate) fn failure(access: Access, status: &Status, place: &str) -> Failure {
    let details = details(status);
    let cause = Cause::of(cause(status, place), status.clone());
    if access == Access::Write && !is_unprocessed(status) {
        return Error::undetermined(cause).into();
    }
    if is_local(status) {
        return Failure::again(Error::unavailable(cause));
    }
    if let Some(refusal) = refusal(status) {
        return refusal.into();
    }
    match status.code() {
        Code::InvalidArgument => invalid_argument(details, cause).into(),
        Code::DataLoss => Error::DataLoss { cause }.into(),
        Code::NotFound => Error::NotFound {
            cause: told(details, status),
        }
        .into(),
        Code::FailedPrecondition | Code::AlreadyExists => Error::Refused {
            cause: told(details, status),
        }
        .into(),
        // Another try would get the same answer: the values do not fit into one message.
        Code::ResourceExhausted if names_field(details.as_ref(), "keys") => {
            invalid_argument(details, cause).into()
        }
        Code::ResourceExhausted => Failure::Again {
            pace: Pace::AtLeast(BYTES_BACKOFF),
            error: Error::busy(cause),
        },
        Code::Unavailable | Code::Aborted => Failure::again(Error::unavailable(cause)),
        // A server that ends may send one of these. Another try may reach its successor.
        Code::Unknown | Code::Cancelled => Failure::again(Error::unavailable(cause)),
        // Another process has the address. The placement driver may know where the store is.
        Code::Unimplemented if details.is_none() => Failure::again(Error::unavailable(cause)),
        Code::Ok
        | Code::DeadlineExceeded
        | Code::PermissionDenied
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::Unauthenticated => Error::internal(cause).into(),
    }
}

/// The error of a call that the server does not let this client make, if `status` says so: no other try helps.
pub(crate) fn refusal(status: &Status) -> Option<Error> {
    let cause = || told(details(status), status);
    match status.code() {
        _ if is_local(status) => None,
        Code::PermissionDenied => Some(Error::PermissionDenied { cause: cause() }),
        Code::Unauthenticated => Some(Error::Unauthenticated { cause: cause() }),
        _ => None,
    }
}

/// Whether the connection gave no answer, or not all of it. Otherwise the server sent the status.
pub(crate) fn is_local(status: &Status) -> bool {
    ConnectionError::of(status).is_some()
}

/// Whether the connection cannot be used any more.
pub(crate) fn is_broken(status: &Status) -> bool {
    ConnectionError::of(status).is_some_and(ConnectionError::is_broken)
}

/// Whether the server says that it did not apply the request, or the connection that the server did not process it.
pub(crate) fn is_unprocessed(status: &Status) -> bool {
    match ConnectionError::of(status) {
        Some(error) => error.is_unprocessed(),
        None => details(status).is_some_and(|details| details.fate() == Fate::NotApplied),
    }
}

/// One line: the place and the message. For a failed connection the message is the innermost error; the outer ones only
/// name the layers that it passed.
pub(crate) fn cause(status: &Status, place: &str) -> String {
    let innermost = ConnectionError::of(status).map(ConnectionError::cause);
    match (innermost, status.message()) {
        (Some(error), _) => format!("{place}: the connection failed: {error}"),
        (None, "") => format!("{place}: {}", status.code().description()),
        (None, message) => format!("{place}: {message}"),
    }
}

/// The server's own message to the caller, without the server's address.
fn told(details: Option<errorpb::Error>, status: &Status) -> Cause {
    let told = details.map_or_else(|| status.message().to_owned(), |details| details.cause);
    Cause::of(told, status.clone())
}

fn names_field(details: Option<&errorpb::Error>, field: &str) -> bool {
    details.is_some_and(|details| details.field == field)
}

fn invalid_argument(details: Option<errorpb::Error>, cause: Cause) -> Error {
    match details {
        Some(details) if !details.field.is_empty() => {
            Error::invalid_argument(details.field, details.limit, details.cause)
        }
        _ => Error::invalid_argument("request", None, &*cause),
    }
}

#[cfg(test)]
mod tests {
    use rdb_proto::error::Fault;

    use super::*;

    fn fault(code: Code, fate: Fate) -> Status {
        Fault::new(code, "because").with_fate(fate).into()
    }

    fn write(status: &Status) -> Failure {
        failure(Access::Write, status, "store 1")
    }

    fn read(status: &Status) -> Failure {
        failure(Access::Read, status, "store 1")
    }

    fn is_again(failure: &Failure) -> bool {
        matches!(failure, Failure::Again { .. })
    }

    const ALL_CODES: [Code; 16] = [
        Code::Cancelled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
    ];

    #[test]
    fn a_write_without_word_of_its_fate_is_undetermined_whatever_the_code() {
        for code in ALL_CODES {
            for status in [
                Status::new(code, "bare"),
                fault(code, Fate::Unknown),
                fault(code, Fate::Unspecified),
            ] {
                let failure = write(&status);
                assert!(
                    matches!(&failure, Failure::Final(Error::Undetermined { cause }) if cause.starts_with("store 1")),
                    "{failure:?}"
                );
            }
        }
    }

    #[test]
    fn a_write_that_was_not_applied_is_tried_again_only_where_that_can_help() {
        let again = |code| is_again(&write(&fault(code, Fate::NotApplied)));
        assert!(again(Code::Unavailable) && again(Code::ResourceExhausted));
        for code in [
            Code::InvalidArgument,
            Code::DataLoss,
            Code::FailedPrecondition,
            Code::AlreadyExists,
            Code::PermissionDenied,
            Code::Unauthenticated,
            Code::Internal,
        ] {
            let failure = write(&fault(code, Fate::NotApplied));
            assert!(
                !matches!(
                    failure,
                    Failure::Again { .. } | Failure::Final(Error::Undetermined { .. })
                ),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn a_read_is_tried_again_except_on_damage_and_bad_arguments() {
        for code in [
            Code::Unavailable,
            Code::Unknown,
            Code::Cancelled,
            Code::ResourceExhausted,
        ] {
            assert!(is_again(&read(&Status::new(code, "bare"))), "{code:?}");
        }
        let damage = read(&Status::data_loss("a block"));
        assert!(
            matches!(damage, Failure::Final(Error::DataLoss { .. })),
            "{damage:?}"
        );
        let wrong = read(&Fault::invalid_argument("key", Some(8192), "too long").into());
        assert!(
            matches!(&wrong, Failure::Final(Error::InvalidArgument { field, limit: Some(8192), .. }) if field == "key"),
            "{wrong:?}"
        );
        for failure in [read, write] {
            let cause = || "because".into();
            for (code, expected) in [
                (Code::NotFound, Error::NotFound { cause: cause() }),
                (Code::FailedPrecondition, Error::Refused { cause: cause() }),
                (Code::AlreadyExists, Error::Refused { cause: cause() }),
                (
                    Code::PermissionDenied,
                    Error::PermissionDenied { cause: cause() },
                ),
                (
                    Code::Unauthenticated,
                    Error::Unauthenticated { cause: cause() },
                ),
            ] {
                let told = failure(&fault(code, Fate::NotApplied));
                assert!(
                    matches!(&told, Failure::Final(error) if *error == expected),
                    "{told:?}"
                );
            }
        }
        let bug = read(&fault(Code::Internal, Fate::Unspecified));
        assert!(
            matches!(bug, Failure::Final(Error::Internal { .. })),
            "{bug:?}"
        );
    }

    #[test]
    fn a_batch_read_that_does_not_fit_says_to_ask_for_less() {
        let status = Status::from(Fault {
            field: "keys",
            limit: Some(6 << 20),
            ..Fault::new(
                Code::ResourceExhausted,
                "the values have more than 6291456 bytes; ask for fewer keys",
            )
        });
        let failure = read(&status);
        assert!(
            matches!(&failure, Failure::Final(Error::InvalidArgument { field, .. }) if field == "keys"),
            "{failure:?}"
        );
    }
}
