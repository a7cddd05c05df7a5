//! Scans: one page at a time, each from one snapshot.
//!
//! A page also ends when RocksDB has skipped many deleted entries for it, and says where to resume. If only deleted entries
//! were found, it is empty. Keys that a range delete covers are not counted. RocksDB jumps over those in older files. It
//! goes key by key through those in the same memtable, whose size bounds them.

use bytes::{BufMut, Bytes, BytesMut};
use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};
use rocksdb::{ErrorKind, ReadOptions};

use crate::command::{require, validate_bound};
use crate::engine::Engine;
use crate::error::Error;
use crate::keys::raw::ABOVE_EVERY_KEY;
use crate::limits::{SCAN_ENTRY_OVERHEAD_BYTES, SCAN_PAGE_BYTES};
use crate::read::{Keyspace, fit};
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
    /// In the order of the scan. It may be empty before the range is finished, when many deleted entries were skipped.
    pub entries: Vec<T>,
    /// Where to resume: the next `start_key`, or the next `end_key` of a reverse scan. `None`: the range is finished.
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

    /// Reads a page. Where RocksDB skips too many entries before it finds one, the range is searched in strides.
    fn scan<T>(
        &self,
        keyspace: Keyspace,
        range: &ScanRange,
        room: usize,
        entry: impl Fn(Bytes, u64, Bytes) -> T,
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
            let piece = bound.as_ref().map(|bound| rest.until(bound));
            let piece = piece.as_ref().unwrap_or(&rest);
            let mut options = piece.read_options();
            options.set_snapshot(&snapshot);
            // A single key has a handful of entries.
            if !stride.is_shortest(rest.near_end()) {
                options.set_max_skippable_internal_keys(SKIPPED_AT_ONCE_MAX);
            }
            let (mut page, end) = self.fill(keyspace, piece, options, room, &entry)?;
            match (end, bound) {
                (End::OfPiece, bound) if bound.is_none() || !page.entries.is_empty() => {
                    page.resume_key = bound;
                    return Ok(page);
                }
                (End::OfPiece, Some(bound)) => {
                    rest = rest.behind(bound);
                    stride.lengthen();
                }
                (End::TooManySkipped, _) if page.entries.is_empty() => {
                    stride.shorten(rest.near_end());
                }
                _ => return Ok(page),
            }
        }
        Ok(Page::empty(Some(rest.near_end().clone())))
    }

    /// Reads a page of `piece` with `options`. Its `resume_key` is behind its last entry.
    fn fill<T>(
        &self,
        keyspace: Keyspace,
        piece: &ScanRange,
        options: ReadOptions,
        room: usize,
        entry: &impl Fn(Bytes, u64, Bytes) -> T,
    ) -> Result<(Page<T>, End), Error> {
        let limit = piece.limit.unwrap_or(usize::MAX);
        let mut bytes_left = room.min(SCAN_PAGE_BYTES);
        let mut page = Page::empty(None);
        let skipped = SkipCount::start();
        let family = self.family(keyspace.family());
        let mut iterator = self.database.raw_iterator_cf_opt(&family, options);
        if piece.reverse {
            iterator.seek_to_last();
        } else {
            iterator.seek_to_first();
        }
        while let Some((key, record)) = iterator.item() {
            let (version, value) = keyspace.parts(record)?;
            let value = if piece.keys_only { &[] } else { value };
            let bytes = key.len() + value.len() + SCAN_ENTRY_OVERHEAD_BYTES;
            let is_full =
                page.entries.len() == limit || bytes > bytes_left || skipped.count() > SKIPPED_MAX;
            if page.entries.is_empty() {
                fit(bytes, room)?;
            } else if is_full {
                return Ok((page, End::OfPage));
            }
            bytes_left = bytes_left.saturating_sub(bytes);
            let key = Bytes::copy_from_slice(key);
            page.resume_key = Some(piece.resume_key(&key));
            let value = Bytes::copy_from_slice(value);
            page.entries.push(entry(key, version, value));
            if piece.reverse {
                iterator.prev();
            } else {
                iterator.next();
            }
        }
        match iterator.status() {
            Ok(()) => Ok((page, End::OfPiece)),
            Err(error) if error.kind() == ErrorKind::Incomplete => Ok((page, End::TooManySkipped)),
            Err(error) => Err(Error::from_read(error)),
        }
    }
}

/// Why the reading of a piece ended.
enum End {
    /// All of it was read.
    OfPiece,
    /// The page is full.
    OfPage,
    /// RocksDB gave up after the last entry.
    TooManySkipped,
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

    /// The part from the near end to `bound`.
    fn until(&self, bound: &Bytes) -> Self {
        let mut part = self.clone();
        *part.far_end() = bound.clone();
        part
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

    fn far_end(&mut self) -> &mut Bytes {
        if self.reverse {
            &mut self.start_key
        } else {
            &mut self.end_key
        }
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
