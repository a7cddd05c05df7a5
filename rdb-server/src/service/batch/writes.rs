//! Writes of a message: submitted, and waited for.

use std::collections::HashSet;
use std::iter::Peekable;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use rdb_proto::audit::AuditKey;
use rdb_proto::slow_log::KeyTag;
use rdb_proto::transport::{BytesInFlight, Reservation};
use rdb_storage::Command;
use rdb_storage::limits::CONFLICT_VALUES_BYTES_MAX;

use super::super::point::{conflict_bytes_max, unexpected};
use super::super::room::spare;
use super::answers::{AnswerGroup, answer};
use super::intake::{AwaitedWrite, Intake};
use crate::error::Rejection;
use crate::metrics::{Answered, Arrival, AuditedMessage, Details, Figures, Kind, Parts, Together};
use crate::region::{MessageRoom, PendingOutcomes, Refused, RegionHandle, WriteProgress};

/// Most bytes of the writes of a message that are submitted together, unless it is one.
pub(super) const PORTION_BYTES_MAX: usize = 4 << 20;

/// Most keys that one of the threads reads for a submission. With [`VALUE_BYTES_MAX`](rdb_storage::limits::VALUE_BYTES_MAX) that
/// bounds how much it reads.
pub(super) const COLD_KEYS_MAX: usize = 64;

/// The writes of a message. They share its buffer, and the room that the first of them takes for it.
pub(super) struct MessageWrites<'a> {
    message_bytes: usize,
    /// Most bytes that the values of all conflicts of the message can have.
    conflict_bytes: usize,
    message: Arc<Reservation>,
    room: Option<MessageRoom>,
    budgets: &'a BytesInFlight,
    figures: &'a Arc<Figures>,
    arrival: Arrival,
    /// `None`: there is no audit log.
    audited: Option<Arc<AuditedMessage>>,
}

impl<'a> MessageWrites<'a> {
    pub(super) fn new(
        message_bytes: usize,
        conflict_bytes: usize,
        message: Arc<Reservation>,
        budgets: &'a BytesInFlight,
        figures: &'a Arc<Figures>,
        arrival: Arrival,
        audited: Option<Arc<AuditedMessage>>,
    ) -> Self {
        Self {
            message_bytes,
            conflict_bytes,
            message,
            room: None,
            budgets,
            figures,
            arrival,
            audited,
        }
    }

    /// Submits commands to a region, which applies them in their order. `awaited` says how each is answered. `intake` gets the pending
    /// answers, and those to commands that were not submitted.
    pub(super) fn submit(
        &mut self,
        region: &RegionHandle,
        commands: Vec<Command>,
        awaited: Vec<AwaitedWrite>,
        intake: &mut Intake,
    ) {
        let room = self.room.take();
        match room.map_or_else(|| region.take_message_room(self.message_bytes), Ok) {
            Ok(room) => {
                let writes = commands.into_iter().zip(awaited);
                self.submit_portions(region, &room, writes, intake);
                self.room = Some(room);
            }
            Err(rejection) => {
                let submitted = self.submitted(region, &commands, awaited);
                intake.answered.push(submitted.refused(rejection.into()));
            }
        }
    }

    /// Submits as much as it can at once. What is behind a portion that is not in memory must not pass it, and follows in turn.
    fn submit_portions(
        &self,
        region: &RegionHandle,
        room: &MessageRoom,
        writes: impl Iterator<Item = (Command, AwaitedWrite)>,
        intake: &mut Intake,
    ) {
        let mut left = writes.peekable();
        while let Some((commands, awaited)) = next_portion(&mut left, false) {
            let (conflict_room, conflict_bytes) = self.conflict_room(&commands);
            let mut submitted = self.submitted(region, &commands, awaited);
            match region.submit_at_once(commands, room, conflict_bytes) {
                Ok(Ok(pending)) => intake.writes.push(submitted.wait(pending, conflict_room)),
                Ok(Err(commands)) => {
                    drop(conflict_room);
                    let cold = commands.into_iter().zip(mem::take(&mut submitted.awaited));
                    return self.submit_in_turn(region, room, cold.chain(left), intake);
                }
                Err(rejection) => intake.answered.push(submitted.refused(rejection.into())),
            }
        }
    }

    /// Submits writes so that each portion follows the one before, and reads for few keys.
    fn submit_in_turn(
        &self,
        region: &RegionHandle,
        room: &MessageRoom,
        writes: impl Iterator<Item = (Command, AwaitedWrite)>,
        intake: &mut Intake,
    ) {
        let mut left = writes.peekable();
        let (mut parts, mut waiting) = (Vec::new(), Vec::new());
        while let Some((commands, awaited)) = next_portion(&mut left, true) {
            let (conflict_room, conflict_bytes) = self.conflict_room(&commands);
            let submitted = self.submitted(region, &commands, awaited);
            waiting.push((submitted, conflict_room));
            parts.push((commands, conflict_bytes));
        }
        let parts = region.submit_in_turn(parts, room);
        for ((submitted, conflict_room), part) in waiting.into_iter().zip(parts) {
            match part {
                Ok(pending) => intake.writes.push(submitted.wait(pending, conflict_room)),
                Err(rejection) => intake.answered.push(submitted.refused(rejection.into())),
            }
        }
    }

    fn submitted(
        &self,
        region: &RegionHandle,
        commands: &[Command],
        awaited: Vec<AwaitedWrite>,
    ) -> Submitted {
        let first_key = commands.first().and_then(key_of);
        let audited = self.audited.clone();
        let audited = audited.filter(|message| message.notes_writes());
        let audited = audited.map(|message| Audited::of(message, commands));
        Submitted {
            awaited,
            audited,
            message: Arc::clone(&self.message),
            figures: Arc::clone(self.figures),
            arrival: self.arrival,
            region_id: region.region().id,
            first_key: first_key.map(|key| self.figures.commands.slow().tag(key)),
            progress: None,
        }
    }

    /// Room for the values of the conflicts of commands, as much as others can spare, and its bytes. If the conflicts of the message
    /// can have more than [`CONFLICT_VALUES_BYTES_MAX`], these commands get their part of that.
    fn conflict_room(&self, commands: &[Command]) -> (Option<Reservation>, usize) {
        let bytes = commands.iter().map(conflict_bytes_max).sum::<usize>();
        let of_message = self.conflict_bytes.max(CONFLICT_VALUES_BYTES_MAX);
        let room = spare(self.budgets, bytes * CONFLICT_VALUES_BYTES_MAX / of_message);
        let bytes = room.as_ref().map_or(0, Reservation::bytes);
        (room, bytes)
    }
}

/// The next writes that are submitted together: each submission has to fit into an entry that can be sent to other stores. One whose
/// keys are not in memory may have few.
pub(super) fn next_portion(
    left: &mut Peekable<impl Iterator<Item = (Command, AwaitedWrite)>>,
    is_cold: bool,
) -> Option<(Vec<Command>, Vec<AwaitedWrite>)> {
    let mut bytes = 0;
    let mut keys_read = HashSet::<Bytes>::new();
    let mut fits = |command: &Command| {
        bytes += command.payload_bytes();
        if is_cold && let Some((key, _)) = command.expected_version() {
            keys_read.insert(key.clone());
        }
        bytes <= PORTION_BYTES_MAX && keys_read.len() <= COLD_KEYS_MAX
    };
    let mut portion = Vec::new();
    while let Some(write) = left.next_if(|(command, _)| fits(command) || portion.is_empty()) {
        portion.push(write);
    }
    (!portion.is_empty()).then(|| portion.into_iter().unzip())
}

/// The key of a command that a stream can have.
fn key_of(command: &Command) -> Option<&[u8]> {
    match command {
        Command::PutRaw { key, .. }
        | Command::DeleteRaw { key }
        | Command::CompareAndSwap { key, .. }
        | Command::CompareAndDelete { key, .. } => Some(key),
        Command::PutBatchRaw { .. } | Command::DeleteRangeRaw { .. } | Command::PutRegion(_) => {
            None
        }
    }
}

/// Makes the entries of writes in the audit log.
struct Audited {
    message: Arc<AuditedMessage>,
    /// The keys of all of them.
    keys: Vec<Option<AuditKey>>,
}

impl Audited {
    fn of(message: Arc<AuditedMessage>, commands: &[Command]) -> Self {
        let keys = commands.iter().map(key_of);
        let keys = keys.map(|key| Some(message.key(key?))).collect();
        Self { message, keys }
    }

    /// The write at a position was answered so, or given up.
    fn note(&self, position: usize, kind: Kind, answered: Answered, rejection: Option<&Rejection>) {
        let key = self.keys.get(position).copied().flatten();
        self.message.note_write(kind, key, answered, rejection);
    }
}

/// Writes of a message that were submitted together. Dropped before they are answered, they are noted as given up.
struct Submitted {
    /// Empty once they are answered.
    awaited: Vec<AwaitedWrite>,
    /// `None`: the audit log has no writes.
    audited: Option<Audited>,
    message: Arc<Reservation>,
    figures: Arc<Figures>,
    arrival: Arrival,
    region_id: u64,
    first_key: Option<KeyTag>,
    /// `None`: they were refused.
    progress: Option<Arc<WriteProgress>>,
}

impl Submitted {
    fn wait(
        mut self,
        mut pending: PendingOutcomes,
        conflict_room: Option<Reservation>,
    ) -> BoxFuture<'static, AnswerGroup> {
        self.progress = pending.take_progress();
        self.answers(pending, conflict_room).boxed()
    }

    async fn answers(
        mut self,
        pending: PendingOutcomes,
        conflict_room: Option<Reservation>,
    ) -> AnswerGroup {
        match pending.of_each().await {
            Ok(outcomes) if outcomes.len() == self.awaited.len() => {
                let awaited = mem::take(&mut self.awaited);
                let mut together = self.figures.commands.together(self.arrival);
                let writes = awaited.iter().zip(outcomes).enumerate();
                let answers = writes.map(|(position, (awaited, outcome))| {
                    let result = (awaited.response)(outcome);
                    let (answered, rejection) = (Answered::with(&result), result.as_ref().err());
                    self.note(&mut together, position, awaited, answered, rejection);
                    answer(awaited.id, result)
                });
                let answers = answers.collect();
                together.end(|arrival, now| self.details(arrival, now));
                AnswerGroup::new(answers, Arc::clone(&self.message), conflict_room)
            }
            result => self.refused(result.err().unwrap_or_else(|| unexpected().into())),
        }
    }

    fn refused(mut self, refused: Refused) -> AnswerGroup {
        self.note_all(Some(&refused));
        let awaited = mem::take(&mut self.awaited);
        let ids = awaited.iter().map(|awaited| awaited.id);
        let message = Arc::clone(&self.message);
        AnswerGroup::refused(ids.collect(), refused, Some(message))
    }

    /// Notes that all that are left were refused so. `None`: they were given up.
    fn note_all(&self, refused: Option<&Refused>) {
        let mut together = self.figures.commands.together(self.arrival);
        for (position, awaited) in self.awaited.iter().enumerate() {
            let rejection = refused.map(|refused| refused.of(position));
            let answered = rejection.map_or(Answered::GivenUp, Answered::by);
            self.note(&mut together, position, awaited, answered, rejection);
        }
        together.end(|arrival, now| self.details(arrival, now));
    }

    /// Notes that the write at a position was answered so.
    fn note(
        &self,
        together: &mut Together<'_>,
        position: usize,
        awaited: &AwaitedWrite,
        answered: Answered,
        rejection: Option<&Rejection>,
    ) {
        if let Some(audited) = &self.audited {
            audited.note(position, awaited.kind, answered, rejection);
        }
        together.answered(awaited.kind, awaited.trace.as_deref(), answered);
    }

    fn details(&self, arrival: &Arrival, now: Instant) -> Details {
        Details {
            key: self.first_key,
            region_id: Some(self.region_id),
            parts: Parts::of_write(arrival, self.progress.as_deref(), now),
        }
    }
}

impl Drop for Submitted {
    fn drop(&mut self) {
        self.note_all(None);
    }
}
