//! Commands and their outcomes: the only way to change data.

use bytes::Bytes;

use crate::error::Error;
use crate::keys::raw::ABOVE_EVERY_KEY;
use crate::limits::{
    BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, KEY_BYTES_MAX, SCAN_BOUND_BYTES_MAX, VALUE_BYTES_MAX,
};
use crate::region::RegionDescriptor;

/// One write. Applying it depends only on the command and on what is stored, never on time or chance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Writes one raw value.
    PutRaw {
        /// 1 to 8,192 bytes.
        key: Bytes,
        /// Up to 4 MiB.
        value: Bytes,
    },
    /// Deletes one raw key; a missing one is no error.
    DeleteRaw {
        /// 1 to 8,192 bytes.
        key: Bytes,
    },
    /// Writes several raw values; when a key occurs twice, the later entry wins.
    PutBatchRaw {
        /// Keys and values: 1 to 4,096, together at most 6 MiB.
        entries: Vec<(Bytes, Bytes)>,
    },
    /// Deletes the raw keys of `[start_key, end_key)`.
    DeleteRangeRaw {
        /// Empty: from the lowest key.
        start_key: Bytes,
        /// Above `start_key`. Empty: no upper bound.
        end_key: Bytes,
    },
    /// Writes a versioned value if the key's version is the expected one.
    CompareAndSwap {
        /// 1 to 8,192 bytes.
        key: Bytes,
        /// 0: the key must not exist.
        expected_version: u64,
        /// Up to 4 MiB.
        value: Bytes,
    },
    /// Deletes a versioned key if its version is the expected one.
    CompareAndDelete {
        /// 1 to 8,192 bytes.
        key: Bytes,
        /// The version that the key must have, at least 1.
        expected_version: u64,
    },
    /// Writes a region's descriptor.
    PutRegion(RegionDescriptor),
}

/// The result of applying a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The command was applied.
    Done,
    /// The version matched; the key has a new one.
    Swapped {
        /// The key's new version.
        version: u64,
    },
    /// The version did not match; nothing was changed.
    Conflict {
        /// 0: the key does not exist.
        current_version: u64,
        /// `None`: the key does not exist, its value is longer than 64 KiB, or the earlier conflicts of the submission
        /// have used up the bytes of values that all of them may carry.
        current_value: Option<Bytes>,
    },
    /// The region's epoch is not the one that the command was proposed under; nothing was changed.
    EpochChanged {
        /// The `version` of the region's present epoch. 0: the region is not stored here.
        current_version: u64,
    },
    /// The command breaks a limit; nothing was changed. Only a log entry can hold such a command: submissions are validated
    /// before they are queued.
    Invalid {
        /// What is wrong with it.
        cause: String,
    },
}

impl Command {
    /// Refuses a command that breaks a limit. [`Storage::submit`](crate::Storage::submit) validates, too, and refuses the
    /// whole submission; call this to leave a bad command out of one.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] names the field and the limit.
    pub fn validate(&self) -> Result<(), Error> {
        match self {
            Self::PutRaw { key, value } | Self::CompareAndSwap { key, value, .. } => {
                validate_key(key)?;
                validate_value(value)
            }
            Self::DeleteRaw { key } => validate_key(key),
            Self::PutBatchRaw { entries } => validate_entries(entries),
            Self::DeleteRangeRaw { start_key, end_key } => {
                validate_delete_range(start_key, end_key)
            }
            Self::CompareAndDelete {
                key,
                expected_version,
            } => {
                validate_key(key)?;
                require(*expected_version != 0, "expected_version", None, || {
                    "expected_version is 0, which no key that exists has; name the version to delete"
                        .to_owned()
                })
            }
            Self::PutRegion(region) => validate_region(region),
        }
    }

    /// The same, sharing no buffer with the message that it was decoded from.
    pub(crate) fn detached(mut self) -> Self {
        let detach = |buffer: &mut Bytes| *buffer = Bytes::copy_from_slice(buffer);
        match &mut self {
            Self::PutRaw { key: a, value: b }
            | Self::CompareAndSwap {
                key: a, value: b, ..
            }
            | Self::DeleteRangeRaw {
                start_key: a,
                end_key: b,
            }
            | Self::PutRegion(RegionDescriptor {
                start_key: a,
                end_key: b,
                ..
            }) => [a, b].into_iter().for_each(detach),
            Self::DeleteRaw { key } | Self::CompareAndDelete { key, .. } => detach(key),
            Self::PutBatchRaw { entries } => entries
                .iter_mut()
                .flat_map(|(key, value)| [key, value])
                .for_each(detach),
        }
        self
    }

    /// The key whose version decides what the command does, and the version that it expects.
    pub fn expected_version(&self) -> Option<(&Bytes, u64)> {
        match self {
            Self::CompareAndSwap {
                key,
                expected_version,
                ..
            }
            | Self::CompareAndDelete {
                key,
                expected_version,
            } => Some((key, *expected_version)),
            Self::PutRaw { .. }
            | Self::DeleteRaw { .. }
            | Self::PutBatchRaw { .. }
            | Self::DeleteRangeRaw { .. }
            | Self::PutRegion(_) => None,
        }
    }

    /// Whether it depends on the version floor of its region. An update leaves the floor alone.
    pub(crate) fn reads_floor(&self) -> bool {
        match self {
            Self::CompareAndSwap {
                expected_version, ..
            } => *expected_version == 0,
            Self::CompareAndDelete { .. } => true,
            Self::PutRaw { .. }
            | Self::DeleteRaw { .. }
            | Self::PutBatchRaw { .. }
            | Self::DeleteRangeRaw { .. }
            | Self::PutRegion(_) => false,
        }
    }

    /// Whether it may become a range tombstone.
    pub(crate) fn deletes_range(&self) -> bool {
        match self {
            Self::DeleteRangeRaw { .. } => true,
            Self::PutRaw { .. }
            | Self::DeleteRaw { .. }
            | Self::PutBatchRaw { .. }
            | Self::CompareAndSwap { .. }
            | Self::CompareAndDelete { .. }
            | Self::PutRegion(_) => false,
        }
    }

    /// How many entries it has in memory.
    pub(crate) fn entry_count(&self) -> usize {
        match self {
            Self::PutBatchRaw { entries } => entries.len(),
            Self::PutRaw { .. }
            | Self::DeleteRaw { .. }
            | Self::DeleteRangeRaw { .. }
            | Self::CompareAndSwap { .. }
            | Self::CompareAndDelete { .. }
            | Self::PutRegion(_) => 1,
        }
    }

    /// Bytes of keys and values.
    pub fn payload_bytes(&self) -> usize {
        match self {
            Self::PutRaw { key, value } | Self::CompareAndSwap { key, value, .. } => {
                key.len() + value.len()
            }
            Self::DeleteRaw { key } | Self::CompareAndDelete { key, .. } => key.len(),
            Self::PutBatchRaw { entries } => entries_bytes(entries),
            Self::DeleteRangeRaw { start_key, end_key } => start_key.len() + end_key.len(),
            Self::PutRegion(region) => region.start_key.len() + region.end_key.len(),
        }
    }
}

pub(crate) fn range_delete_count(commands: &[Command]) -> usize {
    let commands = commands.iter();
    commands.filter(|command| command.deletes_range()).count()
}

fn entries_bytes(entries: &[(Bytes, Bytes)]) -> usize {
    entries
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum()
}

/// Refuses a request whose `field` breaks a rule: that of `limit`, if the rule is one.
pub(crate) fn require(
    holds: bool,
    field: &'static str,
    limit: Option<usize>,
    cause: impl FnOnce() -> String,
) -> Result<(), Error> {
    if holds {
        return Ok(());
    }
    Err(Error::InvalidArgument {
        field,
        limit: limit.map(|limit| limit as u64),
        cause: cause(),
    })
}

/// A key has 1 to [`KEY_BYTES_MAX`] bytes.
pub(crate) fn validate_key(key: &[u8]) -> Result<(), Error> {
    let bytes = key.len();
    require(bytes > 0, "key", None, || {
        format!("the key is empty; a key has 1 to {KEY_BYTES_MAX} bytes")
    })?;
    require(bytes <= KEY_BYTES_MAX, "key", Some(KEY_BYTES_MAX), || {
        format!("the key has {bytes} bytes; a key has 1 to {KEY_BYTES_MAX} bytes")
    })
}

fn validate_value(value: &[u8]) -> Result<(), Error> {
    let (bytes, max) = (value.len(), VALUE_BYTES_MAX);
    require(bytes <= max, "value", Some(max), || {
        format!("the value has {bytes} bytes; a value has at most {max} bytes")
    })
}

/// A batch has 1 to [`BATCH_ENTRIES_MAX`] entries; `field` is what the wire calls it.
pub(crate) fn validate_batch_count(field: &'static str, count: usize) -> Result<(), Error> {
    let max = BATCH_ENTRIES_MAX;
    require(count > 0, field, None, || {
        format!("the batch is empty; a batch has 1 to {max} entries")
    })?;
    require(count <= max, field, Some(max), || {
        format!("the batch has {count} entries; a batch has 1 to {max} entries")
    })
}

fn validate_entries(entries: &[(Bytes, Bytes)]) -> Result<(), Error> {
    validate_batch_count("entries", entries.len())?;
    for (key, value) in entries {
        validate_key(key)?;
        validate_value(value)?;
    }
    let (bytes, max) = (entries_bytes(entries), BATCH_BYTES_MAX);
    require(bytes <= max, "entries", Some(max), || {
        format!("the batch has {bytes} bytes; a batch has at most {max} bytes")
    })
}

/// A bound has 0 bytes (no bound) to [`SCAN_BOUND_BYTES_MAX`].
pub(crate) fn validate_bound(field: &'static str, bound: &[u8]) -> Result<(), Error> {
    let (bytes, max) = (bound.len(), SCAN_BOUND_BYTES_MAX);
    require(bytes <= max, field, Some(max), || {
        format!("{field} has {bytes} bytes; a bound has at most {max} bytes")
    })
}

/// RocksDB writes an inverted range to its log before it fails on it, and then fails at every replay.
fn validate_delete_range(start_key: &[u8], end_key: &[u8]) -> Result<(), Error> {
    validate_bound("start_key", start_key)?;
    validate_bound("end_key", end_key)?;
    let is_upright = end_key.is_empty() || start_key < end_key;
    require(is_upright, "end_key", None, || {
        "end_key must be above start_key; an empty end_key means no upper bound".to_owned()
    })?;
    let has_keys = start_key < ABOVE_EVERY_KEY.as_slice();
    require(has_keys, "start_key", None, || {
        "start_key is above every key that there can be, so the range is empty".to_owned()
    })
}

fn validate_region(region: &RegionDescriptor) -> Result<(), Error> {
    let RegionDescriptor {
        id,
        start_key,
        end_key,
        ..
    } = region;
    let require = |holds, cause: &str| require(holds, "region", None, || cause.to_owned());
    require(*id != 0, "a region's id is never 0")?;
    require(
        start_key.len().max(end_key.len()) <= KEY_BYTES_MAX,
        "a region's bound is a key, and longer than a key may be",
    )?;
    require(
        end_key.is_empty() || start_key < end_key,
        "a region's start_key must be below its end_key",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field_of(command: Command) -> Option<&'static str> {
        match command.validate() {
            Ok(()) => None,
            Err(Error::InvalidArgument { field, .. }) => Some(field),
            Err(other) => panic!("{other:?}"),
        }
    }

    fn bytes(length: usize) -> Bytes {
        vec![b'x'; length].into()
    }

    #[test]
    fn keys_and_values_at_the_limit_pass_and_one_byte_more_does_not() {
        let put = |key, value| Command::PutRaw {
            key: bytes(key),
            value: bytes(value),
        };
        assert_eq!(field_of(put(1, 0)), None);
        assert_eq!(field_of(put(KEY_BYTES_MAX, VALUE_BYTES_MAX)), None);
        assert_eq!(field_of(put(0, 0)), Some("key"));
        assert_eq!(field_of(put(KEY_BYTES_MAX + 1, 0)), Some("key"));
        assert_eq!(field_of(put(1, VALUE_BYTES_MAX + 1)), Some("value"));
    }

    #[test]
    fn batches_are_bounded_in_entries_and_bytes() {
        let batch = |count, value| Command::PutBatchRaw {
            entries: (0..count).map(|_| (bytes(1), bytes(value))).collect(),
        };
        assert_eq!(field_of(batch(BATCH_ENTRIES_MAX, 0)), None);
        assert_eq!(field_of(batch(0, 0)), Some("entries"));
        assert_eq!(field_of(batch(BATCH_ENTRIES_MAX + 1, 0)), Some("entries"));
        assert_eq!(field_of(batch(2, BATCH_BYTES_MAX / 2 - 1)), None);
        assert_eq!(field_of(batch(2, BATCH_BYTES_MAX / 2)), Some("entries"));
    }

    #[test]
    fn inverted_and_empty_ranges_are_refused() {
        let range = |start_key: &'static str, end_key: &'static str| Command::DeleteRangeRaw {
            start_key: start_key.into(),
            end_key: end_key.into(),
        };
        assert_eq!(field_of(range("a", "b")), None);
        assert_eq!(field_of(range("", "")), None);
        assert_eq!(field_of(range("b", "a")), Some("end_key"));
        assert_eq!(field_of(range("a", "a")), Some("end_key"));
        let above_every_key = Command::DeleteRangeRaw {
            start_key: Bytes::from_static(&ABOVE_EVERY_KEY),
            end_key: Bytes::new(),
        };
        assert_eq!(field_of(above_every_key), Some("start_key"));
    }
}
