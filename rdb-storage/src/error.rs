//! Errors, sorted by what the caller can do about them.

use std::path::PathBuf;

use bytes::Bytes;

use crate::database::DatabaseKind;
use crate::identity::IDENTITY_FILE;
use crate::repair::LogDamage;

/// Whether a failed write may have been applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Certainly not applied, now or later.
    NotApplied,
    /// May have been applied, or may turn out to be after the next open.
    Unknown,
}

/// An operation on an open [`Storage`](crate::Storage) failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request is wrong, no matter what is stored.
    #[error("{cause}")]
    InvalidArgument {
        /// What is wrong, named as on the wire.
        field: &'static str,
        /// The limit that was exceeded, in the field's unit.
        limit: Option<u64>,
        /// What is wrong and what would be right.
        cause: String,
    },
    /// The key's version is not the expected one; nothing was changed.
    #[error("the key's version is {current_version}, not the expected one")]
    Conflict {
        /// 0: the key does not exist.
        current_version: u64,
        /// `None`: the key does not exist, or its value is longer than
        /// [`CONFLICT_VALUE_BYTES_MAX`](crate::limits::CONFLICT_VALUE_BYTES_MAX).
        current_value: Option<Bytes>,
    },
    /// A queue is full; nothing was done. Try again a little later.
    #[error("the {queue} queue is full ({limit} {unit})")]
    Busy {
        /// Which queue.
        queue: &'static str,
        /// How much it holds.
        limit: u64,
        /// The unit of `limit`.
        unit: &'static str,
    },
    /// The write met an error in the middle: it may or may not be there after the next open.
    #[error("the write may or may not have been applied: {cause}")]
    Undetermined {
        /// What RocksDB said.
        cause: String,
    },
    /// Writes are refused until the storage is opened again, since an earlier write met an IO error. Or only writes to
    /// this region are refused, since one of them needed data that cannot be read. Reads go on.
    #[error("writes have stopped since an earlier one failed: {cause}")]
    WritesStopped {
        /// What RocksDB said then.
        cause: String,
    },
    /// The storage was closed.
    #[error("the storage is closed")]
    Closed,
    /// Stored data is damaged. Reading again will not help.
    #[error("stored data is damaged: {cause}")]
    DataLoss {
        /// Which data and how.
        cause: String,
    },
    /// A multi-key read found more than it may return. Ask for fewer keys.
    #[error(
        "the values of these keys have more than {limit_bytes} bytes together; ask for fewer keys"
    )]
    ResultTooLarge {
        /// The most that one read returns.
        limit_bytes: u64,
    },
    /// The result is larger than the room for it, and was not copied out of RocksDB. Make room for `bytes` and read again;
    /// the data may have changed by then.
    #[error("the result has {bytes} bytes, more than there is room for")]
    NeedsRoom {
        /// The room that the result takes.
        bytes: usize,
    },
    /// Reading from the disk failed, or the directory could not be examined.
    #[error("reading failed: {cause}")]
    Io {
        /// What the operating system or RocksDB said.
        cause: String,
    },
    /// The directory already belongs to another cluster, or to another store of this one.
    #[error("the data directory belongs to {owner}, not to {wanted}")]
    ForeignAssignment {
        /// Whose it is.
        owner: String,
        /// Who asked for it.
        wanted: String,
    },
}

impl Error {
    /// Whether the failed write may have been applied. For a failed read it means nothing.
    pub fn fate(&self) -> Fate {
        match self {
            Self::Undetermined { .. } => Fate::Unknown,
            Self::InvalidArgument { .. }
            | Self::Conflict { .. }
            | Self::Busy { .. }
            | Self::WritesStopped { .. }
            | Self::Closed
            | Self::DataLoss { .. }
            | Self::ResultTooLarge { .. }
            | Self::NeedsRoom { .. }
            | Self::Io { .. }
            | Self::ForeignAssignment { .. } => Fate::NotApplied,
        }
    }

    pub(crate) fn io(doing: &str, error: impl std::fmt::Display) -> Self {
        Self::Io {
            cause: format!("{doing}: {error}"),
        }
    }

    /// Converts RocksDB's error of a read. A full disk or an exhausted table of files is [`Error::Io`].
    pub(crate) fn from_read(error: rocksdb::Error) -> Self {
        let cause = error.to_string();
        match error.kind() {
            rocksdb::ErrorKind::Corruption => Self::DataLoss { cause },
            _ => Self::Io { cause },
        }
    }
}

/// Damaged data keeps a kind of its own.
impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::DataLoss { .. } => std::io::ErrorKind::InvalidData,
            _ => std::io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Whether the failure that RocksDB or this crate reported is damaged data.
pub fn is_damage(cause: &str) -> bool {
    cause.contains("Corruption") || cause.contains("damaged")
}

/// What to do about a failure that has ended writing, by RocksDB's message.
pub fn remedy(cause: &str) -> &'static str {
    if is_damage(cause) {
        "a restart does not mend damaged data: `rdbctl status` tells what to do"
    } else if cause.contains("No space left") || cause.contains("quota exceeded") {
        "free space, then restart"
    } else {
        "mend that, then restart"
    }
}

/// A data directory could not be opened. No data in it was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A setting has a value that cannot work.
    #[error("{setting} is {value}, which cannot work: {problem}")]
    InvalidOption {
        /// The setting's name.
        setting: &'static str,
        /// Its value.
        value: u64,
        /// What relation does not hold.
        problem: &'static str,
    },
    /// Another process, or another `Storage` of this one, has the directory open.
    #[error("the data directory {0} is in use by another process")]
    Locked(PathBuf),
    /// The directory has files in it, but is not FlareDB's.
    #[error(
        "{0} is not empty and not a FlareDB data directory (it has no file {IDENTITY_FILE}); name another one"
    )]
    NotADataDirectory(PathBuf),
    /// A repair was requested, but the directory has nothing of FlareDB's.
    #[error(
        "{0} is not a FlareDB data directory (it has no file {IDENTITY_FILE}), so there is nothing to repair"
    )]
    NoDataDirectory(PathBuf),
    /// The identity file cannot be understood.
    #[error("the identity file {file} is damaged: {problem}")]
    DamagedIdentity {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The directory was made by another kind of process.
    #[error(
        "the data directory {directory} belongs to a {found}, and this is a {wanted}; name another one"
    )]
    ForeignRole {
        /// The data directory.
        directory: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asked for it.
        wanted: String,
    },
    /// The directory was written by a newer release.
    #[error(
        "the data directory {directory} has format {found}, and this release reads up to {supported}; use the newer release"
    )]
    NewerFormat {
        /// The data directory.
        directory: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that this release reads.
        supported: u32,
    },
    /// RocksDB refuses a database: files are missing, truncated or altered.
    #[error("the {database} in {directory} is damaged: {cause}{}", details(.log_damage.as_ref(), .log))]
    Damaged {
        /// Which of the two databases of the directory.
        database: DatabaseKind,
        /// The data directory.
        directory: PathBuf,
        /// What RocksDB said.
        cause: String,
        /// Where its write-ahead log is damaged. `None`: the damage is elsewhere, or a part of the log is missing.
        log_damage: Option<LogDamage>,
        /// What RocksDB's info log said first, which often names the file.
        log: Vec<String>,
    },
    /// There is a log of replicated regions that the identity file does not know of. It may belong to a newer copy of that file.
    #[error(
        "{file} holds a Raft log, and {IDENTITY_FILE} of this data directory says that there is none; if {IDENTITY_FILE} is \
         from an older copy, put the newer one back; if nobody needs that Raft log, remove the directory that the file is in"
    )]
    UnknownLog {
        /// A file that holds a part of it.
        file: PathBuf,
    },
    /// A cut of a log was requested, but other stores count on what this one has acknowledged in it.
    #[error(
        "region {region_id} in {directory} is on other stores, too: they count on writes and votes that a repair would cut off, so \
         nothing was cut; leave this store stopped, and the others serve the region without it; once its peer is removed from \
         the region, a store with an empty directory can take its place"
    )]
    Replicated {
        /// The data directory.
        directory: PathBuf,
        /// The region.
        region_id: u64,
    },
    /// The file system failed.
    #[error("cannot open the data directory {directory}: {cause}")]
    Io {
        /// The data directory.
        directory: PathBuf,
        /// What was tried, and what the operating system or RocksDB said.
        cause: String,
    },
}

impl OpenError {
    /// Whether a later try may succeed with nothing changed in the directory.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Locked(_) | Self::Io { .. })
    }
}

/// RocksDB's own lines only if the position is unknown: they say what it drops, and a refused open drops nothing.
fn details(log_damage: Option<&LogDamage>, log: &[String]) -> String {
    match log_damage {
        Some(damage) => format!("\n  {damage}"),
        None => log
            .iter()
            .map(|line| format!("\n  RocksDB: {line}"))
            .collect(),
    }
}
