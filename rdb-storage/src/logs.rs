//! The write-ahead logs that an open finds: whether one is missing, and whether there is room to flush their writes.
//!
//! RocksDB records the length of a log when it starts the next one. It has no record of the length of the log that was in use
//! when the process ended. If that log were kept beside a newer one, later damage to it would read as a torn tail, and the
//! newer log would be replayed over the hole. So an open flushes the replayed writes, and RocksDB deletes the old logs. On a
//! nearly full disk the flush would fail, and the database could not be opened. Then the writes stay in memory and in the
//! logs until there is space.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::reserve::Space;

/// A flush takes about the size of what was replayed. This many times that size has to be free.
const FREE_TO_FLUSH: u64 = 2;

/// Space that has to be free beside that, in bytes.
const MARGIN_BYTES: u64 = 16 << 20;

/// Largest size of a replayed log in memory, as a multiple of its length on the disk. Small records have more overhead
/// there.
const MEMORY_OF_LOG: u64 = 8;

/// The fate of the writes that an open replays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replay {
    /// They are flushed to table files, and the logs are deleted.
    Flush,
    /// They stay in the memtables and in the logs.
    Keep {
        /// Size that the memtables need, in bytes.
        memory_bytes: u64,
    },
}

/// The log files of a database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Logs {
    /// Oldest first.
    pub(crate) files: Vec<PathBuf>,
    bytes: u64,
}

impl Logs {
    /// The logs in the directory `database`; none when it does not exist.
    pub(crate) fn of(database: &Path) -> io::Result<Self> {
        let entries = match fs::read_dir(database) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            entries => entries?,
        };
        let mut logs = Self::default();
        for entry in entries {
            let entry = entry?;
            if Path::new(&entry.file_name()).extension() == Some("log".as_ref()) {
                logs.files.push(entry.path());
                logs.bytes += entry.metadata()?.len();
            }
        }
        // Their numbers have zeros in front.
        logs.files.sort();
        Ok(logs)
    }

    /// RocksDB begins a new log before it deletes the one before, so a database always has one.
    pub(crate) fn are_missing(&self) -> bool {
        self.files.is_empty()
    }

    /// Syncs the logs and their directory. A process that was killed may have left bytes that only the operating system
    /// has, and RocksDB never syncs a log that it keeps across an open. A read could show a value that a power cut takes
    /// back.
    fn sync(&self) -> io::Result<()> {
        for file in &self.files {
            File::open(file)?.sync_all()?;
        }
        match self.files.first().and_then(|file| file.parent()) {
            Some(database) => File::open(database)?.sync_all(),
            None => Ok(()),
        }
    }

    /// Flushes if there is enough free space: for the logs, and for `later_bytes` that are applied after the open. Logs that are
    /// to be kept are synced.
    pub(crate) fn replay(&self, later_bytes: u64, space: Space) -> io::Result<Replay> {
        if self.can_be_flushed(later_bytes, space) {
            return Ok(Replay::Flush);
        }
        self.sync()?;
        let bytes = self.bytes.saturating_add(later_bytes);
        Ok(Replay::Keep {
            memory_bytes: bytes.saturating_mul(MEMORY_OF_LOG),
        })
    }

    /// Whether there is enough free space to flush what the logs hold, and `later_bytes`.
    pub(crate) fn can_be_flushed(&self, later_bytes: u64, space: Space) -> bool {
        let bytes = self.bytes.saturating_add(later_bytes);
        let needed = bytes
            .saturating_mul(FREE_TO_FLUSH)
            .saturating_add(MARGIN_BYTES);
        space.available_bytes >= needed
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_logs_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        assert!(
            Logs::of(&directory.path().join("db"))
                .unwrap()
                .are_missing()
        );
        for (name, bytes) in [
            ("000004.log", 10),
            ("000007.log", 5),
            ("LOG", 3),
            ("000005.sst", 1),
        ] {
            fs::write(directory.path().join(name), vec![0; bytes]).unwrap();
        }
        let mut logs = Logs::of(directory.path()).unwrap();
        logs.files.sort();
        let file = |name| directory.path().join(name);
        assert_eq!(
            logs,
            Logs {
                files: vec![file("000004.log"), file("000007.log")],
                bytes: 15
            }
        );
    }

    fn space(available_bytes: u64) -> Space {
        Space {
            capacity_bytes: 1 << 30,
            available_bytes,
        }
    }

    /// Only a power cut can show that the bytes reach the disk. Neither `/dev/null` nor a directory of `/proc` can be synced:
    /// the error shows that it was tried.
    #[test]
    fn an_open_that_keeps_logs_syncs_each_and_their_directory_or_fails() {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["000004.log", "000007.log"].map(|name| directory.path().join(name));
        let keep = |logs: Logs| logs.replay(0, space(0)).map_err(|error| error.kind());
        for unsyncable in &paths {
            for path in &paths {
                fs::write(path, b"a log").unwrap();
            }
            let logs = Logs::of(directory.path()).unwrap();
            let memory_bytes = MEMORY_OF_LOG * 10;
            assert_eq!(keep(logs), Ok(Replay::Keep { memory_bytes }));

            fs::remove_file(unsyncable).unwrap();
            symlink("/dev/null", unsyncable).unwrap();
            let logs = Logs::of(directory.path()).unwrap();
            assert_eq!(keep(logs), Err(ErrorKind::InvalidInput));
            fs::remove_file(unsyncable).unwrap();
        }
        let file = tempfile::tempfile().unwrap();
        let logs = Logs {
            files: vec![format!("/proc/self/fd/{}", file.as_raw_fd()).into()],
            bytes: 0,
        };
        assert_eq!(keep(logs), Err(ErrorKind::InvalidInput));
        assert!(keep(Logs::default()).is_ok());
    }

    #[test]
    fn flushing_needs_twice_the_logs_and_a_margin() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("000004.log"), [0; 100]).unwrap();
        let logs = Logs::of(directory.path()).unwrap();
        let roomy = logs.replay(0, space(MARGIN_BYTES + 200));
        assert_eq!(roomy.unwrap(), Replay::Flush);
        let full = logs.replay(0, space(MARGIN_BYTES + 199));
        assert_eq!(full.unwrap(), Replay::Keep { memory_bytes: 800 });
        let roomy = logs.replay(50, space(MARGIN_BYTES + 300));
        assert_eq!(roomy.unwrap(), Replay::Flush);
        let full = logs.replay(50, space(MARGIN_BYTES + 299));
        assert_eq!(full.unwrap(), Replay::Keep { memory_bytes: 1200 });
    }
}
