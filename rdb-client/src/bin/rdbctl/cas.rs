//! `rdbctl cas …`: the versioned keyspace.

use bytes::Bytes;
use clap::Subcommand;
use futures::StreamExt;
use rdb_client::VersionedKeyValue;
use serde::Serialize;

use crate::encoding::{KeyArgument, KeyEncoding, escape};
use crate::failure::Failure;
use crate::key_range::ScanArguments;
use crate::output::{FLUSH_ENTRIES_MAX, Output, Record, serialize_bytes, serialize_value};
use crate::session::Session;
use crate::value::ValueArguments;

#[derive(Debug, Subcommand)]
pub(crate) enum CasCommand {
    /// Write a value if the key's version is the expected one; print the new version
    #[command(after_help = "\
On a conflict nothing is changed, the exit code is 4, and the message has the
key's version and value.

Examples:
  rdbctl cas put counter 1 --expect 0   create; prints 1
  rdbctl cas put counter 2 --expect 1   update; prints 2
  rdbctl cas put photo --file picture.png --expect 0")]
    Put {
        /// The key
        key: KeyArgument,
        #[command(flatten)]
        value: ValueArguments,
        /// The version that the key must have; 0: the key must not exist
        #[arg(short, long, value_name = "VERSION")]
        expect: u64,
    },
    /// Print `VERSION<TAB>VALUE`, the value escaped; exit code 3 when the key does not exist
    #[command(after_help = "\
Examples:
  rdbctl cas get counter
  rdbctl cas get photo --value-only > picture.png
  rdbctl cas get counter --output json  {\"key\":\"counter\",\"version\":2,\"value\":\"2\"}")]
    Get {
        /// The key
        key: KeyArgument,
        /// Write exactly the value's bytes instead, and a line feed behind them only to a terminal. No effect on JSON
        #[arg(long)]
        value_only: bool,
    },
    /// Delete a key if its version is the expected one
    #[command(name = "del", visible_alias = "delete")]
    Delete {
        /// The key
        key: KeyArgument,
        /// The version that the key must have, 1 or higher
        #[arg(short, long, value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..))]
        expect: u64,
    },
    /// Print the entries of a range, one `KEY<TAB>VERSION<TAB>VALUE` per line, key and value escaped
    #[command(after_help = "\
Reads page by page: each page is one snapshot, the scan as a whole is not.

Examples:
  rdbctl cas scan --prefix user/
  rdbctl cas scan a m --keys-only       keys and versions from a up to, but without, m")]
    Scan(ScanArguments),
}

pub(crate) async fn run(
    command: CasCommand,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    match command {
        CasCommand::Put { key, value, expect } => {
            let key = session.key(key)?;
            let client = session.connect().await?;
            let value = value.read(client.limits().value_bytes_max)?;
            let version = client.cas_put(&key, expect, value).await?;
            output.record(&Swapped {
                key: key.into(),
                version,
            })
        }
        CasCommand::Get { key, value_only } => {
            get(session.key(key)?, value_only, session, output).await
        }
        CasCommand::Delete { key, expect } => {
            let key = session.key(key)?;
            session.connect().await?.cas_delete(key, expect).await?;
            output.done()
        }
        CasCommand::Scan(arguments) => scan(&arguments, session, output).await,
    }
}

async fn get(
    key: Vec<u8>,
    value_only: bool,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let found = session.connect().await?.get(&key).await?;
    let Some(found) = found else {
        return Err(Failure::not_found(format!(
            "not found: {}",
            session.shown(&key)
        )));
    };
    let entry = Found {
        key: key.into(),
        version: found.version,
        value: found.value,
    };
    if value_only {
        output.value(&entry.value, &entry)
    } else {
        output.record(&entry)
    }
}

async fn scan(
    arguments: &ScanArguments,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let (range, options) = (arguments.range(session)?, arguments.options());
    let keys_only = options.keys_only;
    let client = session.connect().await?;
    let mut arrived = std::pin::pin!(client.scan(range, options).ready_chunks(FLUSH_ENTRIES_MAX));
    while let Some(entries) = arrived.next().await {
        for entry in entries {
            let VersionedKeyValue {
                key,
                version,
                value,
                ..
            } = entry?;
            output.record(&Entry {
                key,
                version,
                value: (!keys_only).then_some(value),
            })?;
        }
        output.flush()?;
    }
    Ok(())
}

/// What a successful swap prints.
#[derive(Serialize)]
struct Swapped {
    #[serde(serialize_with = "serialize_bytes")]
    key: Bytes,
    version: u64,
}

impl Record for Swapped {
    const HEADINGS: &[&str] = &["VERSION"];

    fn cells(&self, _: KeyEncoding) -> Vec<String> {
        vec![self.version.to_string()]
    }
}

/// What a read of one key prints.
#[derive(Serialize)]
struct Found {
    #[serde(serialize_with = "serialize_bytes")]
    key: Bytes,
    version: u64,
    #[serde(serialize_with = "serialize_bytes")]
    value: Bytes,
}

impl Record for Found {
    const HEADINGS: &[&str] = &["VERSION", "VALUE"];

    fn cells(&self, _: KeyEncoding) -> Vec<String> {
        vec![self.version.to_string(), escape(&self.value)]
    }
}

/// One entry of a scan.
#[derive(Serialize)]
struct Entry {
    #[serde(serialize_with = "serialize_bytes")]
    key: Bytes,
    version: u64,
    /// `None`: only keys were asked for.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serialize_value"
    )]
    value: Option<Bytes>,
}

impl Record for Entry {
    const HEADINGS: &[&str] = &["KEY", "VERSION", "VALUE"];

    fn cells(&self, keys: KeyEncoding) -> Vec<String> {
        let value = self.value.as_deref().map(escape);
        [keys.encode(&self.key), self.version.to_string()]
            .into_iter()
            .chain(value)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, printed};

    #[test]
    fn a_versioned_read_shows_version_and_value() {
        let found = Found {
            key: "k".into(),
            version: 3,
            value: "a\tb".into(),
        };
        let print = |output: &mut Output<'_>| output.record(&found).expect("printed");
        assert_eq!(printed(Format::Text, print), "3\ta\\tb\n");
        let expected = "{\"key\":\"k\",\"version\":3,\"value\":\"a\\tb\"}\n";
        assert_eq!(printed(Format::Json, print), expected);
    }

    #[test]
    fn a_swap_prints_the_new_version_alone() {
        let swapped = Swapped {
            key: "k".into(),
            version: 7,
        };
        let print = |output: &mut Output<'_>| output.record(&swapped).expect("printed");
        assert_eq!(printed(Format::Text, print), "7\n");
        assert_eq!(
            printed(Format::Json, print),
            "{\"key\":\"k\",\"version\":7}\n"
        );
    }

    #[test]
    fn a_scan_of_keys_still_shows_versions() {
        let entry = Entry {
            key: "k".into(),
            version: 3,
            value: None,
        };
        let print = |output: &mut Output<'_>| output.record(&entry).expect("printed");
        assert_eq!(printed(Format::Text, print), "k\t3\n");
        assert_eq!(
            printed(Format::Json, print),
            "{\"key\":\"k\",\"version\":3}\n"
        );
    }
}
