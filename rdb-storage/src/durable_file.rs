//! Small files that are replaced as a whole.

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
    match file.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}
