//! A line of the audit log: one JSON object.

use std::borrow::Cow;
use std::io::Write;
use std::time::SystemTime;

use super::{AuditEvent, AuditKey, time};
use crate::spans::Origin;

/// Most bytes of a certificate's subject that a line has.
const SUBJECT_BYTES_MAX: usize = 1024;

/// How every line begins.
pub(super) const BEGINNING: &[u8] = b"{\"time\":\"";

/// Writes the lines of one process.
#[derive(Debug)]
pub(super) struct Lines {
    /// The members that tell whose lines they are.
    process: Vec<u8>,
    version: &'static str,
}

impl Lines {
    pub(super) fn of(origin: &Origin) -> Self {
        let mut process = Vec::new();
        let mut members = Members(&mut process);
        members.text("program", origin.program);
        members.text("instance", &origin.instance);
        Self {
            process,
            version: origin.version,
        }
    }

    /// The outcome of a call or a command.
    pub(super) fn event(&self, at: SystemTime, event: &AuditEvent, lines: &mut Vec<u8>) {
        let caller = &event.caller;
        self.line(at, lines, |members| {
            if let Some(user) = &caller.user {
                members.text("user", user);
            }
            if let Some(identity) = &caller.identity {
                members.text("subject", &beginning(identity.subject()));
            }
            if let Some(peer) = caller.peer {
                members.shown("peer", format_args!("{peer}"));
            }
            let (service, method) = (event.service, event.method);
            members.shown("call", format_args!("{service}/{method}"));
            if !event.asked.is_empty() {
                members.text("asked", &event.asked);
            }
            if let Some(command) = event.command {
                members.text("command", command);
            }
            if event.count != 1 {
                members.number("count", event.count as u64);
            }
            if let Some(key) = event.key {
                members.key(("key_bytes", "key_hash"), key);
            }
            if !event.keys.is_empty() {
                members.keys(&event.keys);
                let left_out = event.count.saturating_sub(event.keys.len());
                if left_out > 0 {
                    members.number("keys_left_out", left_out as u64);
                }
            }
            if let Some(key) = event.end_key {
                members.key(("end_key_bytes", "end_key_hash"), key);
            }
            members.text("outcome", event.outcome);
            if !event.cause.is_empty() {
                members.text("cause", &event.cause);
            }
        });
    }

    /// A file begins, or the process goes on with one.
    pub(super) fn opened(&self, key_id: u64, notes_writes: bool, lines: &mut Vec<u8>) {
        self.line(SystemTime::now(), lines, |members| {
            members.text("event", "opened");
            members.text("version", self.version);
            members.shown("key_id", format_args!("{key_id:016x}"));
            members.flag("writes", notes_writes);
        });
    }

    /// Events have found no room, `refusals` of them refusals.
    pub(super) fn dropped(&self, dropped: u64, refusals: u64, lines: &mut Vec<u8>) {
        self.line(SystemTime::now(), lines, |members| {
            members.text("event", "dropped");
            members.number("dropped", dropped);
            members.number("refusals", refusals);
        });
    }

    /// The process ends as it should.
    pub(super) fn closed(&self, lines: &mut Vec<u8>) {
        self.line(SystemTime::now(), lines, |members| {
            members.text("event", "closed");
        });
    }

    fn line(&self, at: SystemTime, lines: &mut Vec<u8>, write: impl FnOnce(&mut Members<'_>)) {
        lines.extend_from_slice(BEGINNING);
        time::write(at, lines);
        lines.push(b'"');
        lines.extend_from_slice(&self.process);
        write(&mut Members(lines));
        lines.extend_from_slice(b"}\n");
    }
}

/// Members of an object, each with the comma before it. Names are plain.
struct Members<'a>(&'a mut Vec<u8>);

impl Members<'_> {
    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        escape(value, self.0);
    }

    /// A value that is plain when it is written out.
    fn shown(&mut self, name: &str, value: std::fmt::Arguments<'_>) {
        self.name(name);
        write!(self.0, "\"{value}\"").expect("memory takes it");
    }

    fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        write!(self.0, "{value}").expect("memory takes it");
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.name(name);
        write!(self.0, "{value}").expect("memory takes it");
    }

    fn key(&mut self, (bytes, hash): (&str, &str), key: AuditKey) {
        self.number(bytes, key.bytes as u64);
        self.shown(hash, format_args!("{:016x}", key.hash));
    }

    fn keys(&mut self, keys: &[AuditKey]) {
        self.name("keys");
        let mut before = '[';
        for AuditKey { bytes, hash } in keys {
            write!(
                self.0,
                "{before}{{\"bytes\":{bytes},\"hash\":\"{hash:016x}\"}}"
            )
            .expect("memory takes it");
            before = ',';
        }
        self.0.push(b']');
    }

    fn name(&mut self, name: &str) {
        write!(self.0, ",\"{name}\":").expect("memory takes it");
    }
}

/// Writes any text as a JSON string. Characters that could move a terminal's cursor or reverse the order of letters are escaped,
/// too, so that a name cannot look like something else.
fn escape(text: &str, line: &mut Vec<u8>) {
    line.push(b'"');
    for letter in text.chars() {
        match letter {
            '"' => line.extend_from_slice(b"\\\""),
            '\\' => line.extend_from_slice(b"\\\\"),
            letter if is_hidden(letter) => {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    write!(line, "\\u{unit:04x}").expect("memory takes it");
                }
            }
            letter => line.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    line.push(b'"');
}

/// Whether a letter is none that people see: controls, separators of lines, marks of direction and of width zero, tags.
fn is_hidden(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// One that is cut ends with `…`, so that it is not taken for another's.
fn beginning(subject: &str) -> Cow<'_, str> {
    if subject.len() <= SUBJECT_BYTES_MAX {
        return Cow::Borrowed(subject);
    }
    let mut end = SUBJECT_BYTES_MAX;
    while !subject.is_char_boundary(end) {
        end -= 1;
    }
    Cow::Owned(format!("{}…", &subject[..end]))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::AuditCaller;
    use super::*;

    const AT: Duration = Duration::from_millis(1_795_801_495_120);

    fn lines_of(instance: &str) -> Lines {
        Lines::of(&Origin {
            program: "rdb-server",
            version: "1.2.3",
            instance: instance.to_owned(),
        })
    }

    fn text(write: impl FnOnce(&Lines, &mut Vec<u8>)) -> String {
        let mut lines = Vec::new();
        write(&lines_of("127.0.0.1:20160"), &mut lines);
        String::from_utf8(lines).expect("text")
    }

    fn event() -> AuditEvent {
        let caller = AuditCaller {
            user: Some("ada".into()),
            identity: None,
            peer: Some(([127, 0, 0, 1], 4711).into()),
        };
        AuditEvent::of_call(caller, ("kvrpc.KvRaw", "RawPut"), "denied")
    }

    #[test]
    fn a_line_tells_who_asked_for_what_and_what_became_of_it() {
        let mut event = event();
        let at = UNIX_EPOCH + AT;
        let begin = "{\"time\":\"2026-11-27T17:44:55.120Z\",\"program\":\"rdb-server\",\"instance\":\"127.0.0.1:20160\",\
                     \"user\":\"ada\",\"peer\":\"127.0.0.1:4711\",\"call\":\"kvrpc.KvRaw/RawPut\"";
        assert_eq!(
            text(|lines, to| lines.event(at, &event, to)),
            format!("{begin},\"outcome\":\"denied\"}}\n")
        );
        event.command = Some("raw_delete_range");
        event.count = 3;
        event.asked = "user ada".into();
        event.cause = "because".into();
        let key = |bytes, hash| Some(AuditKey { bytes, hash });
        (event.key, event.end_key) = (key(4, 0xbeef), key(0, u64::MAX));
        assert_eq!(
            text(|lines, to| lines.event(at, &event, to)),
            format!(
                "{begin},\"asked\":\"user ada\",\"command\":\"raw_delete_range\",\"count\":3,\"key_bytes\":4,\"key_hash\":\"000000000000beef\",\
                 \"end_key_bytes\":0,\"end_key_hash\":\"ffffffffffffffff\",\"outcome\":\"denied\",\"cause\":\"because\"}}\n"
            )
        );
    }

    #[test]
    fn the_keys_of_a_batch_are_listed_and_those_that_are_left_out_are_counted() {
        let mut event = event();
        let key = |hash| AuditKey { bytes: 4, hash };
        (event.key, event.keys) = (Some(key(0xbeef)), vec![key(0xbeef), key(1)]);
        for (count, left_out) in [(2, ""), (3, ",\"keys_left_out\":1")] {
            event.count = count;
            let line = text(|lines, to| lines.event(UNIX_EPOCH + AT, &event, to));
            let members = format!(
                ",\"count\":{count},\"key_bytes\":4,\"key_hash\":\"000000000000beef\",\
                 \"keys\":[{{\"bytes\":4,\"hash\":\"000000000000beef\"}},{{\"bytes\":4,\"hash\":\"0000000000000001\"}}]{left_out},\
                 \"outcome\":\"denied\"}}\n"
            );
            assert!(line.ends_with(&members), "{line}");
        }
    }

    #[test]
    fn the_log_tells_of_itself() {
        for (told, members) in [
            (
                text(|lines, to| lines.opened(0xa, true, to)),
                "\"event\":\"opened\",\"version\":\"1.2.3\",\"key_id\":\"000000000000000a\",\"writes\":true}\n",
            ),
            (
                text(|lines, to| lines.dropped(7, 3, to)),
                "\"event\":\"dropped\",\"dropped\":7,\"refusals\":3}\n",
            ),
            (
                text(|lines, to| lines.closed(to)),
                "\"event\":\"closed\"}\n",
            ),
        ] {
            assert!(told.ends_with(members), "{told}");
            let parsed: Value = serde_json::from_str(&told).expect("JSON");
            assert_eq!(parsed["instance"], "127.0.0.1:20160");
        }
    }

    #[test]
    fn a_subject_that_is_cut_says_so() {
        let whole = "ü".repeat(SUBJECT_BYTES_MAX / 2);
        assert_eq!(beginning(&whole), whole);
        assert_eq!(beginning(&format!("{whole}ü")), format!("{whole}…"));
        assert_eq!(beginning(&format!("x{whole}")).chars().last(), Some('…'));
    }

    #[test]
    fn what_nobody_sees_is_written_out() {
        let mut line = Vec::new();
        escape("a\n\u{1b}[2J\u{7f}\u{202e}\"\\ü\u{e0041}", &mut line);
        let line = String::from_utf8(line).expect("text");
        let told = "\"a\\u000a\\u001b[2J\\u007f\\u202e\\\"\\\\ü\\udb40\\udc41\"";
        assert_eq!(line, told);
    }

    proptest! {
        #[test]
        fn a_line_parses_whatever_names_have_in_them(
            user in any::<String>(),
            asked in any::<String>(),
            cause in "\\PC*|[\\x00-\\x1f\"\\\\]*",
            instance in any::<String>(),
        ) {
            let mut event = event();
            event.caller.user = Some(user.as_str().into());
            (event.asked, event.cause) = (asked.clone().into(), cause.clone().into());
            let mut line = Vec::new();
            lines_of(&instance).event(UNIX_EPOCH + AT, &event, &mut line);
            prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            let parsed: Value = serde_json::from_slice(&line).expect("JSON");
            prop_assert_eq!(&parsed["user"], &user);
            prop_assert_eq!(&parsed["instance"], &instance);
            let told = |name: &str| parsed.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
            prop_assert_eq!(told("asked"), asked);
            prop_assert_eq!(told("cause"), cause);
        }
    }
}
