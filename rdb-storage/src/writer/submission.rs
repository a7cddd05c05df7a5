//! Submissions to the writer.

use std::sync::Arc;

use super::WriteRoom;
use crate::command::{Command, require};
use crate::error::Error;
use crate::limits::CONFLICT_VALUES_BYTES_MAX;

/// What an entry, and a submission itself, cost in memory beside keys and values.
const ENTRY_OVERHEAD_BYTES: usize = 128;

/// Writes to one region that are applied in their order, together or not at all.
#[derive(Debug, Clone)]
pub struct Submission {
    pub(super) region_id: u64,
    pub(super) commands: Vec<Command>,
    pub(super) epoch_version: Option<u64>,
    pub(super) conflict_values_bytes_max: usize,
    /// Room for the message whose buffer the commands share. `None`: they are copied.
    message: Option<Arc<WriteRoom>>,
}

impl Submission {
    /// Writes to the region `region_id`; [`EMBEDDED_REGION_ID`](crate::limits::EMBEDDED_REGION_ID) when embedded. The
    /// commands are copied when there is room for them in the queue, since a few bytes of a buffer keep all of it alive.
    pub fn new(region_id: u64, commands: Vec<Command>) -> Self {
        Self {
            region_id,
            commands,
            epoch_version: None,
            conflict_values_bytes_max: CONFLICT_VALUES_BYTES_MAX,
            message: None,
        }
    }

    /// The same, applied only if the `version` of the region's epoch is this one.
    pub fn under_epoch(mut self, version: u64) -> Self {
        self.epoch_version = Some(version);
        self
    }

    /// The same, whose conflicts carry at most `bytes_max` of values together, and never more than
    /// [`CONFLICT_VALUES_BYTES_MAX`].
    pub fn with_conflict_values(mut self, bytes_max: usize) -> Self {
        self.conflict_values_bytes_max = bytes_max.min(CONFLICT_VALUES_BYTES_MAX);
        self
    }

    /// The same, without a copy: the commands share the buffer of a message for which `room` was taken. Several submissions
    /// may share it.
    pub fn of_message(mut self, room: Arc<WriteRoom>) -> Self {
        self.message = Some(room);
        self
    }

    /// Refuses what could not be applied.
    pub(super) fn validate(&self) -> Result<(), Error> {
        require(!self.commands.is_empty(), "submission", None, || {
            "the submission has no commands".to_owned()
        })?;
        self.commands.iter().try_for_each(Command::validate)
    }

    /// What the submission takes in the queue, in bytes; of a message, beside the message's own room. And what it holds, its part of
    /// that room included.
    pub(super) fn charge_bytes(&self, payload_bytes: usize) -> (usize, usize) {
        let entries: usize = self.commands.iter().map(Command::entry_count).sum();
        let overhead = (entries + 1) * ENTRY_OVERHEAD_BYTES;
        let held_bytes = overhead + payload_bytes;
        match self.message {
            Some(_) => (overhead, held_bytes),
            None => (held_bytes, held_bytes),
        }
    }

    pub(super) fn payload_bytes(&self) -> usize {
        self.commands.iter().map(Command::payload_bytes).sum()
    }

    /// The same, with no buffer of a message that is not charged for. It takes the room as proof: what does not fit into the
    /// queue is not copied.
    pub(super) fn detached(mut self, _room: &WriteRoom) -> Self {
        if self.message.is_none() {
            let commands = self.commands.into_iter();
            self.commands = commands.map(Command::detached).collect();
        }
        self
    }
}
