//! `rdbctl raw import`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::path::PathBuf;
use std::pin::pin;

use bytes::Bytes;
use rdb_client::{Client, Error, Limits};
use tokio::sync::mpsc;
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

/// Batches that are read before they can be written.
const BATCHES_READ_AHEAD: usize = 4;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ImportArguments {
    /// The file, in either form of `export`; without it, or for `-`, standard input
    #[arg(value_name = "FILE")]
    path: Option<PathBuf>,
}

impl ImportArguments {
    pub(crate) fn is_standard_input(&self) -> bool {
        named(self.path.as_deref()).is_none()
    }
}

/// Writes the entries of a file. Of a file that cannot be read to its end the entries before that are written, and so are those that
/// were read when Ctrl-C ended it.
pub(crate) async fn import(
    arguments: &ImportArguments,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let source = Source::open(arguments)?;
    let client = session.connect().await?;
    let limits = client.limits();
    let (read, mut batches) = mpsc::channel(BATCHES_READ_AHEAD);
    // It ends with the file, or when nobody takes its batches any more.
    tokio::task::spawn_blocking(move || source.read(limits, &read));
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    let mut imported = Imported::default();
    let progress = progress("imported");
    let end = loop {
        let batch = tokio::select! {
            batch = batches.recv() => batch,
            _ = &mut interrupted => break Err(Failure::failed("interrupted")),
        };
        match batch {
            Some(Ok(batch)) => imported.begin(&client, batch).await,
            Some(Err(failure)) => break Err(failure),
            None => break Ok(()),
        }
        progress.set_position(imported.entries);
        if imported.failure.is_some() {
            break Ok(());
        }
    };
    imported.finish().await;
    progress.finish_and_clear();
    let entries = imported.entries;
    match imported.failure.map(Failure::from).or(end.err()) {
        None => output.record(&Transferred { entries }),
        Some(failure) => Err(failure.after_a_part(&format!(
            "{entries} entries were imported, and importing the file again is safe"
        ))),
    }
}

/// Where entries come from.
enum Source {
    File(BufReader<File>),
    StandardInput,
}

impl Source {
    fn open(arguments: &ImportArguments) -> Result<Self, Failure> {
        let Some(path) = named(arguments.path.as_deref()) else {
            // Nobody types entries, and a thread that waits for them would take what is typed next.
            if io::stdin().is_terminal() {
                return Err(Failure::usage(
                    "standard input is a terminal: name a file, or have one at standard input",
                ));
            }
            return Ok(Self::StandardInput);
        };
        let file = File::open(path)
            .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
        Ok(Self::File(BufReader::with_capacity(1 << 20, file)))
    }

    /// Blocks until the file is read or its batches are not wanted.
    fn read(self, limits: Limits, batches: &mpsc::Sender<Result<Batch, Failure>>) {
        match self {
            Self::File(file) => read_batches(file, limits, batches),
            Self::StandardInput => read_batches(io::stdin().lock(), limits, batches),
        }
    }
}

fn read_batches(
    file: impl BufRead,
    limits: Limits,
    batches: &mpsc::Sender<Result<Batch, Failure>>,
) {
    // An error of the channel: nobody wants to know any more.
    let mut entries = match Entries::of(file, limits) {
        Ok(entries) => entries,
        Err(failure) => {
            let _ = batches.blocking_send(Err(failure));
            return;
        }
    };
    loop {
        let (batch, end) = next_batch(&mut entries);
        if !batch.is_empty() && batches.blocking_send(Ok(batch)).is_err() {
            return;
        }
        match end {
            None => {}
            Some(Ok(())) => return,
            Some(Err(failure)) => {
                let _ = batches.blocking_send(Err(failure));
                return;
            }
        }
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
