//! Ranges of keys: from Rust's ranges and from prefixes to `[start, end)`, the form on the wire.
//!
//! Keys are ordered by their bytes, so the key right behind `k` is `k` with a 0x00 byte appended. That turns an excluded
//! start into an included one and an included end into an excluded one.

use std::ops::{Bound, Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

use bytes::{BufMut, Bytes, BytesMut};

use crate::{Error, Key, Limits};

/// A range of keys. Calls accept any of Rust's ranges, or a prefix:
///
/// ```
/// # use std::ops::Bound;
/// # use rdb_client::KeyRange;
/// # fn scan(_: impl Into<KeyRange>) {}
/// scan(..);
/// scan("a".."b");
/// scan(b"a"..=b"b");
/// scan((Bound::Excluded("a"), Bound::Unbounded));
/// scan(KeyRange::prefix("user/"));
/// ```
///
/// A range always runs from the lower key to the higher one, also for a reverse scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// Empty: from the lowest key.
    pub(crate) start: Bytes,
    /// `None`: no bound. An empty key: the range is empty, unlike on the wire.
    pub(crate) end: Option<Bytes>,
}

impl KeyRange {
    /// All keys that begin with `prefix`. An empty prefix: all keys.
    pub fn prefix(prefix: impl Key) -> Self {
        let start = prefix.into_key();
        // The first key behind them is the prefix with its last byte one higher. No byte is higher than 0xff, so those at
        // the end are left out.
        let last = start.iter().rposition(|byte| *byte != u8::MAX);
        let end = last.map(|last| {
            let mut end = BytesMut::from(&start[..=last]);
            end[last] += 1;
            end.freeze()
        });
        Self { start, end }
    }

    /// This range, if it is not inverted and its bounds are within the limits.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] names the bound.
    pub(crate) fn checked(self, limits: &Limits) -> Result<Self, Error> {
        limits.check_bound("start_key", &self.start)?;
        if let Some(end) = &self.end {
            limits.check_bound("end_key", end)?;
            if self.start > end {
                let cause = "it lies below the start; a range runs from the lower key to the higher one, also in reverse";
                return Err(Error::invalid_argument("end_key", None, cause));
            }
        }
        Ok(self)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.end.as_ref() == Some(&self.start)
    }

    /// The part of this range within a region's `[start_key, end_key)`. An empty `end_key` is no bound.
    pub(crate) fn clamped(&self, start_key: &Bytes, end_key: &Bytes) -> Self {
        let end = match &self.end {
            _ if end_key.is_empty() => self.end.clone(),
            Some(end) => Some(end.min(end_key).clone()),
            None => Some(end_key.clone()),
        };
        Self {
            start: Bytes::clone((&self.start).max(start_key)),
            end,
        }
    }

    /// The part of this range at or above `key`, a region's end (empty: no bound). `None`: there is none.
    pub(crate) fn above(&self, key: &Bytes) -> Option<Self> {
        let rest = Self {
            start: key.clone(),
            end: self.end.clone(),
        };
        let ends_here = key.is_empty() || self.end.as_ref().is_some_and(|end| end <= key);
        (!ends_here).then_some(rest)
    }

    /// The part of this range below `key`, a region's start (empty: the lowest key). `None`: there is none.
    pub(crate) fn below(&self, key: &Bytes) -> Option<Self> {
        let rest = Self {
            start: self.start.clone(),
            end: Some(key.clone()),
        };
        (self.start < key).then_some(rest)
    }

    /// The end in its form on the wire. Only for a range that is not empty.
    pub(crate) fn wire_end(&self) -> Bytes {
        self.end.clone().unwrap_or_default()
    }

    /// The highest key that could lie in this range, for finding the region where a reverse scan begins: no region's bound
    /// lies between it and the range's end.
    pub(crate) fn highest_key(&self, limits: &Limits) -> Bytes {
        let length = usize::try_from(limits.key_bytes_max).unwrap_or(usize::MAX);
        match self.end.as_deref().map(<[u8]>::split_last) {
            None => padded(&[], length),
            Some(None) => Bytes::new(),
            Some(Some((0, rest))) => Bytes::copy_from_slice(rest),
            Some(Some((last, rest))) => {
                let mut prefix = BytesMut::from(rest);
                prefix.put_u8(last - 1);
                padded(&prefix, length)
            }
        }
    }
}

impl<K: Key> From<(Bound<K>, Bound<K>)> for KeyRange {
    fn from((start, end): (Bound<K>, Bound<K>)) -> Self {
        Self {
            start: match start {
                Bound::Unbounded => Bytes::new(),
                Bound::Included(key) => key.into_key(),
                Bound::Excluded(key) => key_behind(&key.to_key()),
            },
            end: match end {
                Bound::Unbounded => None,
                Bound::Included(key) => Some(key_behind(&key.to_key())),
                Bound::Excluded(key) => Some(key.into_key()),
            },
        }
    }
}

impl From<RangeFull> for KeyRange {
    fn from(_: RangeFull) -> Self {
        Self {
            start: Bytes::new(),
            end: None,
        }
    }
}

macro_rules! from_ranges {
    ($($range:ident: $bounds:expr;)+) => {$(
        impl<K: Key> From<$range<K>> for KeyRange {
            fn from(range: $range<K>) -> Self {
                let bounds: fn($range<K>) -> (Bound<K>, Bound<K>) = $bounds;
                bounds(range).into()
            }
        }
    )+};
}

from_ranges! {
    Range: |range| (Bound::Included(range.start), Bound::Excluded(range.end));
    RangeFrom: |range| (Bound::Included(range.start), Bound::Unbounded);
    RangeTo: |range| (Bound::Unbounded, Bound::Excluded(range.end));
    RangeToInclusive: |range| (Bound::Unbounded, Bound::Included(range.end));
    RangeInclusive: |range| {
        let (start, end) = range.into_inner();
        (Bound::Included(start), Bound::Included(end))
    };
}

fn key_behind(key: &[u8]) -> Bytes {
    let mut behind = BytesMut::with_capacity(key.len() + 1);
    behind.put_slice(key);
    behind.put_u8(0);
    behind.freeze()
}

/// `prefix`, filled up with the highest byte.
fn padded(prefix: &[u8], length: usize) -> Bytes {
    let mut key = BytesMut::from(prefix);
    if key.len() < length {
        key.resize(length, 0xff);
    }
    key.freeze()
}

#[cfg(test)]
mod tests;
