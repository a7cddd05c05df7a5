//! The writer's queue: many producers, one consumer, and helpers that warm what the consumer would have to read from the
//! disk.
//!
//! A submission is *queued* until it is taken. One whose keys are not in memory is put aside: it is *cold* until a helper
//! takes it, *warming* until its keys were read, and queued again behind the others. The queue is bounded by the room that
//! submissions hold. A queue that is closed does not wait for the disk: what is cold then is refused.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::{PendingWrite, Submission, WriteRoom};
use crate::apply::Entry;
use crate::command::{Command, Outcome};
use crate::error::Error;

/// Most commands that are taken at once.
const TAKE_COMMANDS_MAX: usize = 4096;

/// Most range deletes that are taken at once: each adds to what every read of the memtable has to sort.
const TAKE_RANGE_DELETES_MAX: usize = 64;

/// How often a submission is put aside. What was warmed may be gone when its turn comes. Then the consumer reads it bit by
/// bit.
const WARMINGS_MAX: u8 = 3;

/// A submission with the place its answer goes to. Dropping it unanswered reads as undetermined.
pub(super) struct Queued {
    submission: Submission,
    room: WriteRoom,
    completion: oneshot::Sender<Result<Vec<Outcome>, Error>>,
    /// The bytes of keys and values.
    payload_bytes: usize,
    range_deletes: usize,
    warmings: u8,
}

impl Queued {
    pub(super) fn new(submission: Submission, room: WriteRoom) -> (Self, PendingWrite) {
        let (completion, pending) = oneshot::channel();
        let queued = Self {
            payload_bytes: submission.payload_bytes(),
            range_deletes: submission.range_delete_count(),
            submission,
            room,
            completion,
            warmings: 0,
        };
        (queued, PendingWrite::new(pending))
    }

    pub(super) fn region_id(&self) -> u64 {
        self.submission.region_id
    }

    pub(super) fn commands(&self) -> &[Command] {
        &self.submission.commands
    }

    /// As it is applied.
    pub(super) fn entry(&self) -> Entry<'_> {
        Entry {
            region_id: self.submission.region_id,
            epoch_version: self.submission.epoch_version,
            commands: &self.submission.commands,
            membership: None,
            conflict_values_bytes_max: self.submission.conflict_values_bytes_max,
        }
    }

    /// Whether its keys were warmed in vain.
    pub(super) fn stays_cold(&self) -> bool {
        self.warmings >= WARMINGS_MAX
    }

    /// Gives the commands and the room back, then answers: whoever is told may submit again at once. A caller that has gone
    /// away does not need its answer.
    pub(super) fn complete(self, result: Result<Vec<Outcome>, Error>) {
        let Self {
            submission,
            room,
            completion,
            ..
        } = self;
        drop((submission, room));
        let _ = completion.send(result);
    }
}

/// A submission whose keys are being warmed. Dropping it queues it again.
pub(super) struct Warming<'a> {
    queue: &'a Queue,
    queued: Option<Queued>,
}

impl Warming<'_> {
    pub(super) fn commands(&self) -> &[Command] {
        self.queued.as_ref().map_or(&[], Queued::commands)
    }

    /// Whether nobody waits for the rest.
    pub(super) fn is_too_late(&self) -> bool {
        self.queue.state().closed
    }

    /// Its keys cannot be warmed: the consumer is to find out why.
    pub(super) fn give_up(&mut self) {
        if let Some(queued) = &mut self.queued {
            queued.warmings = WARMINGS_MAX;
        }
    }
}

impl Drop for Warming<'_> {
    fn drop(&mut self) {
        if let Some(queued) = self.queued.take() {
            self.queue.give_back(queued);
        }
    }
}

pub(super) struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    cooled: Condvar,
    take_bytes_max: usize,
}

#[derive(Default)]
struct State {
    queued: VecDeque<Queued>,
    cold: VecDeque<Queued>,
    /// How many the helpers have.
    warming: usize,
    /// Whether the consumer waits, so that producers need not wake a busy one.
    waiting: bool,
    closed: bool,
    /// Whether the consumer has ended.
    ended: bool,
}

impl State {
    fn is_empty(&self) -> bool {
        self.queued.is_empty() && self.cold.is_empty() && self.warming == 0
    }
}

impl Queue {
    pub(super) fn new(take_bytes_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            arrived: Condvar::new(),
            cooled: Condvar::new(),
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

    /// Waits for a submission, `idle` at most, and takes what else is there, up to the limits. The submissions are in the order
    /// they came; there is none if nothing came for that long. `None`: the queue is closed and empty.
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
            bytes += next.payload_bytes;
            commands += next.commands().len();
            range_deletes += next.range_deletes;
            let full = bytes > self.take_bytes_max
                || commands > TAKE_COMMANDS_MAX
                || range_deletes > TAKE_RANGE_DELETES_MAX;
            if full && !taken.is_empty() {
                break;
            }
            taken.extend(state.queued.pop_front());
        }
        Some(taken)
    }

    /// Puts back what was taken and is not applied yet: first in the queue again, or aside to be warmed. When the queue is
    /// closed, what is cold is refused.
    pub(super) fn put_back(&self, untouched: VecDeque<Queued>, cold: Vec<Queued>) {
        if untouched.is_empty() && cold.is_empty() {
            return;
        }
        let mut state = self.state();
        for queued in untouched.into_iter().rev() {
            state.queued.push_front(queued);
        }
        if state.closed {
            drop(state);
            return refuse(cold);
        }
        for _ in &cold {
            self.cooled.notify_one();
        }
        state.cold.extend(cold);
    }

    /// Waits for a cold submission. `None`: there will be no more.
    pub(super) fn take_cold(&self) -> Option<Warming<'_>> {
        let waits = |state: &mut State| state.cold.is_empty() && !state.ended;
        let waited = self.cooled.wait_while(self.state(), waits);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        let queued = state.cold.pop_front()?;
        state.warming += 1;
        Some(Warming {
            queue: self,
            queued: Some(queued),
        })
    }

    fn give_back(&self, mut queued: Queued) {
        queued.warmings = queued.warmings.saturating_add(1);
        let mut state = self.state();
        state.warming -= 1;
        // Dropped unanswered, when nobody will take it any more.
        if !state.ended {
            state.queued.push_back(queued);
        }
        if state.waiting {
            self.arrived.notify_one();
        }
    }

    /// Refuses everything from now on, and what is cold. What is queued stays to be taken.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let cold = std::mem::take(&mut state.cold);
        drop(state);
        self.arrived.notify_all();
        refuse(cold);
    }

    /// The consumer ends: drops what nobody will take any more, and ends the helpers.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.closed = true;
        state.ended = true;
        let unanswered = (
            std::mem::take(&mut state.queued),
            std::mem::take(&mut state.cold),
        );
        drop(state);
        drop(unanswered);
        self.cooled.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refuse(submissions: impl IntoIterator<Item = Queued>) {
    for queued in submissions {
        queued.complete(Err(Error::Closed));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::room::Room;
    use super::*;

    /// A submission of one delete, whose key has `bytes` bytes.
    fn queued(bytes: usize) -> Queued {
        let command = Command::DeleteRaw {
            key: Bytes::from(vec![b'k'; bytes]),
        };
        let room = Room::new(1).take(1).unwrap();
        Queued::new(Submission::new(1, vec![command]), room).0
    }

    fn take(queue: &Queue) -> VecDeque<Queued> {
        queue.take(Duration::ZERO).unwrap()
    }

    fn key_bytes(submissions: &VecDeque<Queued>) -> Vec<usize> {
        let lengths = submissions.iter().map(|queued| queued.payload_bytes);
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
            let room = Room::new(1).take(1).unwrap();
            let (queued, _) = Queued::new(Submission::new(1, vec![command]), room);
            queue.push(queued).unwrap();
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
        let queue = Queue::new(5);
        for bytes in [1, 2, 3, 4] {
            queue.push(queued(bytes)).unwrap();
        }
        let mut taken = take(&queue);
        let cold = taken.pop_front().unwrap();
        queue.put_back(taken, vec![cold]);
        assert_eq!(key_bytes(&take(&queue)), [2, 3]);
        drop(queue.take_cold().unwrap());
        assert_eq!(key_bytes(&take(&queue)), [4, 1], "it is warm now");
    }

    #[test]
    fn a_closed_queue_refuses_what_is_cold_and_waits_for_what_is_being_warmed_to_stop() {
        let queue = Queue::new(5);
        for _ in 0..2 {
            queue.push(queued(1)).unwrap();
        }
        let cold = take(&queue).into();
        queue.put_back(VecDeque::new(), cold);
        let warming = queue.take_cold().unwrap();
        assert!(!warming.is_too_late());
        queue.close();
        assert!(warming.is_too_late());
        assert!(take(&queue).is_empty());
        drop(warming);
        let taken = take(&queue);
        assert_eq!(taken.len(), 1);
        queue.put_back(VecDeque::new(), taken.into());
        assert!(queue.take(Duration::ZERO).is_none(), "still cold: refused");
        queue.end();
        assert!(queue.take_cold().is_none());
    }

    #[test]
    fn a_submission_that_was_warmed_a_few_times_in_vain_stays_cold() {
        let queue = Queue::new(5);
        queue.push(queued(1)).unwrap();
        for _ in 0..WARMINGS_MAX {
            let taken = take(&queue);
            assert!(!taken[0].stays_cold());
            queue.put_back(VecDeque::new(), taken.into());
            drop(queue.take_cold().unwrap());
        }
        assert!(take(&queue)[0].stays_cold());
    }
}
