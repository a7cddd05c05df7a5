//! Cutting damaged write-ahead logs, and saying where they are damaged.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs, io};

use crc32c::crc32c;

use crate::database::DatabaseKind;
use crate::engine::Engine;
use crate::error::{Error, OpenError};
use crate::identity::DataDirectory;
use crate::log_database::LogDatabase;
use crate::logs::Logs;
use crate::options::{Durability, StorageOptions, WalRecovery};
use crate::region::RegionDescriptor;
use crate::storage::Storage;

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// The directory opens as it is. Nothing was cut.
    NotNeeded,
    /// The logs of these databases were cut at their first damage, and every write after it is lost.
    Cut(Vec<Cut>),
}

/// A database whose write-ahead log was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Which of the two.
    pub database: DatabaseKind,
    /// Why RocksDB refused it.
    pub cause: String,
    /// Where it was cut. `None`: no record is damaged, e.g. since a log is missing or ends too early.
    pub log_damage: Option<LogDamage>,
}

impl fmt::Display for Cut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.log_damage {
            Some(damage) => write!(formatter, "the {}: {damage}", self.database),
            None => write!(formatter, "the {}: {}", self.database, self.cause),
        }
    }
}

/// Opens and closes a database.
type Reopen<'a> = dyn Fn(&StorageOptions) -> Result<(), OpenError> + 'a;

impl Repair {
    /// Cuts the write-ahead logs of `directory` that an open refuses as damaged: that of the data, and that of the
    /// [`LogDatabase`] if there is one. Creates no directory. Blocks. A directory with a log database takes
    /// [`StorageOptions::replicated`].
    ///
    /// # Errors
    ///
    /// [`OpenError`] when something else than a log keeps the directory from being opened. Then no log was cut, unless both
    /// were damaged and only one could be cut. [`OpenError::Replicated`] when other stores hold one of the regions, too.
    pub fn of(directory: impl AsRef<Path>, options: StorageOptions) -> Result<Self, OpenError> {
        options.validate()?;
        let directory = DataDirectory::open(directory.as_ref(), options.role, false)?;
        let directory = Arc::new(directory);
        let closed = |result: Result<(), Error>| {
            result.map_err(|error| OpenError::Io {
                directory: directory.path().to_owned(),
                cause: error.to_string(),
            })
        };
        let data: &Reopen<'_> = &|options| {
            let storage = Storage::open_locked(Arc::clone(&directory), options)?;
            closed(storage.close())
        };
        let log: &Reopen<'_> = &|options| {
            if !directory.identity().has_log {
                return Ok(());
            }
            let log = LogDatabase::open(Arc::clone(&directory), options)?;
            closed(log.close())
        };
        let options = |wal_recovery| StorageOptions {
            wal_recovery,
            // Under `Os` an open itself drops what comes behind the damage.
            durability: Durability::Sync,
            ..options.clone()
        };
        let mut to_cut = Vec::new();
        for reopen in [data, log] {
            if let Some(cut) = refusal(reopen(&options(WalRecovery::Strict)))? {
                to_cut.push((reopen, cut));
            }
        }
        if to_cut.is_empty() {
            return Ok(Self::NotNeeded);
        }
        refuse_replicated(&directory, &options(WalRecovery::PointInTime))?;
        // The one that may be damaged elsewhere comes first: if it cannot be cut, the other is still as it was.
        to_cut.sort_by_key(|(_, cut)| cut.log_damage.is_some());
        for (reopen, _) in &to_cut {
            reopen(&options(WalRecovery::PointInTime))?;
        }
        let cut = to_cut.into_iter().map(|(_, cut)| cut);
        Ok(Self::Cut(cut.collect()))
    }
}

/// A voter whose log was cut has forgotten what other voters count on.
fn refuse_replicated(directory: &DataDirectory, options: &StorageOptions) -> Result<(), OpenError> {
    let identity = directory.identity();
    if !identity.has_log {
        return Ok(());
    }
    let is_replicated = |region: &&RegionDescriptor| match identity.store_id {
        // The only stored peer may be that of another store, from before this store had one.
        Some(store_id) => region.is_elsewhere(store_id),
        None => region.peers.len() > 1,
    };
    let regions = Engine::regions_of(directory, options)?;
    match regions.iter().find(is_replicated) {
        None => Ok(()),
        Some(region) => Err(OpenError::Replicated {
            directory: directory.path().to_owned(),
            region_id: region.id,
        }),
    }
}

/// What to cut from an opened database, if anything.
fn refusal(opened: Result<(), OpenError>) -> Result<Option<Cut>, OpenError> {
    match opened {
        Ok(()) => Ok(None),
        Err(OpenError::Damaged {
            database,
            cause,
            log_damage,
            ..
        }) => Ok(Some(Cut {
            database,
            cause,
            log_damage,
        })),
        Err(error) => Err(error),
    }
}

/// The first damaged record of the write-ahead logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogDamage {
    /// The log that has it.
    pub file: PathBuf,
    /// Where in the file the record begins, in bytes.
    pub offset: u64,
    /// How many bytes of the logs, the record included, come from there on.
    pub rest_bytes: u64,
}

impl fmt::Display for LogDamage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, rest_bytes) = (self.file.display(), self.rest_bytes);
        write!(
            formatter,
            "{file} is damaged at byte {}; {rest_bytes} bytes of log come from there on",
            self.offset
        )
    }
}

/// RocksDB's log format: records do not cross blocks, and the rest of a block that holds no header is zero.
const BLOCK_BYTES: usize = 32 << 10;
/// Checksum, length, type.
const HEADER_BYTES: usize = 7;

impl LogDamage {
    /// Looks for a record whose checksum is wrong. The end of a file in the middle of a record is none: a crash leaves that.
    pub(crate) fn find(logs: &Logs) -> io::Result<Option<Self>> {
        let mut files = logs.files.iter();
        while let Some(file) = files.next() {
            let bytes = fs::read(file)?;
            let Some(offset) = damaged_record(&bytes) else {
                continue;
            };
            let mut rest_bytes = (bytes.len() - offset) as u64;
            for later in files {
                rest_bytes += fs::metadata(later)?.len();
            }
            return Ok(Some(Self {
                file: file.clone(),
                offset: offset as u64,
                rest_bytes,
            }));
        }
        Ok(None)
    }
}

fn damaged_record(log: &[u8]) -> Option<usize> {
    let mut offset = 0;
    for block in log.chunks(BLOCK_BYTES) {
        let mut rest = block;
        while let Some((&[a, b, c, d, low, high, kind], payload)) =
            rest.split_first_chunk::<HEADER_BYTES>()
        {
            let length = usize::from(u16::from_le_bytes([low, high]));
            let (sum, is_whole) = (u32::from_le_bytes([a, b, c, d]), length <= payload.len());
            if kind == 0 && length == 0 && sum == 0 {
                break;
            }
            if !is_whole && block.len() < BLOCK_BYTES {
                return None;
            }
            // The checksum covers the type and what follows.
            if !is_whole || masked(crc32c(&rest[HEADER_BYTES - 1..HEADER_BYTES + length])) != sum {
                return Some(offset + (block.len() - rest.len()));
            }
            rest = &payload[length..];
        }
        offset += block.len();
    }
    None
}

/// As RocksDB stores checksums, so that those of data which holds checksums differ.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}
