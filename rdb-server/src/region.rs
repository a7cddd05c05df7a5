//! A region as the services see it: it takes commands and returns outcomes, and it permits reads.
//!
//! Behind it is the local engine, and with replication a Raft group. The services cannot tell the two apart, since the
//! contract is that of a replicated region already:
//!
//! - Commands are submitted under the epoch that they were routed under. If the region has another epoch when they would be
//!   applied, they are not applied, and the answer is `EpochNotMatch`.
//! - A read first gets a [`ReadPermit`]. Its snapshot is taken after that, and the region is checked after the snapshot. So
//!   a request is routed only once, however long it waits.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rdb_proto::error::busy;
use rdb_proto::errorpb::{EpochNotMatch, region_error::Kind};
use rdb_proto::metapb::{Peer, Region, RegionEpoch};
use rdb_proto::transport::limits::BYTES_BACKOFF;
use rdb_storage::{
    Command, Error, KeyValue, Outcome, Page, PeerDescriptor, PendingWrite, PointRead, PointValue,
    Reader, RegionDescriptor, ScanRange, Storage, Submission, Versioned, VersionedKeyValue,
    WriteRoom,
};

use crate::error::Rejection;
use crate::result_sizes::ResultSizes;

/// A point read with more room runs on a blocking thread. Copying its value would hold up an async worker.
const INLINE_BYTES_MAX: usize = 256 << 10;

/// A region that this store leads.
pub(crate) struct RegionHandle {
    region: Region,
    storage: Storage,
    reader: Reader,
    sizes: ResultSizes,
    /// Set before a change of the region shows in its data. Sequentially consistent, so that a read which sees changed data
    /// sees this, too.
    is_outdated: AtomicBool,
}

impl RegionHandle {
    pub(crate) fn new(region: Region, storage: &Storage) -> Self {
        Self {
            region,
            storage: storage.clone(),
            reader: storage.reader(),
            sizes: ResultSizes::new(),
            is_outdated: AtomicBool::new(false),
        }
    }

    /// The region's description when the handle was made.
    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// Marks the region as changed. Requests that were routed to this handle are refused, and have to be routed again.
    pub(crate) fn set_outdated(&self) {
        self.is_outdated.store(true, Ordering::SeqCst);
    }

    /// Applies `commands` in order, as a whole or not at all. Their conflicts carry at most `conflict_bytes_max` bytes of
    /// values. The commands share the buffer of the message that `room` was taken for. Without `room` they are copied once
    /// the write queue has some, since a few bytes of a message would keep all of it.
    pub(crate) fn submit(
        &self,
        commands: Vec<Command>,
        room: Option<&MessageRoom>,
        conflict_bytes_max: usize,
    ) -> Result<PendingOutcomes, Rejection> {
        let mut submission = Submission::new(self.region.id, commands)
            .under_epoch(self.region.version())
            .with_conflict_values(conflict_bytes_max);
        if let Some(MessageRoom(room)) = room {
            submission = submission.of_message(Arc::clone(room));
        }
        let pending = self.storage.submit(submission)?;
        Ok(PendingOutcomes { pending })
    }

    /// Takes room in the write queue for a message that submissions to this and other regions share.
    pub(crate) fn take_message_room(&self, message_bytes: usize) -> Result<MessageRoom, Rejection> {
        Ok(MessageRoom(Arc::new(
            self.storage.take_write_room(message_bytes)?,
        )))
    }

    /// Reads one key without waiting. `None`: it is not in memory, or the permission to read takes waiting.
    pub(crate) fn read_from_memory(
        &self,
        read: &PointRead,
        room: usize,
    ) -> Result<Option<PointValue>, ReadFailure> {
        let permit = ReadPermit { handle: self };
        let size = self.sizes.of(read);
        size.check(room)?;
        let found = permit.checked(self.reader.read_from_memory(read, room));
        size.learn(found, |found| {
            found.as_ref().map_or(0, PointValue::value_bytes)
        })
    }

    /// Waits until this store certainly leads the region and has applied everything that was acknowledged before the call.
    pub(crate) async fn permit_read(&self) -> Result<ReadPermit<'_>, Rejection> {
        Ok(ReadPermit { handle: self })
    }

    /// Reads raw values from one snapshot, in the order of `keys`.
    pub(crate) async fn multi_get_raw(
        self: Arc<Self>,
        keys: Vec<Bytes>,
        room: usize,
    ) -> Result<Vec<Option<Bytes>>, ReadFailure> {
        let size = self.sizes.of(&("raw", &keys));
        size.check(room)?;
        let permit = self.permit_read().await?;
        let values = self.reader.multi_get_raw(keys, room).await;
        let bytes_of = |values: &Vec<Option<Bytes>>| values.iter().flatten().map(Bytes::len).sum();
        size.learn(permit.checked(values), bytes_of)
    }

    /// Reads versioned values from one snapshot, in the order of `keys`.
    pub(crate) async fn multi_get_versioned(
        self: Arc<Self>,
        keys: Vec<Bytes>,
        room: usize,
    ) -> Result<Vec<Option<Versioned>>, ReadFailure> {
        let size = self.sizes.of(&("versioned", &keys));
        size.check(room)?;
        let permit = self.permit_read().await?;
        let values = self.reader.multi_get_versioned(keys, room).await;
        let bytes_of = |values: &Vec<Option<Versioned>>| {
            let values = values.iter().flatten();
            values.map(|found| found.value.len()).sum()
        };
        size.learn(permit.checked(values), bytes_of)
    }

    /// Reads one page of the raw keyspace.
    pub(crate) async fn scan_raw(
        self: Arc<Self>,
        range: ScanRange,
        room: usize,
    ) -> Result<Page<KeyValue>, ReadFailure> {
        let permit = self.permit_read().await?;
        permit.checked(self.reader.scan_raw(range, room).await)
    }

    /// Reads one page of the versioned keyspace.
    pub(crate) async fn scan_versioned(
        self: Arc<Self>,
        range: ScanRange,
        room: usize,
    ) -> Result<Page<VersionedKeyValue>, ReadFailure> {
        let permit = self.permit_read().await?;
        permit.checked(self.reader.scan_versioned(range, room).await)
    }

    /// Whether the region is still what it was when requests were routed here.
    fn check_epoch(&self) -> Result<(), Rejection> {
        if self.is_outdated.load(Ordering::SeqCst) {
            return Err(epoch_has_changed());
        }
        Ok(())
    }
}

/// The answer to a request whose region has changed since it was routed. The client learns the present epoch when it sends
/// the request again.
fn epoch_has_changed() -> Rejection {
    Rejection::Routing(Kind::EpochNotMatch(EpochNotMatch::default()))
}

/// Room for a message in the write queue, until all of its submissions are done.
pub(crate) struct MessageRoom(Arc<WriteRoom>);

/// Resolves to one outcome for each command that was submitted. Dropping it does not take the writes back.
#[must_use = "a write is known to be done only by its outcome"]
pub(crate) struct PendingOutcomes {
    pending: PendingWrite,
}

impl Future for PendingOutcomes {
    type Output = Result<Vec<Outcome>, Rejection>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcomes = ready!(Pin::new(&mut self.pending).poll(context))?;
        let is_changed = |outcome: &Outcome| matches!(outcome, Outcome::EpochChanged { .. });
        Poll::Ready(if outcomes.iter().any(is_changed) {
            Err(epoch_has_changed())
        } else {
            Ok(outcomes)
        })
    }
}

/// The permission to read a region. Every read takes `room`, the bytes that are set aside for its result.
pub(crate) struct ReadPermit<'a> {
    handle: &'a RegionHandle,
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

impl ReadPermit<'_> {
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

    /// Reads keys one by one until `room` is used up. The results are those of the first reads, at least one. Only the first
    /// can need more room.
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
    fn checked<T>(&self, read: Result<T, Error>) -> Result<T, ReadFailure> {
        let found = read?;
        self.handle.check_epoch()?;
        Ok(found)
    }
}

/// The region in its form on the wire.
pub(crate) fn to_wire(descriptor: RegionDescriptor) -> Region {
    let peers = descriptor.peers.into_iter();
    Region {
        id: descriptor.id,
        start_key: descriptor.start_key,
        end_key: descriptor.end_key,
        epoch: Some(RegionEpoch {
            conf_version: descriptor.conf_version,
            version: descriptor.version,
        }),
        peers: peers
            .map(|PeerDescriptor { id, store_id }| Peer { id, store_id })
            .collect(),
    }
}

/// The region in its stored form.
pub(crate) fn from_wire(region: Region) -> RegionDescriptor {
    let epoch = region.epoch_or_default();
    let peers = region.peers.into_iter();
    RegionDescriptor {
        id: region.id,
        start_key: region.start_key,
        end_key: region.end_key,
        conf_version: epoch.conf_version,
        version: epoch.version,
        peers: peers
            .map(|Peer { id, store_id }| PeerDescriptor { id, store_id })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use rdb_storage::{Role, StorageOptions};

    use super::*;

    #[tokio::test]
    async fn commands_of_an_epoch_that_is_over_are_not_applied() {
        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        let options = StorageOptions::new(Role::Server);
        let storage = Storage::open(directory.path(), options).expect("a new directory");
        let region = |version| Region {
            id: 1,
            epoch: Some(RegionEpoch {
                conf_version: 1,
                version,
            }),
            ..Region::default()
        };
        let handle = RegionHandle::new(region(1), &storage);
        let put = |value: &'static str| {
            let (key, value) = ("k".into(), value.into());
            handle.submit(vec![Command::PutRaw { key, value }], None, 0)
        };
        for (version, value) in [(1, "applied"), (2, "not applied")] {
            let change = vec![Command::PutRegion(from_wire(region(version)))];
            let changed = storage
                .submit(Submission::new(1, change))
                .expect("there is room");
            changed.await.expect("stored");
            let written = put(value).expect("there is room").await;
            if version == 1 {
                assert_eq!(written.expect("applied"), [Outcome::Done]);
                continue;
            }
            let Err(Rejection::Routing(Kind::EpochNotMatch(_))) = written else {
                panic!("{written:?}");
            };
        }
        let read = PointRead::raw("k".into()).expect("a key");
        let permit = handle.permit_read().await.expect("always granted");
        let found = permit.read(read, usize::MAX).await.expect("read");
        assert_eq!(found, PointValue::Raw(Some("applied".into())));
    }
    #[tokio::test]
    async fn a_large_value_is_looked_at_again_only_with_room_and_off_the_async_threads() {
        const VALUE_BYTES: usize = 1 << 20;
        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        let options = StorageOptions::new(Role::Server);
        let storage = Storage::open(directory.path(), options).expect("a new directory");
        let handle = RegionHandle::new(Region::default(), &storage);
        let write = async |command| {
            let written = storage.submit(Submission::new(1, vec![command]));
            written.expect("there is room").await.expect("written");
        };
        let read = async |room| {
            let read = PointRead::raw("k".into()).expect("a key");
            let permit = handle.permit_read().await.expect("always granted");
            permit.read(read, room).await
        };
        let needs_room = |found| match found {
            Err(ReadFailure::NeedsRoom { bytes }) => bytes,
            other => panic!("{other:?}"),
        };
        let (key, value) = (Bytes::from("k"), Bytes::from(vec![0; VALUE_BYTES]));
        write(Command::PutRaw { key, value }).await;
        assert_eq!(needs_room(read(100).await), VALUE_BYTES);

        let key = "k".into();
        write(Command::DeleteRaw { key }).await;
        assert_eq!(
            needs_room(read(100).await),
            VALUE_BYTES,
            "it is not looked at"
        );
        let found = read(VALUE_BYTES).await.expect("read");
        assert_eq!(found, PointValue::Raw(None));
        let stats = storage.stats().expect("it is open");
        assert_eq!(stats.disk_read_count, 1, "on a blocking thread");
        let found = read(100).await.expect("the size is forgotten");
        assert_eq!(found, PointValue::Raw(None));
    }
}
