//! One proposal from its caller to its outcome, and what is known of it if it has none.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;

use crate::completion::{Completion, Dropped};
use crate::mutant::Mutant;
use crate::types::{Answer, TypeConfig};

/// Why a proposal has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This peer does not lead the group, or is not certain of it at the moment. The proposal is not applied and will not be.
    #[error("the peer does not lead the group")]
    NotLeader,
    /// The log is far behind. The proposal is not applied and will not be.
    #[error("too much waits to be written to the Raft log")]
    Busy,
    /// The group took nothing in. The proposal is not applied and will not be.
    #[error("the group takes no proposals: {cause}")]
    NotQueued {
        /// Why not.
        cause: String,
    },
    /// The proposal may be applied, now or later, here or elsewhere.
    #[error("whether the proposal is applied is unknown: {cause}")]
    Unknown {
        /// How it was lost from sight.
        cause: String,
    },
}

impl ProposeError {
    /// Whether the proposal certainly is not applied and will not be.
    pub fn is_certain(&self) -> bool {
        match self {
            Self::NotLeader | Self::Busy | Self::NotQueued { .. } => true,
            Self::Unknown { .. } => false,
        }
    }
}

/// What openraft says at the end of a proposal.
pub(super) type Written = ClientWriteResult<TypeConfig>;

type Complete = Box<dyn FnOnce(Result<Answer, ProposeError>) + Send>;

/// A proposal and the function that is called with its outcome, once.
///
/// - *begun*: it was handed to openraft, and it is not known yet whether it was queued. openraft may drop it right then,
///   because it was refused, or it was queued and the group has ended since. openraft's answer is kept until that is known.
/// - *queued*: openraft's answer is its outcome.
/// - *done*: the function was called.
pub(super) struct Proposal(Arc<Mutex<Stage>>);

enum Stage {
    Begun {
        complete: Complete,
        said: Option<Result<Written, Dropped>>,
    },
    Queued(Complete),
    Done,
}

impl Proposal {
    pub(super) fn new(
        complete: impl FnOnce(Result<Answer, ProposeError>) + Send + 'static,
    ) -> Self {
        let complete = Box::new(complete);
        let said = None;
        Self(Arc::new(Mutex::new(Stage::Begun { complete, said })))
    }

    /// What openraft calls with the result.
    pub(super) fn completion(&self) -> Completion<Written> {
        let stage = Arc::clone(&self.0);
        Completion::new(move |said| Stage::say(&stage, said))
    }

    /// It was queued.
    pub(super) fn queued(self) {
        let mut stage = lock(&self.0);
        match mem::replace(&mut *stage, Stage::Done) {
            Stage::Begun {
                complete,
                said: None,
            } => *stage = Stage::Queued(complete),
            Stage::Begun {
                complete,
                said: Some(said),
            } => {
                drop(stage);
                complete(outcome(said));
            }
            Stage::Queued(_) | Stage::Done => {}
        }
    }

    /// It was not queued.
    pub(super) fn refused(self, cause: String) {
        self.refuse(cause);
    }

    fn refuse(&self, cause: String) {
        let mut stage = lock(&self.0);
        if !matches!(*stage, Stage::Begun { .. }) {
            return;
        }
        let begun = mem::replace(&mut *stage, Stage::Done);
        drop(stage);
        if let Stage::Begun { complete, .. } = begun {
            complete(Err(ProposeError::NotQueued { cause }));
        }
    }
}

/// A call to openraft that did not return has queued nothing.
impl Drop for Proposal {
    fn drop(&mut self) {
        self.refuse("the runtime ends".to_owned());
    }
}

impl Stage {
    fn say(shared: &Mutex<Self>, said: Result<Written, Dropped>) {
        let mut stage = lock(shared);
        match mem::replace(&mut *stage, Stage::Done) {
            Stage::Begun { complete, .. } => {
                let said = Some(said);
                *stage = Stage::Begun { complete, said };
            }
            Stage::Queued(complete) => {
                drop(stage);
                complete(outcome(said));
            }
            Stage::Done => {}
        }
    }
}

fn lock(stage: &Mutex<Stage>) -> MutexGuard<'_, Stage> {
    stage.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is known of a queued proposal after what openraft said.
fn outcome(said: Result<Written, Dropped>) -> Result<Answer, ProposeError> {
    let unknown = |cause: String| {
        if Mutant::NotLeaderAfterProposal.is_on() {
            return Err(ProposeError::NotLeader);
        }
        Err(ProposeError::Unknown { cause })
    };
    match said {
        Ok(Ok(written)) => Ok(written.data),
        // It is said before the proposal becomes an entry.
        Ok(Err(ClientWriteError::ForwardToLeader(_) | ClientWriteError::PreconditionFailed(_))) => {
            Err(ProposeError::NotLeader)
        }
        Ok(Err(ClientWriteError::LogEntryDiscarded(_))) => unknown(
            "another leader took over, and the entry is no longer in the log here".to_owned(),
        ),
        Ok(Err(ClientWriteError::ChangeMembershipError(error))) => unknown(error.to_string()),
        Err(dropped) => unknown(dropped.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use openraft::errors::ForwardToLeader;
    use openraft::raft::ClientWriteResponse;
    use openraft::raft::responder::Responder;

    use super::*;
    use crate::types::LogId;

    type Outcome = Result<Option<u64>, ProposeError>;

    fn begin() -> (Proposal, mpsc::Receiver<Outcome>) {
        let (sender, outcome) = mpsc::channel();
        let complete = move |answer: Result<Answer, ProposeError>| {
            let _ = sender.send(answer.map(Answer::into_inner));
        };
        (Proposal::new(complete), outcome)
    }

    fn written() -> Written {
        Ok(ClientWriteResponse {
            log_id: LogId::new_term_index(1, 1),
            data: Answer::new(7_u64),
            membership: None,
        })
    }

    fn unknown() -> Outcome {
        let cause = Dropped.to_string();
        Err(ProposeError::Unknown { cause })
    }

    #[test]
    fn what_is_said_of_a_queued_proposal_is_its_outcome() {
        let (proposal, outcome) = begin();
        let completion = proposal.completion();
        proposal.queued();
        assert!(outcome.try_recv().is_err());
        completion.on_complete(written());
        assert_eq!(outcome.iter().collect::<Vec<_>>(), [Ok(Some(7))]);
    }

    #[test]
    fn what_is_said_early_counts_once_it_is_known_to_be_queued() {
        let (proposal, outcome) = begin();
        proposal.completion().on_complete(written());
        assert!(outcome.try_recv().is_err());
        proposal.queued();
        assert_eq!(outcome.iter().collect::<Vec<_>>(), [Ok(Some(7))]);
    }

    #[test]
    fn a_proposal_that_is_dropped_is_lost_from_sight_if_it_was_queued() {
        let (proposal, outcome) = begin();
        drop(proposal.completion());
        proposal.queued();
        assert_eq!(outcome.iter().collect::<Vec<_>>(), [unknown()]);

        let (proposal, outcome) = begin();
        let completion = proposal.completion();
        proposal.queued();
        drop(completion);
        assert_eq!(outcome.iter().collect::<Vec<_>>(), [unknown()]);
    }

    #[test]
    fn a_proposal_that_is_dropped_is_certainly_not_applied_if_it_was_refused() {
        let (proposal, outcome) = begin();
        drop(proposal.completion());
        proposal.refused("full".to_owned());
        let cause = "full".to_owned();
        let refused = Err(ProposeError::NotQueued { cause });
        assert_eq!(outcome.iter().collect::<Vec<_>>(), [refused]);
    }

    #[test]
    fn a_proposal_that_is_dropped_before_it_is_queued_is_refused() {
        let (proposal, outcome) = begin();
        drop(proposal.completion());
        drop(proposal);
        assert!(outcome.recv().unwrap().unwrap_err().is_certain());
        assert!(outcome.recv().is_err());
    }

    #[test]
    fn only_a_proposal_that_never_was_an_entry_is_answered_as_not_led() {
        let forward = ForwardToLeader::empty;
        let refused = outcome(Ok(Err(ClientWriteError::ForwardToLeader(forward()))));
        assert!(matches!(refused, Err(ProposeError::NotLeader)));
        let discarded = outcome(Ok(Err(ClientWriteError::LogEntryDiscarded(forward()))));
        assert!(!discarded.unwrap_err().is_certain());
    }
}
