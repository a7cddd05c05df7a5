//! What a refused caller is told. Each refusal is made here, and says that nothing was applied.
//!
//! No refusal contains a key, a token, or what a caller has sent instead of a token.

use std::time::Duration;

use tonic::Code;

use super::role::{Keyspace, Permission, Role};
use crate::error::Fault;
use crate::errorpb::Fate;

/// What a user lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    AnyRole,
    Role(Role),
    Key(Permission, Keyspace),
    Range(Permission, Keyspace),
}

/// The user may not do this.
pub(super) fn denied(user: &str, missing: Missing) -> Fault {
    let right = match missing {
        Missing::AnyRole => "any role".to_owned(),
        Missing::Role(role) => role.to_string(),
        Missing::Key(permission, keyspace) => {
            let role = permission.role();
            format!("{role} over this key of the {keyspace} keyspace")
        }
        Missing::Range(permission, keyspace) => {
            let role = permission.role();
            format!("{role} over all of this range of the {keyspace} keyspace")
        }
    };
    let cause = format!("user {user} lacks the right: {right}");
    fault(Code::PermissionDenied, cause)
}

/// The caller has shown nothing.
pub(super) fn nobody() -> Fault {
    let cause = "the call needs a token, or a client certificate that is a user's";
    fault(Code::Unauthenticated, cause)
}

/// What the caller has sent is no token.
pub(super) fn malformed() -> Fault {
    let cause = "the call has something else than one token in its header authorization: expected Bearer, a space, and the token";
    fault(Code::Unauthenticated, cause)
}

/// The token is nobody's.
pub(super) fn unknown_token() -> Fault {
    fault(Code::Unauthenticated, "the token is no user's")
}

/// The certificate is nobody's.
pub(super) fn unknown_subject() -> Fault {
    let cause = "the call has no token, and the subject of the client certificate is no user's";
    fault(Code::Unauthenticated, cause)
}

/// Nobody can be let in yet.
pub(super) fn no_rights() -> Fault {
    fault(
        Code::Unavailable,
        "this store has no copy of the rights yet",
    )
}

/// The rights are too old to admit anybody. Its text has no figures that change by themselves: a cause that stays the same is logged once.
pub(super) fn stale(stale_max: Duration) -> Fault {
    let cause = format!(
        "the rights are older than --auth-stale-max-s, {} s: this store gets no newer ones, and `rdbctl health` says why",
        stale_max.as_secs()
    );
    fault(Code::Unavailable, cause)
}

fn fault(code: Code, cause: impl Into<String>) -> Fault {
    Fault::new(code, cause).with_fate(Fate::NotApplied)
}
