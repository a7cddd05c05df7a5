//! What the audit log has of commands: each one that its caller had no right to, and with `--audit-writes` each write.
//!
//! A command that is a call is one line, with the number of its keys. So is a message of a stream that is refused as a whole. Otherwise each
//! write of a message has its own, and those commands share one that are refused for the same reason ([`Denials`]): whoever sends thousands
//! of them in a message writes no thousands of lines.
//!
//! The line of a batch has the first key, or the one that its caller had no right to. With `--audit-writes`, that of one that came to its
//! region has each key, up to a bound.

mod call;
mod message;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;

use rdb_proto::audit::{AuditLog, AuditRank, outcome_of};
use rdb_proto::auth::Pass;
use rdb_proto::transport::Call;

use super::{Answered, Kind};
use crate::error::Rejection;

pub(super) use call::AuditedCall;
pub(crate) use message::{AuditedMessage, Denials};

/// The audit log, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Audit(Option<AuditLog>);

impl Audit {
    pub(super) fn of(log: Option<AuditLog>) -> Self {
        Self(log)
    }

    /// For the commands of a message that has come with `call`. `None`: none of them is noted.
    ///
    /// `pass` is what it is checked against: its user has sent it, whoever the caller was when the stream began. `None`: there is none
    /// for this caller.
    pub(crate) fn of_message(
        &self,
        call: &Call,
        pass: Option<&Pass>,
    ) -> Option<Arc<AuditedMessage>> {
        let log = self.0.as_ref()?;
        // Its outcome is another one for each command.
        let mut event = call.audit_event("");
        if let Some(pass) = pass {
            event.caller.user = pass.user().map(Arc::from);
        }
        Some(Arc::new(AuditedMessage::new(log.clone(), event)))
    }

    /// For the command that a call is.
    pub(super) fn begin(&self) -> Option<Box<AuditedCall>> {
        let log = self.0.as_ref()?;
        Some(Box::new(AuditedCall::new(log.clone())))
    }
}

/// Whether a command of this kind is noted with this rank.
fn is_noted(log: &AuditLog, kind: Kind, rank: AuditRank) -> bool {
    rank == AuditRank::Refusal || (kind.is_write() && log.notes_writes())
}

fn rank_of(rejection: Option<&Rejection>) -> AuditRank {
    match rejection {
        Some(Rejection::Denied(_)) => AuditRank::Refusal,
        Some(Rejection::Routing(_) | Rejection::Fault(_)) | None => AuditRank::Write,
    }
}

type OutcomeAndCause = (&'static str, Cow<'static, str>);

fn told(answered: Answered, rejection: Option<&Rejection>) -> OutcomeAndCause {
    match rejection {
        Some(Rejection::Denied(fault)) => {
            let outcome = outcome_of(fault.code, fault.fate);
            (outcome, Cow::Owned(fault.cause.clone()))
        }
        Some(Rejection::Fault(fault)) => (answered.name(), Cow::Owned(fault.cause.clone())),
        Some(Rejection::Routing(_)) | None => (answered.name(), Cow::Borrowed("")),
    }
}
