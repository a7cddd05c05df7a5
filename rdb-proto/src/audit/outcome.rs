//! The outcome of a call, in a word.

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
        // A server that fails in the middle of a call may not know what was done.
        Code::Unknown | Code::DeadlineExceeded | Code::Internal if fate != Fate::NotApplied => {
            "undetermined"
        }
        Code::Unknown
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Internal
        | Code::DataLoss => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_certainly_not_done_has_failed() {
        for (code, fate, outcome) in [
            (Code::Internal, Fate::Unspecified, "undetermined"),
            (Code::DeadlineExceeded, Fate::Unspecified, "undetermined"),
            (Code::Internal, Fate::NotApplied, "failed"),
            (Code::Unavailable, Fate::Unknown, "undetermined"),
            (Code::Unavailable, Fate::NotApplied, "unavailable"),
            (Code::PermissionDenied, Fate::NotApplied, "denied"),
            (Code::Cancelled, Fate::Unspecified, "given_up"),
        ] {
            assert_eq!(outcome_of(code, fate), outcome, "{code:?} {fate:?}");
        }
    }
}
