//! What processes write down of calls.

use std::path::Path;

use serde_json::{Map, Value};

/// The lines of an audit log that are whole, each an object.
///
/// # Panics
///
/// If one is no object, or has a secret in it.
pub(crate) fn lines(log: &Path, secrets: &[&str]) -> Vec<Map<String, Value>> {
    let text = std::fs::read_to_string(log).expect("it is text");
    for secret in secrets {
        assert!(!text.contains(secret), "{secret} is in an audit log");
    }
    let lines = text.split_inclusive('\n');
    let whole = lines.filter(|line| line.ends_with('\n'));
    let object =
        |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    whole.map(object).collect()
}

/// The calls that [`marks`] counts.
pub(crate) const MARK: &str = "/unknown.Service/Mark";

/// How many of these lines are about a call of an unknown method without a token.
pub(crate) fn marks(lines: &[Map<String, Value>]) -> u64 {
    let is_mark = |line: &&Map<String, Value>| {
        let member = |name| line.get(name).and_then(Value::as_str);
        (member("call"), member("outcome")) == (Some("other/other"), Some("unauthenticated"))
    };
    lines.iter().filter(is_mark).count() as u64
}

/// How many refusals these lines tell of, with those that they say are missing. A call is one refusal, however many keys it names; a line
/// of a stream is one for each command.
pub(crate) fn refusals(lines: &[Map<String, Value>]) -> u64 {
    let is_of_stream = |line: &Map<String, Value>| {
        let call = line.get("call").and_then(Value::as_str);
        call == Some("kvrpc.KvBatch/Batch")
    };
    let number = |line: &Map<String, Value>, name| line.get(name).and_then(Value::as_u64);
    let of_line = |line: &Map<String, Value>| match line.get("outcome").and_then(Value::as_str) {
        Some("denied" | "unauthenticated") if !is_of_stream(line) => 1,
        Some("denied" | "unauthenticated") => number(line, "count").unwrap_or(1),
        // Those of a `dropped` line.
        _ => number(line, "refusals").unwrap_or(0),
    };
    lines.iter().map(of_line).sum()
}
