//! Writes on their way to the disk.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rdb_proto::kvrpc::{BatchAnswer, RawDeleteResponse, RawPutResponse, batch_answer::Response};
use rdb_proto::transport::Reservation;
use rdb_storage::{Outcome, PendingWrite};

use super::super::outcome;
use super::answers::{AnswerGroup, answer};
use crate::error::Rejection;

/// Which response a write gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteKind {
    RawPut,
    RawDelete,
    CompareAndSwap,
    CompareAndDelete,
}

impl WriteKind {
    fn response(self, outcome: Outcome) -> Result<Response, Rejection> {
        match (self, outcome) {
            (Self::RawPut, Outcome::Done) => Ok(Response::RawPut(RawPutResponse::default())),
            (Self::RawDelete, Outcome::Done) => {
                Ok(Response::RawDelete(RawDeleteResponse::default()))
            }
            (Self::RawPut | Self::RawDelete, _) => Err(outcome::unexpected()),
            (Self::CompareAndSwap, outcome) => {
                outcome::swapped(outcome).map(Response::CompareAndSwap)
            }
            (Self::CompareAndDelete, outcome) => {
                outcome::deleted(outcome).map(Response::CompareAndDelete)
            }
        }
    }
}

/// The writes of one message to one region. Resolves to their answers; dropping it does not take the writes back.
pub(super) struct WriteGroup {
    pending: PendingWrite,
    kinds: Vec<(u64, WriteKind)>,
    message: Arc<Reservation>,
}

impl WriteGroup {
    /// `kinds` has one entry for each command that was submitted, in their order.
    pub(super) fn new(
        pending: PendingWrite,
        kinds: Vec<(u64, WriteKind)>,
        message: Arc<Reservation>,
    ) -> Self {
        Self {
            pending,
            kinds,
            message,
        }
    }

    fn answers(&self, result: Result<Vec<Outcome>, rdb_storage::Error>) -> Vec<BatchAnswer> {
        let kinds = self.kinds.iter();
        match result {
            Ok(outcomes) if outcomes.len() == self.kinds.len() => {
                let answered = kinds.zip(outcomes);
                answered
                    .map(|(&(id, kind), outcome)| answer(id, kind.response(outcome)))
                    .collect()
            }
            Ok(_) => kinds
                .map(|&(id, _)| answer(id, Err(outcome::unexpected())))
                .collect(),
            Err(error) => {
                let rejection = Rejection::from(error);
                kinds
                    .map(|&(id, _)| answer(id, Err(rejection.clone())))
                    .collect()
            }
        }
    }
}

impl Future for WriteGroup {
    type Output = AnswerGroup;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<AnswerGroup> {
        let result = ready!(Pin::new(&mut self.pending).poll(context));
        let answers = self.answers(result);
        let message = Arc::clone(&self.message);
        Poll::Ready(AnswerGroup::different(answers, message))
    }
}
