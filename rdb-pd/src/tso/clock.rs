//! The effective time, from a wall clock that may jump.
//!
//! The *effective* time advances with a monotonic clock. It is compared with the wall clock about twice a second:
//!
//! - The wall clock is ahead by no more than the tolerance: the effective time follows it.
//! - It is ahead by more: it is not followed, and an alarm is logged, since a timestamp that was handed out cannot be taken
//!   back. The effective time advances with the monotonic clock until the wall clock is within the tolerance again.
//! - It is behind: this is logged. The effective time advances at half speed until the wall clock has caught up.
//!
//! At the start the wall clock can be compared only with the durable bound. If the wall clock is ahead, it may be wrong,
//! or the process did not run for a while. A pause must not need an operator, so the tolerance is larger then
//! ([`START_JUMP_MAX_MS`]), with a warning beyond the ordinary tolerance. A clock that is further ahead is refused with
//! [`ClockError::Jump`], unless the jump is accepted explicitly.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::oracle::{AHEAD_MAX_MS, PHYSICAL_MS_MAX};

/// The longest step back of one correction.
const STEP_BACK_MAX_MS: u64 = AHEAD_MAX_MS / 2;

const DAY_MS: u64 = 86_400_000;

/// How far the wall clock may be ahead of the bound at the start, unless the tolerance is larger: the longest pause that
/// needs no operator.
const START_JUMP_MAX_MS: u64 = 400 * DAY_MS;

/// A wall clock that is behind by less is not worth a log line.
const BEHIND_LOG_MIN_MS: u64 = 100;

/// The same at a start: the bound lies some seconds ahead, and each of several quick restarts moves it on.
const BEHIND_AT_START_LOG_MIN_MS: u64 = 60_000;

/// A step ahead that is smaller is not worth a log line.
const AHEAD_LOG_MIN_MS: u64 = 1_000;

/// The source of the time.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch. May jump in both directions.
    fn wall_ms(&self) -> u64;
    /// Milliseconds since some fixed moment. Never goes back.
    fn elapsed_ms(&self) -> u64;
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self {
            started: Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        milliseconds(since_epoch.unwrap_or_default())
    }

    fn elapsed_ms(&self) -> u64 {
        milliseconds(self.started.elapsed())
    }
}

/// How far the wall clock is believed.
#[derive(Debug, Clone, Copy)]
pub struct ClockSettings {
    /// The tolerance: how far the wall clock may jump ahead and be followed.
    pub jump_max: Duration,
    /// Whether any jump is accepted at the start.
    pub accept_jump_at_start: bool,
}

/// The wall clock cannot be believed; the operator has to check it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClockError {
    /// It is before 1970, where no timestamp is.
    #[error("the wall clock is before 1970: set it, and compare it with `date`")]
    BeforeEpoch,
    /// It is too far ahead of the last timestamp.
    #[error(
        "the wall clock is {} days ahead of the last timestamp that this placement driver can have handed out, and at most \
         {} days are believed at a start. Compare it with `date`: if the clock is right, start once with \
         --accept-clock-jump; if not, set the clock",
        (wall_ms - bound_ms) / DAY_MS, jump_max_ms / DAY_MS
    )]
    Jump {
        /// What the wall clock reads.
        wall_ms: u64,
        /// The durable bound.
        bound_ms: u64,
        /// The tolerance at a start.
        jump_max_ms: u64,
    },
}

/// The effective time. Reading it is lock-free.
pub struct PhysicalClock<C> {
    clock: C,
    jump_max_ms: u64,
    /// Effective time minus elapsed time. Written only under the lock of `correction`. A reader needs one number, and an older
    /// one is as good.
    offset_ms: AtomicU64,
    correction: Mutex<Correction>,
}

/// The result of the last correction.
#[derive(Debug)]
struct Correction {
    elapsed_ms: u64,
    alarmed: bool,
    behind: bool,
}

impl<C: Clock> PhysicalClock<C> {
    /// A clock that starts at the wall clock, but not below `bound_ms`. `None`: there was never a timestamp.
    ///
    /// # Errors
    ///
    /// [`ClockError`] when the wall clock is before 1970, or further ahead of the bound than `settings` allow.
    pub fn start(
        clock: C,
        bound_ms: Option<u64>,
        settings: ClockSettings,
    ) -> Result<Self, ClockError> {
        let wall_ms = clock.wall_ms().min(PHYSICAL_MS_MAX);
        if wall_ms == 0 {
            return Err(ClockError::BeforeEpoch);
        }
        let elapsed_ms = clock.elapsed_ms();
        let jump_max_ms = milliseconds(settings.jump_max);
        if let Some(bound_ms) = bound_ms {
            let ahead_ms = wall_ms.saturating_sub(bound_ms);
            let start_jump_max_ms = jump_max_ms.max(START_JUMP_MAX_MS);
            let needs_acceptance = ahead_ms > start_jump_max_ms;
            if needs_acceptance && !settings.accept_jump_at_start {
                return Err(ClockError::Jump {
                    wall_ms,
                    bound_ms,
                    jump_max_ms: start_jump_max_ms,
                });
            }
            if settings.accept_jump_at_start {
                tracing::warn!(
                    ahead_days = ahead_ms / DAY_MS,
                    needed = needs_acceptance,
                    "--accept-clock-jump: the wall clock is believed; start without it from now on"
                );
            } else if ahead_ms > jump_max_ms {
                tracing::warn!(
                    ahead_days = ahead_ms / DAY_MS,
                    "the wall clock is far ahead of the last timestamp and is believed: either this placement driver did \
                     not run for that long, or the clock is wrong and timestamps will stay ahead"
                );
            }
        }
        let effective_ms = wall_ms.max(bound_ms.unwrap_or_default());
        let behind_ms = effective_ms - wall_ms;
        if behind_ms > BEHIND_AT_START_LOG_MIN_MS {
            tracing::warn!(
                behind = readable(behind_ms),
                "the wall clock is behind the last timestamp; timestamps go on above that, at half speed until the clock has \
                 caught up. If `date` is wrong, set the clock; else it was ahead before, or timestamps were moved ahead"
            );
        }
        Ok(Self {
            clock,
            jump_max_ms,
            offset_ms: AtomicU64::new(effective_ms.saturating_sub(elapsed_ms)),
            correction: Mutex::new(Correction {
                elapsed_ms,
                alarmed: false,
                behind: behind_ms > 0,
            }),
        })
    }

    /// The effective time. While the wall clock is behind, each [correction](Self::correct) moves it back by half of the
    /// time since the last one. The oracle never goes back; it uses up counters meanwhile.
    pub fn now_ms(&self) -> u64 {
        self.clock
            .elapsed_ms()
            .saturating_add(self.offset_ms.load(Ordering::Acquire))
    }

    /// How far the effective time is ahead of the wall clock. Negative: it is behind.
    pub fn ahead_of_wall_ms(&self) -> i64 {
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        signed(self.now_ms()) - signed(self.clock.wall_ms())
    }

    /// Compares the effective time with the wall clock and corrects it. Call it about every half second: one step back has
    /// to stay well below the distance that the oracle may run ahead.
    pub fn correct(&self) {
        let mut last = self
            .correction
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let elapsed_ms = self.clock.elapsed_ms();
        let wall_ms = self.clock.wall_ms();
        let offset_ms = self.offset_ms.load(Ordering::Acquire);
        let effective_ms = elapsed_ms.saturating_add(offset_ms);
        let ahead_ms = wall_ms.saturating_sub(effective_ms);
        let behind_ms = effective_ms.saturating_sub(wall_ms);

        let refused = ahead_ms > self.jump_max_ms || wall_ms > PHYSICAL_MS_MAX;
        if refused && !last.alarmed {
            tracing::error!(
                ahead_ms,
                jump_max_ms = self.jump_max_ms,
                "ALARM: the wall clock jumped too far ahead and is not followed; timestamps go on without it. \
                 Set the clock; if it is right, e.g. after a suspension, restart"
            );
        }
        if !refused && ahead_ms >= AHEAD_LOG_MIN_MS {
            tracing::warn!(
                ahead_ms,
                "the wall clock jumped ahead and is followed; timestamps will not go back"
            );
        }
        let behind = behind_ms >= BEHIND_LOG_MIN_MS;
        if behind && !last.behind {
            tracing::warn!(
                behind = readable(behind_ms),
                "the wall clock went back; timestamps go on, at half speed until it has caught up"
            );
        }
        if !refused {
            let slowed_ms = (elapsed_ms.saturating_sub(last.elapsed_ms) / 2)
                .min(behind_ms)
                .min(STEP_BACK_MAX_MS);
            let corrected_ms = offset_ms.saturating_add(ahead_ms).saturating_sub(slowed_ms);
            self.offset_ms.store(corrected_ms, Ordering::Release);
        }
        *last = Correction {
            elapsed_ms,
            alarmed: refused,
            behind,
        };
    }
}

fn milliseconds(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

/// A time for people, e.g. `10 days`.
fn readable(ms: u64) -> String {
    match ms / 1000 {
        0..120 => format!("{ms} ms"),
        seconds @ 120..7_200 => format!("{} minutes", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} hours", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::oracle::{Oracle, compose};
    use super::*;

    #[derive(Default)]
    struct Hands {
        wall_ms: AtomicU64,
        elapsed_ms: AtomicU64,
    }

    impl Clock for Arc<Hands> {
        fn wall_ms(&self) -> u64 {
            self.wall_ms.load(Ordering::Relaxed)
        }

        fn elapsed_ms(&self) -> u64 {
            self.elapsed_ms.load(Ordering::Relaxed)
        }
    }

    const HOUR_MS: u64 = 3_600_000;
    const START_MS: u64 = 1_700_000_000_000;
    const SETTINGS: ClockSettings = ClockSettings {
        jump_max: Duration::from_secs(86_400),
        accept_jump_at_start: false,
    };

    fn at(wall_ms: u64) -> (Arc<Hands>, PhysicalClock<Arc<Hands>>) {
        let hands = Arc::new(Hands::default());
        hands.wall_ms.store(wall_ms, Ordering::Relaxed);
        let clock = PhysicalClock::start(Arc::clone(&hands), Some(START_MS), SETTINGS).unwrap();
        (hands, clock)
    }

    fn pass(hands: &Hands, ms: u64) {
        hands.wall_ms.fetch_add(ms, Ordering::Relaxed);
        hands.elapsed_ms.fetch_add(ms, Ordering::Relaxed);
    }

    #[test]
    fn a_clock_ahead_by_a_minute_is_followed() {
        let (hands, clock) = at(START_MS);
        hands.wall_ms.fetch_add(60_000, Ordering::Relaxed);
        pass(&hands, 500);
        clock.correct();
        assert_eq!(clock.now_ms(), START_MS + 60_500);
    }

    #[test]
    fn a_clock_ahead_by_a_year_is_refused_and_time_goes_on() {
        let (hands, clock) = at(START_MS);
        hands
            .wall_ms
            .fetch_add(365 * 24 * HOUR_MS, Ordering::Relaxed);
        pass(&hands, 500);
        clock.correct();
        assert_eq!(clock.now_ms(), START_MS + 500);
        assert_eq!(clock.ahead_of_wall_ms(), -365 * 24 * HOUR_MS.cast_signed());
        assert!(clock.correction.lock().unwrap().alarmed);
        hands
            .wall_ms
            .fetch_sub(365 * 24 * HOUR_MS, Ordering::Relaxed);
        pass(&hands, 500);
        clock.correct();
        assert_eq!(clock.now_ms(), START_MS + 1_000);
        assert!(!clock.correction.lock().unwrap().alarmed);
    }

    #[test]
    fn a_clock_back_by_an_hour_is_waited_for_at_half_speed() {
        let (hands, clock) = at(START_MS);
        hands.wall_ms.fetch_sub(HOUR_MS, Ordering::Relaxed);
        assert_eq!(clock.ahead_of_wall_ms(), HOUR_MS.cast_signed());
        let mut last_ms = clock.now_ms();
        for _ in 0..2 * 3_600 * 2 {
            pass(&hands, 500);
            clock.correct();
            assert!(clock.now_ms() > last_ms);
            last_ms = clock.now_ms();
        }
        assert_eq!(
            clock.now_ms(),
            hands.wall_ms.load(Ordering::Relaxed),
            "caught up after two hours"
        );
    }

    #[test]
    fn a_correction_backwards_holds_no_allocation_up() {
        let (hands, clock) = at(START_MS - 3_000);
        let oracle = Oracle::new(compose(START_MS));
        for passed_ms in 0..10_000 {
            pass(&hands, 1);
            if passed_ms % 500 == 0 {
                clock.correct();
            }
            assert!(
                oracle.allocate(1, clock.now_ms(), u64::MAX).is_ok(),
                "after {passed_ms} ms"
            );
        }
        assert_eq!(clock.now_ms(), hands.wall_ms.load(Ordering::Relaxed));
    }

    #[test]
    fn a_start_below_the_bound_begins_at_the_bound() {
        let (_, clock) = at(START_MS - HOUR_MS);
        assert_eq!(clock.now_ms(), START_MS);
    }

    #[test]
    fn a_start_after_a_long_pause_needs_no_word_from_the_operator() {
        for days in [3, 399] {
            let paused_ms = START_MS + days * 24 * HOUR_MS;
            let (hands, clock) = at(paused_ms);
            assert_eq!(clock.now_ms(), paused_ms);
            hands.wall_ms.fetch_add(48 * HOUR_MS, Ordering::Relaxed);
            clock.correct();
            assert_eq!(
                clock.now_ms(),
                paused_ms,
                "once it runs, a jump is not followed"
            );
        }
    }

    #[test]
    fn a_start_before_1970_is_refused() {
        let clock = PhysicalClock::start(Arc::<Hands>::default(), None, SETTINGS);
        assert_eq!(
            clock.map(|clock| clock.now_ms()),
            Err(ClockError::BeforeEpoch)
        );
    }

    #[test]
    fn a_start_far_above_the_bound_has_to_be_accepted() {
        let far_ms = START_MS + 401 * 24 * HOUR_MS;
        let hands = Arc::new(Hands::default());
        hands.wall_ms.store(far_ms, Ordering::Relaxed);
        let start = |bound_ms, settings| {
            PhysicalClock::start(Arc::clone(&hands), bound_ms, settings).map(|clock| clock.now_ms())
        };
        let refused = start(Some(START_MS), SETTINGS).unwrap_err();
        assert!(
            refused.to_string().contains("--accept-clock-jump"),
            "{refused}"
        );
        assert!(refused.to_string().contains("401 days ahead"), "{refused}");
        let accepting = ClockSettings {
            accept_jump_at_start: true,
            ..SETTINGS
        };
        assert_eq!(start(Some(START_MS), accepting), Ok(far_ms));
        assert_eq!(
            start(None, SETTINGS),
            Ok(far_ms),
            "the first start has nothing to compare with"
        );
    }
}
