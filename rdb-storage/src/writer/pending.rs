//! The pending answer to a submission.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::command::Outcome;
use crate::error::Error;

/// A submission on its way. Await it, or block with [`wait`](Self::wait). Dropping it does not take the write back.
#[derive(Debug)]
#[must_use = "a write is known to be done only by its answer"]
pub struct PendingWrite {
    answer: oneshot::Receiver<Result<Vec<Outcome>, Error>>,
}

impl PendingWrite {
    pub(super) fn new(answer: oneshot::Receiver<Result<Vec<Outcome>, Error>>) -> Self {
        Self { answer }
    }

    /// Blocks until the write is done; one outcome per command, in order.
    ///
    /// # Errors
    ///
    /// As [`Storage::submit`](crate::Storage::submit) says.
    ///
    /// # Panics
    ///
    /// On a thread that drives async tasks: await there.
    pub fn wait(self) -> Result<Vec<Outcome>, Error> {
        self.answer
            .blocking_recv()
            .unwrap_or_else(|_| Err(unanswered()))
    }
}

impl Future for PendingWrite {
    type Output = Result<Vec<Outcome>, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.answer).poll(context);
        answer.map(|answer| answer.unwrap_or_else(|_| Err(unanswered())))
    }
}

fn unanswered() -> Error {
    Error::Undetermined {
        cause: "the writer ended without an answer".to_owned(),
    }
}
