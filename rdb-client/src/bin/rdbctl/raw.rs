//! `rdbctl raw …`: the raw keyspace.

use bytes::Bytes;
use clap::Subcommand;
use futures::StreamExt;
use rdb_client::KeyValue;
use serde::Serialize;

use crate::encoding::{KeyArgument, KeyEncoding, escape};
use crate::failure::Failure;
use crate::key_range::{DeleteRangeArguments, ScanArguments};
use crate::output::{FLUSH_ENTRIES_MAX, Output, Record, serialize_bytes, serialize_value};
use crate::session::Session;
use crate::value::ValueArguments;

#[derive(Debug, Subcommand)]
pub(crate) enum RawCommand {
    /// Write a value, whatever was there before
    #[command(after_help = "\
Examples:
  rdbctl raw put k1 v1
  rdbctl raw put k1 --file picture.png
  date | rdbctl raw put now -
  rdbctl raw put --key-encoding hex 00ff v1")]
    Put {
        /// The key
        key: KeyArgument,
        #[command(flatten)]
        value: ValueArguments,
    },
    /// Print a value; exit code 3 when the key does not exist
    #[command(after_help = "\
Writes exactly the value's bytes, and a line feed behind them only to a terminal.

Examples:
  rdbctl raw get k1
  rdbctl raw get k1 > picture.png
  rdbctl raw get k1 --output json       {\"key\":\"k1\",\"value\":\"v1\"}")]
    Get {
        /// The key
        key: KeyArgument,
    },
    /// Delete keys; one that does not exist is fine
    #[command(name = "del", visible_alias = "delete")]
    #[command(after_help = "\
Keys of one region are deleted together or not at all.

Examples:
  rdbctl raw del k1
  rdbctl raw del k1 k2 k3")]
    Delete {
        /// The keys
        #[arg(value_name = "KEY", required = true)]
        keys: Vec<KeyArgument>,
    },
    /// Print the entries of a range, one `KEY<TAB>VALUE` per line, both escaped
    #[command(after_help = "\
Reads page by page: each page is one snapshot, the scan as a whole is not.

Examples:
  rdbctl raw scan --limit 10
  rdbctl raw scan a m                   keys from a up to, but without, m
  rdbctl raw scan '' m                  keys below m
  rdbctl raw scan --prefix user/ --keys-only
  rdbctl raw scan --reverse --limit 1   the highest key
  rdbctl raw scan --output json         {\"key\":\"k1\",\"value\":\"v1\"} per line")]
    Scan(ScanArguments),
    /// Delete every key of a range
    #[command(
        override_usage = "rdbctl raw delete-range [OPTIONS] <<START> <END>|--prefix <PREFIX>|--all>"
    )]
    #[command(after_help = "\
Each region's part is deleted at once; a range over several regions is not atomic.

Examples:
  rdbctl raw delete-range a m           keys from a up to, but without, m
  rdbctl raw delete-range --prefix user/
  rdbctl raw delete-range --all")]
    DeleteRange(DeleteRangeArguments),
}

pub(crate) async fn run(
    command: RawCommand,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    match command {
        RawCommand::Put { key, value } => {
            let key = session.key(key)?;
            let client = session.connect().await?;
            let value = value.read(client.limits().value_bytes_max)?;
            client.raw_put(key, value).await?;
            output.done()
        }
        RawCommand::Get { key } => get(session.key(key)?, session, output).await,
        RawCommand::Delete { keys } => {
            let keys: Result<Vec<_>, _> = keys.into_iter().map(|key| session.key(key)).collect();
            let keys = keys?;
            session.connect().await?.raw_batch_delete(keys).await?;
            output.done()
        }
        RawCommand::Scan(arguments) => scan(&arguments, session, output).await,
        RawCommand::DeleteRange(arguments) => {
            let range = arguments.range(session)?;
            session.connect().await?.raw_delete_range(range).await?;
            output.done()
        }
    }
}

async fn get(key: Vec<u8>, session: &Session, output: &mut Output<'_>) -> Result<(), Failure> {
    let value = session.connect().await?.raw_get(&key).await?;
    let Some(value) = value else {
        return Err(Failure::not_found(format!(
            "not found: {}",
            session.shown(&key)
        )));
    };
    let entry = Entry {
        key: key.into(),
        value: Some(value.clone()),
    };
    output.value(&value, &entry)
}

async fn scan(
    arguments: &ScanArguments,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let (range, options) = (arguments.range(session)?, arguments.options());
    let keys_only = options.keys_only;
    let client = session.connect().await?;
    let mut arrived = std::pin::pin!(
        client
            .raw_scan(range, options)
            .ready_chunks(FLUSH_ENTRIES_MAX)
    );
    while let Some(entries) = arrived.next().await {
        for entry in entries {
            let KeyValue { key, value, .. } = entry?;
            output.record(&Entry {
                key,
                value: (!keys_only).then_some(value),
            })?;
        }
        output.flush()?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Entry {
    #[serde(serialize_with = "serialize_bytes")]
    key: Bytes,
    /// `None`: only keys were asked for.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serialize_value"
    )]
    value: Option<Bytes>,
}

impl Record for Entry {
    const HEADINGS: &[&str] = &["KEY", "VALUE"];

    fn cells(&self, keys: KeyEncoding) -> Vec<String> {
        let value = self.value.as_deref().map(escape);
        std::iter::once(keys.encode(&self.key))
            .chain(value)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, printed};

    fn lines(format: Format) -> String {
        let entries = [
            Entry {
                key: "k1".into(),
                value: Some("two\nlines".into()),
            },
            Entry {
                key: "empty".into(),
                value: Some(Bytes::new()),
            },
            Entry {
                key: Bytes::from_static(b"\xff"),
                value: None,
            },
        ];
        printed(format, |output| {
            for entry in &entries {
                output.record(entry).expect("printed");
            }
        })
    }

    #[test]
    fn an_entry_is_one_line_of_text_whatever_it_holds() {
        assert_eq!(lines(Format::Text), "k1\ttwo\\nlines\nempty\t\n\\xff\n");
    }

    #[test]
    fn json_tells_an_empty_value_from_one_that_was_not_asked_for() {
        let expected = [
            r#"{"key":"k1","value":"two\nlines"}"#,
            r#"{"key":"empty","value":""}"#,
            r#"{"key":{"base64":"/w=="}}"#,
        ];
        assert!(
            lines(Format::Json).lines().eq(expected),
            "{}",
            lines(Format::Json)
        );
    }
}
