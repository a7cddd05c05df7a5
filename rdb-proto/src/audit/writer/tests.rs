use std::fs;
use std::path::PathBuf;
use std::thread;

use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::super::queue::QUEUE_EVENTS_MAX;
use super::super::{AuditCaller, AuditEvent, AuditLog, AuditOptions, AuditRank};
use super::*;
use crate::findings::About;
use crate::transport::health;
use crate::transport::status::metrics_text;

const HANG_GUARD: Duration = Duration::from_secs(300);

struct Fixture {
    directory: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let directory = TempDir::new().expect("it can be written");
        fs::create_dir(directory.path().join("logs")).expect("it can be made");
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("logs").join(name)
    }

    fn options(file_bytes_max: u64) -> AuditOptions {
        AuditOptions {
            origin: Origin {
                program: "test",
                version: "1.2.3",
                instance: "here".to_owned(),
            },
            file_bytes_max,
            notes_writes: false,
        }
    }

    fn open(&self) -> (AuditLog, AuditWriter) {
        let opened = AuditLog::open(self.path("log"), Self::options(1 << 20));
        opened.expect("it can be written")
    }

    /// The objects of a file.
    fn lines(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        // The last one may be half read.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let parsed = whole.lines().map(serde_json::from_str);
        parsed.collect::<Result<_, _>>().expect("JSON")
    }

    /// What the lines of a file are about.
    fn told(&self, name: &str) -> Vec<String> {
        let lines = self.lines(name).into_iter();
        let told = lines.map(|line| {
            let told = line.get("event").or(line.get("call"));
            told.and_then(Value::as_str)
                .expect("one of them")
                .to_owned()
        });
        told.collect()
    }
}

fn event(method: &'static str) -> AuditEvent {
    AuditEvent {
        rank: AuditRank::Administrative,
        ..AuditEvent::of_call(AuditCaller::default(), ("a.B", method), "ok")
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < HANG_GUARD, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn all_that_was_noted_is_written_before_the_end() {
    const EVENTS: usize = 10_000;
    let fixture = Fixture::new();
    let (log, writer) = fixture.open();
    thread::scope(|scope| {
        for _ in 0..4 {
            let log = log.clone();
            scope.spawn(move || (0..EVENTS / 4).for_each(|_| log.note(event("C"))));
        }
    });
    writer.end();
    let mut told = fixture.told("log");
    assert_eq!(told.remove(0), "opened");
    assert_eq!(told.pop().as_deref(), Some("closed"));
    assert_eq!(log.dropped(), 0, "there was room for all");
    assert_eq!(told.len(), EVENTS);
    assert!(told.iter().all(|told| told == "a.B/C"));
    log.note(event("C"));
    assert_eq!(log.dropped(), 1, "nobody writes it");
    assert_eq!(log.describe()["lines"], EVENTS + 2);
}

#[test]
fn a_line_is_written_though_nothing_follows_it() {
    let fixture = Fixture::new();
    let (log, writer) = fixture.open();
    log.note(event("C"));
    until("it is written", || {
        fixture.told("log") == ["opened", "a.B/C"]
    });
    writer.end();
}

#[test]
fn what_finds_no_room_is_dropped_counted_and_said() {
    let fixture = Fixture::new();
    let prepared = AuditLog::prepare(fixture.path("log"), Fixture::options(1 << 30));
    let (log, writer) = prepared.expect("it can be written");
    for _ in 0..QUEUE_EVENTS_MAX + 7 {
        log.note(event("C"));
    }
    let refusal = || AuditEvent {
        rank: AuditRank::Refusal,
        ..event("C")
    };
    (0..3).for_each(|_| log.note(refusal()));
    assert_eq!(log.dropped(), 10);
    let counted = metrics_text(move |metrics| AuditLog::write_to(Some(&log), metrics));
    let counted = counted.expect("text");
    let dropped = "\nflaredb_audit_dropped_total 10\n";
    assert!(counted.contains(dropped), "{counted}");
    writer.shared.queue.end();
    let own_log = fixture.path("own-log");
    let own_log_file = fs::File::create(&own_log).expect("it can be written");
    let subscriber = tracing_subscriber::fmt().with_writer(own_log_file);
    let subscriber = subscriber.with_ansi(false).finish();
    // While there is only one subscriber, tracing forgets a line for good that another test comes to first, on a thread without any.
    let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    tracing::subscriber::with_default(subscriber, || writer.run());
    let own_log = fs::read_to_string(own_log).expect("it was written");
    let told = own_log.lines().find(|line| line.ends_with(" events=10"));
    let told = told.unwrap_or_else(|| panic!("{own_log}"));
    assert!(told.contains("some are missing in it"), "{told}");
    let mut lines = fixture.lines("log");
    assert_eq!(lines.len(), QUEUE_EVENTS_MAX + 3);
    assert_eq!(lines.pop().expect("the last")["event"], "closed");
    let said = lines.pop().expect("the one before");
    assert_eq!(said["event"], "dropped");
    assert_eq!(
        (&said["dropped"], &said["refusals"]),
        (&10.into(), &3.into())
    );
}

#[test]
fn each_file_begins_with_what_its_hashes_are_made_with() {
    let fixture = Fixture::new();
    let opened = AuditLog::open(
        fixture.path("log"),
        Fixture::options(PIECE_BYTES as u64 / 8),
    );
    let (log, writer) = opened.expect("it can be written");
    for noted in 1..=1000 {
        log.note(event("C"));
        if noted % 50 == 0 {
            let written = || log.describe()["lines"].as_u64();
            until("they are written", || written() > Some(noted));
        }
    }
    writer.end();
    let mut ids = Vec::new();
    for name in ["log", "log.1", "log.2"] {
        let lines = fixture.lines(name);
        let first = lines.first().expect("it was rotated");
        assert_eq!(first["event"], "opened", "{name}");
        let id = first["key_id"].as_str();
        ids.push(id.expect("it is named").to_owned());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
}

#[test]
fn what_a_full_disk_did_not_take_is_written_once() {
    let fixture = Fixture::new();
    let prepared = AuditLog::prepare(fixture.path("log"), Fixture::options(1 << 20));
    let (log, mut writer) = prepared.expect("it can be written");
    log.note(event("C"));
    writer.shared.queue.end();
    writer.shared.queue.take(&mut writer.taken, None);
    let full = fs::File::options().write(true).open("/dev/full");
    let file = writer.file.divert(full.expect("Linux has it"));
    assert!(writer.write_taken().is_err(), "it was tried twice");
    assert_eq!(log.describe()["errors"], 2);
    writer.file.divert(file);
    assert!(writer.write_taken().is_ok());
    assert_eq!(fixture.told("log"), ["opened", "a.B/C"]);
}

#[test]
fn what_cannot_be_written_is_told_of_and_written_later() {
    let fixture = Fixture::new();
    let (log, writer) = fixture.open();
    let (health, _service) = health(&[], CancellationToken::new());
    log.tell(health.clone());
    until("it is opened", || fixture.told("log") == ["opened"]);
    let (logs, away) = (fixture.path(""), fixture.directory.path().join("away"));
    fs::rename(&logs, &away).expect("renamed");
    log.note(event("C"));
    until("it is told of", || health.warning().is_some());
    let warning = health.warning().expect("just now");
    assert!(warning.contains("cannot be opened"), "{warning}");
    assert_eq!(About::of(&warning), About::AuditLog);
    assert!(log.describe()["errors"].as_u64() >= Some(1));
    log.note(event("D"));
    fs::create_dir(&logs).expect("made");
    until("they are written", || {
        fixture.told("log") == ["opened", "a.B/C", "a.B/D"]
    });
    until("all is well", || health.warning().is_none());
    writer.end();
}

#[test]
fn what_cannot_be_written_at_the_end_holds_up_nothing() {
    let fixture = Fixture::new();
    let (log, writer) = fixture.open();
    until("it is opened", || fixture.told("log") == ["opened"]);
    fs::remove_dir_all(fixture.path("")).expect("removed");
    log.note(event("C"));
    writer.end();
    assert!(log.dropped() >= 1);
}

#[test]
fn a_log_that_is_refused_leaves_no_secret_behind() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.path("directory")).expect("it can be made");
    fs::write(fixture.path("stores.token"), "flaredb_0f0f\n").expect("it can be written");
    for name in ["directory", "stores.token", "log.key", "log.3"] {
        let opened = AuditLog::open(fixture.path(name), Fixture::options(1 << 20));
        let refused = opened.map(drop).expect_err(name);
        assert!(!refused.may_pass(), "{refused}");
        assert!(!fixture.path(&format!("{name}.key")).exists(), "{name}");
    }
}
