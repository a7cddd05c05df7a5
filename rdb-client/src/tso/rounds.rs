//! Which caller gets its timestamps from which request. Pure bookkeeping: no clock, no network, no lock.
//!
//! Callers gather in *rounds*. A round becomes one request for as many timestamps as its callers want together; its answer
//! is shared out by each caller's offset. Rounds wait in one queue, in the order in which they are sent and answered; those
//! in flight come first.
//!
//! Invariants:
//! - A round in flight is never joined: so nobody gets a timestamp from a request that was sent before the call began.
//!   A round whose request got lost is sent again as a whole, with the callers that joined it in between.
//! - A caller's timestamps are consecutive and from one round; the timestamps of a caller that went away go to nobody.
//! - A round that all callers left is not sent.
//! - At most [`IN_FLIGHT_MAX`] rounds are in flight, and at most [`SEATS_MAX`] seats are kept.
//! - A caller's waker is kept until it is taken, and whatever takes a waker wakes it. The caller is polled because of that,
//!   and registers again if it still waits. Until then it needs no waker: it finds out what happened when it is polled.
//!
//! The caller of these methods wakes and drops the wakers, outside the lock: either may run foreign code.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use tokio::time::Instant;

use super::round_timer::RoundTimer;
use crate::Error;

/// Most requests in flight. While one is being answered, the callers of the next gather: a second one keeps the placement
/// driver and the callers busy at the same time, and each further one makes rounds smaller.
pub(super) const IN_FLIGHT_MAX: usize = 2;

/// Most seats in all rounds, those of callers that went away included; a seat has 16 bytes.
pub(super) const SEATS_MAX: usize = 1 << 20;

/// What the callers of a round share.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// The first timestamp, as soon as it is known.
    outcome: OnceLock<Result<u64, Error>>,
    /// Started by the first caller.
    pub(super) timer: OnceLock<RoundTimer>,
    /// The timer has fired, or its runtime has ended. Relaxed: it is set before the callers' wakers are taken under the lock,
    /// and read by a caller that joined under the lock.
    pub(super) timer_fired: AtomicBool,
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
    /// Distance of its first timestamp from the round's first one.
    pub(super) offset: u32,
    pub(super) round_number: u64,
    /// The number of its waker among all that were registered in the round.
    waker_number: u64,
}

/// The callers that have to be told that something happened.
#[must_use = "they wait to be woken"]
#[derive(Debug, Default)]
pub(super) struct Woken(Vec<Waker>);

impl Woken {
    /// Wakes them; what is left is the room they took, to be used again. A waker that panics does not keep the others asleep.
    pub(super) fn wake(mut self) -> Vec<Waker> {
        for waiter in self.0.drain(..) {
            // The panic hook reports it.
            let _ = catch_unwind(AssertUnwindSafe(|| waiter.wake()));
        }
        self.0
    }
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
    requests_sent: u64,
    timestamps_received: u64,
    /// Room for the waiters of the next round.
    spare: Vec<Waker>,
}

#[derive(Debug)]
struct PendingRound {
    number: u64,
    round: Arc<Round>,
    /// The registered wakers that were not taken, at most one for each seat.
    waiters: Vec<Waker>,
    /// Wakers that were taken: the number of the first waiter.
    wakers_taken: u64,
    seats: usize,
    /// Seats whose callers did not go away.
    present: usize,
    /// Timestamps that they want together.
    count: u32,
    sent_at: Option<Instant>,
}

impl Rounds {
    pub(super) fn new(count_max: u32) -> Self {
        Self {
            queue: VecDeque::new(),
            in_flight: 0,
            rounds_made: 0,
            seats: 0,
            count_max,
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
    pub(super) fn join(&mut self, count: u32, waiter: Waker) -> Result<Seat, Error> {
        if self.seats >= SEATS_MAX {
            let cause = format!("{SEATS_MAX} calls wait for timestamps already");
            return Err(Error::busy(cause));
        }
        self.seats += 1;
        let round = self.round_with_room_for(count);
        let seat = Seat {
            round: Arc::clone(&round.round),
            offset: round.count,
            round_number: round.number,
            waker_number: round.register(waiter),
        };
        round.count += count;
        round.seats += 1;
        round.present += 1;
        Ok(seat)
    }

    /// Has `waker` woken for the caller in this seat, and nobody else. The waker that is returned is to be dropped.
    #[must_use]
    pub(super) fn register(&mut self, seat: &mut Seat, waker: Waker) -> Option<Waker> {
        let Some(position) = self.position(seat.round_number) else {
            return Some(waker);
        };
        let round = &mut self.queue[position];
        if let Some(waiter) = round.waiter(seat) {
            return Some(std::mem::replace(waiter, waker));
        }
        seat.waker_number = round.register(waker);
        None
    }

    /// The caller in this seat went away. What is returned is to be dropped.
    #[must_use]
    pub(super) fn leave(&mut self, seat: &Seat) -> (Option<Waker>, Vec<Waker>) {
        let Some(position) = self.position(seat.round_number) else {
            return (None, Vec::new());
        };
        let round = &mut self.queue[position];
        let waiter = round.waiter(seat);
        let waker = waiter.map(|waiter| std::mem::replace(waiter, Waker::noop().clone()));
        round.present -= 1;
        if round.present > 0 || position < self.in_flight {
            return (waker, Vec::new());
        }
        self.seats -= round.seats;
        let left = self.queue.remove(position);
        (waker, left.map_or_else(Vec::new, |round| round.waiters))
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
        Some(count)
    }

    /// How many timestamps the oldest request asks for that has no answer.
    pub(super) fn asked(&self) -> Option<u32> {
        let asked = self.queue.front().filter(|_| self.in_flight > 0);
        asked.map(|round| round.count)
    }

    /// Answers the oldest request, with timestamps from `first` on. None of them may overflow.
    pub(super) fn answer(&mut self, first: u64) -> Woken {
        let Some(count) = self.asked() else {
            return Woken::default();
        };
        self.in_flight -= 1;
        self.timestamps_received += u64::from(count);
        self.end_front(Ok(first))
    }

    /// Gives the room of waiters that were woken to those to come.
    pub(super) fn reuse(&mut self, spare: Vec<Waker>) {
        self.spare = spare;
    }

    /// The requests in flight are not going to be answered: all will be sent again that somebody still waits for. Returns how
    /// many those are. It goes through all rounds, but not their callers, when a stream is opened or lost.
    pub(super) fn lose_requests(&mut self) -> usize {
        let in_flight = std::mem::take(&mut self.in_flight);
        let lost = self.queue.iter().take(in_flight);
        let lost = lost.filter(|round| round.present > 0).count();
        for round in &mut self.queue {
            round.sent_at = None;
        }
        // Those left have no waker of anybody any more.
        self.queue.retain(|round| round.present > 0);
        self.seats = self.queue.iter().map(|round| round.seats).sum();
        lost
    }

    /// Ends everybody's waiting with an error. Nothing may be in flight.
    pub(super) fn fail(&mut self, error: &Error) -> Vec<Woken> {
        debug_assert_eq!(self.in_flight, 0, "an answer would find another round");
        let rounds = self.queue.len();
        (0..rounds)
            .map(|_| self.end_front(Err(error.clone())))
            .collect()
    }

    /// Takes the wakers of a round's callers, which keep waiting. Costs the same for one as for many.
    pub(super) fn take_wakers_of(&mut self, round_number: u64) -> Woken {
        let position = self.position(round_number);
        position.map_or_else(Woken::default, |position| {
            self.queue[position].take_wakers()
        })
    }

    /// Takes the wakers of all callers, which keep waiting. It goes through all rounds, but not their callers, when the task
    /// ends that keeps streams. No timer calls it.
    pub(super) fn take_wakers(&mut self) -> Vec<Woken> {
        let rounds = self.queue.iter_mut();
        rounds.map(PendingRound::take_wakers).collect()
    }

    /// When the oldest request was sent that has no answer.
    pub(super) fn owed_since(&self) -> Option<Instant> {
        self.queue.front().and_then(|round| round.sent_at)
    }

    pub(super) fn requests_sent(&self) -> u64 {
        self.requests_sent
    }

    pub(super) fn timestamps_received(&self) -> u64 {
        self.timestamps_received
    }

    /// How many callers wait.
    pub(super) fn callers(&self) -> usize {
        self.queue.iter().map(|round| round.present).sum()
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
                wakers_taken: 0,
                seats: 0,
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
        self.seats -= ended.seats;
        Woken(ended.waiters)
    }

    /// Rounds leave the queue, but never change their order.
    fn position(&self, round_number: u64) -> Option<usize> {
        self.queue
            .binary_search_by_key(&round_number, |round| round.number)
            .ok()
    }
}

impl PendingRound {
    /// Keeps a waker, and returns its number.
    fn register(&mut self, waker: Waker) -> u64 {
        let number = self.wakers_taken + self.waiters.len() as u64;
        self.waiters.push(waker);
        number
    }

    /// The waker of the caller in this seat, unless it was taken.
    fn waiter(&mut self, seat: &Seat) -> Option<&mut Waker> {
        let index = seat.waker_number.checked_sub(self.wakers_taken)?;
        self.waiters.get_mut(index as usize)
    }

    fn take_wakers(&mut self) -> Woken {
        self.wakers_taken += self.waiters.len() as u64;
        Woken(std::mem::take(&mut self.waiters))
    }
}

#[cfg(test)]
mod tests;
