//! The write-ahead logs that an open finds: whether one is missing, and whether there is room to flush what they hold.
//!
//! RocksDB notes a log's length when it goes on to the next one, but nothing of the log that was live when the process
//! ended. If that one stayed in use behind a newer one, later damage to it would read as a torn tail, and the newer one
//! would be replayed on top of the hole. So an open flushes what it has replayed, and the old logs go. Only on a disk that
//! is nearly full it keeps all of it in memory, since it could never be opened again otherwise.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::reserve::Space;

/// Flushing takes about as much as the logs have; this many times that has to be free.
const FREE_TO_FLUSH: u64 = 2;

/// What has to be free beside that, in bytes.
const MARGIN_BYTES: u64 = 16 << 20;

/// The most that a replayed log takes in memory, as a multiple of its length: small records have more overhead there.
const MEMORY_OF_LOG: u64 = 8;

/// What becomes of the writes that an open replays from the logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replay {
    /// They are flushed to table files, and the logs go.
    Flush,
    /// They stay in memory, whose tables have to have room for so many bytes, and in the logs.
    Keep {
        /// In bytes.
        memory_bytes: u64,
    },
}

/// The log files of a database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Logs {
    count: usize,
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
                logs.count += 1;
                logs.bytes += entry.metadata()?.len();
            }
        }
        Ok(logs)
    }

    /// RocksDB begins a new log before it deletes the one before, so a database always has one.
    pub(crate) fn are_missing(&self) -> bool {
        self.count == 0
    }

    /// Flush where there is plenty of room for it.
    pub(crate) fn replay(&self, space: Space) -> Replay {
        let needed = self
            .bytes
            .saturating_mul(FREE_TO_FLUSH)
            .saturating_add(MARGIN_BYTES);
        if space.available_bytes >= needed {
            return Replay::Flush;
        }
        Replay::Keep {
            memory_bytes: self.bytes.saturating_mul(MEMORY_OF_LOG),
        }
    }
}

#[cfg(test)]
mod tests {
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
        let logs = Logs::of(directory.path()).unwrap();
        assert_eq!(
            logs,
            Logs {
                count: 2,
                bytes: 15
            }
        );
    }

    #[test]
    fn flushing_needs_twice_the_logs_and_a_margin() {
        let logs = Logs {
            count: 1,
            bytes: 100,
        };
        let space = |available_bytes| Space {
            capacity_bytes: 1 << 30,
            available_bytes,
        };
        assert_eq!(logs.replay(space(MARGIN_BYTES + 200)), Replay::Flush);
        let kept = Replay::Keep { memory_bytes: 800 };
        assert_eq!(logs.replay(space(MARGIN_BYTES + 199)), kept);
    }
}
