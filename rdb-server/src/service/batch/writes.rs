//! Writes of a message: submitted, and waited for.

use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;
use rdb_proto::transport::{BytesInFlight, Reservation};
use rdb_storage::Command;
use rdb_storage::limits::CONFLICT_VALUES_BYTES_MAX;

use super::super::point::{conflict_bytes_max, unexpected};
use super::super::room::spare;
use super::answers::{AnswerGroup, answer};
use super::intake::AwaitedWrite;
use crate::error::Rejection;
use crate::metrics::{Answered, Figures, Tally};
use crate::region::{MessageRoom, PendingOutcomes, RegionHandle};

/// The writes of a message. They share its buffer, and the room that the first of them takes for it.
pub(super) struct MessageWrites<'a> {
    message_bytes: usize,
    message: Arc<Reservation>,
    room: Option<MessageRoom>,
    budgets: &'a BytesInFlight,
    figures: &'a Arc<Figures>,
    arrived_at: Instant,
}

impl<'a> MessageWrites<'a> {
    pub(super) fn new(
        message_bytes: usize,
        message: Arc<Reservation>,
        budgets: &'a BytesInFlight,
        figures: &'a Arc<Figures>,
        arrived_at: Instant,
    ) -> Self {
        Self {
            message_bytes,
            message,
            room: None,
            budgets,
            figures,
            arrived_at,
        }
    }

    /// Submits commands to a region. `awaited` says how each is answered, in their order.
    /// Resolves to the answers. `Err`: the answers to commands that were not submitted.
    pub(super) fn submit(
        &mut self,
        region: &RegionHandle,
        commands: Vec<Command>,
        awaited: Vec<AwaitedWrite>,
    ) -> Result<BoxFuture<'static, AnswerGroup>, AnswerGroup> {
        let submitted = Submitted {
            awaited,
            message: Arc::clone(&self.message),
            figures: Arc::clone(self.figures),
            arrived_at: self.arrived_at,
        };
        match self.try_submit(region, commands) {
            Ok((pending, conflict_room)) => Ok(submitted.answers(pending, conflict_room).boxed()),
            Err(rejection) => Err(submitted.rejected(rejection)),
        }
    }

    /// Submits commands with as much room for the values of their conflicts as others can spare.
    fn try_submit(
        &mut self,
        region: &RegionHandle,
        commands: Vec<Command>,
    ) -> Result<(PendingOutcomes, Option<Reservation>), Rejection> {
        let room = match self.room.take() {
            Some(room) => room,
            None => region.take_message_room(self.message_bytes)?,
        };
        let room = self.room.insert(room);
        let conflict_bytes = commands.iter().map(conflict_bytes_max).sum::<usize>();
        let conflict_room = spare(self.budgets, conflict_bytes.min(CONFLICT_VALUES_BYTES_MAX));
        let conflict_bytes = conflict_room.as_ref().map_or(0, Reservation::bytes);
        let pending = region.submit(commands, Some(room), conflict_bytes)?;
        Ok((pending, conflict_room))
    }
}

/// Writes of a message that were submitted together.
struct Submitted {
    awaited: Vec<AwaitedWrite>,
    message: Arc<Reservation>,
    figures: Arc<Figures>,
    arrived_at: Instant,
}

impl Submitted {
    async fn answers(
        self,
        pending: PendingOutcomes,
        conflict_room: Option<Reservation>,
    ) -> AnswerGroup {
        match pending.await {
            Ok(outcomes) if outcomes.len() == self.awaited.len() => {
                let mut tally = Tally::default();
                let answers = self.awaited.iter().zip(outcomes).map(|(awaited, outcome)| {
                    let result = (awaited.response)(outcome);
                    tally.count(awaited.kind, Answered::with(&result));
                    answer(awaited.id, result)
                });
                let answers = answers.collect();
                self.note(&tally);
                AnswerGroup::new(answers, self.message, conflict_room)
            }
            result => self.rejected(result.err().unwrap_or_else(unexpected)),
        }
    }

    fn rejected(self, rejection: Rejection) -> AnswerGroup {
        let (mut tally, answered) = (Tally::default(), Answered::by(&rejection));
        for awaited in &self.awaited {
            tally.count(awaited.kind, answered);
        }
        self.note(&tally);
        let ids = self.awaited.iter().map(|awaited| awaited.id);
        AnswerGroup::rejected(ids.collect(), rejection, Some(self.message))
    }

    fn note(&self, tally: &Tally) {
        let commands = &self.figures.commands;
        commands.note(tally);
        commands.note_writes(self.arrived_at.elapsed(), self.awaited.len());
    }
}
