//! Writes of a message: submitted, and waited for.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use rdb_proto::transport::{BytesInFlight, Reservation};
use rdb_storage::Command;
use rdb_storage::limits::CONFLICT_VALUES_BYTES_MAX;

use super::super::point::{WriteResponse, conflict_bytes_max, unexpected};
use super::super::room::spare;
use super::answers::{AnswerGroup, answer};
use crate::error::Rejection;
use crate::region::{MessageRoom, PendingOutcomes, RegionHandle};

/// The writes of a message. They share its buffer, and the room that the first of them takes for it.
pub(super) struct MessageWrites<'a> {
    message_bytes: usize,
    message: Arc<Reservation>,
    room: Option<MessageRoom>,
    budgets: &'a BytesInFlight,
}

impl<'a> MessageWrites<'a> {
    pub(super) fn new(
        message_bytes: usize,
        message: Arc<Reservation>,
        budgets: &'a BytesInFlight,
    ) -> Self {
        Self {
            message_bytes,
            message,
            room: None,
            budgets,
        }
    }

    /// Submits commands to a region. `responses` has the id of each, and the function that makes its answer, in their order.
    /// Resolves to the answers. `Err`: the answers to commands that were not submitted.
    pub(super) fn submit(
        &mut self,
        region: &RegionHandle,
        commands: Vec<Command>,
        responses: Vec<(u64, WriteResponse)>,
    ) -> Result<BoxFuture<'static, AnswerGroup>, AnswerGroup> {
        let message = Arc::clone(&self.message);
        match self.try_submit(region, commands) {
            Ok((pending, conflict_room)) => {
                Ok(answers(pending, responses, message, conflict_room).boxed())
            }
            Err(rejection) => Err(rejected(responses, rejection, message)),
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

async fn answers(
    pending: PendingOutcomes,
    responses: Vec<(u64, WriteResponse)>,
    message: Arc<Reservation>,
    conflict_room: Option<Reservation>,
) -> AnswerGroup {
    match pending.await {
        Ok(outcomes) if outcomes.len() == responses.len() => {
            let answers = responses.into_iter().zip(outcomes);
            let answers = answers.map(|((id, response), outcome)| answer(id, response(outcome)));
            AnswerGroup::new(answers.collect(), message, conflict_room)
        }
        result => rejected(responses, result.err().unwrap_or_else(unexpected), message),
    }
}

fn rejected(
    responses: Vec<(u64, WriteResponse)>,
    rejection: Rejection,
    message: Arc<Reservation>,
) -> AnswerGroup {
    let ids = responses.into_iter().map(|(id, _)| id);
    AnswerGroup::rejected(ids.collect(), rejection, Some(message))
}
