//! The lines of the commands of a message.

use std::sync::Arc;

use rdb_proto::audit::{AuditEvent, AuditKey, AuditLog, AuditRank, outcome_of};
use rdb_proto::auth::Pass;
use rdb_proto::error::Fault;
use rdb_proto::kvrpc::BatchCommand;

use super::super::{Answered, Kind};
use super::{OutcomeAndCause, is_noted, rank_of, told};
use crate::error::Rejection;

/// A message of a stream.
#[derive(Debug)]
pub(crate) struct AuditedMessage {
    log: AuditLog,
    /// What all of its lines have.
    event: AuditEvent,
}

impl AuditedMessage {
    pub(super) fn new(log: AuditLog, event: AuditEvent) -> Self {
        Self { log, event }
    }

    /// Whether writes are noted that come to their region.
    pub(crate) fn notes_writes(&self) -> bool {
        self.log.notes_writes()
    }

    /// What is told of a key.
    pub(crate) fn key(&self, key: &[u8]) -> AuditKey {
        self.log.key(key)
    }

    /// A write was answered so, or given up, and not for want of a right.
    pub(crate) fn note_write(
        &self,
        kind: Kind,
        key: Option<AuditKey>,
        answered: Answered,
        rejection: Option<&Rejection>,
    ) {
        let told = told(answered, rejection);
        let event = self.event(AuditRank::Write, kind, 1, key, told);
        self.log.note(event);
    }

    /// A command was refused before it came to its region. If that was for who its sender is, it is left to `denials`.
    pub(crate) fn note_refused(
        &self,
        kind: Kind,
        key: Option<&[u8]>,
        answered: Answered,
        rejection: &Rejection,
        denials: &mut Denials,
    ) {
        let hashed = || key.map(|key| self.log.key(key));
        if let Rejection::Denied(fault) = rejection {
            denials.add(kind, fault, hashed);
        } else if is_noted(&self.log, kind, AuditRank::Write) {
            self.note_write(kind, hashed(), answered, Some(rejection));
        }
    }

    /// Notes what was gathered, each kind and reason as one line. `pass`: what the commands were checked against, where that is not what
    /// the message was.
    pub(crate) fn note_denials(&self, denials: Denials, pass: Option<&Pass>) {
        for denial in denials.0 {
            let Denial {
                kind,
                outcome,
                cause,
                count,
                key,
            } = denial;
            let told = (outcome, cause.into());
            let mut event = self.event(AuditRank::Refusal, kind, count, key, told);
            if let Some(pass) = pass {
                event.caller.user = pass.user().map(Arc::from);
            }
            self.log.note(event);
        }
    }

    /// All commands of the message were refused together. The line is about the first of those that are noted.
    pub(crate) fn note_all_refused(
        &self,
        commands: &[BatchCommand],
        answered: Answered,
        rejection: &Rejection,
    ) {
        let rank = rank_of(Some(rejection));
        let belongs_here =
            |command: &&BatchCommand| is_noted(&self.log, Kind::of_command(command), rank);
        let mut noted = commands.iter().filter(belongs_here);
        let Some(first) = noted.next() else {
            return;
        };
        let key = first
            .request
            .as_ref()
            .map(|request| self.log.key(request.key()));
        let (kind, count) = (Kind::of_command(first), 1 + noted.count());
        let told = told(answered, Some(rejection));
        let event = self.event(rank, kind, count, key, told);
        self.log.note(event);
    }

    fn event(
        &self,
        rank: AuditRank,
        kind: Kind,
        count: usize,
        key: Option<AuditKey>,
        (outcome, cause): OutcomeAndCause,
    ) -> AuditEvent {
        AuditEvent {
            rank,
            command: Some(kind.name()),
            count,
            key,
            outcome,
            cause,
            ..self.event.clone()
        }
    }
}

/// Commands of one message that its sender had no right to. There are as many of them as there are kinds and reasons.
#[derive(Debug, Default)]
pub(crate) struct Denials(Vec<Denial>);

#[derive(Debug)]
struct Denial {
    kind: Kind,
    outcome: &'static str,
    cause: String,
    count: usize,
    /// That of the first one.
    key: Option<AuditKey>,
}

impl Denials {
    fn add(&mut self, kind: Kind, fault: &Fault, key: impl FnOnce() -> Option<AuditKey>) {
        let mut known = self.0.iter_mut();
        let known = known.find(|denial| denial.kind == kind && denial.cause == fault.cause);
        if let Some(denial) = known {
            denial.count += 1;
            return;
        }
        self.0.push(Denial {
            kind,
            outcome: outcome_of(fault.code, fault.fate),
            cause: fault.cause.clone(),
            count: 1,
            key: key(),
        });
    }
}
