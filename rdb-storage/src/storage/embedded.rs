//! Single reads and writes that block, for an application that embeds the storage.

use bytes::Bytes;

use super::Storage;
use crate::command::{Command, Outcome};
use crate::error::Error;
use crate::limits::EMBEDDED_REGION_ID;
use crate::read::{Tier, Versioned};
use crate::scan::{KeyValue, Page, ScanRange, VersionedKeyValue};
use crate::writer::Submission;

impl Storage {
    /// Writes a raw value unconditionally.
    pub fn put_raw(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<(), Error> {
        let (key, value) = (key.into(), value.into());
        self.write(Command::PutRaw { key, value }).map(drop)
    }

    /// Writes several raw values, all or none, visible together.
    pub fn put_batch_raw(&self, entries: Vec<(Bytes, Bytes)>) -> Result<(), Error> {
        self.write(Command::PutBatchRaw { entries }).map(drop)
    }

    /// Deletes a raw key; a missing one is no error.
    pub fn delete_raw(&self, key: impl Into<Bytes>) -> Result<(), Error> {
        self.write(Command::DeleteRaw { key: key.into() }).map(drop)
    }

    /// Deletes the raw keys of `[start_key, end_key)`; an empty `end_key` means no upper bound.
    /// Fails with [`Error::InvalidArgument`] when the range is inverted or empty.
    pub fn delete_range_raw(
        &self,
        start_key: impl Into<Bytes>,
        end_key: impl Into<Bytes>,
    ) -> Result<(), Error> {
        let (start_key, end_key) = (start_key.into(), end_key.into());
        self.write(Command::DeleteRangeRaw { start_key, end_key })
            .map(drop)
    }

    /// Writes a versioned value if the key's version is `expected_version` (0: the key must not exist), and returns the
    /// new version.
    /// Fails with [`Error::Conflict`] when the version is another.
    pub fn compare_and_swap(
        &self,
        key: impl Into<Bytes>,
        expected_version: u64,
        value: impl Into<Bytes>,
    ) -> Result<u64, Error> {
        let (key, value) = (key.into(), value.into());
        match self.write(Command::CompareAndSwap {
            key,
            expected_version,
            value,
        })? {
            Outcome::Swapped { version } => Ok(version),
            // A bug in this crate. The write may have been applied.
            outcome => Err(Error::Undetermined {
                cause: format!("the writer answered with {outcome:?}"),
            }),
        }
    }

    /// Deletes a versioned key if its version is `expected_version`, which is at least 1.
    /// Fails with [`Error::Conflict`] when the version is another.
    pub fn compare_and_delete(
        &self,
        key: impl Into<Bytes>,
        expected_version: u64,
    ) -> Result<(), Error> {
        let key = key.into();
        self.write(Command::CompareAndDelete {
            key,
            expected_version,
        })
        .map(drop)
    }

    /// Reads a raw value.
    pub fn get_raw(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.inner.engine.get(key, Tier::Disk, usize::MAX)?)
    }

    /// Reads raw values from one snapshot, in the order of `keys`.
    /// Fails with [`Error::ResultTooLarge`] when they are more than one read returns.
    pub fn multi_get_raw(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, Error> {
        Ok(self.inner.engine.multi_get(keys, Tier::Disk, usize::MAX)?)
    }

    /// Reads a versioned value.
    pub fn get_versioned(&self, key: &[u8]) -> Result<Option<Versioned>, Error> {
        Ok(self.inner.engine.get(key, Tier::Disk, usize::MAX)?)
    }

    /// Reads versioned values from one snapshot, in the order of `keys`.
    /// Fails with [`Error::ResultTooLarge`] when they are more than one read returns.
    pub fn multi_get_versioned(&self, keys: &[Bytes]) -> Result<Vec<Option<Versioned>>, Error> {
        Ok(self.inner.engine.multi_get(keys, Tier::Disk, usize::MAX)?)
    }

    /// Reads one page of the raw keyspace.
    pub fn scan_raw(&self, range: &ScanRange) -> Result<Page<KeyValue>, Error> {
        self.inner.engine.scan(range, usize::MAX)
    }

    /// Reads one page of the versioned keyspace.
    pub fn scan_versioned(&self, range: &ScanRange) -> Result<Page<VersionedKeyValue>, Error> {
        self.inner.engine.scan(range, usize::MAX)
    }

    fn write(&self, command: Command) -> Result<Outcome, Error> {
        let submission = Submission::new(EMBEDDED_REGION_ID, vec![command]);
        match self.submit(submission)?.wait()?.pop() {
            Some(Outcome::Conflict {
                current_version,
                current_value,
            }) => Err(Error::Conflict {
                current_version,
                current_value,
            }),
            Some(outcome) => Ok(outcome),
            None => Err(Error::Undetermined {
                cause: "the writer gave no outcome".to_owned(),
            }),
        }
    }
}
