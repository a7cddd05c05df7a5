//! `rdbctl raw import`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Seek};
use std::path::PathBuf;

use bytes::Bytes;
use indicatif::ProgressBar;
use rdb_client::{Client, Error, Limits};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::form::{Entries, Wrong};
use super::{Transferred, named, progress};
use crate::executor::{Interrupt, interrupts};
use crate::failure::Failure;
use crate::output::Output;
use crate::session::Session;

/// Entries of one batch.
const BATCH_ENTRIES: usize = 1024;

/// Size at which a batch takes no more entries.
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

/// Writes the entries of a file, once all of it has been read and found valid. Input from a pipe is written as it comes, up to the
/// first error. Ctrl-C ends it once the writes under way are done; a second Ctrl-C ends it at once.
pub(crate) async fn import(
    arguments: &ImportArguments,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let source = Source::open(arguments)?;
    let client = Interrupt::EndsRead.limit(session.connect()).await?;
    let limits = client.limits();
    let (read, mut batches) = mpsc::channel(BATCHES_READ_AHEAD);
    let progress = progress("imported", source.file_bytes());
    let reading = progress.clone();
    // It ends with the file, or when nobody takes its batches any more.
    tokio::task::spawn_blocking(move || source.read(limits, &reading, &read));
    let mut interrupts = interrupts()?;
    let mut imported = Imported::default();
    let mut is_damaged = false;
    let end = loop {
        let step = async {
            let batch = batches.recv().await?;
            if let Ok(batch) = batch {
                imported.begin(&client, batch).await;
                return Some(Ok(()));
            }
            Some(batch.map(drop))
        };
        let step = tokio::select! {
            step = step => step,
            _ = interrupts.recv() => break Some(Failure::failed("interrupted")),
        };
        match step {
            None => break None,
            Some(Ok(())) => {}
            Some(Err(wrong)) => {
                is_damaged = matches!(wrong, Wrong::Damaged(_));
                break Some(Failure::usage(wrong.to_string()));
            }
        }
        // A bar is moved by whoever reads the file.
        if progress.length().is_none() {
            progress.set_position(imported.entries);
        }
        if imported.failure.is_some() {
            break None;
        }
    };
    let abandoned = tokio::select! {
        () = imported.finish() => None,
        _ = interrupts.recv() => Some(Failure::interrupted_write()),
    };
    progress.finish_and_clear();
    let entries = imported.entries;
    let Some(failure) = abandoned.or(imported.failure.map(Failure::from)).or(end) else {
        return output.record(&Transferred { entries });
    };
    if !imported.has_begun {
        return Err(failure);
    }
    let then = if is_damaged {
        "the damaged ones may be among them"
    } else {
        "importing the file again is safe"
    };
    Err(failure.after_a_part(&format!("{entries} entries were imported, and {then}")))
}

/// Where entries come from.
enum Source {
    /// It can be read twice.
    File {
        file: File,
        bytes: u64,
    },
    Pipe(File),
    StandardInput,
}

impl Source {
    fn open(arguments: &ImportArguments) -> Result<Self, Failure> {
        let Some(path) = named(arguments.path.as_deref()) else {
            refuse_terminal(&io::stdin())?;
            return Ok(Self::StandardInput);
        };
        let unreadable = |error| Failure::usage(format!("cannot read {}: {error}", path.display()));
        let file = File::open(path).map_err(unreadable)?;
        refuse_terminal(&file)?;
        let metadata = file.metadata().map_err(unreadable)?;
        Ok(if metadata.is_file() {
            let bytes = metadata.len();
            Self::File { file, bytes }
        } else {
            Self::Pipe(file)
        })
    }

    /// `None`: it is not known before its end.
    fn file_bytes(&self) -> Option<u64> {
        match self {
            Self::File { bytes, .. } => Some(*bytes),
            Self::Pipe(_) | Self::StandardInput => None,
        }
    }

    /// Blocks until the file is read or its batches are not wanted.
    fn read(
        self,
        limits: Limits,
        progress: &ProgressBar,
        batches: &mpsc::Sender<Result<Batch, Wrong>>,
    ) {
        let read = match self {
            Self::File { file, .. } => {
                let file = buffered(progress.wrap_read(file));
                read_checked(file, limits, progress, batches)
            }
            Self::Pipe(file) => read_batches(buffered(file), limits, batches),
            Self::StandardInput => read_batches(io::stdin().lock(), limits, batches),
        };
        if let Err(wrong) = read {
            // An error of the channel: nobody wants to know any more.
            let _ = batches.blocking_send(Err(wrong));
        }
    }
}

fn buffered<F: Read>(file: F) -> BufReader<F> {
    BufReader::with_capacity(1 << 20, file)
}

/// Nobody types entries, and a thread that waits for them would take what is typed next.
fn refuse_terminal(source: &impl IsTerminal) -> Result<(), Failure> {
    if source.is_terminal() {
        let message =
            "the entries would come from a terminal: name a file, or have one at standard input";
        return Err(Failure::usage(message));
    }
    Ok(())
}

/// Reads all of a file before the first batch of it is sent.
fn read_checked(
    mut file: impl BufRead + Seek,
    limits: Limits,
    progress: &ProgressBar,
    batches: &mpsc::Sender<Result<Batch, Wrong>>,
) -> Result<(), Wrong> {
    progress.set_message("checked");
    let mut entries = Entries::of(&mut file, limits)?;
    while !batches.is_closed() && entries.next()?.is_some() {}
    file.rewind().map_err(|error| Wrong::unreadable(&error))?;
    progress.set_message("imported");
    read_batches(file, limits, batches)
}

fn read_batches(
    file: impl BufRead,
    limits: Limits,
    batches: &mpsc::Sender<Result<Batch, Wrong>>,
) -> Result<(), Wrong> {
    let mut entries = Entries::of(file, limits)?;
    loop {
        let (batch, end) = next_batch(&mut entries);
        if !batch.is_empty() && batches.blocking_send(Ok(batch)).is_err() {
            return Ok(());
        }
        if let Some(end) = end {
            return end;
        }
    }
}

type Batch = Vec<(Bytes, Bytes)>;

/// The next batch, and how the file ends if it does.
fn next_batch<R: BufRead>(entries: &mut Entries<R>) -> (Batch, Option<Result<(), Wrong>>) {
    let mut batch = Batch::new();
    let mut bytes = 0;
    while batch.len() < BATCH_ENTRIES && bytes < BATCH_BYTES {
        match entries.next() {
            Ok(Some((key, value))) => {
                bytes += key.len() + value.len();
                batch.push((key, value));
            }
            Ok(None) => return (batch, Some(Ok(()))),
            Err(wrong) => return (batch, Some(Err(wrong))),
        }
    }
    (batch, None)
}

/// What was written so far, and what is on its way.
#[derive(Default)]
struct Imported {
    entries: u64,
    writing: JoinSet<Result<u64, Error>>,
    has_begun: bool,
    failure: Option<Error>,
}

impl Imported {
    /// Waits for a place, then begins to write a batch.
    async fn begin(&mut self, client: &Client, batch: Batch) {
        while self.writing.len() >= BATCHES_IN_FLIGHT {
            self.wait_for_one().await;
        }
        self.has_begun = true;
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
            Some(Ok(Err(error))) => self.failed(error),
            Some(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
            None => {}
        }
    }

    /// The first failure is told, unless a later one leaves open whether its batch is applied.
    fn failed(&mut self, error: Error) {
        if self.failure.is_none() || matches!(error, Error::Undetermined { .. }) {
            self.failure = Some(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Cursor;
    use std::path::Path;

    use super::*;

    fn limits() -> Limits {
        let mut limits = rdb_proto::metapb::Limits::default();
        (limits.key_bytes_max, limits.value_bytes_max) = (8, 16);
        limits.into()
    }

    #[test]
    fn a_file_that_is_wrong_at_its_end_has_none_of_its_entries_sent() {
        let entry = "{\"key\":\"k\",\"value\":\"v\"}\n".repeat(2 * BATCH_ENTRIES);
        let (read, mut batches) = mpsc::channel(BATCHES_READ_AHEAD);
        let read_checked =
            |file: String| read_checked(Cursor::new(file), limits(), &ProgressBar::hidden(), &read);
        read_checked(entry.clone()).expect("it is right");
        assert_eq!(batches.len(), 2);
        while batches.try_recv().is_ok() {}

        let wrong = read_checked(entry + "{");
        let wrong = wrong.expect_err("it is cut").to_string();
        assert!(wrong.starts_with("entry 2049: "), "{wrong}");
        assert!(batches.is_empty());
    }

    #[test]
    fn a_file_whose_size_is_known_has_a_bar_that_moves_to_its_end() {
        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        let path = directory.path().join("export");
        let entry = "{\"key\":\"k\",\"value\":\"v\"}\n";
        fs::write(&path, entry).expect("the temporary directory can be written");
        let open = |path: &Path| {
            let path = Some(path.to_owned());
            Source::open(&ImportArguments { path }).expect("it can be read")
        };
        let source = open(&path);
        let bar = progress("imported", source.file_bytes());
        assert_eq!(bar.length(), Some(entry.len() as u64));
        let (read, _batches) = mpsc::channel(BATCHES_READ_AHEAD);
        source.read(limits(), &bar, &read);
        assert_eq!(bar.position(), entry.len() as u64);

        let device = open(Path::new("/dev/null"));
        for source in [device, Source::StandardInput] {
            let spinner = progress("imported", source.file_bytes());
            assert_eq!(spinner.length(), None);
        }
    }

    #[test]
    fn a_write_that_may_be_applied_is_told_before_one_that_is_not() {
        let refused = || Error::Refused { cause: "no".into() };
        let undetermined = || Error::Undetermined {
            cause: "lost".into(),
        };
        for errors in [[refused(), undetermined()], [undetermined(), refused()]] {
            let mut imported = Imported::default();
            errors.into_iter().for_each(|error| imported.failed(error));
            let failure = imported.failure;
            assert!(
                matches!(failure, Some(Error::Undetermined { .. })),
                "{failure:?}"
            );
        }
    }
}
