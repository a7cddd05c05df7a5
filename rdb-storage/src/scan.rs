//! Scans: one page at a time, each from one snapshot.
//!
//! A page also ends when RocksDB has skipped many deleted entries for it, and says where to resume. If only deleted entries
//! were found, it is empty. Keys covered by a range delete are not counted: RocksDB jumps over those in older files, and
//! goes key by key only through those in the same memtable, whose size bounds them.

use bytes::Bytes;
use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};
use rocksdb::{ErrorKind, ReadOptions};

use crate::command::{require, validate_bound};
use crate::engine::Engine;
use crate::error::Error;
use crate::keys::raw::ABOVE_EVERY_KEY;
use crate::limits::{SCAN_ENTRY_OVERHEAD_BYTES, SCAN_PAGE_BYTES};
use crate::read::{StoredValue, Versioned, fit};
use crate::stride::Stride;

/// Most deleted and overwritten entries that a page skips before it ends.
const SKIPPED_MAX: u64 = 64 << 10;

/// Most deleted and overwritten entries that RocksDB skips between two entries before it gives up.
const SKIPPED_AT_ONCE_MAX: u64 = 4 << 10;

/// Most strides of a page that has no entry yet. At most 17 strides in a row make no progress.
const STRIDES_MAX: usize = 64;

/// The range that a page is read from, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScanRange {
    /// Inclusive, at most 8,193 bytes. Empty: from the lowest key.
    pub start_key: Bytes,
    /// Exclusive, at most 8,193 bytes. Empty: no upper bound. Must not be below `start_key`.
    pub end_key: Bytes,
    /// Most entries. `None`: as many as fit on a page. 0 is refused.
    pub limit: Option<usize>,
    /// Scan from the highest key down.
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
    /// The entry's version, at least 1.
    pub version: u64,
    /// Its value; empty when only keys were asked for.
    pub value: Bytes,
}

/// A page of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// In the order of the scan. It may be empty before the range is finished, when many deleted entries were skipped.
    pub entries: Vec<T>,
    /// Where to resume: the next `start_key`, or the next `end_key` of a reverse scan. `None`: the range is finished.
    pub resume_key: Option<Bytes>,
}

/// An entry of a page.
pub(crate) trait ScanEntry {
    type Value: StoredValue;

    fn new(key: Bytes, value: Self::Value) -> Self;
}

impl ScanEntry for KeyValue {
    type Value = Bytes;

    fn new(key: Bytes, value: Bytes) -> Self {
        Self { key, value }
    }
}

impl ScanEntry for VersionedKeyValue {
    type Value = Versioned;

    fn new(key: Bytes, Versioned { version, value }: Versioned) -> Self {
        Self {
            key,
            version,
            value,
        }
    }
}

impl Engine {
    /// Reads a page. Where RocksDB skips too many entries before it finds one, the range is searched in strides.
    pub(crate) fn scan<T: ScanEntry>(
        &self,
        range: &ScanRange,
        room: usize,
    ) -> Result<Page<T>, Error> {
        range.validate()?;
        let snapshot = self.database.snapshot();
        let mut stride = Stride::default();
        let mut rest = range.clone();
        if rest.is_empty() {
            return Ok(Page::empty(None));
        }
        for _ in 0..STRIDES_MAX {
            let bound = rest.bound(&stride);
            let mut options = rest.read_options(bound.as_ref());
            options.set_snapshot(&snapshot);
            // A single key has a handful of entries.
            if !stride.is_shortest(rest.near_end()) {
                options.set_max_skippable_internal_keys(SKIPPED_AT_ONCE_MAX);
            }
            let page = self.fill(&rest, bound, options, room)?;
            match page.resume_key {
                Some(resume_key) if page.entries.is_empty() => {
                    if resume_key == rest.near_end() {
                        stride.shorten(&resume_key);
                    } else {
                        rest = rest.behind(resume_key);
                        stride.lengthen();
                    }
                }
                _ => return Ok(page),
            }
        }
        Ok(Page::empty(Some(rest.near_end().clone())))
    }

    /// Reads a page with `options`, which end the search at `bound`. If RocksDB gave up, resume the page behind its last
    /// entry, or where it began.
    fn fill<T: ScanEntry>(
        &self,
        range: &ScanRange,
        bound: Option<Bytes>,
        options: ReadOptions,
        room: usize,
    ) -> Result<Page<T>, Error> {
        let keyspace = T::Value::KEYSPACE;
        let limit = range.limit.unwrap_or(usize::MAX);
        let mut bytes_left = room.min(SCAN_PAGE_BYTES);
        let mut page = Page::empty(bound);
        let mut last_key = None;
        let skipped = SkipCount::start();
        let family = self.family(keyspace.family());
        let mut iterator = self.database.raw_iterator_cf_opt(&family, options);
        if range.reverse {
            iterator.seek_to_last();
        } else {
            iterator.seek_to_first();
        }
        while let Some((key, record)) = iterator.item() {
            let (version, value) = keyspace.parts(record)?;
            let value = if range.keys_only { &[] } else { value };
            let bytes = key.len() + value.len() + SCAN_ENTRY_OVERHEAD_BYTES;
            let is_full =
                page.entries.len() == limit || bytes > bytes_left || skipped.count() > SKIPPED_MAX;
            if page.entries.is_empty() {
                fit(bytes, room)?;
            } else if is_full {
                page.resume_key = Some(range.resume_key(last_key));
                return Ok(page);
            }
            bytes_left = bytes_left.saturating_sub(bytes);
            let key = Bytes::copy_from_slice(key);
            let value = T::Value::new(version, Bytes::copy_from_slice(value));
            last_key = Some(key.clone());
            page.entries.push(T::new(key, value));
            if range.reverse {
                iterator.prev();
            } else {
                iterator.next();
            }
        }
        match iterator.status() {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Incomplete => {
                page.resume_key = Some(range.resume_key(last_key));
            }
            Err(error) => return Err(Error::from_read(error)),
        }
        Ok(page)
    }
}

/// How many deleted and overwritten entries RocksDB skipped on this thread since the count was started.
struct SkipCount(PerfContext);

impl SkipCount {
    fn start() -> Self {
        set_perf_stats(PerfStatsLevel::EnableCount);
        let mut context = PerfContext::default();
        context.reset();
        Self(context)
    }

    fn count(&self) -> u64 {
        self.0.metric(PerfMetric::InternalDeleteSkippedCount)
            + self.0.metric(PerfMetric::InternalKeySkippedCount)
    }
}

impl Drop for SkipCount {
    fn drop(&mut self) {
        set_perf_stats(PerfStatsLevel::Disable);
    }
}

impl<T> Page<T> {
    fn empty(resume_key: Option<Bytes>) -> Self {
        Self {
            entries: Vec::new(),
            resume_key,
        }
    }
}

impl ScanRange {
    /// Refuses an inverted range, a bound that is too long, and a limit of 0. A scan does so, too; call this to refuse the
    /// range earlier.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] names the field and the limit.
    pub fn validate(&self) -> Result<(), Error> {
        validate_bound("start_key", &self.start_key)?;
        validate_bound("end_key", &self.end_key)?;
        let is_upright = self.end_key.is_empty() || self.start_key <= self.end_key;
        require(is_upright, "end_key", None, || {
            "end_key is below start_key; an empty end_key means no upper bound".to_owned()
        })?;
        require(self.limit != Some(0), "limit", None, || {
            "limit is 0; name at least 1, or none for as many as fit".to_owned()
        })
    }

    fn is_empty(&self) -> bool {
        !self.end_key.is_empty() && self.start_key == self.end_key
    }

    /// Where the scan begins. The key is inclusive, in a reverse scan exclusive.
    fn near_end(&self) -> &Bytes {
        static ABOVE: Bytes = Bytes::from_static(&ABOVE_EVERY_KEY);
        if !self.reverse {
            &self.start_key
        } else if self.end_key.is_empty() {
            &ABOVE
        } else {
            &self.end_key
        }
    }

    /// The end of a stride from the near end, if it lies within the range.
    fn bound(&self, stride: &Stride) -> Option<Bytes> {
        if self.reverse {
            let bound = stride.down(self.near_end());
            return bound.filter(|bound| *bound > self.start_key);
        }
        let bound = stride.up(self.near_end());
        bound.filter(|bound| self.end_key.is_empty() || *bound < self.end_key)
    }

    /// The part from `bound` to the far end.
    fn behind(mut self, bound: Bytes) -> Self {
        if self.reverse {
            self.end_key = bound;
        } else {
            self.start_key = bound;
        }
        self
    }

    /// Reads up to `bound`, or to the far end.
    fn read_options(&self, bound: Option<&Bytes>) -> ReadOptions {
        let (lower, upper) = match bound {
            Some(bound) if self.reverse => (bound, &self.end_key),
            Some(bound) => (&self.start_key, bound),
            None => (&self.start_key, &self.end_key),
        };
        let mut options = ReadOptions::default();
        if !lower.is_empty() {
            options.set_iterate_lower_bound(lower.as_ref());
        }
        if !upper.is_empty() {
            options.set_iterate_upper_bound(upper.as_ref());
        }
        options
    }

    /// The lowest key above the last one of a page, or in a reverse scan that last key itself, as an exclusive bound. Without
    /// a last key: where the scan begins.
    fn resume_key(&self, last_key: Option<Bytes>) -> Bytes {
        match last_key {
            None => self.near_end().clone(),
            Some(key) if self.reverse => key,
            Some(key) => [&key[..], &[0]].concat().into(),
        }
    }
}
