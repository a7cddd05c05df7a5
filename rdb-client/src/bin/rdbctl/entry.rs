//! Entries of either keyspace, as reads print them.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use rdb_client::{Error, KeyValue, VersionedKeyValue};
use serde::Serialize;

use crate::encoding::{KeyEncoding, escape};
use crate::failure::Failure;
use crate::output::{FLUSH_ENTRIES_MAX, Output, Record, serialize_bytes, serialize_value};

/// A key and what was found there.
#[derive(Serialize)]
pub(crate) struct Entry {
    #[serde(serialize_with = "serialize_bytes")]
    pub(crate) key: Bytes,
    /// `None` in the raw keyspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<u64>,
    /// `None`: only keys were asked for.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serialize_value"
    )]
    pub(crate) value: Option<Bytes>,
}

impl From<KeyValue> for Entry {
    fn from(KeyValue { key, value, .. }: KeyValue) -> Self {
        Self {
            key,
            version: None,
            value: Some(value),
        }
    }
}

impl From<VersionedKeyValue> for Entry {
    fn from(entry: VersionedKeyValue) -> Self {
        Self {
            key: entry.key,
            version: Some(entry.version),
            value: Some(entry.value),
        }
    }
}

impl Entry {
    /// The version if there is one, and the value if it was asked for.
    pub(crate) fn found(&self) -> Vec<String> {
        let version = self.version.map(|version| version.to_string());
        let value = self.value.as_deref().map(escape);
        version.into_iter().chain(value).collect()
    }
}

impl Record for Entry {
    fn cells(&self, keys: KeyEncoding) -> Vec<String> {
        let mut cells = self.found();
        cells.insert(0, keys.encode(&self.key));
        cells
    }
}

/// Prints a scan while it arrives.
pub(crate) async fn print_scan<E: Into<Entry>>(
    entries: impl Stream<Item = Result<E, Error>>,
    keys_only: bool,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let mut arrived = std::pin::pin!(entries.ready_chunks(FLUSH_ENTRIES_MAX));
    while let Some(entries) = arrived.next().await {
        for entry in entries {
            let mut entry: Entry = entry?.into();
            entry.value.take_if(|_| keys_only);
            output.record(&entry)?;
        }
        output.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, printed};

    fn lines(format: Format) -> String {
        let entry = |key: &'static [u8], version, value: Option<&'static str>| Entry {
            key: Bytes::from_static(key),
            version,
            value: value.map(Bytes::from),
        };
        let entries = [
            entry(b"k1", None, Some("two\nlines")),
            entry(b"empty", None, Some("")),
            entry(b"\xff", None, None),
            entry(b"k", Some(3), Some("a\tb")),
            entry(b"k", Some(3), None),
        ];
        printed(format, |output| {
            for entry in &entries {
                output.record(entry).expect("printed");
            }
        })
    }

    #[test]
    fn an_entry_is_one_line_of_text_whatever_it_holds() {
        assert_eq!(
            lines(Format::Text),
            "k1\ttwo\\nlines\nempty\t\n\\xff\nk\t3\ta\\tb\nk\t3\n"
        );
    }

    #[test]
    fn json_tells_an_empty_value_from_one_that_was_not_asked_for() {
        let expected = [
            r#"{"key":"k1","value":"two\nlines"}"#,
            r#"{"key":"empty","value":""}"#,
            r#"{"key":{"base64":"/w=="}}"#,
            r#"{"key":"k","version":3,"value":"a\tb"}"#,
            r#"{"key":"k","version":3}"#,
        ];
        let lines = lines(Format::Json);
        assert!(lines.lines().eq(expected), "{lines}");
    }
}
