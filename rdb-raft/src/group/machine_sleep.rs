//! Whether the machine has slept.
//!
//! The clock that leases are measured with stands still while a machine is suspended, and the clocks of the others do not. So a lease that
//! began before the machine slept says nothing after it. How long a machine has slept since its boot is the difference between a clock that
//! runs on meanwhile and the one of the leases.
//!
//! - A lease counts only if the machine has not slept since a *base*: the begin of a round that counted on no lease, and that a quorum has
//!   answered. What a quorum has acknowledged before the base only makes a lease that ends earlier.
//! - A base is published after what the round has learned. So it is read before that: then what is read with it is not older.
//! - The two clocks are read one after the other, and the thread may be interrupted in between. So a base is never too high, and how long
//!   the machine has slept by now is never too low.
//!
//! A virtual machine that is paused is not noticed, since both its clocks stand still, nor is any sleep on a system other than Linux.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::simulation;

/// A sleep that is so short is less than what a leader does not use of its lease ([`Timing::read_lease`](crate::timing::Timing::read_lease)):
/// 600 ms by default, and 7 ms with the shortest timeout that is allowed, 31 ms. There only the rest is left for clocks that run faster.
const SLEEP_NS_MAX: i64 = 5_000_000;

/// How often the clocks are read, so that one interruption does not matter.
const READS: usize = 3;

/// Compares how long the machine has slept with what it was at a base.
pub(super) struct MachineSleep {
    /// How long the machine had slept at the base, in nanoseconds. Released after what a round has learned, see above.
    base_ns: AtomicI64,
}

/// How long the machine had slept at some time, in nanoseconds, or less.
#[derive(Clone, Copy)]
pub(super) struct Base(i64);

impl MachineSleep {
    /// The base is now.
    pub(super) fn new() -> Self {
        let Base(base_ns) = Self::now();
        let base_ns = AtomicI64::new(base_ns);
        Self { base_ns }
    }

    /// What the base would be for a round that begins now.
    pub(super) fn now() -> Base {
        let read = |_| {
            let with_sleep_ns = with_sleep_ns();
            with_sleep_ns - without_sleep_ns()
        };
        Base((0..READS).map(read).fold(i64::MIN, i64::max))
    }

    pub(super) fn base(&self) -> Base {
        Base(self.base_ns.load(Ordering::Acquire))
    }

    /// A quorum has answered a round that began at this base and counted on no lease.
    pub(super) fn set_base(&self, Base(base_ns): Base) {
        self.base_ns.fetch_max(base_ns, Ordering::Release);
    }
}

impl Base {
    /// Whether the machine has slept since.
    pub(super) fn has_slept_since(self) -> bool {
        let has_slept = |_| {
            let without_sleep_ns = without_sleep_ns();
            with_sleep_ns() - without_sleep_ns - self.0 > SLEEP_NS_MAX
        };
        (0..READS).all(has_slept)
    }
}

/// A clock that runs on while the machine sleeps, in nanoseconds.
fn with_sleep_ns() -> i64 {
    let now_ns = if simulation::is_on() {
        0
    } else {
        clocks::with_sleep_ns()
    };
    now_ns + simulation::slept_ns()
}

/// The clock that leases are measured with, in nanoseconds.
fn without_sleep_ns() -> i64 {
    if simulation::is_on() {
        return 0;
    }
    clocks::without_sleep_ns()
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod clocks {
    use rustix::time::{ClockId, clock_gettime};

    pub(super) fn with_sleep_ns() -> i64 {
        now_ns(ClockId::Boottime)
    }

    pub(super) fn without_sleep_ns() -> i64 {
        now_ns(ClockId::Monotonic)
    }

    /// Without libc, whose clock the fault suite slows: that is no sleep.
    fn now_ns(clock: ClockId) -> i64 {
        let now = clock_gettime(clock);
        now.tv_sec * 1_000_000_000 + now.tv_nsec
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod clocks {
    pub(super) fn with_sleep_ns() -> i64 {
        0
    }

    pub(super) fn without_sleep_ns() -> i64 {
        0
    }
}
