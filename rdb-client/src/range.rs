//! Rust's ranges as the wire wants them: `[start, end)`.
//!
//! Keys are ordered by their bytes, so the key right behind `k` is `k` with a 0x00 byte appended. That turns an excluded
//! start into an included one and an included end into an excluded one.

use std::ops::{Bound, RangeBounds};

use bytes::{BufMut, Bytes, BytesMut};

use crate::{Error, Limits};

/// `[start, end)` over keys. Never inverted; empty when `start == end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyRange {
    /// Empty: from the lowest key.
    pub(crate) start: Bytes,
    /// `None`: no bound. Some of an empty key: nothing at all, unlike on the wire.
    pub(crate) end: Option<Bytes>,
}

impl KeyRange {
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when the start lies behind the end, or a bound is too long.
    pub(crate) fn new<K: AsRef<[u8]> + ?Sized>(
        range: &impl RangeBounds<K>,
        limits: &Limits,
    ) -> Result<Self, Error> {
        let start = match range.start_bound() {
            Bound::Unbounded => Bytes::new(),
            Bound::Included(key) => Bytes::copy_from_slice(key.as_ref()),
            Bound::Excluded(key) => key_behind(key.as_ref()),
        };
        let end = match range.end_bound() {
            Bound::Unbounded => None,
            Bound::Included(key) => Some(key_behind(key.as_ref())),
            Bound::Excluded(key) => Some(Bytes::copy_from_slice(key.as_ref())),
        };
        limits.check_bound("start_key", &start)?;
        if let Some(end) = &end {
            limits.check_bound("end_key", end)?;
            if start > end {
                let cause = "it lies below start_key; a range runs from the lower key to the higher one, also in reverse";
                return Err(Error::invalid_argument("end_key", None, cause));
            }
        }
        Ok(Self { start, end })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.end.as_ref() == Some(&self.start)
    }

    /// What this range and `[start_key, end_key)` of a region share; the region's empty `end_key` is no bound.
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

    /// What lies at or above `key`, a region's end (empty: no bound); `None`: nothing does.
    pub(crate) fn above(&self, key: &Bytes) -> Option<Self> {
        let rest = Self {
            start: key.clone(),
            end: self.end.clone(),
        };
        let ends_here = key.is_empty() || self.end.as_ref().is_some_and(|end| end <= key);
        (!ends_here).then_some(rest)
    }

    /// What lies below `key`, a region's start (empty: the lowest key); `None`: nothing does.
    pub(crate) fn below(&self, key: &Bytes) -> Option<Self> {
        let rest = Self {
            start: self.start.clone(),
            end: Some(key.clone()),
        };
        (self.start < key).then_some(rest)
    }

    /// The end as the wire has it. Only for a range that is not empty.
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
#[path = "range_tests.rs"]
mod tests;
