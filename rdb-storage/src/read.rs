//! Point reads and multi-key reads.
//!
//! Each comes with a [`Tier`]: from memory only, which fails with [`ReadError::NotInMemory`] instead of touching the
//! disk, or from anywhere. A multi-key read is one snapshot in either case; when a part of it is not in memory, the whole
//! of it has to be done again.

use bytes::Bytes;
use rocksdb::{ColumnFamily, DBPinnableSlice, ErrorKind, ReadOptions, ReadTier};

use crate::command::{validate_batch_count, validate_key};
use crate::engine::{Engine, Family};
use crate::error::Error;
use crate::keys;
use crate::limits::BATCH_BYTES_MAX;

/// How many values are read at a time: each may have 4 MiB.
const READ_CHUNK_KEYS: usize = 16;

/// How far a read may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    /// Memtables and block cache: never waits for the disk.
    Memory,
    /// Wherever the data is: may block for as long as the disk takes.
    Disk,
}

/// A read failed.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// What was asked for is not in memory, and the tier allowed nothing else.
    NotInMemory,
    /// Anything else.
    Failed(Error),
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotInMemory => Self::Io {
                cause: "RocksDB answered a read of the disk from memory only".to_owned(),
            },
            ReadError::Failed(error) => error,
        }
    }
}

fn read_error(error: rocksdb::Error) -> ReadError {
    match error.kind() {
        ErrorKind::Incomplete => ReadError::NotInMemory,
        _ => ReadError::Failed(Error::from_read(error)),
    }
}

/// The read of one key, which is one that a key can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointRead {
    keyspace: Keyspace,
    key: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keyspace {
    Raw,
    Versioned,
}

/// What a [`PointRead`] found; `None`: the key does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PointValue {
    /// A raw value.
    Raw(Option<Bytes>),
    /// A versioned value.
    Versioned(Option<Versioned>),
}

impl PointRead {
    /// A read from the raw keyspace.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when the key is empty or too long.
    pub fn raw(key: Bytes) -> Result<Self, Error> {
        Self::new(Keyspace::Raw, key)
    }

    /// A read from the versioned keyspace.
    ///
    /// # Errors
    ///
    /// As [`raw`](Self::raw).
    pub fn versioned(key: Bytes) -> Result<Self, Error> {
        Self::new(Keyspace::Versioned, key)
    }

    fn new(keyspace: Keyspace, key: Bytes) -> Result<Self, Error> {
        validate_key(&key)?;
        Ok(Self { keyspace, key })
    }

    /// The key to read.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    fn family(&self) -> Family {
        match self.keyspace {
            Keyspace::Raw => Family::Raw,
            Keyspace::Versioned => Family::Versioned,
        }
    }

    fn decode(&self, record: Option<&[u8]>) -> Result<PointValue, Error> {
        Ok(match self.keyspace {
            Keyspace::Raw => PointValue::Raw(record.map(Bytes::copy_from_slice)),
            Keyspace::Versioned => {
                PointValue::Versioned(record.map(Versioned::decode).transpose()?)
            }
        })
    }
}

impl PointValue {
    /// The length of the value in bytes; 0 when there is none.
    pub fn value_bytes(&self) -> usize {
        match self {
            Self::Raw(value) => value.as_ref().map_or(0, Bytes::len),
            Self::Versioned(found) => found.as_ref().map_or(0, |found| found.value.len()),
        }
    }
}

/// A versioned value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// At least 1.
    pub version: u64,
    /// The value.
    pub value: Bytes,
}

impl Versioned {
    pub(crate) fn decode(record: &[u8]) -> Result<Self, Error> {
        let (version, value) = keys::versioned::decode(record)?;
        let value = Bytes::copy_from_slice(value);
        Ok(Self { version, value })
    }
}

impl Engine {
    pub(crate) fn get_raw(&self, key: &[u8], tier: Tier) -> Result<Option<Bytes>, ReadError> {
        let value = self.get(Family::Raw, key, tier)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    pub(crate) fn get_versioned(
        &self,
        key: &[u8],
        tier: Tier,
    ) -> Result<Option<Versioned>, ReadError> {
        let record = self.get(Family::Versioned, key, tier)?;
        Ok(record
            .map(|record| Versioned::decode(&record))
            .transpose()?)
    }

    /// The values of `keys` in their order, from one snapshot.
    pub(crate) fn multi_get_raw(
        &self,
        keys: &[Bytes],
        tier: Tier,
    ) -> Result<Vec<Option<Bytes>>, ReadError> {
        self.multi_get(Family::Raw, keys, tier, |value| {
            Ok(Bytes::copy_from_slice(value))
        })
    }

    /// The versions and values of `keys` in their order, from one snapshot.
    pub(crate) fn multi_get_versioned(
        &self,
        keys: &[Bytes],
        tier: Tier,
    ) -> Result<Vec<Option<Versioned>>, ReadError> {
        self.multi_get(Family::Versioned, keys, tier, Versioned::decode)
    }

    /// Reads one key from memory; `None`: it is not there.
    pub(crate) fn read_from_memory(&self, read: &PointRead) -> Result<Option<PointValue>, Error> {
        match self.get(read.family(), &read.key, Tier::Memory) {
            Ok(record) => read.decode(record.as_deref()).map(Some),
            Err(ReadError::NotInMemory) => Ok(None),
            Err(ReadError::Failed(error)) => Err(error),
        }
    }

    /// Reads keys in their order, each by itself, from wherever they are, until their values have `value_bytes_max` bytes
    /// or more. At least one is read.
    pub(crate) fn read_from_disk(
        &self,
        reads: &[PointRead],
        value_bytes_max: usize,
    ) -> Vec<Result<PointValue, Error>> {
        let mut values = Vec::with_capacity(reads.len());
        let mut value_bytes = 0;
        for read in reads {
            let record = self.get(read.family(), &read.key, Tier::Disk);
            let value = record
                .map_err(Error::from)
                .and_then(|record| read.decode(record.as_deref()));
            value_bytes += value.as_ref().map_or(0, PointValue::value_bytes);
            values.push(value);
            if value_bytes >= value_bytes_max {
                break;
            }
        }
        values
    }

    fn get(
        &self,
        family: Family,
        key: &[u8],
        tier: Tier,
    ) -> Result<Option<DBPinnableSlice<'_>>, ReadError> {
        validate_key(key)?;
        let disk_read_options;
        let options = match tier {
            Tier::Memory => self.memory_read_options(),
            Tier::Disk => {
                disk_read_options = read_options(Tier::Disk);
                &disk_read_options
            }
        };
        self.database
            .get_pinned_cf_opt(&self.family(family), key, options)
            .map_err(read_error)
    }

    fn multi_get<T>(
        &self,
        family: Family,
        keys: &[Bytes],
        tier: Tier,
        decode: impl Fn(&[u8]) -> Result<T, Error>,
    ) -> Result<Vec<Option<T>>, ReadError> {
        validate_batch_count("keys", keys.len())?;
        for key in keys {
            validate_key(key)?;
        }
        let snapshot = self.database.snapshot();
        let mut options = read_options(tier);
        options.set_snapshot(&snapshot);

        let mut bytes_left = BATCH_BYTES_MAX;
        let mut values = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(READ_CHUNK_KEYS) {
            let family = self.family(family);
            let found = self.get_chunk(family, chunk, tier, &options);
            for (key, value) in chunk.iter().zip(found) {
                let Some(value) = value.map_err(read_error)? else {
                    values.push(None);
                    continue;
                };
                bytes_left = bytes_left.checked_sub(key.len() + value.len()).ok_or(
                    Error::ResultTooLarge {
                        limit_bytes: BATCH_BYTES_MAX as u64,
                    },
                )?;
                values.push(Some(decode(&value)?));
            }
        }
        Ok(values)
    }

    /// RocksDB's batched read goes to the disk whatever its read tier says, so from memory the keys are read one by one.
    fn get_chunk(
        &self,
        family: &ColumnFamily,
        keys: &[Bytes],
        tier: Tier,
        options: &ReadOptions,
    ) -> Vec<Result<Option<DBPinnableSlice<'_>>, rocksdb::Error>> {
        let database = &self.database;
        match tier {
            Tier::Memory => {
                let reads = keys.iter();
                let reads = reads.map(|key| database.get_pinned_cf_opt(&family, key, options));
                reads.collect()
            }
            Tier::Disk => database.batched_multi_get_cf_opt(&family, keys, false, options),
        }
    }
}

pub(crate) fn read_options(tier: Tier) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_read_tier(match tier {
        Tier::Memory => ReadTier::BlockCache,
        Tier::Disk => ReadTier::All,
    });
    options
}
