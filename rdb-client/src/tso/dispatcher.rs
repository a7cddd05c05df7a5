//! The rounds as all calls of a client share them: behind one lock that is held for a few dozen instructions, with the
//! news carried to whoever waits for it.
//!
//! No waker is woken or dropped under the lock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use rdb_proto::pdpb::{GetTsoRequest, GetTsoResponse};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::rounds::{Rounds, Seat, Unasked, Waiter};
use super::{driver, unasked};
use crate::retry::Deadline;
use crate::routing::PlacementDriver;
use crate::{ClientStats, Error};

/// A client's stream of timestamps. Opened by the first call; everything ends with it.
#[derive(Debug)]
pub(crate) struct TsoStream {
    dispatcher: Arc<Dispatcher>,
}

impl TsoStream {
    /// `count_max` is the most that one request may ask for.
    pub(crate) fn new(placement_driver: Arc<PlacementDriver>, count_max: u64) -> Self {
        let count_max = u32::try_from(count_max).unwrap_or(u32::MAX);
        let dispatcher = Dispatcher::new(placement_driver, count_max);
        Self {
            dispatcher: Arc::new(dispatcher),
        }
    }

    pub(super) fn dispatcher(&self) -> &Arc<Dispatcher> {
        &self.dispatcher
    }

    pub(crate) fn count_in(&self, stats: &mut ClientStats) {
        let state = self.dispatcher.lock();
        stats.tso_requests += state.rounds.requests_sent();
        stats.tso_timestamps += state.rounds.timestamps_received();
    }
}

impl Drop for TsoStream {
    fn drop(&mut self) {
        self.dispatcher.closed.notify_one();
    }
}

/// What callers, the request stream and the driver share.
#[derive(Debug)]
pub(super) struct Dispatcher {
    pub(super) placement_driver: Arc<PlacementDriver>,
    state: Mutex<State>,
    /// A caller came while there was no request stream.
    callers_came: Notify,
    alarm_moved: Notify,
    /// A request has waited for its answer for too long.
    silence: Notify,
    /// The client is gone.
    pub(super) closed: Notify,
}

#[derive(Debug)]
struct State {
    rounds: Rounds,
    sender: Sender,
    /// Tells the present request stream from earlier ones, which have to end.
    streams_opened: u64,
    driver_runs: bool,
    /// Why the last stream failed, until there is another.
    failure: Option<Error>,
}

/// What the request stream does.
#[derive(Debug)]
enum Sender {
    /// There is none.
    Absent,
    /// It will look for requests by itself.
    Awake,
    /// It has to be woken when there is something to be sent.
    Asleep(Waker),
}

/// What a request stream that was polled has to do.
#[derive(Debug)]
pub(super) enum Turn {
    /// End: another one took its place.
    End,
    /// Wait: it will be woken.
    Sleep,
    /// There is something to be sent, but let other callers come first.
    Yield,
    /// Send this.
    Send(GetTsoRequest),
}

impl Dispatcher {
    pub(super) fn new(placement_driver: Arc<PlacementDriver>, count_max: u32) -> Self {
        let state = State {
            rounds: Rounds::new(count_max, placement_driver.silence_max()),
            sender: Sender::Absent,
            streams_opened: 0,
            driver_runs: false,
            failure: None,
        };
        Self {
            placement_driver,
            state: Mutex::new(state),
            callers_came: Notify::new(),
            alarm_moved: Notify::new(),
            silence: Notify::new(),
            closed: Notify::new(),
        }
    }

    /// Takes a seat for a call that begins now.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] when all seats are taken.
    pub(super) fn join(
        self: &Arc<Self>,
        count: u32,
        waker: Waker,
        deadline: Deadline,
    ) -> Result<Seat, Error> {
        let deadline_at = deadline.at();
        let mut state = self.lock();
        let seat = state.rounds.join(count, Waiter { waker, deadline_at })?;
        let sender = state.wake_sender();
        let alarm_moved = state.rounds.take_alarm_moved();
        let driver_missing = !std::mem::replace(&mut state.driver_runs, true);
        let sender_missing = matches!(state.sender, Sender::Absent);
        drop(state);
        if let Some(sender) = sender {
            sender.wake();
        }
        if alarm_moved {
            self.alarm_moved.notify_one();
        }
        if sender_missing {
            self.callers_came.notify_one();
        }
        if driver_missing {
            driver::start(self);
        }
        Ok(seat)
    }

    /// Has `waker` woken when the seat's round has its outcome, unless it has one by now.
    pub(super) fn wait_on(self: &Arc<Self>, seat: &Seat, waker: &Waker) {
        let mut replacement = Some(waker.clone());
        let mut state = self.lock();
        if state.rounds.is_woken_by(seat, waker) {
            // As it is nearly always.
        } else if let Some(waker) = replacement.take() {
            replacement = state.rounds.replace_waker(seat, waker);
        }
        let driver_missing = !std::mem::replace(&mut state.driver_runs, true);
        drop(state);
        drop(replacement);
        if driver_missing {
            driver::start(self);
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

    /// Makes room for a new request stream, and returns its number. Earlier ones are over.
    pub(super) fn open_stream(&self) -> u64 {
        self.lose_stream();
        let mut state = self.lock();
        state.sender = Sender::Awake;
        state.streams_opened
    }

    /// The stream is of no more use: its request stream ends, and its requests will be sent again on the next one.
    pub(super) fn lose_stream(&self) {
        let mut state = self.lock();
        state.streams_opened += 1;
        state.rounds.lose_requests();
        let sender = std::mem::replace(&mut state.sender, Sender::Absent);
        drop(state);
        if let Sender::Asleep(sender) = sender {
            sender.wake();
        }
    }

    /// What request stream `number` has to do, which `waker` wakes. `has_yielded`: it let other callers come first.
    pub(super) fn turn(&self, number: u64, has_yielded: bool, waker: &Waker) -> Turn {
        let waker = waker.clone();
        let now = Instant::now();
        let mut state = self.lock();
        if state.streams_opened != number {
            return Turn::End;
        }
        let awake = match state.rounds.is_sendable() {
            true => Sender::Awake,
            false => Sender::Asleep(waker),
        };
        let asleep = matches!(awake, Sender::Asleep(_));
        let before = std::mem::replace(&mut state.sender, awake);
        let count = match has_yielded {
            true => state.rounds.send(now),
            false => None,
        };
        let alarm_moved = state.rounds.take_alarm_moved();
        drop(state);
        drop(before);
        if alarm_moved {
            self.alarm_moved.notify_one();
        }
        match count {
            Some(count) => Turn::Send(GetTsoRequest { count: Some(count) }),
            None if asleep => Turn::Sleep,
            None => Turn::Yield,
        }
    }

    /// The stream is open.
    pub(super) fn opened(&self) {
        self.lock().failure = None;
    }

    /// Hands an answer to its callers. `spare` is what the last answer left.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] when it answers none of the requests; nobody got anything then.
    pub(super) fn answer(
        &self,
        answer: GetTsoResponse,
        spare: Vec<Waiter>,
    ) -> Result<Vec<Waiter>, Error> {
        let mut state = self.lock();
        let answered = state.rounds.answer(answer.first, answer.count, spare);
        let sender = state.wake_sender();
        drop(state);
        if let Some(sender) = sender {
            sender.wake();
        }
        match answered {
            Ok(callers) => Ok(callers.wake()),
            Err(Unasked) => Err(unasked()),
        }
    }

    /// Ends everybody's call with an error. The stream has to be lost before.
    pub(super) fn fail(&self, error: &Error) {
        let failed = self.lock().rounds.fail(error);
        for callers in failed {
            callers.wake();
        }
    }

    /// Remembers why there is no stream, for those whose deadline comes before the next one.
    pub(super) fn failed_for_now(&self, error: Error) {
        self.lock().failure = Some(error);
    }

    /// Waits until somebody waits.
    pub(super) async fn callers_came(&self) {
        while self.lock().rounds.is_empty() {
            self.callers_came.notified().await;
        }
    }

    /// Returns when the oldest request has waited for its answer for too long.
    pub(super) async fn silent(&self) {
        loop {
            self.silence.notified().await;
            // It may have been an earlier stream's.
            let now = Instant::now();
            if self.lock().rounds.is_silent(now) {
                return;
            }
        }
    }

    /// Wakes callers when their deadlines come, for ever. There is one timer for all of them, which is set anew only when
    /// it has rung or a deadline comes before all others.
    pub(super) async fn watch_deadlines(&self) {
        loop {
            let alarm_at = self.lock().rounds.alarm_at();
            let moved = self.alarm_moved.notified();
            match alarm_at {
                None => moved.await,
                Some(at) if timeout_at(at, moved).await.is_ok() => {}
                Some(_) => self.ring(),
            }
        }
    }

    /// The driver is gone, perhaps with its runtime; callers of another one will start another.
    pub(super) fn driver_ended(&self) {
        self.lose_stream();
        let mut state = self.lock();
        state.driver_runs = false;
        let callers = state.rounds.wakers();
        drop(state);
        for caller in callers {
            caller.wake();
        }
    }

    fn ring(&self) {
        let now = Instant::now();
        let alarm = self.lock().rounds.ring(now);
        if alarm.silent {
            self.silence.notify_one();
        }
        for caller in alarm.overdue {
            caller.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between lock and unlock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The sender's waker, when it sleeps and there is something to be sent.
    fn wake_sender(&mut self) -> Option<Waker> {
        if !matches!(self.sender, Sender::Asleep(_)) || !self.rounds.is_sendable() {
            return None;
        }
        match std::mem::replace(&mut self.sender, Sender::Awake) {
            Sender::Asleep(waker) => Some(waker),
            Sender::Absent | Sender::Awake => None,
        }
    }
}
