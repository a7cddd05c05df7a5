//! The writer's queue: bounded in bytes, many producers, one consumer.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::{PendingWrite, Submission};
use crate::command::{Command, Outcome};
use crate::error::Error;

/// Most commands that are taken at once: each may have to read a value of up to 64 KiB for its outcome.
const TAKE_COMMANDS_MAX: usize = 4096;

/// Most range deletes that are taken at once: each adds to what every read of the memtable has to sort.
const TAKE_RANGE_DELETES_MAX: usize = 64;

/// A submission with the place its answer goes to. Dropping it unanswered reads as undetermined.
pub(super) struct Queued {
    submission: Submission,
    completion: oneshot::Sender<Result<Vec<Outcome>, Error>>,
}

impl Queued {
    pub(super) fn new(submission: Submission) -> (Self, PendingWrite) {
        let (completion, pending) = oneshot::channel();
        let queued = Self {
            submission,
            completion,
        };
        (queued, PendingWrite::new(pending))
    }

    pub(super) fn charge_bytes(&self) -> usize {
        self.submission.charge_bytes
    }

    fn range_delete_count(&self) -> usize {
        let commands = self.submission.commands.iter();
        commands
            .filter(|command| matches!(command, Command::DeleteRangeRaw { .. }))
            .count()
    }

    /// The region and its commands, as they are applied.
    pub(super) fn run(&self) -> (u64, &[Command]) {
        (self.submission.region_id, &self.submission.commands)
    }

    /// A caller that has gone away does not need its answer.
    pub(super) fn complete(self, result: Result<Vec<Outcome>, Error>) {
        let _ = self.completion.send(result);
    }
}

/// What the consumer gets.
pub(super) enum Taken {
    /// At least one submission, in the order they came.
    Submissions(Vec<Queued>),
    /// Nothing came for a while.
    Nothing,
    /// The queue is closed and empty.
    Closed,
}

pub(super) struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    bytes_max: usize,
    take_bytes_max: usize,
}

struct State {
    submissions: VecDeque<Queued>,
    /// Of what is queued and of what was taken and not released yet.
    charged_bytes: usize,
    /// Whether the consumer waits, so that producers need not wake a busy one.
    waiting: bool,
    closed: bool,
}

impl Queue {
    pub(super) fn new(bytes_max: usize, take_bytes_max: usize) -> Self {
        Self {
            state: Mutex::new(State {
                submissions: VecDeque::new(),
                charged_bytes: 0,
                waiting: false,
                closed: false,
            }),
            arrived: Condvar::new(),
            bytes_max,
            take_bytes_max,
        }
    }

    /// Refuses a submission that there will never be room for.
    pub(super) fn validate(&self, submission: &Submission) -> Result<(), Error> {
        match submission.charge_bytes {
            _ if submission.commands.is_empty() => Err(Error::InvalidArgument {
                field: "submission",
                limit: None,
                cause: "the submission has no commands".to_owned(),
            }),
            bytes if bytes > self.bytes_max => Err(Error::InvalidArgument {
                field: "submission",
                limit: Some(self.bytes_max as u64),
                cause: format!(
                    "the submission counts {bytes} bytes, and the write queue holds {}; split it",
                    self.bytes_max
                ),
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn push(&self, queued: Queued) -> Result<(), Error> {
        let mut state = self.state();
        if state.closed {
            return Err(Error::Closed);
        }
        let charged_bytes = state.charged_bytes.saturating_add(queued.charge_bytes());
        if charged_bytes > self.bytes_max {
            return Err(Error::Busy {
                queue: "write",
                limit: self.bytes_max as u64,
                unit: "bytes",
            });
        }
        state.charged_bytes = charged_bytes;
        state.submissions.push_back(queued);
        if state.waiting {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Waits for a submission, `idle` at most, and takes what else is there, up to the limits.
    pub(super) fn take(&self, idle: Duration) -> Taken {
        let mut state = self.state();
        if state.submissions.is_empty() && !state.closed {
            state.waiting = true;
            let empty = |state: &mut State| state.submissions.is_empty() && !state.closed;
            let waited = self.arrived.wait_timeout_while(state, idle, empty);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            state.waiting = false;
        }
        if state.submissions.is_empty() {
            return if state.closed {
                Taken::Closed
            } else {
                Taken::Nothing
            };
        }
        let mut taken = Vec::with_capacity(state.submissions.len().min(TAKE_COMMANDS_MAX));
        let (mut bytes, mut commands, mut range_deletes) = (0, 0, 0);
        while let Some(next) = state.submissions.front() {
            bytes += next.charge_bytes();
            commands += next.submission.commands.len();
            range_deletes += next.range_delete_count();
            let full = bytes > self.take_bytes_max
                || commands > TAKE_COMMANDS_MAX
                || range_deletes > TAKE_RANGE_DELETES_MAX;
            if full && !taken.is_empty() {
                break;
            }
            taken.extend(state.submissions.pop_front());
        }
        Taken::Submissions(taken)
    }

    /// Gives back the room of submissions that were taken.
    pub(super) fn release(&self, charged_bytes: usize) {
        let mut state = self.state();
        state.charged_bytes = state.charged_bytes.saturating_sub(charged_bytes);
    }

    /// Refuses everything from now on; what is queued stays to be taken.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.arrived.notify_all();
    }

    /// Drops what is queued, for when nobody will take it any more.
    pub(super) fn abandon(&self) {
        self.state().submissions.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn queued(bytes: usize) -> Queued {
        let mut submission = Submission::new(
            1,
            vec![Command::DeleteRaw {
                key: Bytes::from_static(b"k"),
            }],
        );
        submission.charge_bytes = bytes;
        Queued::new(submission).0
    }

    fn taken_count(queue: &Queue) -> usize {
        match queue.take(Duration::ZERO) {
            Taken::Submissions(submissions) => submissions.len(),
            Taken::Nothing | Taken::Closed => 0,
        }
    }

    #[test]
    fn a_full_queue_refuses_until_what_was_taken_is_released() {
        let queue = Queue::new(100, 1000);
        queue.push(queued(60)).unwrap();
        queue.push(queued(40)).unwrap();
        assert!(matches!(
            queue.push(queued(1)),
            Err(Error::Busy { limit: 100, .. })
        ));
        assert_eq!(taken_count(&queue), 2);
        assert!(
            queue.push(queued(1)).is_err(),
            "what is in hand still counts"
        );
        queue.release(60);
        queue.push(queued(60)).unwrap();
    }

    #[test]
    fn a_take_is_bounded_but_never_empty() {
        let queue = Queue::new(1000, 50);
        for _ in 0..3 {
            queue.push(queued(20)).unwrap();
        }
        queue.push(queued(500)).unwrap();
        assert_eq!(taken_count(&queue), 2);
        assert_eq!(
            taken_count(&queue),
            1,
            "the large one does not fit behind the third"
        );
        assert_eq!(taken_count(&queue), 1, "but is taken alone");
        assert_eq!(taken_count(&queue), 0);
    }

    #[test]
    fn a_closed_queue_is_emptied_first() {
        let queue = Queue::new(1000, 50);
        queue.push(queued(1)).unwrap();
        queue.close();
        assert!(matches!(queue.push(queued(1)), Err(Error::Closed)));
        assert_eq!(taken_count(&queue), 1);
        assert!(matches!(queue.take(Duration::from_secs(60)), Taken::Closed));
    }
}
