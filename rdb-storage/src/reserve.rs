//! Reserved disk space: a file that an open deletes when the disk is full. Then RocksDB can be opened, which needs
//! space for a manifest and a log, and data can be deleted.
//!
//! The first open that finds enough free space makes the file again.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// The reserve takes at most this part of the file system.
const SHARE_OF_CAPACITY: u64 = 20;

/// The reserve is made only when this many times its size is free.
const FREE_TO_MAKE: u64 = 4;

/// Space of a file system, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Space {
    pub(crate) capacity_bytes: u64,
    pub(crate) available_bytes: u64,
}

impl Space {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let stat = statvfs(path)?;
        Ok(Self {
            capacity_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

/// The reserve of one data directory.
#[derive(Debug)]
pub(crate) struct DiskReserve {
    file: PathBuf,
    bytes: u64,
}

impl DiskReserve {
    pub(crate) fn new(directory: &Path, bytes_max: u64) -> io::Result<Self> {
        let capacity_bytes = Space::of(directory)?.capacity_bytes;
        Ok(Self {
            file: directory.join("reserve"),
            bytes: bytes_max.min(capacity_bytes / SHARE_OF_CAPACITY),
        })
    }

    /// Gives the reserve up when less than its size is free.
    pub(crate) fn release_if_full(&self) -> io::Result<()> {
        let directory = self.file.parent().unwrap_or(Path::new("."));
        if Space::of(directory)?.available_bytes >= self.bytes || !self.file.exists() {
            return Ok(());
        }
        fs::remove_file(&self.file)?;
        tracing::warn!(
            reserve_bytes = self.bytes,
            "the disk is full: the reserve was given up so that data can be deleted"
        );
        Ok(())
    }

    /// Makes the reserve if it is missing and there is enough free space. A failure is only logged.
    pub(crate) fn make_if_roomy(&self) {
        let made = fs::metadata(&self.file).is_ok_and(|metadata| metadata.len() >= self.bytes);
        if self.bytes == 0 || made {
            return;
        }
        if let Err(error) = self.make() {
            tracing::warn!(%error, "the disk reserve could not be made");
            let _ = fs::remove_file(&self.file);
        }
    }

    fn make(&self) -> io::Result<()> {
        let directory = self.file.parent().unwrap_or(Path::new("."));
        if Space::of(directory)?.available_bytes < self.bytes.saturating_mul(FREE_TO_MAKE) {
            return Ok(());
        }
        let file = File::create(&self.file)?;
        fallocate(&file, FallocateFlags::empty(), 0, self.bytes)?;
        file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_made_once_and_kept_while_there_is_space() {
        let directory = tempfile::tempdir().unwrap();
        let reserve = DiskReserve::new(directory.path(), 1 << 20).unwrap();
        reserve.make_if_roomy();
        let bytes = fs::metadata(directory.path().join("reserve"))
            .unwrap()
            .len();
        assert_eq!(bytes, 1 << 20);
        reserve.release_if_full().unwrap();
        assert!(directory.path().join("reserve").exists());
    }
}
