//! What became of a call, in a word.

use tonic::Code;

use crate::errorpb::Fate;

/// The word for the end of a call with this code: `ok`, `unauthenticated` (nobody knows who it was), `denied` (a right is missing), `invalid`
/// (it breaks a limit, or says what it must not), `refused` (it does not fit the state of things), `unavailable`, `undetermined` (it may
/// have been done), `failed`, `given_up` (the call ended without an answer).
pub fn outcome_of(code: Code, fate: Fate) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Unauthenticated => "unauthenticated",
        Code::PermissionDenied => "denied",
        _ if fate == Fate::Unknown => "undetermined",
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => "invalid",
        Code::FailedPrecondition | Code::NotFound | Code::AlreadyExists => "refused",
        Code::Unavailable | Code::ResourceExhausted => "unavailable",
        Code::Cancelled => "given_up",
        Code::Unknown
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Internal
        | Code::DataLoss => "failed",
    }
}
