//! What the audit log has of commands: each one that its caller had no right to, and with `--audit-writes` each write.
//!
//! A command that is a call is one line, with the number of its keys. So is a message of a stream that is refused as a whole. Otherwise each
//! write of a message has its own, and those commands share one that are refused for the same reason ([`Denials`]): whoever sends thousands
//! of them in a message writes no thousands of lines.
//!
//! The line of a batch has the first key, or the one that its caller had no right to. With `--audit-writes`, that of one that came to its
//! region has each key, up to a bound.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use rdb_proto::audit::{AuditEvent, AuditKey, AuditLog, AuditRank, EVENT_KEYS_MAX, outcome_of};
use rdb_proto::auth::Pass;
use rdb_proto::error::Fault;
use rdb_proto::kvrpc::BatchCommand;
use rdb_proto::transport::Call;

use super::{Answered, Kind};
use crate::error::Rejection;

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
        Some(Arc::new(AuditedMessage {
            log: log.clone(),
            event,
        }))
    }

    /// For the command that a call is.
    pub(super) fn begin(&self) -> Option<Box<AuditedCall>> {
        let log = self.0.as_ref()?;
        Some(Box::new(AuditedCall {
            log: log.clone(),
            keys: Keys::Unknown,
            count: 1,
            rejection: None,
        }))
    }
}

/// A command that is a call, while it is served.
#[derive(Debug)]
pub(super) struct AuditedCall {
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
    /// A command of this kind is about these keys, or about those from the first one on and before `end`.
    pub(super) fn note_keys(&mut self, kind: Kind, keys: &[Bytes], end: Option<&Bytes>) {
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
    pub(super) fn note_denied_key(&mut self, denied_key: &Bytes) {
        if let Keys::Held(keys) = &mut self.keys {
            keys.key = denied_key.clone();
        }
    }

    /// A command of this kind has its region: its caller has the right to it. What is not needed any more is let go of.
    pub(super) fn note_routed(&mut self, kind: Kind) {
        if let Keys::Held(keys) = &self.keys {
            self.keys = if is_noted(&self.log, kind, AuditRank::Write) {
                Keys::Hashed(keys.hashed(&self.log))
            } else {
                Keys::Unknown
            };
        }
    }

    pub(super) fn note_rejection(&mut self, rejection: &Rejection) {
        if let Keys::Held(keys) = &mut self.keys {
            // Nobody knows whether its caller has the right to them, and anybody can cause that without limit.
            keys.each.clear();
        }
        if !matches!(rejection, Rejection::Routing(_)) {
            self.rejection = Some(rejection.clone());
        }
    }

    /// It was answered so, or given up.
    pub(super) fn end(self, call: &Call, kind: Kind, answered: Answered) {
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

/// A message of a stream.
#[derive(Debug)]
pub(crate) struct AuditedMessage {
    log: AuditLog,
    /// What all of its lines have.
    event: AuditEvent,
}

impl AuditedMessage {
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

#[cfg(test)]
mod tests {
    use std::fs;

    use rdb_proto::audit::{AuditOptions, AuditWriter};
    use rdb_proto::auth::{Caller, Guard, Rights, Token};
    use rdb_proto::authpb;
    use rdb_proto::errorpb::Fate;
    use rdb_proto::kvrpc::batch_command::Request;
    use rdb_proto::kvrpc::{RawGetRequest, RawPutRequest};
    use rdb_proto::spans::Origin;
    use serde_json::Value;
    use tempfile::TempDir;
    use tonic::Code;

    use super::super::{Begun, Figures};
    use super::*;

    struct Audited {
        figures: Figures,
        log: AuditLog,
        writer: AuditWriter,
        call: Arc<Call>,
        directory: TempDir,
    }

    impl Audited {
        fn start(notes_writes: bool) -> Self {
            let directory = TempDir::new().expect("it can be written");
            let options = AuditOptions {
                origin: Origin {
                    program: "test",
                    version: "1.2.3",
                    instance: "here".to_owned(),
                },
                file_bytes_max: 1 << 20,
                notes_writes,
            };
            let opened = AuditLog::open(directory.path().join("log"), options);
            let (log, writer) = opened.expect("it can be written");
            Self {
                figures: Figures::default().audited_by(Some(log.clone())),
                log,
                writer,
                call: Call::of(&tonic::Request::new(())),
                directory,
            }
        }

        /// A call that is about a key and has found its region if it may.
        fn begin(&self, kind: Kind, may: bool) -> Begun<'_> {
            let mut begun = self.figures.commands.begin(kind, &self.call);
            begun.note_key(&"key".into());
            if may {
                begun.note_region(1);
            }
            begun
        }

        /// A batch that is about these keys.
        fn begin_batch(&self, keys: &[Bytes]) -> Begun<'_> {
            let mut batch = self
                .figures
                .commands
                .begin(Kind::RawBatchDelete, &self.call);
            batch.note_keys(keys);
            batch
        }

        /// Command, count, hashes, outcome and cause of each line.
        fn end(self) -> Vec<String> {
            self.writer.end();
            let text = fs::read_to_string(self.directory.path().join("log"));
            let lines = text.expect("it is there");
            let lines = lines.lines().map(|line| {
                let line: Value = serde_json::from_str(line).expect("JSON");
                line.get("call")?;
                let names = [
                    "user",
                    "command",
                    "count",
                    "key_hash",
                    "keys",
                    "keys_left_out",
                    "end_key_hash",
                    "outcome",
                ];
                let told = names.into_iter().chain(["cause"]);
                let told = told.filter_map(|name| {
                    let told = line.get(name)?;
                    Some(
                        told.as_str()
                            .map_or_else(|| told.to_string(), str::to_owned),
                    )
                });
                Some(told.collect::<Vec<_>>().join(" "))
            });
            lines.flatten().collect()
        }
    }

    fn denied() -> Rejection {
        let fault = Fault::new(Code::PermissionDenied, "a right is missing");
        Rejection::Denied(fault.with_fate(Fate::NotApplied))
    }

    /// What is told of two keys.
    fn hashes(audited: &Audited) -> [String; 2] {
        let hash = |key: &[u8]| format!("{:016x}", audited.log.key(key).hash);
        [hash(b"key"), hash(b"kez")]
    }

    #[test]
    fn a_denied_call_is_noted_with_its_key_and_a_write_that_is_allowed_only_where_it_is_wanted() {
        for notes_writes in [false, true] {
            let audited = Audited::start(notes_writes);
            let [key, _] = hashes(&audited);
            for kind in [Kind::RawGet, Kind::RawPut] {
                assert!(audited.begin(kind, true).end(Ok(())).is_ok());
                drop(audited.begin(kind, true));
                let denied = audited.begin(kind, false).end::<()>(Err(denied()));
                denied.expect_err("passed on");
            }
            let mut expected = vec![
                format!("raw_get {key} denied a right is missing"),
                format!("raw_put {key} denied a right is missing"),
            ];
            if notes_writes {
                let writes = ["ok", "given_up"];
                let writes = writes.map(|outcome| format!("raw_put {key} {outcome}"));
                drop(expected.splice(1..1, writes));
            }
            assert_eq!(audited.end(), expected);
        }
    }

    #[test]
    fn a_range_has_both_ends_and_a_batch_that_is_noted_as_a_write_each_key() {
        let audited = Audited::start(true);
        let [key, end] = hashes(&audited);
        let mut range = audited
            .figures
            .commands
            .begin(Kind::RawDeleteRange, &audited.call);
        range.note_range(&"key".into(), &"kez".into());
        range.note_region(1);
        assert!(range.end(Ok(())).is_ok());
        let mut batch = audited.begin_batch(&["key".into(), "kez".into()]);
        batch.note_region(1);
        assert!(batch.end(Ok(())).is_ok());
        let each = format!(r#"[{{"bytes":3,"hash":"{key}"}},{{"bytes":3,"hash":"{end}"}}]"#);
        assert_eq!(
            audited.end(),
            [
                format!("raw_delete_range {key} {end} ok"),
                format!("raw_batch_delete 2 {key} {each} ok"),
            ]
        );
    }

    #[test]
    fn a_batch_that_is_denied_has_the_key_that_is_to_blame_and_no_other() {
        for notes_writes in [false, true] {
            let audited = Audited::start(notes_writes);
            let [_, denied_key] = hashes(&audited);
            let mut batch = audited.begin_batch(&["key".into(), "kez".into()]);
            batch.note_denied_key(&"kez".into());
            batch.end::<()>(Err(denied())).expect_err("passed on");
            assert_eq!(
                audited.end(),
                [format!(
                    "raw_batch_delete 2 {denied_key} denied a right is missing"
                )]
            );
        }
    }

    #[test]
    fn a_batch_whose_caller_may_have_no_right_to_its_keys_has_only_the_first_one() {
        let audited = Audited::start(true);
        let [key, _] = hashes(&audited);
        let invalid = Fault::invalid_argument("keys", None, "too many");
        let busy = rdb_proto::error::busy(std::time::Duration::ZERO);
        for rejection in [Rejection::Fault(invalid), Rejection::Routing(busy)] {
            let batch = audited.begin_batch(&["key".into(), "kez".into()]);
            batch.end::<()>(Err(rejection)).expect_err("passed on");
        }
        assert_eq!(
            audited.end(),
            [
                format!("raw_batch_delete 2 {key} invalid too many"),
                format!("raw_batch_delete 2 {key} busy"),
            ]
        );
    }

    #[test]
    fn a_line_names_no_more_keys_than_its_bound_and_counts_the_rest() {
        let audited = Audited::start(true);
        let [key, _] = hashes(&audited);
        let count = EVENT_KEYS_MAX + 2;
        let mut batch = audited.begin_batch(&vec![Bytes::from("key"); count]);
        batch.note_region(1);
        assert!(batch.end(Ok(())).is_ok());
        let each = vec![format!(r#"{{"bytes":3,"hash":"{key}"}}"#); EVENT_KEYS_MAX].join(",");
        assert_eq!(
            audited.end(),
            [format!("raw_batch_delete {count} {key} [{each}] 2 ok")]
        );
    }

    #[test]
    fn a_message_that_is_refused_as_a_whole_is_one_line() {
        let command = |request| BatchCommand {
            request: Some(request),
            ..BatchCommand::default()
        };
        let get = Request::RawGet(RawGetRequest {
            key: "kez".into(),
            ..RawGetRequest::default()
        });
        let put = Request::RawPut(RawPutRequest {
            key: "key".into(),
            ..RawPutRequest::default()
        });
        let commands = [get, put.clone(), put].map(command);
        let busy = || Rejection::Routing(rdb_proto::error::busy(std::time::Duration::ZERO));
        for notes_writes in [false, true] {
            let audited = Audited::start(notes_writes);
            let [key, other] = hashes(&audited);
            let audit = audited.figures.commands.audit();
            let message = audit.of_message(&audited.call, None);
            let message = message.expect("there is a log");
            message.note_all_refused(&commands, Answered::Busy, &busy());
            message.note_all_refused(&commands, Answered::Failed, &denied());
            let mut expected = vec![format!("raw_get 3 {other} denied a right is missing")];
            if notes_writes {
                expected.insert(0, format!("raw_put 2 {key} busy"));
            }
            assert_eq!(audited.end(), expected);
        }
    }

    #[test]
    fn what_is_denied_of_a_message_is_a_line_for_each_kind_and_reason() {
        let audited = Audited::start(true);
        let [key, other] = hashes(&audited);
        let audit = audited.figures.commands.audit();
        let message = audit.of_message(&audited.call, None);
        let message = message.expect("there is a log");
        let mut denials = Denials::default();
        let invalid = Fault::invalid_argument("key", None, "too short");
        let invalid = Rejection::Fault(invalid);
        for _ in 0..4096 {
            for (kind, key) in [(Kind::RawGet, "key"), (Kind::RawPut, "kez")] {
                let key = Some(key.as_bytes());
                message.note_refused(kind, key, Answered::Failed, &denied(), &mut denials);
            }
        }
        for kind in [Kind::RawGet, Kind::RawPut] {
            message.note_refused(kind, None, Answered::Invalid, &invalid, &mut denials);
        }
        message.note_denials(denials, None);
        assert_eq!(
            audited.end(),
            [
                "raw_put invalid too short".to_owned(),
                format!("raw_get 4096 {key} denied a right is missing"),
                format!("raw_put 4096 {other} denied a right is missing"),
            ]
        );
    }

    #[test]
    fn a_call_without_rights_that_hold_is_noted_and_a_store_that_does_not_write_is_none() {
        let audited = Audited::start(false);
        let stale = Fault::new(Code::Unavailable, "the rights are old");
        let denied = audited.begin(Kind::RawGet, false);
        let denied = denied.end::<()>(Err(Rejection::Denied(stale)));
        denied.expect_err("passed on");
        let stopped = Fault::new(Code::Unavailable, "the writes have stopped");
        let failed = audited.begin(Kind::RawGet, true);
        let failed = failed.end::<()>(Err(Rejection::Fault(stopped)));
        failed.expect_err("passed on");
        let [key, _] = hashes(&audited);
        assert_eq!(
            audited.end(),
            [format!("raw_get {key} unavailable the rights are old")]
        );
    }

    #[test]
    fn the_user_of_a_message_is_that_of_the_pass_it_was_checked_against() {
        let token = Token::random();
        let guard = Arc::new(Guard::off());
        // The stream begins before rights are enforced.
        let caller = Caller::with_token(Arc::clone(&guard), &token);
        let ada = authpb::User {
            name: "ada".to_owned(),
            token_hashes: vec![token.hash().to_vec().into()],
            ..authpb::User::default()
        };
        let rights = Rights::of(&authpb::Rights {
            version: 1,
            users: vec![ada],
        });
        guard.set(Some(Arc::new(rights.expect("good rights"))));
        let audited = Audited::start(true);
        let audit = audited.figures.commands.audit();
        let pass = caller.pass().expect("a user");
        let message = audit.of_message(&audited.call, Some(&pass));
        let message = message.expect("there is a log");
        message.note_write(Kind::RawPut, None, Answered::Done, None);
        let mut denials = Denials::default();
        message.note_refused(
            Kind::RawGet,
            None,
            Answered::Failed,
            &denied(),
            &mut denials,
        );
        message.note_denials(denials, None);
        assert_eq!(
            audited.end(),
            ["ada raw_put ok", "ada raw_get denied a right is missing"]
        );
    }
}
