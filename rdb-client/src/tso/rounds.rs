//! Which caller gets its timestamps from which request. Pure bookkeeping: no clock, no network, no lock.
//!
//! Callers gather in *rounds*. A round becomes one request for as many timestamps as its callers want together; its answer
//! is shared out by each caller's offset. Rounds wait in one queue, in the order in which they are sent and answered; those
//! in flight come first.
//!
//! Invariants:
//! - A round in flight is never joined: so nobody gets a timestamp from a request that was sent before the call began.
//!   A round whose request got lost is sent again as a whole, with whoever joined it in between.
//! - A caller's timestamps are consecutive and from one round; the timestamps of a caller that went away go to nobody.
//! - A round that all callers left is not sent.
//! - At most [`IN_FLIGHT_MAX`] rounds are in flight, and at most [`SEATS_MAX`] seats are kept.
//!
//! Wakers are woken and dropped by whoever calls this, without the lock around it: either may run foreign code.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::Error;

/// Most requests in flight. While one is being answered, the callers of the next gather: a second one keeps the placement
/// driver and the callers busy at the same time, and each further one makes rounds smaller.
pub(super) const IN_FLIGHT_MAX: usize = 2;

/// Most seats in all rounds, those of callers that went away included; a seat has 32 bytes.
pub(super) const SEATS_MAX: usize = 1 << 20;

/// What the callers of a round share: the first timestamp, as soon as it is known.
#[derive(Debug, Default)]
pub(super) struct Round {
    outcome: OnceLock<Result<u64, Error>>,
}

impl Round {
    pub(super) fn outcome(&self) -> Option<&Result<u64, Error>> {
        self.outcome.get()
    }
}

/// A caller's place in a round.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) round: Arc<Round>,
    /// Of its first timestamp, from the round's first one.
    pub(super) offset: u32,
    round_number: u64,
    index: u32,
}

/// Whoever waits in a seat.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) waker: Waker,
    pub(super) deadline_at: Instant,
}

/// The callers that have to be told that something happened.
#[must_use = "they wait to be woken"]
#[derive(Debug, Default)]
pub(super) struct Woken(Vec<Waiter>);

impl Woken {
    /// Wakes them; what is left is the room they took, to be used again.
    pub(super) fn wake(mut self) -> Vec<Waiter> {
        for waiter in self.0.drain(..) {
            waiter.waker.wake();
        }
        self.0
    }
}

/// An answer that fits no request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unasked;

/// What the deadlines have come to.
#[must_use]
#[derive(Debug, Default)]
pub(super) struct Alarm {
    /// Callers whose deadline has come. They stay seated until they leave.
    pub(super) overdue: Vec<Waker>,
    /// A request has waited for its answer for too long.
    pub(super) silent: bool,
}

/// All rounds that are not answered yet.
#[derive(Debug)]
pub(super) struct Rounds {
    queue: VecDeque<PendingRound>,
    in_flight: usize,
    rounds_made: u64,
    seats: usize,
    /// Most timestamps of one request.
    count_max: u32,
    /// How long a request may go without an answer.
    patience: Option<Duration>,
    /// When to look at the deadlines: never later than the first of them.
    alarm_at: Option<Instant>,
    alarm_moved: bool,
    requests_sent: u64,
    timestamps_received: u64,
    /// Room for the waiters of the next round.
    spare: Vec<Waiter>,
}

#[derive(Debug)]
struct PendingRound {
    number: u64,
    round: Arc<Round>,
    waiters: Vec<Waiter>,
    /// Waiters that did not go away.
    present: usize,
    /// Timestamps that they want together.
    count: u32,
    sent_at: Option<Instant>,
}

impl Rounds {
    pub(super) fn new(count_max: u32, patience: Option<Duration>) -> Self {
        Self {
            queue: VecDeque::new(),
            in_flight: 0,
            rounds_made: 0,
            seats: 0,
            count_max,
            patience,
            alarm_at: None,
            alarm_moved: false,
            requests_sent: 0,
            timestamps_received: 0,
            spare: Vec::new(),
        }
    }

    /// Seats a caller that wants `count` timestamps, at most the maximum of one request.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] when all seats are taken.
    pub(super) fn join(&mut self, count: u32, waiter: Waiter) -> Result<Seat, Error> {
        if self.seats >= SEATS_MAX {
            let cause = format!("{SEATS_MAX} calls wait for timestamps already");
            return Err(Error::busy(cause));
        }
        self.seats += 1;
        self.arm(waiter.deadline_at);
        let round = self.round_with_room_for(count);
        let seat = Seat {
            round: Arc::clone(&round.round),
            offset: round.count,
            round_number: round.number,
            index: round.waiters.len() as u32,
        };
        round.count += count;
        round.present += 1;
        round.waiters.push(waiter);
        Ok(seat)
    }

    /// Has somebody else woken for the caller in this seat, and returns who was until now.
    pub(super) fn replace_waker(&mut self, seat: &Seat, waker: Waker) -> Option<Waker> {
        let waiter = self.waiter(seat)?;
        Some(std::mem::replace(&mut waiter.waker, waker))
    }

    pub(super) fn is_woken_by(&mut self, seat: &Seat, waker: &Waker) -> bool {
        self.waiter(seat)
            .is_some_and(|waiter| waiter.waker.will_wake(waker))
    }

    /// The caller in this seat went away. What is returned is to be dropped.
    #[must_use]
    pub(super) fn leave(&mut self, seat: &Seat) -> (Option<Waker>, Vec<Waiter>) {
        let waker = self.replace_waker(seat, Waker::noop().clone());
        let Some(position) = self.position(seat) else {
            return (waker, Vec::new());
        };
        let round = &mut self.queue[position];
        round.present -= 1;
        if round.present > 0 || position < self.in_flight {
            return (waker, Vec::new());
        }
        let left = self.queue.remove(position);
        let waiters = left.map_or_else(Vec::new, |round| round.waiters);
        self.seats -= waiters.len();
        (waker, waiters)
    }

    /// Whether somebody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether there is a request that may be sent.
    pub(super) fn is_sendable(&self) -> bool {
        self.in_flight < IN_FLIGHT_MAX && self.in_flight < self.queue.len()
    }

    /// Closes the next round to others and returns how many timestamps to ask for, if there is anything to be sent.
    pub(super) fn send(&mut self, now: Instant) -> Option<u32> {
        if !self.is_sendable() {
            return None;
        }
        let round = self.queue.get_mut(self.in_flight)?;
        round.sent_at = Some(now);
        let count = round.count;
        self.in_flight += 1;
        self.requests_sent += 1;
        if let Some(patience) = self.patience {
            self.arm(now + patience);
        }
        Some(count)
    }

    /// Answers the oldest request, with `count` timestamps from `first` on. `spare` is room for waiters to come.
    ///
    /// # Errors
    ///
    /// [`Unasked`] when the answer is to another question; nothing has happened then.
    pub(super) fn answer(
        &mut self,
        first: u64,
        count: u32,
        spare: Vec<Waiter>,
    ) -> Result<Woken, Unasked> {
        let asked = self.queue.front().filter(|_| self.in_flight > 0);
        let fits = asked.is_some_and(|round| round.count == count)
            && first.checked_add(count.into()).is_some();
        if !fits {
            return Err(Unasked);
        }
        self.in_flight -= 1;
        self.timestamps_received += u64::from(count);
        self.spare = spare;
        Ok(self.end_front(Ok(first)))
    }

    /// The requests in flight are not going to be answered: all will be sent again that somebody still waits for.
    pub(super) fn lose_requests(&mut self) {
        self.in_flight = 0;
        for round in &mut self.queue {
            round.sent_at = None;
        }
        // Those left have no waker of anybody any more.
        self.queue.retain(|round| round.present > 0);
        self.seats = self.queue.iter().map(|round| round.waiters.len()).sum();
    }

    /// Ends everybody's waiting with an error. Nothing may be in flight.
    pub(super) fn fail(&mut self, error: &Error) -> Vec<Woken> {
        debug_assert_eq!(self.in_flight, 0, "an answer would find another round");
        let rounds = self.queue.len();
        (0..rounds)
            .map(|_| self.end_front(Err(error.clone())))
            .collect()
    }

    /// Whoever waits, without ending it.
    pub(super) fn wakers(&self) -> Vec<Waker> {
        let waiters = self.queue.iter().flat_map(|round| &round.waiters);
        waiters.map(|waiter| waiter.waker.clone()).collect()
    }

    pub(super) fn alarm_at(&self) -> Option<Instant> {
        self.alarm_at
    }

    /// Whether the alarm has to be set to an earlier time than when this was last asked.
    pub(super) fn take_alarm_moved(&mut self) -> bool {
        std::mem::take(&mut self.alarm_moved)
    }

    /// Looks at all deadlines, and sets the alarm to the next one.
    pub(super) fn ring(&mut self, now: Instant) -> Alarm {
        let mut alarm = Alarm::default();
        let mut next: Option<Instant> = None;
        let mut see = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        for round in &self.queue {
            for waiter in &round.waiters {
                match waiter.deadline_at <= now {
                    true => alarm.overdue.push(waiter.waker.clone()),
                    false => see(waiter.deadline_at),
                }
            }
            if let (Some(sent_at), Some(patience)) = (round.sent_at, self.patience) {
                match sent_at + patience <= now {
                    true => alarm.silent = true,
                    false => see(sent_at + patience),
                }
            }
        }
        self.alarm_at = next;
        alarm
    }

    /// Whether a request has waited for its answer for too long.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        let sent_at = self.queue.front().and_then(|round| round.sent_at);
        let limits = sent_at.zip(self.patience);
        limits.is_some_and(|(sent_at, patience)| sent_at + patience <= now)
    }

    pub(super) fn requests_sent(&self) -> u64 {
        self.requests_sent
    }

    pub(super) fn timestamps_received(&self) -> u64 {
        self.timestamps_received
    }

    fn round_with_room_for(&mut self, count: u32) -> &mut PendingRound {
        let last = self
            .queue
            .back()
            .filter(|_| self.queue.len() > self.in_flight);
        let has_room = last.is_some_and(|round| {
            let together = round.count.checked_add(count);
            together.is_some_and(|together| together <= self.count_max)
        });
        if !has_room {
            let round = PendingRound {
                number: self.rounds_made,
                round: Arc::default(),
                waiters: std::mem::take(&mut self.spare),
                present: 0,
                count: 0,
                sent_at: None,
            };
            self.rounds_made += 1;
            self.queue.push_back(round);
        }
        let last = self.queue.len() - 1;
        &mut self.queue[last]
    }

    fn end_front(&mut self, outcome: Result<u64, Error>) -> Woken {
        let Some(ended) = self.queue.pop_front() else {
            return Woken::default();
        };
        // Nobody else sets it.
        let _ = ended.round.outcome.set(outcome);
        self.seats -= ended.waiters.len();
        Woken(ended.waiters)
    }

    /// Rounds leave the queue, but never change their order.
    fn position(&self, seat: &Seat) -> Option<usize> {
        self.queue
            .binary_search_by_key(&seat.round_number, |round| round.number)
            .ok()
    }

    fn waiter(&mut self, seat: &Seat) -> Option<&mut Waiter> {
        let position = self.position(seat)?;
        self.queue[position].waiters.get_mut(seat.index as usize)
    }

    fn arm(&mut self, at: Instant) {
        if self.alarm_at.is_none_or(|alarm_at| at < alarm_at) {
            self.alarm_at = Some(at);
            self.alarm_moved = true;
        }
    }
}

#[cfg(test)]
mod tests;
