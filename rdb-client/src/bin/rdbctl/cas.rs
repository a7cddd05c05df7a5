//! `rdbctl cas …`: the versioned keyspace.

use bytes::Bytes;
use clap::Subcommand;
use serde::Serialize;

use crate::arguments::whole;
use crate::encoding::{KeyArgument, KeyEncoding};
use crate::entry::{Entry, print_scan};
use crate::failure::Failure;
use crate::key_range::ScanArguments;
use crate::output::{Output, Record, serialize_bytes};
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
        #[arg(short, long, value_name = "VERSION", value_parser = whole(0u64..), allow_negative_numbers = true)]
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
        #[arg(short, long, value_name = "VERSION", value_parser = whole(1u64..), allow_negative_numbers = true)]
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
            let value = value.read_within(session, client.limits()).await?;
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
        CasCommand::Scan(arguments) => {
            let (range, options) = (arguments.range(session)?, arguments.options());
            let keys_only = options.keys_only;
            let client = session.connect().await?;
            print_scan(client.scan(range, options), keys_only, output).await
        }
    }
}

async fn get(
    key: Vec<u8>,
    value_only: bool,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let found = session.connect().await?.get(&key).await?;
    let found = found.ok_or_else(|| session.not_found(&key))?;
    let entry = Found(Entry {
        key: key.into(),
        version: Some(found.version),
        value: Some(found.value.clone()),
    });
    if value_only {
        output.value(&found.value, &entry)
    } else {
        output.record(&entry)
    }
}

/// What a successful swap prints.
#[derive(Serialize)]
struct Swapped {
    #[serde(serialize_with = "serialize_bytes")]
    key: Bytes,
    version: u64,
}

impl Record for Swapped {
    fn cells(&self, _: KeyEncoding) -> Vec<String> {
        vec![self.version.to_string()]
    }
}

/// What a read of one key prints: without the key, except in JSON.
#[derive(Serialize)]
struct Found(Entry);

impl Record for Found {
    fn cells(&self, _: KeyEncoding) -> Vec<String> {
        self.0.found()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, printed};

    #[test]
    fn a_versioned_read_shows_version_and_value() {
        let found = Found(Entry {
            key: "k".into(),
            version: Some(3),
            value: Some("a\tb".into()),
        });
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
}
