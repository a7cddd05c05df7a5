//! What the transport notes in the audit log: the end of each call that is for admins, or whose handler decides who may call; and
//! each refusal of a caller, also on open streams.
//!
//! A call that finds no room for its request has asked for nothing yet, and is not noted.

use std::borrow::Cow;
use std::sync::Arc;

use hyper::HeaderMap;
use tonic::{Code, Status};

use super::access::Access;
use super::call::Call;
use super::connection::Connection;
use super::methods::Method;
use crate::audit::{AuditCaller, AuditEvent, AuditKey, AuditLog, AuditRank, outcome_of};
use crate::auth::Caller;
use crate::error::{Fault, details};
use crate::errorpb::Fate;

/// A call whose end is noted.
pub(super) struct Audited {
    log: AuditLog,
    call: Arc<Call>,
}

impl Audited {
    /// `None`: the end of the call is not noted.
    pub(super) fn of(call: &Arc<Call>) -> Option<Box<Self>> {
        let log = call.connection.audit.get()?;
        let is_noted = matches!(call.method.access, Access::Admin | Access::ByHandler);
        is_noted.then(|| {
            Box::new(Self {
                log: log.clone(),
                call: Arc::clone(call),
            })
        })
    }

    /// Notes that the call has ended with a code. Without headers it ended without an answer.
    pub(super) fn end(&self, code: Code, headers: Option<&HeaderMap>) {
        let status = headers.and_then(Status::from_header_map);
        let error = status.as_ref().and_then(details);
        let fate = error.map_or(Fate::Unspecified, |error| error.fate());
        let cause = status.map_or(Cow::Borrowed(""), |status| {
            Cow::Owned(status.message().to_owned())
        });
        let asked = self.call.asked.get();
        let outcome = outcome_of(code, fate);
        self.log.note(AuditEvent {
            rank: self.rank(code, outcome),
            asked: asked.map_or(Cow::Borrowed(""), |asked| Cow::Owned(asked.words.clone())),
            key: asked.and_then(|asked| asked.key),
            cause,
            ..self.call.audit_event(outcome)
        });
    }

    /// Failed requests of administrators are administrative, too: nobody else comes that far. A call that everybody may make is
    /// administrative only if it may have been done, and so may have made the first administrator. Anybody can cause refusals
    /// without limit.
    fn rank(&self, code: Code, outcome: &str) -> AuditRank {
        let is_administrative = if self.call.method.access == Access::Admin {
            !matches!(code, Code::Unauthenticated | Code::PermissionDenied)
        } else {
            let may_be_done = matches!(outcome, "ok" | "undetermined" | "given_up");
            self.call.asked.get().is_some() && may_be_done
        };
        if is_administrative {
            AuditRank::Administrative
        } else {
            AuditRank::Refusal
        }
    }
}

/// What a call asks for.
#[derive(Debug)]
pub(super) struct Asked {
    words: String,
    key: Option<AuditKey>,
}

/// Notes that a caller was refused before its call, or its message on a stream, was looked at.
pub(super) fn note_denied(
    connection: &Connection,
    caller: &Caller,
    method: &Method,
    refusal: &Fault,
) {
    let Some(log) = connection.audit.get() else {
        return;
    };
    let outcome = outcome_of(refusal.code, refusal.fate);
    log.note(AuditEvent {
        cause: Cow::Owned(refusal.cause.clone()),
        ..AuditEvent::of_call(of(connection, caller), method.names(), outcome)
    });
}

fn of(connection: &Connection, caller: &Caller) -> AuditCaller {
    AuditCaller {
        user: caller.name(),
        identity: connection.peer_identity.get().cloned(),
        peer: connection.peer,
    }
}

impl Call {
    fn audit_caller(&self) -> AuditCaller {
        of(&self.connection, self.caller())
    }

    /// What the audit log tells of the call, when that has ended so.
    pub fn audit_event(&self, outcome: &'static str) -> AuditEvent {
        AuditEvent::of_call(self.audit_caller(), self.method.names(), outcome)
    }

    /// Notes for the audit log what the call asks for, in words without keys, values and tokens. They are made only if there is a log.
    pub fn note_asked(&self, words: impl FnOnce() -> String) {
        self.note_asked_of(None, words);
    }

    /// The same for a request with a key, whose length and hash are noted.
    pub fn note_asked_of(&self, key: Option<&[u8]>, words: impl FnOnce() -> String) {
        if let Some(log) = self.connection.audit.get() {
            self.asked.get_or_init(|| Asked {
                words: words(),
                key: key.map(|key| log.key(key)),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use tokio_util::sync::CancellationToken;

    use super::super::budget::{ByteBudget, ProcessBudgets};
    use super::*;

    const ENABLE: &str = "/authpb.Auth/Enable";
    const ADD_USER: &str = "/authpb.Auth/AddUser";
    const CHECK: &str = "/authpb.Auth/Check";

    fn call(log: &AuditLog, path: &str) -> Arc<Call> {
        let process = ProcessBudgets {
            clients: ByteBudget::new(0),
            stores: ByteBudget::new(0),
        };
        let connection = Connection::new(&process, CancellationToken::new());
        connection.audit.get_or_init(|| log.clone());
        let connection = Arc::new(connection);
        let method = Method::of(path);
        Call::new(connection, method, None, Caller::anyone(), None, None)
    }

    /// The headers of the answer of a call that ends so.
    fn answer(code: Code, fate: Fate) -> HeaderMap {
        let status = match code {
            Code::Ok => Status::ok(""),
            code => Fault::new(code, "why").with_fate(fate).into(),
        };
        status.into_http::<()>().headers().clone()
    }

    #[test]
    fn what_anybody_is_refused_takes_no_room_of_administrators() {
        let directory = TempDir::new().expect("it can be written");
        let log = AuditLog::unwritten(directory.path().join("log"));
        // Whether the end of such a call finds room.
        let is_noted = |path: &str, code, fate| {
            let call = call(&log, path);
            if path != CHECK {
                call.note_asked(|| "something".to_owned());
            }
            let dropped = log.dropped();
            let audited = Audited::of(&call).expect("its end is noted");
            match code {
                Code::Cancelled => audited.end(code, None),
                code => audited.end(code, Some(&answer(code, fate))),
            }
            log.dropped() == dropped
        };
        let (not_applied, unknown) = (Fate::NotApplied, Fate::Unknown);
        while is_noted(ENABLE, Code::FailedPrecondition, not_applied) {}
        for (path, code, fate, expected) in [
            (ENABLE, Code::InvalidArgument, not_applied, false),
            (ENABLE, Code::PermissionDenied, not_applied, false),
            (ENABLE, Code::Unavailable, not_applied, false),
            (CHECK, Code::Ok, Fate::Unspecified, false),
            (CHECK, Code::NotFound, not_applied, false),
            (ADD_USER, Code::PermissionDenied, not_applied, false),
            (ADD_USER, Code::AlreadyExists, not_applied, true),
            (ADD_USER, Code::Ok, Fate::Unspecified, true),
            (ENABLE, Code::Ok, Fate::Unspecified, true),
            (ENABLE, Code::Unavailable, unknown, true),
            (ENABLE, Code::Cancelled, Fate::Unspecified, true),
        ] {
            assert_eq!(is_noted(path, code, fate), expected, "{path}: {code:?}");
        }
    }
}
