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
    let progress = progress("exported", None);
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

/// A temporary file beside the target. It is removed unless it becomes the target.
struct PartOfFile {
    file: File,
    path: PathBuf,
    is_complete: bool,
}

impl PartOfFile {
    fn of(path: &Path) -> Result<Self, Failure> {
        let mut part = OsString::from(path);
        part.push(".part");
        if fs::metadata(path).is_ok_and(|target| !target.is_file()) {
            let path = path.display();
            return Err(Failure::usage(format!(
                "{path} is no regular file: export without a FILE, and redirect standard output to it"
            )));
        }
        let path = PathBuf::from(part);
        // Two exports would write into each other's part.
        let file = File::create_new(&path).map_err(|error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                Failure::failed(format!(
                    "{} exists: another export writes it, or one was killed; in that case remove it",
                    path.display()
                ))
            } else {
                cannot_write(&path, &error)
            }
        })?;
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
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let directory = File::open(directory.unwrap_or(Path::new(".")));
        let synced = directory.and_then(|directory| directory.sync_all());
        synced.map_err(|error| cannot_write(path, &error))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_export_at_a_time_writes_to_a_regular_file() {
        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        let path = directory.path().join("export");
        let first = PartOfFile::of(&path).expect("nobody else writes it");
        let second = PartOfFile::of(&path).err().expect("the first writes it");
        assert!(second.to_string().contains("another export"), "{second}");
        first.complete(&path).expect("written");
        assert!(path.is_file());
        drop(PartOfFile::of(&path).expect("the first is done"));

        let device = PartOfFile::of(Path::new("/dev/null")).err();
        let device = device.expect("it is no file").to_string();
        assert!(device.contains("no regular file"), "{device}");
        let left = fs::read_dir(directory.path()).expect("it is there").count();
        assert_eq!(left, 1, "no part of a file");
    }
}
