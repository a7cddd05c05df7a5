//! Point reads and multi-key reads.
//!
//! Each has a [`Tier`]. A read of [`Tier::Memory`] fails with [`ReadError::NotInMemory`] instead of reading from the disk. In either tier a
//! multi-key read is one snapshot; when a part of it is not in memory, the whole read is done again.
//!
//! Each has *room*: the bytes that its caller has set aside for the result. A value is copied out of RocksDB only if it
//! fits, otherwise the read fails with [`Error::NeedsRoom`]. A thread holds one value at a time beside its result.

use bytes::Bytes;
use rocksdb::{DBPinnableSlice, ErrorKind, ReadOptions, ReadTier};

use crate::command::{validate_batch_count, validate_key};
use crate::engine::{Engine, Family};
use crate::error::Error;
use crate::keys;
use crate::limits::BATCH_BYTES_MAX;

/// How far a read may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    /// Memtables and block cache: never waits for the disk.
    Memory,
    /// Memory or disk. May block for as long as the disk takes.
    Disk,
}

/// A read failed.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The data is not in memory, and the tier does not allow to read from the disk. Or it is more than the thread may copy
    /// out of memory.
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

impl From<rocksdb::Error> for ReadError {
    fn from(error: rocksdb::Error) -> Self {
        match error.kind() {
            ErrorKind::Incomplete => Self::NotInMemory,
            _ => Self::Failed(Error::from_read(error)),
        }
    }
}

/// A point read with a validated key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PointRead {
    keyspace: Keyspace,
    key: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Keyspace {
    Raw,
    Versioned,
}

impl Keyspace {
    pub(crate) fn family(self) -> Family {
        match self {
            Self::Raw => Family::Raw,
            Self::Versioned => Family::Versioned,
        }
    }

    /// The version and the value of a record. A raw one has no version: 0.
    pub(crate) fn parts(self, record: &[u8]) -> Result<(u64, &[u8]), Error> {
        match self {
            Self::Raw => Ok((0, record)),
            Self::Versioned => Ok(keys::versioned::decode(record)?),
        }
    }
}

/// What a read returns of a record. A read of it is a read of its keyspace.
pub(crate) trait StoredValue {
    const KEYSPACE: Keyspace;

    fn new(version: u64, value: Bytes) -> Self;
}

impl StoredValue for Bytes {
    const KEYSPACE: Keyspace = Keyspace::Raw;

    fn new(_version: u64, value: Bytes) -> Self {
        value
    }
}

impl StoredValue for Versioned {
    const KEYSPACE: Keyspace = Keyspace::Versioned;

    fn new(version: u64, value: Bytes) -> Self {
        Self { version, value }
    }
}

/// Refuses the keys of a multi-key read that break a limit. The read does so, too; call this to refuse them earlier.
///
/// # Errors
///
/// [`Error::InvalidArgument`] when there are no keys or too many, or one of them is empty or too long.
pub fn validate_keys(keys: &[Bytes]) -> Result<(), Error> {
    validate_batch_count("keys", keys.len())?;
    keys.iter().try_for_each(|key| validate_key(key))
}

/// The result of a [`PointRead`]; `None`: the key does not exist.
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

    /// The same read with a key that shares no buffer with the message that it was decoded from.
    pub fn detached(self) -> Self {
        Self {
            key: Bytes::copy_from_slice(&self.key),
            ..self
        }
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
    /// The entry's version, at least 1.
    pub version: u64,
    /// The value.
    pub value: Bytes,
}

/// Refuses a result that is larger than `room`.
pub(crate) fn fit(bytes: usize, room: usize) -> Result<(), Error> {
    if bytes > room {
        return Err(Error::NeedsRoom { bytes });
    }
    Ok(())
}

impl Engine {
    pub(crate) fn read(
        &self,
        read: &PointRead,
        tier: Tier,
        room: usize,
    ) -> Result<PointValue, ReadError> {
        Ok(match read.keyspace {
            Keyspace::Raw => PointValue::Raw(self.get(&read.key, tier, room)?),
            Keyspace::Versioned => PointValue::Versioned(self.get(&read.key, tier, room)?),
        })
    }

    /// Reads keys one by one, from memory or disk, until a value does not fit into the rest of `room`. The first read is
    /// answered in any case, possibly with [`Error::NeedsRoom`].
    pub(crate) fn read_from_disk(
        &self,
        reads: &[PointRead],
        room: usize,
    ) -> Vec<Result<PointValue, Error>> {
        let mut values = Vec::with_capacity(reads.len());
        let mut room_left = room;
        for read in reads {
            let value = self.read(read, Tier::Disk, room_left).map_err(Error::from);
            if matches!(value, Err(Error::NeedsRoom { .. })) && !values.is_empty() {
                break;
            }
            room_left -= value.as_ref().map_or(0, PointValue::value_bytes);
            values.push(value);
        }
        values
    }

    /// Reads one key.
    pub(crate) fn get<T: StoredValue>(
        &self,
        key: &[u8],
        tier: Tier,
        room: usize,
    ) -> Result<Option<T>, ReadError> {
        validate_key(key)?;
        let Some(record) = self.record(T::KEYSPACE, key, tier)? else {
            return Ok(None);
        };
        let (version, value) = T::KEYSPACE.parts(&record)?;
        fit(value.len(), room)?;
        Ok(Some(T::new(version, Bytes::copy_from_slice(value))))
    }

    /// The values of `keys` in their order, from one snapshot.
    ///
    /// Reads the keys one by one: RocksDB's batched read ignores the read tier, and holds all values at once. Values that do
    /// not fit are still added up, so that the error names the room that is needed.
    pub(crate) fn multi_get<T: StoredValue>(
        &self,
        keys: &[Bytes],
        tier: Tier,
        room: usize,
    ) -> Result<Vec<Option<T>>, ReadError> {
        validate_keys(keys)?;
        let snapshot = self.database.snapshot();
        let mut options = read_options(tier);
        options.set_snapshot(&snapshot);

        let mut bytes = 0;
        let mut results = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(record) = self.record_with(T::KEYSPACE, key, &options)? else {
                results.push(None);
                continue;
            };
            let (version, value) = T::KEYSPACE.parts(&record)?;
            bytes += key.len() + value.len();
            if bytes > BATCH_BYTES_MAX {
                let limit_bytes = BATCH_BYTES_MAX as u64;
                return Err(Error::ResultTooLarge { limit_bytes }.into());
            }
            if bytes > room {
                results.clear();
            } else {
                results.push(Some(T::new(version, Bytes::copy_from_slice(value))));
            }
        }
        fit(bytes, room)?;
        Ok(results)
    }

    /// The record of a key. RocksDB copies it only out of a memtable.
    pub(crate) fn record(
        &self,
        keyspace: Keyspace,
        key: &[u8],
        tier: Tier,
    ) -> Result<Option<DBPinnableSlice<'_>>, ReadError> {
        self.record_with(keyspace, key, self.point_read_options(tier))
    }

    fn record_with(
        &self,
        keyspace: Keyspace,
        key: &[u8],
        options: &ReadOptions,
    ) -> Result<Option<DBPinnableSlice<'_>>, ReadError> {
        let family = self.family(keyspace.family());
        let record = self.database.get_pinned_cf_opt(&family, key, options);
        record.map_err(ReadError::from)
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
