//! Cutting damaged write-ahead logs, and saying where they are damaged.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs, io};

use crate::error::{Error, OpenError};
use crate::identity::DataDirectory;
use crate::log_database::LogDatabase;
use crate::logs::Logs;
use crate::options::{Durability, StorageOptions, WalRecovery};
use crate::storage::Storage;

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// The directory opens as it is. Nothing was cut.
    NotNeeded,
    /// A database's log was cut at its first damage, and every write after it is lost. One place for each database that was
    /// cut; none for one that RocksDB refused for another reason than its records, e.g. for a missing file.
    Cut(Vec<LogDamage>),
}

impl Repair {
    /// Cuts the write-ahead logs of `directory` that an open refuses as damaged: that of the data, and that of the log
    /// database if there is one. Creates no directory. Blocks.
    ///
    /// # Errors
    ///
    /// [`OpenError`] when something else than a log keeps the directory from being opened.
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
        let data = Self::of_database(&options, |options| {
            let storage = Storage::open_locked(Arc::clone(&directory), options)?;
            closed(storage.close())
        })?;
        let log = Self::of_database(&options, |options| {
            if !directory.identity().has_log {
                return Ok(());
            }
            let log = LogDatabase::open(Arc::clone(&directory), options)?;
            closed(log.close())
        })?;
        Ok(match (data, log) {
            (Self::NotNeeded, repair) | (repair, Self::NotNeeded) => repair,
            (Self::Cut(data), Self::Cut(log)) => Self::Cut([data, log].concat()),
        })
    }

    /// Cuts the log of a database if opening and closing it refuses the log.
    fn of_database(
        options: &StorageOptions,
        open_and_close: impl Fn(&StorageOptions) -> Result<(), OpenError>,
    ) -> Result<Self, OpenError> {
        let options = |wal_recovery| StorageOptions {
            wal_recovery,
            // Under `Os` an open itself drops what comes behind the damage.
            durability: Durability::Sync,
            ..options.clone()
        };
        match open_and_close(&options(WalRecovery::Strict)) {
            Ok(()) => Ok(Self::NotNeeded),
            Err(OpenError::Damaged { log_damage, .. }) => {
                open_and_close(&options(WalRecovery::PointInTime))?;
                Ok(Self::Cut(log_damage.into_iter().collect()))
            }
            Err(error) => Err(error),
        }
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

/// The CRC with Castagnoli's polynomial.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < table.len() {
            let mut crc = index as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
                bit += 1;
            }
            table[index] = crc;
            index += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc: u32, &byte| {
        (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
