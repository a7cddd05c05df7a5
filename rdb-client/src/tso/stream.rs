//! The rounds as all calls of a client share them, and the stream that is kept for them.
//!
//! The rounds are behind one lock that is held for a few dozen instructions. No waker is cloned, woken or dropped under it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Wake, Waker};
use std::time::Duration;

use http::HeaderValue;
use rdb_proto::pdpb::{GetTsoRequest, GetTsoResponse};
use tokio::time::Instant;
use tonic::Streaming;

use super::round_timer::RoundTimer;
use super::rounds::{Round, Rounds, Seat};
use super::{Watermark, unasked};
use crate::retry::{Deadline, Failure};
use crate::routing::{Held, Peer, PlacementDriver};
use crate::stream::{End, Gate, Kept, Requests, Taken, Traffic};
use crate::{ClientStats, Error};

/// A client's stream of timestamps. Opened by the first call; everything ends with it.
#[derive(Debug)]
pub(crate) struct TimestampStream {
    stream: Kept<SharedRounds>,
}

/// What callers, the task and the stream share.
#[derive(Debug)]
struct SharedRounds {
    placement_driver: Arc<PlacementDriver>,
    watermark: Arc<Watermark>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    gate: Gate,
    rounds: Rounds,
    /// Why the last stream failed, until there is another.
    failure: Option<Error>,
}

impl TimestampStream {
    /// `count_max` is the most that one request may ask for.
    pub(crate) fn new(
        placement_driver: Arc<PlacementDriver>,
        watermark: Arc<Watermark>,
        count_max: u64,
    ) -> Self {
        let count_max = u32::try_from(count_max).unwrap_or(u32::MAX);
        let state = State {
            gate: Gate::default(),
            rounds: Rounds::new(count_max),
            failure: None,
        };
        Self {
            stream: Kept::new(SharedRounds {
                placement_driver,
                watermark,
                state: Mutex::new(state),
            }),
        }
    }

    pub(crate) fn count_in(&self, stats: &mut ClientStats) {
        let state = self.lock();
        stats.tso_requests += state.rounds.requests_sent();
        stats.tso_timestamps += state.rounds.timestamps_received();
        stats.calls_in_flight += state.rounds.callers() as u64;
    }

    /// Takes a seat for a call that begins now.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] when all seats are taken.
    pub(super) fn join(&self, count: u32, waker: Waker) -> Result<Seat, Error> {
        let mut state = self.lock();
        let seat = state.rounds.join(count, waker)?;
        let sleeper = state.wake();
        let is_first = state.gate.start();
        drop(state);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
        if is_first {
            self.stream.start();
        }
        Ok(seat)
    }

    /// Leaves the deadline of the caller in this seat to the round's timer, which is started if there is none. `false`: the
    /// timer does not wake this caller in time.
    pub(super) fn share_timer(&self, seat: &Seat, deadline: Deadline) -> bool {
        let start = || RoundTimer::start(deadline.at(), self.callers(seat));
        let timer = seat.round.timer.get_or_init(start);
        timer.wakes_by(deadline.at()) && !seat.round.timer_fired.load(Ordering::Relaxed)
    }

    /// Has `waker` woken when the seat's round has its outcome, unless it has one by now.
    pub(super) fn wait_on(&self, seat: &mut Seat, waker: &Waker) {
        let waker = waker.clone();
        let mut state = self.lock();
        let replaced = state.rounds.register(seat, waker);
        // The task may have ended with its runtime. A seat without an outcome needs one.
        let is_missing = seat.round.outcome().is_none() && state.gate.start();
        drop(state);
        drop(replaced);
        if is_missing {
            self.stream.start();
        }
    }

    /// The caller in this seat went away.
    pub(super) fn leave(&self, seat: &Seat) {
        let left = self.lock().rounds.leave(seat);
        drop(left);
    }

    /// What a call ends with whose deadline has come.
    pub(super) fn overdue(&self, deadline: Deadline) -> Error {
        let failure = self.lock().failure.clone();
        failure.unwrap_or_else(|| deadline.exceeded("the placement driver gave no timestamps"))
    }

    fn callers(&self, seat: &Seat) -> Callers {
        Callers {
            rounds: Arc::downgrade(self.stream.traffic()),
            round: Arc::downgrade(&seat.round),
            round_number: seat.round_number,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.stream.traffic().lock()
    }
}

/// The callers of a round, to be woken by its timer.
struct Callers {
    rounds: Weak<SharedRounds>,
    round: Weak<Round>,
    round_number: u64,
}

impl Wake for Callers {
    fn wake(self: Arc<Self>) {
        let (Some(rounds), Some(round)) = (self.rounds.upgrade(), self.round.upgrade()) else {
            return;
        };
        round.timer_fired.store(true, Ordering::Relaxed);
        let callers = rounds.lock().rounds.take_wakers_of(self.round_number);
        callers.wake();
    }
}

impl Traffic for SharedRounds {
    /// An answer costs the placement driver the same for one timestamp as for many.
    const YIELDS_WITHIN_TURN: bool = true;

    type Request = GetTsoRequest;
    type Response = GetTsoResponse;
    type Peer = Peer;
    type Loss = Failure;

    async fn open(self: &Arc<Self>) -> Result<(Streaming<GetTsoResponse>, Peer), Failure> {
        let opened = self.placement_driver.hold(|mut client| {
            let requests = Requests::new(self);
            // A member that was asked before may have taken some, and then not accepted the stream.
            let lost = self.lock().rounds.lose_requests();
            self.count_resent(lost, &Error::unavailable("no stream was accepted"));
            async move { client.tso(requests).await }
        });
        let Held { answers, peer } = opened.await?;
        self.lock().failure = None;
        Ok((answers, peer))
    }

    fn take(&self, generation: u64, has_yielded: bool, waker: &Waker) -> Taken<GetTsoRequest> {
        let waker = waker.clone();
        let now = Instant::now();
        let mut state = self.lock();
        if !state.gate.admits(generation) {
            return Taken::Over;
        }
        if state.rounds.is_sendable() && !has_yielded {
            return Taken::Yield;
        }
        if let Some(count) = state.rounds.send(now) {
            drop(state);
            let counters = &self.placement_driver.counters;
            counters.figures().note_timestamp_request(count);
            return Taken::Request(GetTsoRequest { count: Some(count) });
        }
        let before = state.gate.sleep(waker);
        drop(state);
        drop(before);
        Taken::Nothing
    }

    fn changing_token(&self) -> Option<HeaderValue> {
        self.placement_driver.connections.changing_token()
    }

    fn receive(&self, _: &Peer, answer: GetTsoResponse) -> Result<(), Failure> {
        self.placement_driver.check_cluster(answer.cluster_id)?;
        let mut state = self.lock();
        // Answers come in the order of their requests, so each lies above all before it.
        let asked = state.rounds.asked().ok_or_else(unasked)?;
        self.watermark.take_next(asked, &answer)?;
        let callers = state.rounds.answer(answer.first);
        let sleeper = state.wake();
        drop(state);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
        let spare = callers.wake();
        self.lock().rounds.reuse(spare);
        Ok(())
    }

    fn owed_since(&self) -> Option<Instant> {
        self.lock().rounds.owed_since()
    }

    fn silence_max(&self) -> Duration {
        self.placement_driver.silence_max()
    }

    fn end(&self, peer: &Peer, end: End) -> Failure {
        self.placement_driver.lost(peer, end)
    }

    /// Requests without an answer are sent again on the next stream, unless no stream can help.
    fn lose(&self, failure: Failure, _: bool) {
        let mut state = self.lock();
        let lost = state.rounds.lose_requests();
        let mut resent_after = None;
        let failed = match failure {
            Failure::Final(error) => state.rounds.fail(&error),
            Failure::Again { error, .. } => {
                resent_after = Some(error.clone());
                state.failure = Some(error);
                Vec::new()
            }
        };
        drop(state);
        if let Some(error) = resent_after {
            self.count_resent(lost, &error);
        }
        for callers in failed {
            callers.wake();
        }
    }

    fn stop_when_idle(&self) -> bool {
        let mut state = self.lock();
        if !state.rounds.is_empty() {
            return false;
        }
        state.gate.stop();
        true
    }

    /// Calls that wait are woken: the first one that runs starts the task again, on its own runtime.
    fn abandon(&self) {
        let mut state = self.lock();
        state.gate.stop();
        state.rounds.lose_requests();
        let woken = state.rounds.take_wakers();
        drop(state);
        for callers in woken {
            callers.wake();
        }
    }

    fn gate<R>(&self, change: impl FnOnce(&mut Gate) -> R) -> R {
        change(&mut self.lock().gate)
    }
}

impl SharedRounds {
    /// Counts the requests that are sent again after `error`.
    fn count_resent(&self, requests: usize, error: &Error) {
        let figures = self.placement_driver.counters.figures();
        for _ in 0..requests {
            figures.note_retry(error);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between lock and unlock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The waker of the stream, when it sleeps and there is something to be sent.
    fn wake(&mut self) -> Option<Waker> {
        if self.rounds.is_sendable() {
            self.gate.wake()
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::connection::Security;

    /// Counts how often it is woken.
    struct Bell {
        rounds: Weak<SharedRounds>,
        rings: AtomicUsize,
    }

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            let rounds = self.rounds.upgrade();
            let is_free = rounds.is_none_or(|rounds| rounds.state.try_lock().is_ok());
            assert!(is_free, "it is woken under the lock");
            self.rings.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Nothing is awaited here, so the task that would open a stream does not run.
    #[tokio::test]
    async fn the_timer_of_a_round_wakes_its_callers_and_no_others_and_each_once_for_every_poll() {
        let nowhere = ["127.0.0.1:1".to_owned()].into_iter();
        let patience = Duration::from_secs(60);
        let placement_driver =
            PlacementDriver::new(nowhere, patience, Security::default(), Arc::default());
        let placement_driver = Arc::new(placement_driver.expect("an address"));
        let stream = TimestampStream::new(placement_driver, Arc::default(), 2);
        let bells: [Arc<Bell>; 6] = std::array::from_fn(|_| {
            let rounds = Arc::downgrade(stream.stream.traffic());
            let rings = AtomicUsize::new(0);
            Arc::new(Bell { rounds, rings })
        });
        let woken = || {
            let all = bells.each_ref();
            all.map(|bell| bell.rings.load(Ordering::Relaxed))
        };
        let mut seats = bells.each_ref().map(|bell| {
            let waker = Waker::from(Arc::clone(bell));
            stream.join(1, waker).expect("there is room")
        });
        let timer = Arc::new(stream.callers(&seats[2]));
        Arc::clone(&timer).wake();
        assert_eq!(woken(), [0, 0, 1, 1, 0, 0]);
        stream.wait_on(&mut seats[3], &Waker::from(Arc::clone(&bells[3])));
        timer.wake();
        assert_eq!(woken(), [0, 0, 1, 2, 0, 0]);
        stream.wait_on(&mut seats[2], &Waker::from(Arc::clone(&bells[2])));
        for _ in 0..2 {
            stream.stream.traffic().abandon();
            assert_eq!(woken(), [1, 1, 2, 2, 1, 1]);
        }
    }
}
