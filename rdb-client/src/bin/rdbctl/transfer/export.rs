//! `rdbctl raw export`.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;

use futures::StreamExt;
use rdb_client::{Client, KeyRange, ScanOptions};

use super::form::{Form, Summed};
use super::{Transferred, named, progress};
use crate::failure::Failure;
use crate::key_range::RangeOptions;
use crate::output::{FLUSH_ENTRIES_MAX, Output};
use crate::session::Session;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ExportArguments {
    /// The file; without it, or for `-`, standard output
    #[arg(value_name = "FILE")]
    path: Option<PathBuf>,
    #[command(flatten)]
    range: RangeOptions,
    /// How entries are written
    #[arg(long, value_enum, default_value_t = Form::Jsonl)]
    form: Form,
}

impl ExportArguments {
    pub(crate) fn names_a_file(&self) -> bool {
        named(self.path.as_deref()).is_some()
    }
}

/// Writes the entries of a range. A file has its name only once it is complete and synced.
pub(crate) async fn export(
    arguments: &ExportArguments,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let range = arguments.range.range(session)?;
    let form = arguments.form;
    let Some(path) = named(arguments.path.as_deref()) else {
        let client = session.connect().await?;
        write_entries(&client, range, form, &mut output.writer()).await?;
        return Ok(());
    };
    let part = PartOfFile::of(path)?;
    let client = session.connect().await?;
    let mut file = BufWriter::new(&part.file);
    let entries = write_entries(&client, range, form, &mut file).await;
    let entries = entries.map_err(|failure| part.named(failure))?;
    drop(file);
    part.complete(path)?;
    output.record(&Transferred { entries })
}

async fn write_entries(
    client: &Client,
    range: KeyRange,
    form: Form,
    file: &mut impl Write,
) -> Result<u64, Failure> {
    let progress = progress("exported");
    let file = &mut Summed::new(file);
    form.begin(file)?;
    let mut exported = 0;
    let entries = client.raw_scan(range, ScanOptions::default());
    let mut arrived = pin!(entries.ready_chunks(FLUSH_ENTRIES_MAX));
    while let Some(entries) = arrived.next().await {
        for entry in entries {
            let entry = entry?;
            form.write(file, entry.key, entry.value)?;
            exported += 1;
        }
        progress.set_position(exported);
    }
    form.end(file, exported)?;
    file.flush()?;
    progress.finish_and_clear();
    Ok(exported)
}

/// A file beside the one that is to be written. It is removed unless it becomes that.
struct PartOfFile {
    file: File,
    path: PathBuf,
    is_complete: bool,
}

impl PartOfFile {
    fn of(path: &Path) -> Result<Self, Failure> {
        let mut part = OsString::from(path);
        part.push(".part");
        let path = PathBuf::from(part);
        let file = File::create(&path).map_err(|error| cannot_write(&path, &error))?;
        Ok(Self {
            file,
            path,
            is_complete: false,
        })
    }

    /// A failure to write is that of this file.
    fn named(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Output(error) => cannot_write(&self.path, &error),
            failure => failure,
        }
    }

    fn complete(mut self, path: &Path) -> Result<(), Failure> {
        let synced = self.file.sync_all();
        let renamed = synced.and_then(|()| fs::rename(&self.path, path));
        renamed.map_err(|error| cannot_write(path, &error))?;
        self.is_complete = true;
        Ok(())
    }
}

impl Drop for PartOfFile {
    fn drop(&mut self) {
        if !self.is_complete {
            // Nobody is left to be told.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot write {}: {error}", path.display()))
}
