//! Calls on the versioned keyspace: key → (version, value), written by compare-and-swap only.

use bytes::Bytes;
use rdb_proto::kvrpc::{
    self, compare_and_delete_response as deletion, compare_and_swap_response as swap,
};

use crate::retry::Deadline;
use crate::{Client, Error, Key, KeyRange, ScanOptions, ScanStream, multi_key, scan};

/// A value with its version.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Versioned {
    /// The entry's version, at least 1. A key that was deleted and created again never shows a version that it has shown before.
    pub version: u64,
    /// The value.
    pub value: Bytes,
}

/// A key of the versioned keyspace with its version and value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionedKeyValue {
    /// The key.
    pub key: Bytes,
    /// The entry's version, at least 1.
    pub version: u64,
    /// The value; empty also in a scan that leaves values out.
    pub value: Bytes,
}

impl From<kvrpc::VersionedKeyValue> for VersionedKeyValue {
    fn from(entry: kvrpc::VersionedKeyValue) -> Self {
        let kvrpc::VersionedKeyValue {
            key,
            version,
            value,
        } = entry;
        Self {
            key,
            version,
            value,
        }
    }
}

/// Calls on the versioned keyspace. Besides what each names, any can end in [`Error::Unavailable`], [`Error::Busy`],
/// [`Error::DeadlineExceeded`], [`Error::DataLoss`], [`Error::ClusterMismatch`] or [`Error::Internal`], and each that
/// writes in [`Error::Undetermined`].
impl Client {
    /// Writes a value if the key's version is `expected_version` (0: the key must not exist), and returns the new version.
    ///
    /// After [`Error::Undetermined`], the same call again is a fence if `expected_version` is at least 1: no key shows a
    /// version twice, so at most one of the two calls is applied. If `expected_version` is 0, it is no fence: once the key
    /// has been deleted, the first call can still create it. [`Client::update`] uses the fence where there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when the version is another; [`Error::InvalidArgument`] when the key or the value exceeds the
    /// [`limits`](Self::limits), or the key is empty.
    pub async fn cas_put(
        &self,
        key: impl Key,
        expected_version: u64,
        value: impl Into<Bytes>,
    ) -> Result<u64, Error> {
        let deadline = self.deadline();
        let key = self.limits().checked_key(key)?;
        let value = self.limits().checked_value(value.into())?;
        self.swap(key, expected_version, value, deadline).await
    }

    /// [`Client::cas_put`] with a key and a value that have been checked.
    pub(crate) async fn swap(
        &self,
        key: Bytes,
        expected_version: u64,
        value: Bytes,
        deadline: Deadline,
    ) -> Result<u64, Error> {
        let request = kvrpc::CompareAndSwapRequest {
            context: None,
            key,
            expected_version,
            value,
        };
        let version = |response: kvrpc::CompareAndSwapResponse| match response.result {
            Some(swap::Result::Swapped(swapped)) => Ok(swapped.version),
            Some(swap::Result::Conflict(conflict)) => Err(conflict.into()),
            None => Err(no_result()),
        };
        self.router().call(request, deadline, version).await
    }

    /// Reads value and version from the versioned keyspace; `None`: there is no such key. ([`Client::raw_get`] reads the raw
    /// one.)
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when the key is empty or too long.
    pub async fn get(&self, key: impl Key) -> Result<Option<Versioned>, Error> {
        let deadline = self.deadline();
        let key = self.limits().checked_key(key)?;
        self.get_until(key, deadline).await
    }

    /// [`Client::get`] with a key that has been checked.
    pub(crate) async fn get_until(
        &self,
        key: Bytes,
        deadline: Deadline,
    ) -> Result<Option<Versioned>, Error> {
        let request = kvrpc::GetRequest { context: None, key };
        let versioned = |entry: kvrpc::Versioned| Versioned {
            version: entry.version,
            value: entry.value,
        };
        let found = |response: kvrpc::GetResponse| Ok(response.entry.map(versioned));
        self.router().call(request, deadline, found).await
    }

    /// Deletes a key if its version is `expected_version`, at least 1.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when the version is another, or the key does not exist; [`Error::InvalidArgument`] when
    /// `expected_version` is 0 or the key is empty or too long.
    pub async fn cas_delete(&self, key: impl Key, expected_version: u64) -> Result<(), Error> {
        let deadline = self.deadline();
        if expected_version == 0 {
            let cause = "it is 0, which no key that exists has; expected at least 1";
            return Err(Error::invalid_argument("expected_version", None, cause));
        }
        let key = self.limits().checked_key(key)?;
        let request = kvrpc::CompareAndDeleteRequest {
            context: None,
            key,
            expected_version,
        };
        let deleted = |response: kvrpc::CompareAndDeleteResponse| match response.result {
            Some(deletion::Result::Deleted(kvrpc::Deleted {})) => Ok(()),
            Some(deletion::Result::Conflict(conflict)) => Err(conflict.into()),
            None => Err(no_result()),
        };
        self.router().call(request, deadline, deleted).await
    }

    /// Reads several values with their versions: one for each key, in the order of the keys; `None`: there is no such key.
    /// The values of one region are one snapshot.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when a key or the number of keys exceeds the [`limits`](Self::limits), and when the
    /// values of one region are too much for one response: ask for fewer keys then.
    pub async fn batch_get<K: Key>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Versioned>>, Error> {
        let deadline = self.deadline();
        let keys = self.limits().checked_keys(keys)?;
        multi_key::read::<kvrpc::BatchGetRequest>(self.router(), keys, deadline).await
    }

    /// Reads a range of the versioned keyspace in order; otherwise as [`Client::raw_scan`].
    pub fn scan(
        &self,
        range: impl Into<KeyRange>,
        options: ScanOptions,
    ) -> ScanStream<VersionedKeyValue> {
        scan::stream::<kvrpc::ScanRequest>(self.clone(), range.into(), options)
    }

    /// Reads all keys of the versioned keyspace that begin with `prefix`; otherwise as [`Client::raw_scan`].
    pub fn scan_prefix(
        &self,
        prefix: impl Key,
        options: ScanOptions,
    ) -> ScanStream<VersionedKeyValue> {
        self.scan(KeyRange::prefix(prefix), options)
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

/// The error of a write whose response says neither yes nor no.
fn no_result() -> Error {
    Error::undetermined("the store's response holds no result that this release knows")
}
