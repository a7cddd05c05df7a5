//! Submissions that were admitted.

use super::{Submission, WriteRoom};
use crate::apply::Entry;
use crate::command::{Command, range_delete_count};

/// A submission that can be applied, and its room in the write queue. Dropping it gives the room back, and its share of the
/// room of its message.
#[derive(Debug)]
pub struct Admitted {
    /// Dropped first: the room covers its buffers.
    submission: Submission,
    payload_bytes: usize,
    range_delete_count: usize,
    read_bytes: usize,
    _room: WriteRoom,
}

impl Admitted {
    pub(super) fn new(submission: Submission, payload_bytes: usize, room: WriteRoom) -> Self {
        Self {
            payload_bytes,
            range_delete_count: range_delete_count(&submission.commands),
            read_bytes: 0,
            submission,
            _room: room,
        }
    }

    /// The same after its keys were read into memory, records of `read_bytes` together.
    pub(super) fn warmed(self, read_bytes: usize) -> Self {
        Self { read_bytes, ..self }
    }

    /// The region that it writes to.
    pub fn region_id(&self) -> u64 {
        self.submission.region_id
    }

    /// What it does, in order. There is at least one.
    pub fn commands(&self) -> &[Command] {
        &self.submission.commands
    }

    /// Its commands, to be submitted otherwise. Gives the room back.
    pub fn into_commands(self) -> Vec<Command> {
        self.submission.commands
    }

    /// What the `version` of the region's epoch has to be. `None`: it does not matter.
    pub fn epoch_version(&self) -> Option<u64> {
        self.submission.epoch_version
    }

    /// The bytes of its keys and values.
    pub fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// How many of its commands delete a range.
    pub fn range_delete_count(&self) -> usize {
        self.range_delete_count
    }

    /// Bytes of the records that applying it reads, as they were when it was [warmed](crate::Storage::warm). 0 before.
    pub fn read_bytes(&self) -> usize {
        self.read_bytes
    }

    /// The keys of those records.
    pub fn keys_read(&self) -> impl Iterator<Item = &[u8]> {
        let expected = self.commands().iter().filter_map(Command::expected_version);
        expected.map(|(key, _)| &key[..])
    }

    /// Most bytes of values that its conflicts carry together.
    pub fn conflict_values_bytes_max(&self) -> usize {
        self.submission.conflict_values_bytes_max
    }

    /// As it is applied.
    pub(super) fn entry(&self) -> Entry<'_> {
        Entry {
            region_id: self.region_id(),
            epoch_version: self.epoch_version(),
            commands: self.commands(),
            membership: None,
            conflict_values_bytes_max: self.conflict_values_bytes_max(),
        }
    }
}
