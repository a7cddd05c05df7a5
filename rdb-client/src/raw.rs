//! The raw keyspace: key → value, the last write wins.

use std::ops::RangeBounds;

use bytes::Bytes;
use rdb_proto::kvrpc;

use crate::range::KeyRange;
use crate::{Client, Error, ScanOptions, ScanStream, batch, delete_range, scan};

/// A key of the raw keyspace with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty also in a scan that leaves values out.
    pub value: Bytes,
}

impl From<kvrpc::KeyValue> for KeyValue {
    fn from(entry: kvrpc::KeyValue) -> Self {
        Self {
            key: entry.key,
            value: entry.value,
        }
    }
}

/// Calls on the raw keyspace. Besides what each names, any can end in [`Error::Unavailable`], [`Error::Busy`],
/// [`Error::DeadlineExceeded`], [`Error::DataLoss`], [`Error::ClusterMismatch`] or [`Error::Internal`], and each that
/// writes in [`Error::Undetermined`].
impl Client {
    /// Writes one value, whatever was there before. An empty value is a value.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when the key or the value exceeds the [`limits`](Self::limits), or the key is empty.
    pub async fn raw_put(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
    ) -> Result<(), Error> {
        let deadline = self.deadline();
        let request = kvrpc::RawPutRequest {
            context: None,
            key: self.limits().checked_key(key.as_ref())?,
            value: self.limits().checked_value(value.into())?,
        };
        self.router().call(key.as_ref(), request, deadline).await?;
        Ok(())
    }

    /// Reads one value from the raw keyspace; `None`: there is no such key. ([`Client::get`] reads the versioned one.)
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when the key is empty or too long.
    pub async fn raw_get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, Error> {
        let deadline = self.deadline();
        let request = kvrpc::RawGetRequest {
            context: None,
            key: self.limits().checked_key(key.as_ref())?,
        };
        let answer = self.router().call(key.as_ref(), request, deadline).await?;
        Ok(answer.value)
    }

    /// Deletes one key; one that is not there is no error.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when the key is empty or too long.
    pub async fn raw_delete(&self, key: impl AsRef<[u8]>) -> Result<(), Error> {
        let deadline = self.deadline();
        let request = kvrpc::RawDeleteRequest {
            context: None,
            key: self.limits().checked_key(key.as_ref())?,
        };
        self.router().call(key.as_ref(), request, deadline).await?;
        Ok(())
    }

    /// Writes several values: all or none of those in one region, visible together. A batch over several regions is atomic
    /// per region only. When a key occurs twice, the later entry wins. A batch of nothing is done at once.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when a key, a value or the batch exceeds the [`limits`](Self::limits);
    /// [`Error::Undetermined`] also when only a part is known to have been applied.
    pub async fn raw_batch_put<K: AsRef<[u8]>, V: Into<Bytes>>(
        &self,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Result<(), Error> {
        let deadline = self.deadline();
        let limits = self.limits();
        let checked = entries.into_iter().map(|(key, value)| {
            let key = limits.checked_key(key.as_ref())?;
            let value = limits.checked_value(value.into())?;
            Ok(kvrpc::KeyValue { key, value })
        });
        let entries: Vec<_> = checked.collect::<Result<_, Error>>()?;
        let sizes = entries
            .iter()
            .map(|entry| entry.key.len() + entry.value.len());
        limits.check_batch("entries", sizes)?;
        batch::write::<kvrpc::RawBatchPutRequest>(self.router(), entries, deadline).await
    }

    /// Reads several values. Returns the keys that exist, in the order asked for. What lies in one region is one snapshot.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when a key or the number of keys exceeds the [`limits`](Self::limits), and when the
    /// values of one region are too much for one answer: ask for fewer keys then.
    pub async fn raw_batch_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<KeyValue>, Error> {
        let deadline = self.deadline();
        let keys = self.limits().checked_keys(keys)?;
        let entries =
            batch::read::<kvrpc::RawBatchGetRequest>(self.router(), keys, deadline).await?;
        Ok(entries.into_iter().map(KeyValue::from).collect())
    }

    /// Reads a range of keys in order, page by page, across regions. A page is one snapshot; the stream is not. Each page has
    /// the client's whole timeout. Nothing is read ahead, and nothing goes on when the stream is dropped.
    ///
    /// An inverted range or too long a bound is an [`Error::InvalidArgument`] in the stream; an empty range an empty stream.
    /// After an error the stream ends.
    pub fn raw_scan<K: AsRef<[u8]> + ?Sized>(
        &self,
        range: impl RangeBounds<K>,
        options: ScanOptions,
    ) -> ScanStream<KeyValue> {
        let range = KeyRange::new(&range, &self.limits());
        scan::stream::<kvrpc::RawScanRequest, _>(self.clone(), range, options)
    }

    /// Deletes all keys of a range: at once within a region, one region after the other beyond.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when the range is inverted or empty, or a bound is too long; [`Error::Undetermined`] also
    /// when only some regions are known to be done.
    pub async fn raw_delete_range<K: AsRef<[u8]> + ?Sized>(
        &self,
        range: impl RangeBounds<K>,
    ) -> Result<(), Error> {
        let range = KeyRange::new(&range, &self.limits())?;
        delete_range::delete_range(self.router(), range, self.deadline()).await
    }
}
