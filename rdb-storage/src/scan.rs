//! Scans: one page at a time, each from one snapshot.

use bytes::{BufMut, Bytes, BytesMut};
use rocksdb::ReadOptions;

use crate::command::validate_bound;
use crate::engine::Engine;
use crate::error::Error;
use crate::limits::{SCAN_ENTRY_OVERHEAD_BYTES, SCAN_PAGE_BYTES};
use crate::read::{Keyspace, fit};

/// What a page is taken from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScanRange {
    /// Inclusive, at most 8,193 bytes. Empty: from the lowest key.
    pub start_key: Bytes,
    /// Exclusive, at most 8,193 bytes. Empty: no upper bound. Must not be below `start_key`.
    pub end_key: Bytes,
    /// Most entries. `None`: as many as fit on a page. 0 is refused.
    pub limit: Option<usize>,
    /// From the highest key down.
    pub reverse: bool,
    /// Leave the values out.
    pub keys_only: bool,
}

/// A raw key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// Its value; empty when only keys were asked for.
    pub value: Bytes,
}

/// A versioned key with its version and value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionedKeyValue {
    /// The key.
    pub key: Bytes,
    /// At least 1.
    pub version: u64,
    /// Its value; empty when only keys were asked for.
    pub value: Bytes,
}

/// A page of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// In the order of the scan: at least one, unless the range is finished.
    pub entries: Vec<T>,
    /// Where to go on: the next `start_key`, or the next `end_key` of a reverse scan. `None`: the range is finished.
    pub resume_key: Option<Bytes>,
}

impl Engine {
    pub(crate) fn scan_raw(&self, range: &ScanRange, room: usize) -> Result<Page<KeyValue>, Error> {
        self.scan(Keyspace::Raw, range, room, |key, _version, value| {
            KeyValue { key, value }
        })
    }

    pub(crate) fn scan_versioned(
        &self,
        range: &ScanRange,
        room: usize,
    ) -> Result<Page<VersionedKeyValue>, Error> {
        self.scan(Keyspace::Versioned, range, room, |key, version, value| {
            VersionedKeyValue {
                key,
                version,
                value,
            }
        })
    }

    fn scan<T>(
        &self,
        keyspace: Keyspace,
        range: &ScanRange,
        room: usize,
        entry: impl Fn(Bytes, u64, Bytes) -> T,
    ) -> Result<Page<T>, Error> {
        range.validate()?;
        let mut page = Page {
            entries: Vec::new(),
            resume_key: None,
        };
        if range.is_empty() {
            return Ok(page);
        }
        let limit = range.limit.unwrap_or(usize::MAX);
        let mut bytes_left = room.min(SCAN_PAGE_BYTES);
        let mut last_key = Bytes::new();

        let family = self.family(keyspace.family());
        let mut iterator = self
            .database
            .raw_iterator_cf_opt(&family, range.read_options());
        if range.reverse {
            iterator.seek_to_last();
        } else {
            iterator.seek_to_first();
        }
        while let Some((key, record)) = iterator.item() {
            let (version, value) = keyspace.parts(record)?;
            let value = if range.keys_only { &[] } else { value };
            let bytes = key.len() + value.len() + SCAN_ENTRY_OVERHEAD_BYTES;
            if page.entries.is_empty() {
                fit(bytes, room)?;
            } else if page.entries.len() == limit || bytes > bytes_left {
                page.resume_key = Some(range.resume_key(&last_key));
                return Ok(page);
            }
            bytes_left = bytes_left.saturating_sub(bytes);
            last_key = Bytes::copy_from_slice(key);
            let value = Bytes::copy_from_slice(value);
            page.entries.push(entry(last_key.clone(), version, value));
            if range.reverse {
                iterator.prev();
            } else {
                iterator.next();
            }
        }
        iterator.status().map_err(Error::from_read)?;
        Ok(page)
    }
}

impl ScanRange {
    /// Refuses what makes no sense. A scan validates its range by itself; this is for refusing it earlier.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] names the field and the limit.
    pub fn validate(&self) -> Result<(), Error> {
        validate_bound("start_key", &self.start_key)?;
        validate_bound("end_key", &self.end_key)?;
        let refuse = |field, cause: &str| {
            Err(Error::InvalidArgument {
                field,
                limit: None,
                cause: cause.to_owned(),
            })
        };
        if !self.end_key.is_empty() && self.start_key > self.end_key {
            return refuse(
                "end_key",
                "end_key is below start_key; an empty end_key means no upper bound",
            );
        }
        if self.limit == Some(0) {
            return refuse(
                "limit",
                "limit is 0; name at least 1, or none for as many as fit",
            );
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        !self.end_key.is_empty() && self.start_key == self.end_key
    }

    fn read_options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        if !self.start_key.is_empty() {
            options.set_iterate_lower_bound(self.start_key.as_ref());
        }
        if !self.end_key.is_empty() {
            options.set_iterate_upper_bound(self.end_key.as_ref());
        }
        options
    }

    /// The lowest key above the last one of a page, or in a reverse scan that last key itself, as an exclusive bound.
    fn resume_key(&self, last_key: &Bytes) -> Bytes {
        if self.reverse {
            return last_key.clone();
        }
        let mut next = BytesMut::with_capacity(last_key.len() + 1);
        next.put_slice(last_key);
        next.put_u8(0);
        next.freeze()
    }
}
