//! The cluster's limits. Requests are checked against them before they are sent.
//!
//! The server checks again. The client checks first for two reasons: a message above the transport's limit is refused
//! without saying whether it was applied, and a check here costs no round trip.

use bytes::Bytes;
use rdb_proto::metapb;
use rdb_proto::transport::limits::MESSAGE_BYTES_MAX;

use crate::{Error, Key};

/// The cluster's limits, as the placement driver advertises them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Longest key, in bytes. The shortest is 1.
    pub key_bytes_max: u64,
    /// Longest value, in bytes. The shortest is 0.
    pub value_bytes_max: u64,
    /// Most entries of one batch, written or read.
    pub batch_entries_max: u64,
    /// Most bytes of one batch, keys and values added up; also the most that a batch read returns.
    pub batch_bytes_max: u64,
    /// Largest gRPC message, in bytes.
    pub message_bytes_max: u64,
    /// Soft limit on the size of a page of a scan, in bytes.
    pub scan_page_bytes: u64,
    /// Longest value that a conflict carries, in bytes.
    pub conflict_value_bytes_max: u64,
    /// Most timestamps of one request.
    pub tso_count_max: u64,
    /// Most commands that a store accepts in one message of a stream.
    pub batch_commands_max: u64,
}

impl From<metapb::Limits> for Limits {
    fn from(limits: metapb::Limits) -> Self {
        Self {
            key_bytes_max: limits.key_bytes_max,
            value_bytes_max: limits.value_bytes_max,
            batch_entries_max: limits.batch_entries_max,
            batch_bytes_max: limits.batch_bytes_max,
            message_bytes_max: limits.message_bytes_max,
            scan_page_bytes: limits.scan_page_bytes,
            conflict_value_bytes_max: limits.conflict_value_bytes_max,
            tso_count_max: limits.tso_count_max,
            batch_commands_max: limits.batch_commands_max,
        }
    }
}

impl Limits {
    /// # Errors
    ///
    /// [`Error::Internal`] when there are none, or a key could be longer than a message.
    pub(crate) fn advertised(limits: Option<metapb::Limits>) -> Result<Self, Error> {
        let plausible = limits
            .map(Self::from)
            .filter(|limits| (1..=MESSAGE_BYTES_MAX as u64).contains(&limits.key_bytes_max));
        plausible.ok_or_else(|| Error::internal("the placement driver advertises no usable limits"))
    }

    /// The bytes of a key, if its length is within the limits.
    pub(crate) fn checked_key(&self, key: impl Key) -> Result<Bytes, Error> {
        let key = key.into_key();
        let limit = self.key_bytes_max;
        if key.is_empty() || key.len() as u64 > limit {
            let cause = format!("it has {} bytes; 1 to {limit} are allowed", key.len());
            return Err(Error::invalid_argument("key", Some(limit), cause));
        }
        Ok(key)
    }

    /// The keys of a batch without values.
    pub(crate) fn checked_keys<K: Key>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Bytes>, Error> {
        let checked = keys.into_iter().map(|key| self.checked_key(key));
        let keys: Vec<Bytes> = checked.collect::<Result<_, Error>>()?;
        self.check_batch("keys", keys.iter().map(Bytes::len))?;
        Ok(keys)
    }

    pub(crate) fn checked_value(&self, value: Bytes) -> Result<Bytes, Error> {
        check_length("value", &value, self.value_bytes_max)?;
        Ok(value)
    }

    /// A bound of a range may be one byte longer than a key: a scan resumes behind the longest key there.
    pub(crate) fn check_bound(&self, field: &'static str, bound: &[u8]) -> Result<(), Error> {
        check_length(field, bound, self.key_bytes_max.saturating_add(1))
    }

    /// Checks a batch whose entries have these sizes in bytes.
    pub(crate) fn check_batch(
        &self,
        field: &'static str,
        sizes: impl ExactSizeIterator<Item = usize>,
    ) -> Result<(), Error> {
        let (entries, limit) = (sizes.len() as u64, self.batch_entries_max);
        if entries > limit {
            let cause = format!("there are {entries}; at most {limit} are allowed");
            return Err(Error::invalid_argument(field, Some(limit), cause));
        }
        let (bytes, limit) = (sizes.sum::<usize>() as u64, self.batch_bytes_max);
        if bytes > limit {
            let cause = format!("they have {bytes} bytes together; at most {limit} are allowed");
            return Err(Error::invalid_argument(field, Some(limit), cause));
        }
        Ok(())
    }

    pub(crate) fn check_tso_count(&self, count: u32) -> Result<(), Error> {
        let limit = self.tso_count_max;
        if count == 0 || u64::from(count) > limit {
            let cause = format!("it is {count}; 1 to {limit} are allowed");
            return Err(Error::invalid_argument("count", Some(limit), cause));
        }
        Ok(())
    }
}

fn check_length(field: &'static str, bytes: &[u8], limit: u64) -> Result<(), Error> {
    if bytes.len() as u64 > limit {
        let cause = format!("it has {} bytes; at most {limit} are allowed", bytes.len());
        return Err(Error::invalid_argument(field, Some(limit), cause));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const LIMITS: Limits = Limits {
        key_bytes_max: 4,
        value_bytes_max: 8,
        batch_entries_max: 2,
        batch_bytes_max: 10,
        message_bytes_max: 100,
        scan_page_bytes: 50,
        conflict_value_bytes_max: 8,
        tso_count_max: 16,
        batch_commands_max: 4,
    };

    #[test]
    fn limits_that_are_missing_or_absurd_are_refused() {
        assert!(Limits::advertised(None).is_err());
        for key_bytes_max in [0, u64::MAX] {
            let limits = metapb::Limits {
                key_bytes_max,
                ..metapb::Limits::default()
            };
            assert!(Limits::advertised(Some(limits)).is_err(), "{key_bytes_max}");
        }
    }

    #[test]
    fn lengths_at_the_limit_pass_and_one_more_is_refused_with_the_limit() {
        assert!(LIMITS.checked_key(b"abcd").is_ok());
        assert!(LIMITS.checked_value(Bytes::from_static(&[0; 8])).is_ok());
        assert!(LIMITS.check_bound("start_key", &[0; 5]).is_ok());
        assert!(LIMITS.check_batch("entries", [4, 6].into_iter()).is_ok());
        assert!(LIMITS.check_tso_count(16).is_ok());

        let refused = [
            (LIMITS.checked_key(b"abcde").map(drop), "key", 4),
            (LIMITS.checked_key(b"").map(drop), "key", 4),
            (
                LIMITS.checked_value(Bytes::from_static(&[0; 9])).map(drop),
                "value",
                8,
            ),
            (LIMITS.check_bound("start_key", &[0; 6]), "start_key", 5),
            (
                LIMITS.check_batch("entries", [1, 1, 1].into_iter()),
                "entries",
                2,
            ),
            (LIMITS.check_batch("keys", [5, 6].into_iter()), "keys", 10),
            (LIMITS.check_tso_count(17), "count", 16),
            (LIMITS.check_tso_count(0), "count", 16),
        ];
        for (result, expected_field, expected_limit) in refused {
            let error = result.expect_err(expected_field);
            let Error::InvalidArgument { field, limit, .. } = &error else {
                panic!("{error:?}");
            };
            assert_eq!(
                (field.as_str(), *limit),
                (expected_field, Some(expected_limit))
            );
            assert!(
                error.to_string().contains(&expected_limit.to_string()),
                "{error}"
            );
        }
    }
}
