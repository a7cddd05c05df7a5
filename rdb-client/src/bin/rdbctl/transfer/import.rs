//! `rdbctl raw import`.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;

use bytes::Bytes;
use rdb_client::{Client, Error};
use tokio::task::JoinSet;

use super::form::Entries;
use super::{Transferred, named, progress};
use crate::failure::Failure;
use crate::output::Output;
use crate::session::Session;

/// Entries of one batch.
const BATCH_ENTRIES: usize = 1024;

/// A batch that has reached this size takes no more entries.
const BATCH_BYTES: usize = 1 << 20;

/// Batches that are written at a time.
const BATCHES_IN_FLIGHT: usize = 8;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ImportArguments {
    /// The file, in either form of `export`; without it, or for `-`, standard input
    #[arg(value_name = "FILE")]
    path: Option<PathBuf>,
}

/// Writes the entries of a file. Of a file that cannot be read to its end the entries before that are written.
pub(crate) async fn import(
    arguments: &ImportArguments,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let file: Box<dyn BufRead> = match named(arguments.path.as_deref()) {
        Some(path) => {
            let file = File::open(path).map_err(|error| {
                Failure::usage(format!("cannot read {}: {error}", path.display()))
            })?;
            Box::new(BufReader::with_capacity(1 << 20, file))
        }
        None => Box::new(io::stdin().lock()),
    };
    let client = session.connect().await?;
    let mut entries = Entries::of(file, client.limits())?;
    let mut imported = Imported::default();
    let progress = progress("imported");
    let result = loop {
        let (batch, end) = next_batch(&mut entries);
        if !batch.is_empty() {
            imported.begin(&client, batch).await;
            progress.set_position(imported.entries);
        }
        match end {
            _ if imported.failure.is_some() => break Ok(()),
            None => {}
            Some(result) => break result,
        }
    };
    imported.finish().await;
    progress.finish_and_clear();
    let entries = imported.entries;
    match imported.failure.map(Failure::from).or(result.err()) {
        None => output.record(&Transferred { entries }),
        Some(failure) => Err(failure.after_a_part(&format!(
            "{entries} entries were imported, and importing the file again is safe"
        ))),
    }
}

type Batch = Vec<(Bytes, Bytes)>;

/// The next batch, and how the file ends if it does.
fn next_batch<R: BufRead>(entries: &mut Entries<R>) -> (Batch, Option<Result<(), Failure>>) {
    let mut batch = Batch::new();
    let mut bytes = 0;
    while batch.len() < BATCH_ENTRIES && bytes < BATCH_BYTES {
        match entries.next() {
            Ok(Some((key, value))) => {
                bytes += key.len() + value.len();
                batch.push((key, value));
            }
            Ok(None) => return (batch, Some(Ok(()))),
            Err(failure) => return (batch, Some(Err(failure))),
        }
    }
    (batch, None)
}

/// What was written so far, and what is on its way.
#[derive(Default)]
struct Imported {
    entries: u64,
    writing: JoinSet<Result<u64, Error>>,
    failure: Option<Error>,
}

impl Imported {
    /// Waits for a place, then begins to write a batch.
    async fn begin(&mut self, client: &Client, batch: Batch) {
        while self.writing.len() >= BATCHES_IN_FLIGHT {
            self.wait_for_one().await;
        }
        let client = client.clone();
        self.writing.spawn(async move {
            let entries = batch.len() as u64;
            client.raw_batch_put(batch).await?;
            Ok(entries)
        });
    }

    async fn finish(&mut self) {
        while !self.writing.is_empty() {
            self.wait_for_one().await;
        }
    }

    async fn wait_for_one(&mut self) {
        match self.writing.join_next().await {
            Some(Ok(Ok(entries))) => self.entries += entries,
            Some(Ok(Err(error))) => {
                self.failure.get_or_insert(error);
            }
            Some(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
            None => {}
        }
    }
}
