//! Retries: jittered exponential backoff inside one deadline.
//!
//! `fate` and `routing` decide whether an attempt may be repeated. This module decides when, and when to stop.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures::poll;
use tokio::time::{Instant, sleep, timeout_at};

use crate::counters::{CallInFlight, Counters};
use crate::figures::CallKind;
use crate::{Cause, Error, TraceContext};

/// Upper bound of the first wait.
const BACKOFF_FIRST: Duration = Duration::from_millis(10);

/// Upper bound of every wait.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Most retries in a row without a pause, after answers that said where to go. Two stores that each name the other as the
/// leader must not make a call spin.
const AT_ONCE_MAX: u32 = 3;

/// Longest timeout. A longer one could overflow the clock.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// When a call has to end. It is with everything that is done for the call, and so has the trace that this is a part of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    at: Instant,
    timeout: Duration,
    trace: Option<TraceContext>,
}

impl Deadline {
    pub(crate) fn after(timeout: Duration) -> Self {
        let at = Instant::now() + timeout.min(TIMEOUT_MAX);
        Self {
            at,
            timeout,
            trace: None,
        }
    }

    /// The same for what is a part of this trace.
    pub(crate) fn in_trace(self, trace: Option<TraceContext>) -> Self {
        Self { trace, ..self }
    }

    /// The trace that what has this deadline is a part of.
    pub(crate) fn trace(&self) -> Option<&TraceContext> {
        self.trace.as_ref()
    }

    /// The earlier of this deadline and `timeout` from now.
    pub(crate) fn sooner(self, timeout: Duration) -> Self {
        let other = Self::after(timeout).in_trace(self.trace);
        if other.at < self.at { other } else { self }
    }

    pub(crate) fn at(self) -> Instant {
        self.at
    }

    pub(crate) fn remaining(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Waits for `work` until the deadline. `None`: the deadline came first, and `work` was dropped.
    pub(crate) async fn limit<T>(self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        // Much of it is ready at once, and a timer has its price even if it is never set.
        if let Poll::Ready(done) = poll!(work.as_mut()) {
            return Some(done);
        }
        timeout_at(self.at, work).await.ok()
    }

    pub(crate) fn exceeded(self, cause: impl Into<Cause>) -> Error {
        Error::DeadlineExceeded {
            timeout: self.timeout,
            cause: cause.into(),
        }
    }
}

/// Why one attempt did not give an answer.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// The call ends with this.
    Final(Error),
    /// Another attempt is safe: the write was certainly not applied, or the request is a read.
    Again {
        /// When.
        pace: Pace,
        /// What the call ends with if the deadline comes first.
        error: Error,
    },
}

impl Failure {
    pub(crate) fn again(error: Error) -> Self {
        Self::Again {
            pace: Pace::Backoff,
            error,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// When to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Now: the answer said where to go.
    AtOnce,
    /// The next attempt comes after the next backoff.
    Backoff,
    /// The next attempt comes after the next backoff, and not before this has passed.
    AtLeast(Duration),
}

/// The attempts of one call, which is in flight for as long as this lives.
#[derive(Debug)]
pub(crate) struct Retry<'a> {
    call: CallInFlight<'a>,
    deadline: Deadline,
    waits: u32,
    at_once: u32,
    /// The error of the last attempt that was retried.
    last: Option<Error>,
    /// A part of the write has been applied.
    is_partly_applied: bool,
}

impl<'a> Retry<'a> {
    /// A call that begins now.
    pub(crate) fn until(deadline: Deadline, kind: CallKind, counters: &'a Counters) -> Self {
        Self {
            call: counters.call(kind),
            deadline,
            waits: 0,
            at_once: 0,
            last: None,
            is_partly_applied: false,
        }
    }

    /// One part of a write has been applied: from now on the call can only succeed or be undetermined.
    pub(crate) fn part_was_applied(&mut self) {
        self.is_partly_applied = true;
    }

    /// Waits until the next attempt may be made.
    ///
    /// # Errors
    ///
    /// What the call has to end with: the failure is final, or the deadline would come before the next attempt.
    pub(crate) async fn next_attempt(&mut self, failure: Failure) -> Result<(), Error> {
        let (pace, error) = match failure {
            Failure::Final(error) => return self.failed(error),
            Failure::Again { pace, error } => (pace, error),
        };
        let wait = self.next_wait(pace, fastrand::f64());
        if wait >= self.deadline.remaining() {
            return self.failed(error);
        }
        if !wait.is_zero() {
            tracing::debug!(wait_ms = wait.as_millis(), %error, "trying again");
            sleep(wait).await;
        }
        self.call.count_retry(&error);
        self.last = Some(error);
        Ok(())
    }

    /// The call ends with this result of an attempt.
    pub(crate) fn end<T>(mut self, result: Result<T, Error>) -> Result<T, Error> {
        self.call.end(&result);
        result
    }

    /// Ends the call after this error.
    fn failed(&mut self, error: Error) -> Result<(), Error> {
        let mut error = self.with_last_cause(error);
        if self.is_partly_applied {
            error = error.after_partial_write();
        }
        let failed = Err(error);
        self.call.end(&failed);
        failed
    }

    /// Adds the error of the last attempt to a deadline that came in the middle of one. That error says more.
    fn with_last_cause(&self, error: Error) -> Error {
        match (error, &self.last) {
            (Error::DeadlineExceeded { timeout, cause }, Some(last)) => Error::DeadlineExceeded {
                timeout,
                cause: Cause::of(format!("{cause}; before that: {last}"), last.clone()),
            },
            (error, _) => error,
        }
    }

    /// `jitter` is from 0 to 1.
    fn next_wait(&mut self, pace: Pace, jitter: f64) -> Duration {
        if pace == Pace::AtOnce && self.at_once < AT_ONCE_MAX {
            self.at_once += 1;
            return Duration::ZERO;
        }
        self.at_once = 0;
        let wait = backoff(self.waits, jitter);
        self.waits = self.waits.saturating_add(1);
        match pace {
            Pace::AtLeast(minimum) => wait.max(minimum),
            Pace::AtOnce | Pace::Backoff => wait,
        }
    }
}

/// The wait after `waits` earlier ones: it doubles up to [`BACKOFF_MAX`], and jitter (0 to 1) takes up to half of it away,
/// so that clients that failed together do not come back together.
pub(crate) fn backoff(waits: u32, jitter: f64) -> Duration {
    let doubled = BACKOFF_FIRST.saturating_mul(1_u32.checked_shl(waits).unwrap_or(u32::MAX));
    doubled.min(BACKOFF_MAX).mul_f64(1.0 - jitter / 2.0)
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    static COUNTERS: LazyLock<Counters> = LazyLock::new(Counters::default);

    fn retry_until(deadline: Deadline) -> Retry<'static> {
        Retry::until(deadline, CallKind::RawGet, &COUNTERS)
    }

    fn again(pace: Pace) -> Failure {
        let error = Error::unavailable("nobody there");
        Failure::Again { pace, error }
    }

    #[test]
    fn waits_double_up_to_the_cap() {
        let waits: Vec<u128> = (0..9).map(|n| backoff(n, 0.0).as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    }

    proptest! {
        #[test]
        fn jitter_takes_away_at_most_half(waits in any::<u32>(), jitter in 0.0..=1.0) {
            let (most, wait) = (backoff(waits, 0.0), backoff(waits, jitter));
            prop_assert!(wait <= most && wait >= most / 2);
        }
    }

    #[test]
    fn going_on_at_once_turns_into_waiting() {
        let mut retry = retry_until(Deadline::after(Duration::from_secs(1)));
        for _ in 0..AT_ONCE_MAX {
            assert_eq!(retry.next_wait(Pace::AtOnce, 0.0), Duration::ZERO);
        }
        assert_eq!(retry.next_wait(Pace::AtOnce, 0.0), BACKOFF_FIRST);
    }

    #[test]
    fn a_busy_store_is_left_alone_for_as_long_as_it_asked() {
        let mut retry = retry_until(Deadline::after(Duration::from_secs(1)));
        let asked = Duration::from_millis(700);
        assert_eq!(retry.next_wait(Pace::AtLeast(asked), 0.5), asked);
    }

    #[tokio::test]
    async fn a_wait_that_outlasts_the_deadline_ends_the_call_with_the_last_cause() {
        let mut retry = retry_until(Deadline::after(Duration::from_secs(1)));
        let hour = Duration::from_secs(3600);
        let ended = retry.next_attempt(again(Pace::AtLeast(hour))).await;
        assert_eq!(ended, Err(Error::unavailable("nobody there")));

        let mut retry = retry_until(Deadline::after(Duration::ZERO));
        assert!(retry.next_attempt(again(Pace::AtOnce)).await.is_err());
    }

    #[tokio::test]
    async fn a_deadline_in_the_middle_of_an_attempt_tells_what_happened_before() {
        let deadline = Deadline::after(Duration::from_secs(60));
        let mut retry = retry_until(deadline);
        retry
            .next_attempt(again(Pace::AtOnce))
            .await
            .expect("time is left");
        let exceeded = Failure::Final(deadline.exceeded("no answer"));
        let error = retry.next_attempt(exceeded).await.expect_err("final");
        let text = error.to_string();
        assert!(
            text.contains("no answer") && text.contains("nobody there"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn retries_calls_in_flight_and_open_fates_are_counted() {
        let counters = Counters::default();
        let deadline = Deadline::after(Duration::from_secs(60));
        let mut retry = Retry::until(deadline, CallKind::RawBatchPut, &counters);
        retry
            .next_attempt(again(Pace::AtOnce))
            .await
            .expect("time is left");
        retry.part_was_applied();
        let refused = Failure::Final(Error::busy("the other part"));
        let ended = retry.next_attempt(refused).await;
        assert!(
            matches!(ended, Err(Error::Undetermined { .. })),
            "{ended:?}"
        );
        let stats = counters.stats();
        let counted = (
            stats.calls_in_flight,
            stats.retries,
            stats.undetermined_writes,
        );
        assert_eq!(counted, (1, 1, 1));
        drop(retry);
        assert_eq!(counters.stats().calls_in_flight, 0);
    }

    #[tokio::test]
    async fn of_two_limits_the_nearer_one_counts() {
        let (short, long) = (Duration::from_millis(1), Duration::from_secs(3600));
        for (one, other) in [(short, long), (long, short)] {
            let deadline = Deadline::after(one).sooner(other);
            assert!(deadline.remaining() <= short);
            assert_eq!(deadline.limit(pending::<()>()).await, None);
        }
    }

    #[tokio::test]
    async fn the_longest_timeout_is_no_overflow() {
        let deadline = Deadline::after(Duration::MAX);
        assert!(deadline.remaining() > Duration::from_secs(3600));
        assert_eq!(deadline.limit(async { 7 }).await, Some(7));
    }
}
