//! The outcomes of submissions.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use rdb_proto::error::{Fault, busy};
use rdb_proto::errorpb::{EpochNotMatch, Fate, region_error::Kind};
use rdb_raft::Answer;
use rdb_raft::group::ProposeError;
use rdb_storage::{Command, Error, Outcome};
use tokio::sync::oneshot;
use tonic::Code;

use super::Leadership;
use super::progress::{Applying, WriteProgress};
use crate::error::{QUEUE_BACKOFF, Rejection};

pub(super) type Outcomes = Result<Vec<Outcome>, Refused>;

/// Why a submission has no outcomes. Boxed, since it is rare and large.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    rejection: Box<Rejection>,
    /// The position of the one command with another rejection, and that one.
    except: Option<Box<(usize, Rejection)>>,
}

impl Refused {
    /// The command at a position met what has stopped writes to its region. The others may be retried.
    pub(super) fn stopped_by(position: usize, met: Error) -> Self {
        let cause = met.to_string();
        Self {
            rejection: Box::new(Error::WritesStopped { cause }.into()),
            except: Some(Box::new((position, met.into()))),
        }
    }

    /// Why the command at a position was refused.
    pub(crate) fn of(&self, position: usize) -> &Rejection {
        match self.except.as_deref() {
            Some((excepted, rejection)) if *excepted == position => rejection,
            _ => &self.rejection,
        }
    }
}

impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Self {
        Self {
            rejection: Box::new(rejection),
            except: None,
        }
    }
}

/// One answer to all commands says what was met, not what follows from it.
impl From<Refused> for Rejection {
    fn from(refused: Refused) -> Self {
        let Refused { rejection, except } = refused;
        except.map_or_else(|| *rejection, |except| except.1)
    }
}

/// What an entry is answered with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AppliedEntry {
    /// One for each of its commands.
    pub(super) outcomes: Vec<Outcome>,
    /// The times of the apply that the entry was in.
    pub(super) applying: Applying,
}

/// What becomes of commands that are submitted at once. `Err`: they have to wait until they are read for, and are given back.
pub(crate) type PendingOrBack = Result<PendingOutcomes, Vec<Command>>;

/// Resolves to one outcome for each command that was submitted. Dropping it does not take the writes back, unless
/// their turn has not come: then what follows them in turn is lost, too.
#[must_use = "a write is known to be done only by its outcome"]
pub(crate) struct PendingOutcomes {
    outcomes: oneshot::Receiver<Outcomes>,
    progress: Option<Arc<WriteProgress>>,
}

impl PendingOutcomes {
    pub(super) fn new(outcomes: oneshot::Receiver<Outcomes>, progress: Arc<WriteProgress>) -> Self {
        Self {
            outcomes,
            progress: Some(progress),
        }
    }

    /// How far the submission has come. It is given away once.
    pub(crate) fn take_progress(&mut self) -> Option<Arc<WriteProgress>> {
        self.progress.take()
    }

    /// Waits for the outcomes. If there are none, each command may have another rejection.
    pub(crate) async fn of_each(self) -> Outcomes {
        self.outcomes.await.unwrap_or_else(|_| Err(lost()))
    }
}

impl Future for PendingOutcomes {
    type Output = Result<Vec<Outcome>, Rejection>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcomes = Pin::new(&mut self.outcomes).poll(context);
        outcomes.map(|outcomes| {
            let outcomes = outcomes.unwrap_or_else(|_| Err(lost()));
            outcomes.map_err(Rejection::from)
        })
    }
}

fn lost() -> Refused {
    undetermined("the write was lost").into()
}

/// The outcomes of an entry of `count` commands. Only what was never proposed may be answered as not applied.
pub(super) fn of_entry(
    answer: Result<Answer, ProposeError>,
    count: usize,
    leadership: &Leadership,
) -> Result<AppliedEntry, Rejection> {
    match answer.map(Answer::into_inner::<AppliedEntry>) {
        Ok(Some(applied)) if applied.outcomes.len() == count => Ok(applied),
        Ok(_) => Err(undetermined("the state machine's answer does not fit")),
        Err(error) => Err(unanswered(error, leadership)),
    }
}

/// Why a proposal has no answer.
pub(super) fn unanswered(error: ProposeError, leadership: &Leadership) -> Rejection {
    match error {
        // Too few others are heard of, so one of them may lead by now.
        ProposeError::Busy if leadership.is_stalled() => leadership.refusal(),
        ProposeError::Busy => Rejection::Routing(busy(QUEUE_BACKOFF)),
        ProposeError::NotLeader => leadership.refusal(),
        ProposeError::NotQueued { cause } => leadership.not_done(cause),
        ProposeError::Unknown { cause } => undetermined(&cause),
    }
}

/// The outcomes of one submission of an entry. Its conflicts carry at most `values_bytes_left` bytes of values.
pub(super) fn of_submission(mut outcomes: Vec<Outcome>, mut values_bytes_left: usize) -> Outcomes {
    for outcome in &mut outcomes {
        match outcome {
            Outcome::EpochChanged { .. } => return Err(epoch_has_changed().into()),
            Outcome::Conflict { current_value, .. } => {
                let bytes = current_value.as_ref().map_or(0, Bytes::len);
                match values_bytes_left.checked_sub(bytes) {
                    Some(left) => values_bytes_left = left,
                    None => *current_value = None,
                }
            }
            Outcome::Done | Outcome::Swapped { .. } | Outcome::Invalid { .. } => {}
        }
    }
    Ok(outcomes)
}

/// The answer to a request whose region has changed since it was routed. The client learns the present epoch when it sends
/// the request again.
pub(super) fn epoch_has_changed() -> Rejection {
    Rejection::Routing(Kind::EpochNotMatch(EpochNotMatch::default()))
}

pub(super) fn undetermined(cause: &str) -> Rejection {
    Rejection::Fault(Fault::new(Code::Internal, cause).with_fate(Fate::Unknown))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::fixture::Led;
    use super::*;

    fn conflict(value: Option<&'static str>) -> Outcome {
        Outcome::Conflict {
            current_version: 7,
            current_value: value.map(Bytes::from),
        }
    }

    #[test]
    fn conflicts_lose_the_values_for_which_the_submission_has_no_room() {
        let outcomes = vec![
            conflict(Some("four")),
            Outcome::Done,
            conflict(Some("seven b")),
            conflict(Some("three")),
            conflict(None),
        ];
        let cut = of_submission(outcomes, 9).expect("the epoch is right");
        let expected = [
            conflict(Some("four")),
            Outcome::Done,
            conflict(None),
            conflict(Some("three")),
            conflict(None),
        ];
        assert_eq!(cut, expected);
    }

    #[test]
    fn one_command_is_told_of_the_damage_and_the_others_that_writes_have_stopped() {
        let cause = "a damaged block".to_owned();
        let refused = Refused::stopped_by(1, Error::DataLoss { cause });
        let told = |rejection: &Rejection| match rejection {
            Rejection::Fault(fault) => (fault.code, fault.fate),
            other => panic!("{other:?}"),
        };
        let stopped = (Code::Unavailable, Fate::NotApplied);
        let damaged = (Code::DataLoss, Fate::NotApplied);
        let each = [0, 1, 2].map(|position| told(refused.of(position)));
        assert_eq!(each, [stopped, damaged, stopped]);
        assert_eq!(told(&refused.into()), damaged);
    }

    #[tokio::test]
    async fn an_answer_that_does_not_fit_leaves_the_fate_open() {
        let (_directory, led) = Led::begin_anywhere().await;
        let at = Instant::now();
        let one = AppliedEntry {
            outcomes: vec![Outcome::Done],
            applying: Applying {
                began: at,
                ended: at,
            },
        };
        let answers = [Answer::default(), Answer::new(7_u64), Answer::new(one)];
        for answer in answers {
            let Err(Rejection::Fault(fault)) = of_entry(Ok(answer), 2, led.proposer().leadership())
            else {
                panic!("two outcomes were expected");
            };
            assert_eq!(fault.fate, Fate::Unknown);
        }
    }

    #[tokio::test]
    async fn only_what_was_never_proposed_is_answered_as_not_applied() {
        let (_directory, led) = Led::begin_anywhere().await;
        let proposer = led.proposer();
        let cause = "because".to_owned();
        let of = |error| of_entry(Err(error), 1, proposer.leadership()).expect_err("an error");
        let not_leader = of(ProposeError::NotLeader);
        assert!(
            matches!(not_leader, Rejection::Routing(_)),
            "{not_leader:?}"
        );
        for (error, fate) in [
            (
                ProposeError::NotQueued {
                    cause: cause.clone(),
                },
                Fate::NotApplied,
            ),
            (ProposeError::Unknown { cause }, Fate::Unknown),
        ] {
            let Rejection::Fault(fault) = of(error) else {
                panic!("a fault");
            };
            assert_eq!((fault.fate, fault.cause.as_str()), (fate, "because"));
        }
    }
}
