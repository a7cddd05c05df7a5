use std::fs;

use bytes::Bytes;
use rdb_proto::audit::{AuditOptions, AuditWriter, EVENT_KEYS_MAX};
use rdb_proto::auth::{Caller, Guard, Rights, Token};
use rdb_proto::authpb;
use rdb_proto::error::Fault;
use rdb_proto::errorpb::Fate;
use rdb_proto::kvrpc::batch_command::Request;
use rdb_proto::kvrpc::{BatchCommand, RawGetRequest, RawPutRequest};
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

    /// A message whose commands are checked against this.
    fn message(&self, pass: Option<&Pass>) -> Arc<AuditedMessage> {
        let message = self.figures.commands.audit().of_message(&self.call, pass);
        message.expect("there is a log")
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
        let message = audited.message(None);
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
    let message = audited.message(None);
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
    let pass = caller.pass().expect("a user");
    let message = audited.message(Some(&pass));
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
