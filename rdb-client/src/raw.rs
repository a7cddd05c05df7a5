//! Calls on the raw keyspace: key → value, the last write wins.

use bytes::Bytes;
use rdb_proto::kvrpc;

use crate::{Client, Error, Key, KeyRange, ScanOptions, ScanStream, delete_range, multi_key, scan};

/// A key of the raw keyspace with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty also in a scan that leaves values out.
    pub value: Bytes,
}

impl From<kvrpc::KeyValue> for KeyValue {
    fn from(entry: kvrpc::KeyValue) -> Self {
        let kvrpc::KeyValue { key, value } = entry;
        Self { key, value }
    }
}

/// Calls on the raw keyspace. Besides what each names, any can end in [`Error::Unavailable`], [`Error::Busy`],
/// [`Error::DeadlineExceeded`], [`Error::DataLoss`], [`Error::ClusterMismatch`] or [`Error::Internal`], and each that
/// writes in [`Error::Undetermined`].
impl Client {
    /// Writes one value unconditionally. An empty value is a value.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when the key or the value exceeds the [`limits`](Self::limits), or the key is empty.
    pub async fn raw_put(&self, key: impl Key, value: impl Into<Bytes>) -> Result<(), Error> {
        let deadline = self.deadline();
        let key = self.limits().checked_key(key)?;
        let request = kvrpc::RawPutRequest {
            context: None,
            key,
            value: self.limits().checked_value(value.into())?,
        };
        self.router().call(request, deadline, |_| Ok(())).await
    }

    /// Reads one value from the raw keyspace; `None`: there is no such key. ([`Client::get`] reads the versioned one.)
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when the key is empty or too long.
    pub async fn raw_get(&self, key: impl Key) -> Result<Option<Bytes>, Error> {
        let deadline = self.deadline();
        let key = self.limits().checked_key(key)?;
        let request = kvrpc::RawGetRequest { context: None, key };
        let value = |response: kvrpc::RawGetResponse| Ok(response.value);
        self.router().call(request, deadline, value).await
    }

    /// Deletes one key. A key that does not exist is no error.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when the key is empty or too long.
    pub async fn raw_delete(&self, key: impl Key) -> Result<(), Error> {
        let deadline = self.deadline();
        let key = self.limits().checked_key(key)?;
        let request = kvrpc::RawDeleteRequest { context: None, key };
        self.router().call(request, deadline, |_| Ok(())).await
    }

    /// Writes several values. Those in one region are written together: all or none, visible at once. A batch over several
    /// regions is atomic per region only. When a key occurs twice, the later entry wins. An empty batch succeeds.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when a key, a value or the batch exceeds the [`limits`](Self::limits);
    /// [`Error::Undetermined`] also when only a part is known to have been applied.
    pub async fn raw_batch_put<K: Key, V: Into<Bytes>>(
        &self,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Result<(), Error> {
        let deadline = self.deadline();
        let limits = self.limits();
        let checked = entries.into_iter().map(|(key, value)| {
            let key = limits.checked_key(key)?;
            let value = limits.checked_value(value.into())?;
            Ok(kvrpc::KeyValue { key, value })
        });
        let entries: Vec<_> = checked.collect::<Result<_, Error>>()?;
        let sizes = entries
            .iter()
            .map(|entry| entry.key.len() + entry.value.len());
        limits.check_batch("entries", sizes)?;
        multi_key::write::<kvrpc::RawBatchPutRequest>(self.router(), entries, deadline).await
    }

    /// Deletes several keys. Those in one region are deleted together: all or none, and no read sees a part. A batch over
    /// several regions is atomic per region only. A key that does not exist is no error. An empty batch succeeds.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when a key or the batch exceeds the [`limits`](Self::limits); [`Error::Undetermined`] also
    /// when only a part is known to have been applied.
    pub async fn raw_batch_delete<K: Key>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<(), Error> {
        let deadline = self.deadline();
        let keys = self.limits().checked_keys(keys)?;
        multi_key::write::<kvrpc::RawBatchDeleteRequest>(self.router(), keys, deadline).await
    }

    /// Reads several values: one for each key, in the order of the keys; `None`: there is no such key. The values of one
    /// region are one snapshot.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when a key or the number of keys exceeds the [`limits`](Self::limits), and when the
    /// values of one region are too much for one response: ask for fewer keys then.
    pub async fn raw_batch_get<K: Key>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>, Error> {
        let deadline = self.deadline();
        let keys = self.limits().checked_keys(keys)?;
        multi_key::read::<kvrpc::RawBatchGetRequest>(self.router(), keys, deadline).await
    }

    /// Reads a range of keys in order, page by page, across regions. A page is one snapshot; the stream is not. Each page
    /// has the client's whole timeout. No page is read ahead, and dropping the stream ends the scan.
    ///
    /// The first item of an inverted range, or of one with a bound that is too long, is an [`Error::InvalidArgument`]. An
    /// empty range is an empty stream. After an error the stream ends.
    pub fn raw_scan(
        &self,
        range: impl Into<KeyRange>,
        options: ScanOptions,
    ) -> ScanStream<KeyValue> {
        scan::stream::<kvrpc::RawScanRequest>(self.clone(), range.into(), options)
    }

    /// Reads all keys that begin with `prefix`; otherwise as [`Client::raw_scan`].
    pub fn raw_scan_prefix(&self, prefix: impl Key, options: ScanOptions) -> ScanStream<KeyValue> {
        self.raw_scan(KeyRange::prefix(prefix), options)
    }

    /// Deletes all keys of a range. The keys of a region are deleted at once, and regions one after the other.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when the range is inverted or empty, or a bound is too long; [`Error::Undetermined`] also
    /// when only some regions are known to be done.
    pub async fn raw_delete_range(&self, range: impl Into<KeyRange>) -> Result<(), Error> {
        let range = range.into().checked(&self.limits())?;
        delete_range::delete_range(self.router(), range, self.deadline()).await
    }
}
