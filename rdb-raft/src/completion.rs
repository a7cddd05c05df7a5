//! The end of a proposal.

use openraft::OptionalSend;
use openraft::raft::responder::Responder;

use crate::types::TypeConfig;

/// The group has ended without a word about a proposal. It may or may not be applied, here or by another peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the group ended before the outcome of the proposal was known")]
pub struct Dropped;

/// Calls a function once with the result of a proposal.
///
/// openraft drops the responders of a group that ends, so dropping a completion completes it with [`Dropped`]. The function
/// runs on a task of the group: it must neither block nor panic.
pub struct Completion<T>(Option<Complete<T>>);

type Complete<T> = Box<dyn FnOnce(Result<T, Dropped>) + Send>;

impl<T> Completion<T> {
    /// A completion that calls `complete`.
    pub fn new(complete: impl FnOnce(Result<T, Dropped>) + Send + 'static) -> Self {
        Self(Some(Box::new(complete)))
    }

    fn complete(&mut self, result: Result<T, Dropped>) {
        if let Some(complete) = self.0.take() {
            complete(result);
        }
    }
}

impl<T: OptionalSend + 'static> Responder<TypeConfig, T> for Completion<T> {
    fn on_complete(mut self, result: T) {
        self.complete(Ok(result));
    }
}

impl<T> Drop for Completion<T> {
    fn drop(&mut self) {
        self.complete(Err(Dropped));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn completion() -> (Completion<u64>, mpsc::Receiver<Result<u64, Dropped>>) {
        let (sender, receiver) = mpsc::channel();
        let completion = Completion::new(move |result| sender.send(result).unwrap());
        (completion, receiver)
    }

    #[test]
    fn a_result_completes_it_once() {
        let (completion, results) = completion();
        completion.on_complete(7);
        assert_eq!(results.iter().collect::<Vec<_>>(), [Ok(7)]);
    }

    #[test]
    fn dropping_it_says_that_the_outcome_is_unknown() {
        let (completion, results) = completion();
        drop(completion);
        assert_eq!(results.iter().collect::<Vec<_>>(), [Err(Dropped)]);
    }
}
