//! `rdbctl raw …`: the raw keyspace.

use clap::Subcommand;

use crate::encoding::KeyArgument;
use crate::entry::{Entry, print_scan};
use crate::failure::Failure;
use crate::key_range::{DeleteRangeArguments, ScanArguments};
use crate::output::Output;
use crate::session::Session;
use crate::transfer::{self, ExportArguments, ImportArguments};
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
    /// Write the entries of a range to a file
    #[command(after_help = "\
Reads page by page: each page is one snapshot, the export as a whole is not.

Examples:
  rdbctl raw export users.jsonl --prefix user/
  rdbctl raw export all.bin --form binary
  rdbctl raw export | gzip > all.jsonl.gz")]
    Export(ExportArguments),
    /// Write the entries of a file into the keyspace
    #[command(after_help = "\
The form of the file is found by its first bytes. Other keys stay as they are. A file is read to its end before any of it is
written; what comes through a pipe is written as it comes. Entries are written in no order: of a key that occurs twice either
value may stay. Ctrl-C ends it and tells how many were written, a second one does not wait for the writes under way. Importing the
same file again is safe.

Examples:
  rdbctl raw import users.jsonl
  gzip -dc all.jsonl.gz | rdbctl raw import")]
    Import(ImportArguments),
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
            let value = value.read_within(session, client.limits()).await?;
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
        RawCommand::Scan(arguments) => {
            let (range, options) = (arguments.range(session)?, arguments.options());
            let keys_only = options.keys_only;
            let client = session.connect().await?;
            print_scan(client.raw_scan(range, options), keys_only, output).await
        }
        RawCommand::DeleteRange(arguments) => {
            let range = arguments.range(session)?;
            session.connect().await?.raw_delete_range(range).await?;
            output.done()
        }
        RawCommand::Export(arguments) => transfer::export(&arguments, session, output).await,
        RawCommand::Import(arguments) => transfer::import(&arguments, session, output).await,
    }
}

async fn get(key: Vec<u8>, session: &Session, output: &mut Output<'_>) -> Result<(), Failure> {
    let value = session.connect().await?.raw_get(&key).await?;
    let value = value.ok_or_else(|| session.not_found(&key))?;
    let entry = Entry {
        key: key.into(),
        version: None,
        value: Some(value.clone()),
    };
    output.value(&value, &entry)
}
