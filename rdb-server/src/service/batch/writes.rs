//! Writes that were submitted and wait for their outcomes.

use std::sync::Arc;

use rdb_proto::transport::Reservation;

use super::super::point::{WriteResponse, unexpected};
use super::answers::{AnswerGroup, answer};
use crate::region::PendingOutcomes;

/// Waits for the writes of one message to one region. `commands` has the id of each, and the function that makes its answer,
/// in their order. `conflict_room` is for the values of conflicts.
pub(super) async fn answers(
    pending: PendingOutcomes,
    commands: Vec<(u64, WriteResponse)>,
    message: Arc<Reservation>,
    conflict_room: Option<Reservation>,
) -> AnswerGroup {
    match pending.await {
        Ok(outcomes) if outcomes.len() == commands.len() => {
            let answers = commands.into_iter().zip(outcomes);
            let answers = answers.map(|((id, response), outcome)| answer(id, response(outcome)));
            AnswerGroup::new(answers.collect(), message, conflict_room)
        }
        result => {
            let rejection = result.err().unwrap_or_else(unexpected);
            let ids = commands.into_iter().map(|(id, _)| id);
            AnswerGroup::rejected(ids.collect(), rejection, Some(message))
        }
    }
}
