//! Files that are read again while a process runs: certificates, keys, tokens.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Reads a regular file, but no more than `bytes_max` bytes. Anything else, e.g. a pipe, cannot be read a second time: it is refused
/// without waiting.
pub(crate) fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    // Checked before it is opened: opening a pipe would let its writer go on.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other(
            "it is no regular file, so it cannot be read again",
        ));
    }
    let mut bytes = Vec::new();
    open(path)?.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;

        // It may have become a pipe meanwhile.
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    }
    options.open(path)
}

/// Whether every user of this machine can read it.
#[cfg(unix)]
pub(crate) fn is_readable_by_all(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;

    const READ_BY_OTHERS: u32 = 0o004;
    let metadata = fs::metadata(path);
    metadata.is_ok_and(|metadata| metadata.permissions().mode() & READ_BY_OTHERS != 0)
}

#[cfg(not(unix))]
pub(crate) fn is_readable_by_all(_: &Path) -> bool {
    false
}
