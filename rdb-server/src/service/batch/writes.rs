//! Writes of a message: submitted, and waited for.

use std::mem;
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt;
use rdb_proto::audit::AuditKey;
use rdb_proto::slow_log::KeyTag;
use rdb_proto::transport::{BytesInFlight, Reservation};
use rdb_storage::Command;
use rdb_storage::limits::{COLD_KEYS_MAX, CONFLICT_VALUES_BYTES_MAX};

use super::super::point::{conflict_bytes_max, unexpected};
use super::super::room::spare;
use super::answers::{AnswerGroup, answer};
use super::intake::{AwaitedWrite, Intake};
use crate::error::Rejection;
use crate::metrics::{Answered, Arrival, AuditedMessage, Details, Figures, Kind, Parts, Together};
use crate::region::{
    MessageRoom, PendingOrBack, PendingOutcomes, Refused, RegionHandle, WriteProgress,
};

/// The writes of a message. They share its buffer, and the room that the first of them takes for it.
pub(super) struct MessageWrites<'a> {
    message_bytes: usize,
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
        message: Arc<Reservation>,
        budgets: &'a BytesInFlight,
        figures: &'a Arc<Figures>,
        arrival: Arrival,
        audited: Option<Arc<AuditedMessage>>,
    ) -> Self {
        Self {
            message_bytes,
            message,
            room: None,
            budgets,
            figures,
            arrival,
            audited,
        }
    }

    /// Submits commands to a region, in parts if they have much to read. `awaited` says how each is answered, in their order. `intake`
    /// gets the pending answers, and those to commands that were not submitted.
    pub(super) fn submit(
        &mut self,
        region: &RegionHandle,
        commands: Vec<Command>,
        awaited: Vec<AwaitedWrite>,
        intake: &mut Intake,
    ) {
        let first_key = commands.first().and_then(key_of);
        let audited = self.audited.clone();
        let audited = audited.filter(|message| message.notes_writes());
        let audited = audited.map(|message| Audited::of(message, &commands));
        let mut submitted = Submitted {
            awaited,
            audited,
            message: Arc::clone(&self.message),
            figures: Arc::clone(self.figures),
            arrival: self.arrival,
            region_id: region.region().id,
            first_key: first_key.map(|key| self.figures.commands.slow().tag(key)),
            progress: None,
        };
        match self.try_submit(region, commands) {
            Ok((Ok(mut pending), conflict_room)) => {
                submitted.progress = pending.take_progress();
                let answers = submitted.answers(pending, conflict_room);
                intake.writes.push(answers.boxed());
            }
            Ok((Err(commands), conflict_room)) => {
                drop(conflict_room);
                let awaited = mem::take(&mut submitted.awaited);
                let mut left = commands.into_iter().zip(awaited).peekable();
                while left.peek().is_some() {
                    let (commands, awaited) = left.by_ref().take(COLD_KEYS_MAX).unzip();
                    self.submit(region, commands, awaited, intake);
                }
            }
            Err(rejection) => intake.answered.push(submitted.refused(rejection.into())),
        }
    }

    /// Submits commands with as much room for the values of their conflicts as others can spare. Those with too much to read are
    /// given back.
    fn try_submit(
        &mut self,
        region: &RegionHandle,
        commands: Vec<Command>,
    ) -> Result<(PendingOrBack, Option<Reservation>), Rejection> {
        let room = match self.room.take() {
            Some(room) => room,
            None => region.take_message_room(self.message_bytes)?,
        };
        let room = self.room.insert(room);
        let conflict_bytes = commands.iter().map(conflict_bytes_max).sum::<usize>();
        let conflict_room = spare(self.budgets, conflict_bytes.min(CONFLICT_VALUES_BYTES_MAX));
        let conflict_bytes = conflict_room.as_ref().map_or(0, Reservation::bytes);
        let submitted = region.submit_of_message(commands, room, conflict_bytes)?;
        Ok((submitted, conflict_room))
    }
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
