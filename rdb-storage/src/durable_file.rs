//! Small files that are replaced and removed atomically.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Replaces a file. A crash leaves the old contents or the new ones. When this returns, the new ones are durable.
///
/// They are written to a file beside it first, whose name ends with `.new`.
///
/// # Errors
///
/// What the file system says. The old contents are still there then, or the new ones are not durable yet.
pub fn replace_file(file: &Path, contents: &[u8]) -> io::Result<()> {
    let mut temporary = file.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = Path::new(&temporary);
    let mut new = File::create(temporary)?;
    new.write_all(contents)?;
    new.sync_all()?;
    fs::rename(temporary, file)?;
    sync_directory_of(file)
}

/// Removes a file, if it is there. When this returns, it is gone for good.
///
/// # Errors
///
/// What the file system says. The file may still be there then, or come back after a crash.
pub fn remove_file(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed?,
    }
    sync_directory_of(file)
}

fn sync_directory_of(file: &Path) -> io::Result<()> {
    match file.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}
