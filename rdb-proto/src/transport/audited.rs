//! What the transport notes in the audit log: the end of each call that is for admins or whose handler decides who may call, and each
//! refusal of a caller, on open streams, too.
//!
//! A call that finds no room for its request has asked for nothing yet, and is not noted.

use std::borrow::Cow;
use std::sync::Arc;

use hyper::HeaderMap;
use tonic::{Code, Status};

use super::access::Access;
use super::call::CallBudget;
use super::connection::Connection;
use super::methods::Method;
use crate::audit::{AuditCaller, AuditEvent, AuditKey, AuditLog, AuditRank, outcome_of};
use crate::auth::Caller;
use crate::error::{Fault, details};
use crate::errorpb::Fate;

/// A call whose end is noted.
pub(super) struct Audited {
    log: AuditLog,
    call: Arc<CallBudget>,
}

impl Audited {
    /// `None`: the end of the call is not noted.
    pub(super) fn of(call: &Arc<CallBudget>) -> Option<Box<Self>> {
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
        self.log.note(AuditEvent {
            rank: self.rank(code),
            asked: asked.map_or(Cow::Borrowed(""), |asked| Cow::Owned(asked.words.clone())),
            key: asked.and_then(|asked| asked.key),
            cause,
            ..self.call.audit_event(outcome_of(code, fate))
        });
    }

    /// A call that everybody may make is for administrators when its handler says what it asks for: it makes the first one.
    fn rank(&self, code: Code) -> AuditRank {
        let is_for_admins =
            self.call.method.access == Access::Admin || self.call.asked.get().is_some();
        if is_for_admins && !matches!(code, Code::Unauthenticated | Code::PermissionDenied) {
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

impl CallBudget {
    fn audit_caller(&self) -> AuditCaller {
        of(&self.connection, self.caller())
    }

    /// What the audit log tells of the call, when that has ended so.
    pub fn audit_event(&self, outcome: &'static str) -> AuditEvent {
        AuditEvent::of_call(self.audit_caller(), self.method.names(), outcome)
    }

    /// Tells what the call asks for, for the audit log: in words without keys, values and tokens. They are made only where there is a
    /// log.
    pub fn note_asked(&self, words: impl FnOnce() -> String) {
        self.note_asked_of(None, words);
    }

    /// The same of what has a key in it, whose length and hash are told.
    pub fn note_asked_of(&self, key: Option<&[u8]>, words: impl FnOnce() -> String) {
        if let Some(log) = self.connection.audit.get() {
            self.asked.get_or_init(|| Asked {
                words: words(),
                key: key.map(|key| log.key(key)),
            });
        }
    }
}
