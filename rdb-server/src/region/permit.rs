//! Reads of a region, and why they have no result.

use rdb_proto::error::busy;
use rdb_proto::transport::limits::BYTES_BACKOFF;
use rdb_storage::{Error, PointRead, PointValue};

use super::RegionHandle;
use super::outcomes::epoch_has_changed;
use crate::error::Rejection;

/// A point read with more room runs on a blocking thread. Copying its value would hold up an async worker.
const INLINE_BYTES_MAX: usize = 256 << 10;

/// The permission to read a region. Every read takes `room`, the bytes that are set aside for its result.
pub(crate) struct ReadPermit<'a> {
    handle: &'a RegionHandle,
    /// [`Storage::replacements`](rdb_storage::Storage::replacements) from before it was asked for.
    replacements: u64,
}

/// Why a read has no result.
#[derive(Debug)]
pub(crate) enum ReadFailure {
    /// The result has `bytes` bytes, more than the room.
    NeedsRoom { bytes: usize },
    /// Anything else.
    Rejected(Rejection),
}

impl From<ReadFailure> for Rejection {
    fn from(failure: ReadFailure) -> Self {
        match failure {
            ReadFailure::NeedsRoom { .. } => Self::Routing(busy(BYTES_BACKOFF)),
            ReadFailure::Rejected(rejection) => rejection,
        }
    }
}

impl From<Rejection> for ReadFailure {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<Error> for ReadFailure {
    fn from(error: Error) -> Self {
        match error {
            Error::NeedsRoom { bytes } => Self::NeedsRoom { bytes },
            error => Self::Rejected(error.into()),
        }
    }
}

impl<'a> ReadPermit<'a> {
    pub(super) fn new(handle: &'a RegionHandle, replacements: u64) -> Self {
        Self {
            handle,
            replacements,
        }
    }

    /// Reads one key.
    pub(crate) async fn read(
        self,
        read: PointRead,
        room: usize,
    ) -> Result<PointValue, ReadFailure> {
        let size = self.handle.sizes.of(&read);
        size.check(room)?;
        let reader = &self.handle.reader;
        let found = if room > INLINE_BYTES_MAX {
            let results = reader.read_several(vec![read], room).await;
            results.and_then(|mut results| results.pop().expect("each read has a result"))
        } else {
            reader.read(read, room).await
        };
        size.learn(self.checked(found), PointValue::value_bytes)
    }

    /// Reads keys one by one until `room` is used up. Returns the results of the first reads, at least one. Only the first
    /// read can need more room.
    pub(crate) async fn read_several(
        self,
        reads: Vec<PointRead>,
        room: usize,
    ) -> Result<Vec<Result<PointValue, ReadFailure>>, ReadFailure> {
        if let Some(first) = reads.first() {
            self.handle.sizes.of(first).check(room)?;
        }
        let results = self.handle.reader.read_several(reads, room).await;
        let results = self.checked(results)?.into_iter();
        Ok(results.map(|result| Ok(result?)).collect())
    }

    /// The result of a read, if the region is still the one that the request was routed to.
    pub(super) fn checked<T>(&self, read: Result<T, Error>) -> Result<T, ReadFailure> {
        let found = read?;
        self.handle.check_epoch()?;
        // It may have lost its leadership since, and be replaced by a snapshot.
        if self.handle.storage.replacements() != self.replacements {
            return Err(epoch_has_changed().into());
        }
        Ok(found)
    }
}
