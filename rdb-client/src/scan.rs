//! Scans: a stream of entries that fetches pages, region after region.
//!
//! A page is requested when all entries before it have been taken. It is requested from the region where the rest of the
//! range begins (in a reverse scan: ends), for the part of the range in that region. The next page begins where it ends. A
//! page may be empty before the range is finished, since a store skips a bounded number of deleted entries for one page. A
//! page that makes no progress is an error, since the scan would never end.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::vec::IntoIter;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use rdb_proto::kvrpc::{RawScanRequest, RawScanResponse, ScanRequest, ScanResponse};

use crate::detach::detach_all;
use crate::retry::{Deadline, Failure};
use crate::rpc::DataRequest;
use crate::{Client, Error, KeyRange, KeyValue, VersionedKeyValue};

/// The entries that a scan returns, and their order. The default is everything, from the lowest key up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ScanOptions {
    /// Most entries of the whole stream. `None`: all.
    pub limit: Option<usize>,
    /// Scan from the highest key down.
    pub reverse: bool,
    /// Leave the values out: they are empty.
    pub keys_only: bool,
}

impl ScanOptions {
    /// These options with another [`limit`](Self::limit).
    pub fn with_limit(self, limit: impl Into<Option<usize>>) -> Self {
        Self {
            limit: limit.into(),
            ..self
        }
    }

    /// These options with another choice of [`reverse`](Self::reverse).
    pub fn with_reverse(self, reverse: bool) -> Self {
        Self { reverse, ..self }
    }

    /// These options with another choice of [`keys_only`](Self::keys_only).
    pub fn with_keys_only(self, keys_only: bool) -> Self {
        Self { keys_only, ..self }
    }
}

/// The entries of a scan, in order. After an error it ends.
pub struct ScanStream<T> {
    /// Entries that were read and not taken yet.
    page: IntoIter<T>,
    later: BoxStream<'static, Result<Vec<T>, Error>>,
}

impl<T: Unpin> Stream for ScanStream<T> {
    type Item = Result<T, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(entry) = self.page.next() {
                return Poll::Ready(Some(Ok(entry)));
            }
            match ready!(self.later.poll_next_unpin(cx)) {
                Some(Ok(page)) => self.page = page.into_iter(),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl<T> fmt::Debug for ScanStream<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ScanStream").finish_non_exhaustive()
    }
}

/// A request for a page.
pub(crate) trait PageRequest: DataRequest {
    type Entry: Send + Sync + 'static;

    fn new(range: KeyRange, limit: Option<u32>, options: ScanOptions) -> Self;

    /// The entries, and where to resume in the region's part of the range. `None`: that part is finished.
    fn page(response: Self::Answer) -> (Vec<Self::Entry>, Option<Bytes>);
}

/// Streams the entries of `range`.
pub(crate) fn stream<R: PageRequest>(
    client: Client,
    range: KeyRange,
    options: ScanOptions,
) -> ScanStream<R::Entry> {
    let later = match range.checked(&client.limits()) {
        Ok(range) => {
            let scan = Scan::<R> {
                client,
                left: Some(range).filter(|range| !range.is_empty()),
                limit_left: options.limit,
                options,
                request: PhantomData,
            };
            let next = |mut scan: Scan<R>| async move {
                let page = scan.next_page().await.transpose()?;
                Some((page, scan))
            };
            stream::unfold(scan, next).boxed()
        }
        Err(error) => stream::iter([Err(error)]).boxed(),
    };
    ScanStream {
        page: Vec::new().into_iter(),
        later,
    }
}

/// The state of a scan.
struct Scan<R> {
    client: Client,
    /// The rest of the range. Never an empty range. `None`: the scan has read all, or failed.
    left: Option<KeyRange>,
    limit_left: Option<usize>,
    options: ScanOptions,
    request: PhantomData<R>,
}

impl<R: PageRequest> Scan<R> {
    async fn next_page(&mut self) -> Result<Option<Vec<R::Entry>>, Error> {
        let Some(left) = self.left.take().filter(|_| self.limit_left != Some(0)) else {
            return Ok(None);
        };
        let (mut page, left) = self.fetch(left).await?;
        self.left = left;
        if let Some(limit_left) = &mut self.limit_left {
            page.truncate(*limit_left);
            *limit_left -= page.len();
        }
        Ok(Some(page))
    }

    /// The next page, and the rest of the range behind it.
    async fn fetch(&self, range: KeyRange) -> Result<(Vec<R::Entry>, Option<KeyRange>), Error> {
        let deadline = self.client.deadline();
        let mut retry = self.client.router().retry(deadline, R::KIND);
        loop {
            match self.fetch_once(&range, deadline).await {
                Ok(fetched) => return retry.end(Ok(fetched)),
                Err(failure) => retry.next_attempt(failure).await?,
            }
        }
    }

    async fn fetch_once(
        &self,
        range: &KeyRange,
        deadline: Deadline,
    ) -> Result<(Vec<R::Entry>, Option<KeyRange>), Failure> {
        let router = self.client.router();
        let near_end = if self.options.reverse {
            range.highest_key(&self.client.limits())
        } else {
            range.start.clone()
        };
        let route = router.locate(&near_end, deadline).await?;
        let (start_key, end_key) = (&route.region.start_key, &route.region.end_key);
        let part = range.clamped(start_key, end_key);
        let limit = self
            .limit_left
            .map(|left| u32::try_from(left).unwrap_or(u32::MAX));
        let request = R::new(part.clone(), limit, self.options);
        let (entries, resume_key) =
            R::page(router.attempt(&route, &near_end, request, deadline).await?);
        let left = match (resume_key, self.options.reverse) {
            (None, false) => range.above(end_key),
            (None, true) => range.below(start_key),
            (Some(key), false) if part.start < key => range.above(&key),
            (Some(key), true) if part.end.as_ref().is_none_or(|end| key < end) => range.below(&key),
            (Some(_), _) => {
                let cause = format!("{}: the scan does not get on", route.place());
                return Err(Error::internal(cause).into());
            }
        };
        Ok((entries, left))
    }
}

macro_rules! page_request {
    ($request:ident, $response:ident, $entry:ident) => {
        impl PageRequest for $request {
            type Entry = $entry;

            fn new(range: KeyRange, limit: Option<u32>, options: ScanOptions) -> Self {
                Self {
                    context: None,
                    end_key: range.wire_end(),
                    start_key: range.start,
                    limit,
                    reverse: options.reverse,
                    keys_only: options.keys_only,
                }
            }

            fn page(mut response: $response) -> (Vec<$entry>, Option<Bytes>) {
                let entries = response.entries.iter_mut();
                detach_all(entries.flat_map(|entry| [&mut entry.key, &mut entry.value]));
                let entries = response.entries.into_iter().map($entry::from);
                (entries.collect(), response.resume_key)
            }
        }
    };
}

page_request!(RawScanRequest, RawScanResponse, KeyValue);
page_request!(ScanRequest, ScanResponse, VersionedKeyValue);
