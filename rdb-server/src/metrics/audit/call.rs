//! The line of a command that is a call.

use bytes::Bytes;
use rdb_proto::audit::{AuditEvent, AuditKey, AuditLog, AuditRank, EVENT_KEYS_MAX};
use rdb_proto::transport::Call;

use super::super::{Answered, Kind};
use super::{is_noted, rank_of, told};
use crate::error::Rejection;

/// A command that is a call, while it is served.
#[derive(Debug)]
pub(in crate::metrics) struct AuditedCall {
    log: AuditLog,
    keys: Keys,
    count: usize,
    /// What it has ended with, if that has a cause.
    rejection: Option<Rejection>,
}

/// The keys of a command that are told of.
#[derive(Debug)]
struct CommandKeys<K> {
    /// The only one, the first one, the refused one, or where a range begins.
    key: K,
    /// Those of a batch whose writes are noted, with the first one: at most [`EVENT_KEYS_MAX`]. Otherwise none.
    each: Vec<K>,
    /// Where a range ends.
    end: Option<K>,
}

/// The keys of a command.
#[derive(Debug)]
enum Keys {
    Unknown,
    /// They keep the buffer of the request. A hash costs more than a read from memory, and most reads need none.
    Held(CommandKeys<Bytes>),
    Hashed(CommandKeys<AuditKey>),
}

impl CommandKeys<Bytes> {
    fn hashed(&self, log: &AuditLog) -> CommandKeys<AuditKey> {
        CommandKeys {
            key: log.key(&self.key),
            each: self.each.iter().map(|key| log.key(key)).collect(),
            end: self.end.as_ref().map(|end| log.key(end)),
        }
    }
}

impl AuditedCall {
    pub(super) fn new(log: AuditLog) -> Self {
        Self {
            log,
            keys: Keys::Unknown,
            count: 1,
            rejection: None,
        }
    }

    /// A command of this kind is about these keys, or about those from the first one on and before `end`.
    pub(in crate::metrics) fn note_keys(
        &mut self,
        kind: Kind,
        keys: &[Bytes],
        end: Option<&Bytes>,
    ) {
        let Some(first) = keys.first() else {
            return;
        };
        let each = if keys.len() > 1 && is_noted(&self.log, kind, AuditRank::Write) {
            keys.iter().take(EVENT_KEYS_MAX).cloned().collect()
        } else {
            Vec::new()
        };
        self.count = keys.len();
        self.keys = Keys::Held(CommandKeys {
            key: first.clone(),
            each,
            end: end.cloned(),
        });
    }

    /// Its caller has no right to this one of the keys, which is told of in place of the first one.
    pub(in crate::metrics) fn note_denied_key(&mut self, denied_key: &Bytes) {
        if let Keys::Held(keys) = &mut self.keys {
            keys.key = denied_key.clone();
        }
    }

    /// A command of this kind has its region: its caller has the right to it. What is not needed any more is let go of.
    pub(in crate::metrics) fn note_routed(&mut self, kind: Kind) {
        if let Keys::Held(keys) = &self.keys {
            self.keys = if is_noted(&self.log, kind, AuditRank::Write) {
                Keys::Hashed(keys.hashed(&self.log))
            } else {
                Keys::Unknown
            };
        }
    }

    pub(in crate::metrics) fn note_rejection(&mut self, rejection: &Rejection) {
        if let Keys::Held(keys) = &mut self.keys {
            // Nobody knows whether its caller has the right to them, and anybody can cause that without limit.
            keys.each.clear();
        }
        if !matches!(rejection, Rejection::Routing(_)) {
            self.rejection = Some(rejection.clone());
        }
    }

    /// It was answered so, or given up.
    pub(in crate::metrics) fn end(self, call: &Call, kind: Kind, answered: Answered) {
        let rejection = self.rejection.as_ref();
        let rank = rank_of(rejection);
        if !is_noted(&self.log, kind, rank) {
            return;
        }
        let (outcome, cause) = told(answered, rejection);
        let mut event = AuditEvent {
            rank,
            command: Some(kind.name()),
            count: self.count,
            cause,
            ..call.audit_event(outcome)
        };
        let hashed = match self.keys {
            Keys::Held(keys) => Some(keys.hashed(&self.log)),
            Keys::Hashed(hashed) => Some(hashed),
            Keys::Unknown => None,
        };
        if let Some(CommandKeys { key, each, end }) = hashed {
            (event.key, event.keys, event.end_key) = (Some(key), each, end);
        }
        self.log.note(event);
    }
}
