//! Writes that were submitted and wait for their outcomes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rdb_proto::transport::Reservation;
use rdb_storage::Outcome;

use super::super::point::{WriteResponse, unexpected};
use super::answers::{AnswerGroup, answer};
use crate::error::Rejection;
use crate::region::PendingOutcomes;

/// The writes of one message to one region. Resolves to their answers; dropping it does not take the writes back.
pub(super) struct WriteGroup {
    pending: PendingOutcomes,
    /// The id of each submitted command, and the function that makes its answer, in their order.
    commands: Vec<(u64, WriteResponse)>,
    message: Arc<Reservation>,
    /// Room for the values of conflicts.
    conflict_room: Option<Reservation>,
}

impl WriteGroup {
    pub(super) fn new(
        pending: PendingOutcomes,
        commands: Vec<(u64, WriteResponse)>,
        message: Arc<Reservation>,
        conflict_room: Option<Reservation>,
    ) -> Self {
        Self {
            pending,
            commands,
            message,
            conflict_room,
        }
    }

    fn answers(&mut self, result: Result<Vec<Outcome>, Rejection>) -> AnswerGroup {
        let commands = self.commands.iter();
        let answers = match result {
            Ok(outcomes) if outcomes.len() == commands.len() => commands
                .zip(outcomes)
                .map(|(&(id, response), outcome)| answer(id, response(outcome)))
                .collect(),
            result => {
                let rejection = result.err().unwrap_or_else(unexpected);
                commands
                    .map(|&(id, _)| answer(id, Err(rejection.clone())))
                    .collect()
            }
        };
        AnswerGroup::different(
            answers,
            Arc::clone(&self.message),
            self.conflict_room.take(),
        )
    }
}

impl Future for WriteGroup {
    type Output = AnswerGroup;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<AnswerGroup> {
        let result = ready!(Pin::new(&mut self.pending).poll(context));
        Poll::Ready(self.answers(result))
    }
}
