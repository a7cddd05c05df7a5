//! Allocation of timestamps from the clock, below the durable bound; and the task that moves the bound ahead.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdb_proto::rare_line::RareLine;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::bound::{BoundStore, WINDOW_MS};
use super::clock::{Clock, PhysicalClock};
use super::figures::{TsoFigures, TsoPosition};
use super::oracle::{LOGICAL_BITS, Oracle, PHYSICAL_MS_MAX, WaitFor, compose};

/// The bound is moved when less than this is left of it, in milliseconds.
const WINDOW_LEFT_MIN_MS: u64 = WINDOW_MS / 2;

/// How often the clock is corrected and the bound is checked.
const TICK: Duration = Duration::from_millis(500);

/// Pause between two tries to persist a bound.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How often a lasting failure to persist is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Longest wait of a request that cannot be served within the bound.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// Shortest and longest pause of a request that waits for the clock. The pause doubles each time, so that thousands of
/// waiting requests leave the processor to others.
const CLOCK_PAUSE_MIN: Duration = Duration::from_millis(1);
const CLOCK_PAUSE_MAX: Duration = Duration::from_millis(64);

/// No timestamp could be handed out in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no timestamps for {ms} ms: {0}", ms = WAIT_MAX.as_millis())]
pub struct AllocatorError(pub WaitFor);

/// Hands out timestamps. [`keep_bound`](Self::keep_bound) has to run beside it.
pub struct Allocator<C, B> {
    oracle: Oracle,
    clock: PhysicalClock<C>,
    store: B,
    /// The durable bound, as a timestamp. Only grows. Released after the bound was written, so a thread that acquires it
    /// may hand out timestamps below it. An older value is lower, which is safe.
    bound: AtomicU64,
    bound_moved: Notify,
    near_bound: Notify,
    figures: TsoFigures,
}

impl<C: Clock, B: BoundStore> Allocator<C, B> {
    /// Starts at `persisted_ms`, the bound of earlier processes, or at the present time if that is later. Makes the first
    /// bound durable before it returns.
    ///
    /// # Errors
    ///
    /// When the bound could not be made durable.
    pub async fn start(
        clock: PhysicalClock<C>,
        store: B,
        persisted_ms: Option<u64>,
    ) -> Result<Arc<Self>, rdb_storage::Error> {
        let first_ms = persisted_ms.unwrap_or_default().max(clock.now_ms());
        let allocator = Self {
            oracle: Oracle::new(compose(first_ms)),
            clock,
            store,
            bound: AtomicU64::new(0),
            bound_moved: Notify::new(),
            near_bound: Notify::new(),
            figures: TsoFigures::default(),
        };
        allocator.extend_bound().await?;
        Ok(Arc::new(allocator))
    }

    /// Takes `count` consecutive timestamps, at least 1, and returns the first. Waits for the bound or the clock if it has
    /// to.
    ///
    /// # Errors
    ///
    /// [`AllocatorError`] after three seconds. No timestamp at or above the durable bound is ever returned.
    pub async fn allocate(&self, count: u32) -> Result<u64, AllocatorError> {
        let mut waits_for = match self.try_allocate(count) {
            Ok(first) => {
                self.figures.timestamps.add(count.into());
                return Ok(first);
            }
            Err(waits_for) => waits_for,
        };
        self.figures.note_wait(waits_for);
        let waited = timeout(WAIT_MAX, self.wait_and_allocate(count, &mut waits_for)).await;
        match waited {
            Ok(first) => {
                self.figures.timestamps.add(count.into());
                Ok(first)
            }
            Err(_) => {
                self.figures.failures.increment();
                Err(AllocatorError(waits_for))
            }
        }
    }

    /// What it counts.
    pub fn figures(&self) -> &TsoFigures {
        &self.figures
    }

    /// The allocator's present position.
    pub fn position(&self) -> TsoPosition {
        TsoPosition {
            to_bound_ms: self.window_left_ms(),
            ahead_of_clock_ms: self.clock.ahead_of_wall_ms(),
        }
    }

    /// Corrects the clock and moves the bound before it is reached. Runs until the future is dropped.
    pub async fn keep_bound(&self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failure_line = RareLine::every(LOG_INTERVAL);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.clock.correct(),
                () = self.near_bound.notified() => {}
            }
            while self.window_left_ms() < WINDOW_LEFT_MIN_MS {
                let Err(error) = self.extend_bound().await else {
                    failure_line.start_over();
                    continue;
                };
                if failure_line.take_turn(Instant::now()).is_some() {
                    tracing::error!(
                        %error,
                        "the bound of timestamps cannot be made durable, and none is handed out above it; restart when the disk works \
                         again"
                    );
                }
                sleep(RETRY_PAUSE).await;
                self.clock.correct();
            }
        }
    }

    fn try_allocate(&self, count: u32) -> Result<u64, WaitFor> {
        let bound = self.bound.load(Ordering::Acquire);
        let allocated = self.oracle.allocate(count, self.clock.now_ms(), bound);
        let near = match allocated {
            Ok(first) => bound - first < compose(WINDOW_LEFT_MIN_MS),
            Err(waits_for) => waits_for == WaitFor::Bound,
        };
        if near {
            self.near_bound.notify_one();
        }
        allocated
    }

    /// Waits and tries again until it succeeds. `waits_for` tells the reason for the present wait.
    async fn wait_and_allocate(&self, count: u32, waits_for: &mut WaitFor) -> u64 {
        let mut pause = CLOCK_PAUSE_MIN;
        loop {
            // Created before the try, so that a move of the bound in between is not missed.
            let bound_moved = self.bound_moved.notified();
            match self.try_allocate(count) {
                Ok(first) => return first,
                Err(present) => *waits_for = present,
            }
            match waits_for {
                WaitFor::Bound => bound_moved.await,
                WaitFor::Clock => {
                    sleep(pause).await;
                    pause = (pause * 2).min(CLOCK_PAUSE_MAX);
                }
            }
        }
    }

    /// The later of the present time and the last timestamp, in milliseconds.
    fn position_ms(&self) -> u64 {
        self.clock.now_ms().max(self.oracle.next() >> LOGICAL_BITS)
    }

    fn window_left_ms(&self) -> u64 {
        (self.bound.load(Ordering::Acquire) >> LOGICAL_BITS).saturating_sub(self.position_ms())
    }

    async fn extend_bound(&self) -> Result<(), rdb_storage::Error> {
        let bound_ms = self
            .position_ms()
            .saturating_add(WINDOW_MS)
            .min(PHYSICAL_MS_MAX);
        let began = Instant::now();
        self.store.persist(bound_ms).await?;
        self.figures.bound_moves.note(began.elapsed());
        self.bound.fetch_max(compose(bound_ms), Ordering::AcqRel);
        self.bound_moved.notify_waiters();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
