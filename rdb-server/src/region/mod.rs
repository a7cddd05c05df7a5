//! A region as the services see it: it takes commands and returns outcomes, and it permits reads. Behind it is a Raft group.
//!
//! - Commands are submitted under the epoch that they were routed under. If the region has another epoch when they would be
//!   applied, they are not applied, and the answer is `EpochNotMatch`.
//! - A read first gets a [`ReadPermit`]. Its snapshot is taken after that, and the region is checked after the snapshot. So
//!   a request is routed only once, however long it waits.

mod admin;
mod description;
#[cfg(test)]
pub(crate) mod fixture;
mod leadership;
mod machine;
mod outcomes;
mod permit;
mod progress;
mod proposer;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rdb_proto::errorpb::RegionLeader;
use rdb_proto::metapb::Region;
use rdb_storage::{
    Command, KeyValue, Page, PointRead, PointValue, Reader, ScanRange, Storage, Submission,
    Versioned, VersionedKeyValue, WriteRoom,
};

pub(crate) use description::{Described, Description, peer_on};
pub(crate) use leadership::Leadership;
pub(crate) use machine::{RegionMachine, first_state};
pub(crate) use outcomes::{PendingOrBack, PendingOutcomes, Refused};
pub(crate) use permit::{ReadFailure, ReadPermit};
pub(crate) use progress::{WriteProgress, WriteSteps};
pub(crate) use proposer::Proposer;
pub(crate) use wire::{from_wire, to_wire};

use crate::error::Rejection;
use crate::result_sizes::ResultSizes;
use outcomes::epoch_has_changed;

/// A region of this store. Its key range and its version are always the same; its peers may change.
pub(crate) struct RegionHandle {
    region: Region,
    /// What the region is now.
    description: Arc<Description>,
    proposer: Arc<Proposer>,
    storage: Storage,
    reader: Reader,
    sizes: ResultSizes,
    /// Set before a change of the region shows in its data. Sequentially consistent, so that a read that sees changed data sees this, too.
    is_outdated: AtomicBool,
}

impl RegionHandle {
    pub(crate) fn new(
        region: Region,
        description: Arc<Description>,
        proposer: Arc<Proposer>,
        storage: &Storage,
    ) -> Self {
        Self {
            region,
            description,
            proposer,
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

    /// The region as it is now, with its present peers.
    pub(crate) fn described(&self) -> Region {
        let described = self.description.get();
        described.map_or_else(|| self.region.clone(), |described| described.to_wire())
    }

    /// Who leads the region, as far as this store knows.
    pub(crate) fn leader(&self) -> RegionLeader {
        self.proposer.leadership().leader()
    }

    #[cfg(test)]
    pub(crate) fn description(&self) -> &Description {
        &self.description
    }

    /// Whether a region has the key range and the version of this handle.
    pub(crate) fn is_of(&self, region: &Region) -> bool {
        self.region.start_key == region.start_key
            && self.region.end_key == region.end_key
            && self.region.version() == region.version()
    }

    /// Marks the region as changed. Requests that were routed to this handle are refused, and have to be routed again.
    pub(crate) fn set_outdated(&self) {
        self.is_outdated.store(true, Ordering::SeqCst);
    }

    /// Applies `commands` in order, as a whole or not at all. Only a few of them may compare versions. Their conflicts carry at most
    /// `conflict_bytes_max` bytes of values. They are copied once the write queue has room, since a few bytes of a message would
    /// keep all of it.
    pub(crate) fn submit(
        &self,
        commands: Vec<Command>,
        conflict_bytes_max: usize,
    ) -> Result<PendingOutcomes, Rejection> {
        let submission = self.submission(commands, conflict_bytes_max);
        self.proposer.submit(submission)
    }

    /// The same for commands that share the buffer of the message that `room` was taken for. Commands that compare versions of keys
    /// that are not in memory, or of much, are given back.
    pub(crate) fn submit_at_once(
        &self,
        commands: Vec<Command>,
        room: &MessageRoom,
        conflict_bytes_max: usize,
    ) -> Result<PendingOrBack, Rejection> {
        let submission = self.submission(commands, conflict_bytes_max);
        let submission = submission.of_message(Arc::clone(&room.0));
        self.proposer.submit_at_once(submission)
    }

    /// The same for parts of what was given back, and for what is behind it in the message. Each part is commands and how many bytes
    /// of values their conflicts carry at most. It is a submission, and later parts do not pass it. A part that is refused at once does
    /// not keep later ones from being applied.
    pub(crate) fn submit_in_turn(
        &self,
        parts: Vec<(Vec<Command>, usize)>,
        room: &MessageRoom,
    ) -> Vec<Result<PendingOutcomes, Rejection>> {
        let submissions = parts.into_iter().map(|(commands, conflict_bytes_max)| {
            let submission = self.submission(commands, conflict_bytes_max);
            submission.of_message(Arc::clone(&room.0))
        });
        self.proposer.submit_in_turn(submissions)
    }

    fn submission(&self, commands: Vec<Command>, conflict_bytes_max: usize) -> Submission {
        Submission::new(self.region.id, commands)
            .under_epoch(self.region.version())
            .with_conflict_values(conflict_bytes_max)
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
        let replacements = self.storage.replacements();
        if !self.proposer.leadership().group().try_permit_read() {
            return Ok(None);
        }
        let permit = ReadPermit::new(self, replacements);
        let size = self.sizes.of(read);
        size.check(room)?;
        let found = permit.checked(self.reader.read_from_memory(read, room));
        size.learn(found, |found| {
            found.as_ref().map_or(0, PointValue::value_bytes)
        })
    }

    /// Waits until this store certainly leads the region and has applied everything that was acknowledged before the call.
    pub(crate) async fn permit_read(&self) -> Result<ReadPermit<'_>, Rejection> {
        let replacements = self.storage.replacements();
        match self.proposer.leadership().group().permit_read().await {
            Ok(()) => Ok(ReadPermit::new(self, replacements)),
            Err(error) => Err(self.proposer.leadership().not_permitted(&error)),
        }
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

/// Room for a message in the write queue, until all of its submissions are done.
pub(crate) struct MessageRoom(Arc<WriteRoom>);
