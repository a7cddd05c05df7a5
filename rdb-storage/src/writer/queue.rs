//! The writer's queue: many producers, one consumer.
//!
//! A submission is *queued* until it is taken. One whose keys are not in memory is put *aside* until the
//! [`Warmer`](super::warmer::Warmer) has read them, and queued again behind the others. The queue is bounded by the room that
//! submissions hold.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::warmer::{NotWarmed, Then};
use super::{Admitted, PendingWrite};
use crate::apply::{BATCH_RANGE_DELETES_MAX, Entry};
use crate::command::Outcome;
use crate::error::Error;

/// Most commands that are taken at once.
const TAKE_COMMANDS_MAX: usize = 4096;

/// How often a submission is put aside. What was warmed may be gone when its turn comes. Then the consumer reads it bit by
/// bit.
pub(super) const WARMINGS_MAX: u8 = 3;

/// A submission with the place its answer goes to. Dropping it unanswered reads as undetermined.
pub(super) struct Queued {
    admitted: Admitted,
    completion: oneshot::Sender<Result<Vec<Outcome>, Error>>,
    warmings: u8,
}

impl Queued {
    pub(super) fn new(admitted: Admitted) -> (Self, PendingWrite) {
        let (completion, pending) = oneshot::channel();
        let queued = Self {
            admitted,
            completion,
            warmings: 0,
        };
        (queued, PendingWrite::new(pending))
    }

    pub(super) fn region_id(&self) -> u64 {
        self.admitted.region_id()
    }

    /// As it is applied.
    pub(super) fn entry(&self) -> Entry<'_> {
        self.admitted.entry()
    }

    /// Whether warming its keys did not help.
    pub(super) fn stays_cold(&self) -> bool {
        self.warmings >= WARMINGS_MAX
    }

    /// Gives the commands and the room back, then answers, so that the caller may submit again at once. A caller that is
    /// gone needs no answer.
    pub(super) fn complete(self, result: Result<Vec<Outcome>, Error>) {
        drop(self.admitted);
        let _ = self.completion.send(result);
    }
}

pub(super) struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    take_bytes_max: usize,
}

#[derive(Default)]
struct State {
    queued: VecDeque<Queued>,
    /// How many are put aside.
    aside: usize,
    /// Whether the consumer waits, so that producers need not wake a busy one.
    waiting: bool,
    closed: bool,
    /// Whether the consumer has ended.
    ended: bool,
}

impl State {
    fn is_empty(&self) -> bool {
        self.queued.is_empty() && self.aside == 0
    }
}

impl Queue {
    pub(super) fn new(take_bytes_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            arrived: Condvar::new(),
            take_bytes_max,
        }
    }

    pub(super) fn check_open(&self) -> Result<(), Error> {
        if self.state().closed {
            return Err(Error::Closed);
        }
        Ok(())
    }

    pub(super) fn push(&self, queued: Queued) -> Result<(), Error> {
        let mut state = self.state();
        if state.closed {
            return Err(Error::Closed);
        }
        state.queued.push_back(queued);
        if state.waiting {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Waits for a submission, at most `idle`, and takes all others that are there, up to the limits. The submissions are in
    /// the order they came; there is none if nothing came for that long. `None`: the queue is closed and empty.
    pub(super) fn take(&self, idle: Duration) -> Option<VecDeque<Queued>> {
        let mut state = self.state();
        let idles = |state: &State| state.queued.is_empty() && !(state.closed && state.is_empty());
        if idles(&state) {
            state.waiting = true;
            let waited = self
                .arrived
                .wait_timeout_while(state, idle, |state| idles(state));
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            state.waiting = false;
        }
        if state.closed && state.is_empty() {
            return None;
        }
        let mut taken = VecDeque::with_capacity(state.queued.len().min(TAKE_COMMANDS_MAX));
        let (mut bytes, mut commands, mut range_deletes) = (0, 0, 0);
        while let Some(next) = state.queued.front() {
            bytes += next.admitted.payload_bytes();
            commands += next.admitted.commands().len();
            range_deletes += next.admitted.range_delete_count();
            let full = bytes > self.take_bytes_max
                || commands > TAKE_COMMANDS_MAX
                || range_deletes > BATCH_RANGE_DELETES_MAX;
            if full && !taken.is_empty() {
                break;
            }
            taken.extend(state.queued.pop_front());
        }
        Some(taken)
    }

    /// Puts back what was taken and was not looked at: it is first in the queue again.
    pub(super) fn put_back(&self, untouched: VecDeque<Queued>) {
        if untouched.is_empty() {
            return;
        }
        let mut state = self.state();
        for queued in untouched.into_iter().rev() {
            state.queued.push_front(queued);
        }
    }

    /// Puts a cold submission aside. Call the returned function once it is warm, or cannot be: then it is queued again, or answered.
    pub(super) fn put_aside(self: &Arc<Self>, cold: Queued) -> (Admitted, Then) {
        self.state().aside += 1;
        let Queued {
            admitted,
            completion,
            warmings,
        } = cold;
        let queue = Arc::clone(self);
        let then = move |read: Result<Admitted, NotWarmed>| match read {
            Ok(admitted) => queue.give_back(Some(Queued {
                admitted,
                completion,
                warmings: warmings.saturating_add(1),
            })),
            Err(NotWarmed { error, .. }) => {
                // A caller that has gone away does not need its answer.
                let _ = completion.send(Err(error));
                queue.give_back(None);
            }
        };
        (admitted, Box::new(then))
    }

    /// Ends what [`put_aside`](Self::put_aside) began. `None`: the submission was answered.
    fn give_back(&self, warm: Option<Queued>) {
        let mut state = self.state();
        state.aside -= 1;
        // Dropped unanswered, when nobody will take it any more.
        if !state.ended {
            state.queued.extend(warm);
        }
        if state.waiting {
            self.arrived.notify_one();
        }
    }

    /// Refuses everything from now on. What is queued stays to be taken.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.arrived.notify_all();
    }

    /// The consumer ends: drops what nobody will take any more.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.closed = true;
        state.ended = true;
        let unanswered = std::mem::take(&mut state.queued);
        drop(state);
        drop(unanswered);
    }

    /// Is locked until the answer is dropped.
    #[cfg(test)]
    pub(super) fn locked(&self) -> impl Sized {
        self.state()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::{Submission, WriteShare};
    use super::*;
    use crate::command::Command;

    fn queued_with_answer(command: Command) -> (Queued, PendingWrite) {
        let room = WriteShare::of_queue(1).take(1, 1).unwrap();
        let submission = Submission::new(1, vec![command]);
        let payload_bytes = submission.payload_bytes();
        Queued::new(Admitted::new(submission, payload_bytes, room))
    }

    /// A submission of one delete, whose key has `bytes` bytes.
    fn queued(bytes: usize) -> Queued {
        let key = Bytes::from(vec![b'k'; bytes]);
        queued_with_answer(Command::DeleteRaw { key }).0
    }

    fn take(queue: &Queue) -> VecDeque<Queued> {
        queue.take(Duration::ZERO).unwrap()
    }

    fn key_bytes(submissions: &VecDeque<Queued>) -> Vec<usize> {
        let lengths = submissions.iter();
        let lengths = lengths.map(|queued| queued.admitted.payload_bytes());
        lengths.collect()
    }

    #[test]
    fn a_take_is_bounded_but_never_empty() {
        let queue = Queue::new(50);
        for bytes in [20, 20, 20, 500] {
            queue.push(queued(bytes)).unwrap();
        }
        assert_eq!(key_bytes(&take(&queue)), [20, 20]);
        assert_eq!(
            key_bytes(&take(&queue)),
            [20],
            "the large one does not fit behind it"
        );
        assert_eq!(key_bytes(&take(&queue)), [500], "but is taken alone");
        assert!(take(&queue).is_empty());
    }

    /// A read of the memtable sorts every range delete in it.
    #[test]
    fn a_take_has_few_range_deletes() {
        let queue = Queue::new(1 << 20);
        for _ in 0..100 {
            let command = Command::DeleteRangeRaw {
                start_key: "a".into(),
                end_key: "b".into(),
            };
            queue.push(queued_with_answer(command).0).unwrap();
        }
        assert_eq!(take(&queue).len(), 64);
        assert_eq!(take(&queue).len(), 36);
    }

    #[test]
    fn a_closed_queue_is_emptied_first() {
        let queue = Queue::new(50);
        queue.push(queued(1)).unwrap();
        queue.close();
        assert!(matches!(queue.push(queued(1)), Err(Error::Closed)));
        assert_eq!(take(&queue).len(), 1);
        assert!(queue.take(Duration::from_secs(60)).is_none());
    }

    #[test]
    fn what_is_put_back_untouched_comes_first_and_what_is_cold_holds_nobody_up() {
        let queue = Arc::new(Queue::new(5));
        for bytes in [1, 2, 3, 4] {
            queue.push(queued(bytes)).unwrap();
        }
        let mut taken = take(&queue);
        let (cold, then) = queue.put_aside(taken.pop_front().unwrap());
        queue.put_back(taken);
        assert_eq!(key_bytes(&take(&queue)), [2, 3]);
        then(Ok(cold));
        assert_eq!(key_bytes(&take(&queue)), [4, 1], "it is warm now");
    }

    #[test]
    fn a_closed_queue_waits_for_what_is_put_aside_and_one_that_cannot_be_warmed_is_answered() {
        let queue = Arc::new(Queue::new(5));
        let key = Bytes::from_static(b"k");
        let (cold, pending) = queued_with_answer(Command::DeleteRaw { key });
        for queued in [queued(1), cold] {
            queue.push(queued).unwrap();
        }
        let mut aside: Vec<_> = take(&queue)
            .into_iter()
            .map(|queued| queue.put_aside(queued))
            .collect();
        queue.close();
        assert!(take(&queue).is_empty());
        let (_, cannot_be) = aside.pop().unwrap();
        cannot_be(Err(Error::Closed.into()));
        assert_eq!(pending.wait(), Err(Error::Closed));
        assert!(take(&queue).is_empty());
        let (warm, then) = aside.pop().unwrap();
        then(Ok(warm));
        assert_eq!(take(&queue).len(), 1);
        assert!(queue.take(Duration::from_secs(60)).is_none());
    }

    #[test]
    fn a_submission_that_was_warmed_a_few_times_in_vain_stays_cold() {
        let queue = Arc::new(Queue::new(5));
        queue.push(queued(1)).unwrap();
        for _ in 0..WARMINGS_MAX {
            let mut taken = take(&queue);
            assert!(!taken[0].stays_cold());
            let (cold, then) = queue.put_aside(taken.pop_front().unwrap());
            then(Ok(cold));
        }
        assert!(take(&queue)[0].stays_cold());
    }
}
