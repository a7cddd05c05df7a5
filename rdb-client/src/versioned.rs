//! The versioned keyspace: key → (version, value), written by compare-and-swap only.

use std::ops::RangeBounds;

use bytes::Bytes;
use rdb_proto::kvrpc::{
    self, compare_and_delete_response as deletion, compare_and_swap_response as swap,
};

use crate::range::KeyRange;
use crate::{Client, Error, ScanOptions, ScanStream, batch, scan};

/// A value with its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// At least 1. A key that was deleted and created again never shows a version that it has shown before.
    pub version: u64,
    /// The value.
    pub value: Bytes,
}

/// A key of the versioned keyspace with its version and value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionedKeyValue {
    /// The key.
    pub key: Bytes,
    /// At least 1.
    pub version: u64,
    /// The value; empty also in a scan that leaves values out.
    pub value: Bytes,
}

impl From<kvrpc::VersionedKeyValue> for VersionedKeyValue {
    fn from(entry: kvrpc::VersionedKeyValue) -> Self {
        Self {
            key: entry.key,
            version: entry.version,
            value: entry.value,
        }
    }
}

/// Calls on the versioned keyspace. Besides what each names, any can end in [`Error::Unavailable`], [`Error::Busy`],
/// [`Error::DeadlineExceeded`], [`Error::DataLoss`], [`Error::ClusterMismatch`] or [`Error::Internal`], and each that
/// writes in [`Error::Undetermined`].
impl Client {
    /// Writes a value if the key's version is `expected_version` (0: the key must not exist), and returns the new version.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when the version is another; [`Error::InvalidArgument`] when the key or the value exceeds the
    /// [`limits`](Self::limits), or the key is empty.
    pub async fn cas_put(
        &self,
        key: impl AsRef<[u8]>,
        expected_version: u64,
        value: impl Into<Bytes>,
    ) -> Result<u64, Error> {
        let deadline = self.deadline();
        let request = kvrpc::CompareAndSwapRequest {
            context: None,
            key: self.limits().checked_key(key.as_ref())?,
            expected_version,
            value: self.limits().checked_value(value.into())?,
        };
        let answer = self.router().call(key.as_ref(), request, deadline).await?;
        match answer.result {
            Some(swap::Result::Swapped(swapped)) => Ok(swapped.version),
            Some(swap::Result::Conflict(conflict)) => Err(conflict.into()),
            None => Err(no_result()),
        }
    }

    /// Reads value and version from the versioned keyspace; `None`: there is no such key. ([`Client::raw_get`] reads the raw
    /// one.)
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when the key is empty or too long.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Versioned>, Error> {
        let deadline = self.deadline();
        let request = kvrpc::GetRequest {
            context: None,
            key: self.limits().checked_key(key.as_ref())?,
        };
        let answer = self.router().call(key.as_ref(), request, deadline).await?;
        Ok(answer.entry.map(|entry| Versioned {
            version: entry.version,
            value: entry.value,
        }))
    }

    /// Deletes a key if its version is `expected_version`, at least 1.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when the version is another, or the key does not exist; [`Error::InvalidArgument`] when
    /// `expected_version` is 0 or the key is empty or too long.
    pub async fn cas_delete(
        &self,
        key: impl AsRef<[u8]>,
        expected_version: u64,
    ) -> Result<(), Error> {
        let deadline = self.deadline();
        if expected_version == 0 {
            let cause = "it is 0, which no key that exists has; expected at least 1";
            return Err(Error::invalid_argument("expected_version", None, cause));
        }
        let request = kvrpc::CompareAndDeleteRequest {
            context: None,
            key: self.limits().checked_key(key.as_ref())?,
            expected_version,
        };
        let answer = self.router().call(key.as_ref(), request, deadline).await?;
        match answer.result {
            Some(deletion::Result::Deleted(kvrpc::Deleted {})) => Ok(()),
            Some(deletion::Result::Conflict(conflict)) => Err(conflict.into()),
            None => Err(no_result()),
        }
    }

    /// Reads several values with their versions. Returns the keys that exist, in the order asked for. What lies in one region
    /// is one snapshot.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when a key or the number of keys exceeds the [`limits`](Self::limits), and when the
    /// values of one region are too much for one answer: ask for fewer keys then.
    pub async fn batch_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<VersionedKeyValue>, Error> {
        let deadline = self.deadline();
        let keys = self.limits().checked_keys(keys)?;
        let entries = batch::read::<kvrpc::BatchGetRequest>(self.router(), keys, deadline).await?;
        Ok(entries.into_iter().map(VersionedKeyValue::from).collect())
    }

    /// Reads a range of the versioned keyspace in order; otherwise as [`Client::raw_scan`].
    pub fn scan<K: AsRef<[u8]> + ?Sized>(
        &self,
        range: impl RangeBounds<K>,
        options: ScanOptions,
    ) -> ScanStream<VersionedKeyValue> {
        let range = KeyRange::new(&range, &self.limits());
        scan::stream::<kvrpc::ScanRequest, _>(self.clone(), range, options)
    }
}

impl From<kvrpc::Conflict> for Error {
    fn from(conflict: kvrpc::Conflict) -> Self {
        Self::Conflict {
            current_version: conflict.current_version,
            current_value: conflict.current_value,
        }
    }
}

/// A store answered a write neither yes nor no.
fn no_result() -> Error {
    Error::undetermined("the store's answer holds no result that this release knows")
}
