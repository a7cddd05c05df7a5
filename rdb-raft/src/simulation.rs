//! Support for stores in a simulated world, on one thread and with a clock that only the world moves. For `tests/simulation`.
//!
//! The tasks and timers of a single-threaded tokio runtime with a paused clock are deterministic. Other threads are not. So on a
//! thread that has called [`begin`], blocking work runs as a task, and so does the writer of the logs. Each first takes some
//! milliseconds of simulated time, drawn from `fastrand`.
//!
//! Machines are never suspended there. Any test on one thread can make its machine seem to have slept, with [`oversleep`].

use std::cell::Cell;
use std::time::Duration;

use tokio::task::{self, JoinHandle};
use tokio::time::sleep;

/// The longest that the disk takes, in milliseconds.
const DISK_MS_MAX: u64 = 8;

thread_local! {
    static HAS_BEGUN: Cell<bool> = const { Cell::new(false) };
    static SLEPT_NS: Cell<i64> = const { Cell::new(0) };
}

/// From now on, what this thread starts is simulated. Only in a build with debug assertions.
pub fn begin() {
    HAS_BEGUN.set(true);
}

pub(crate) fn is_on() -> bool {
    cfg!(debug_assertions) && HAS_BEGUN.get()
}

/// From now on, the machine of this thread seems to have slept for so many more milliseconds. Only in a build with debug assertions.
pub fn oversleep(sleep_ms: u32) {
    SLEPT_NS.set(SLEPT_NS.get() + i64::from(sleep_ms) * 1_000_000);
}

/// For how many nanoseconds the machine of this thread seems to have slept.
pub(crate) fn slept_ns() -> i64 {
    if cfg!(debug_assertions) {
        SLEPT_NS.get()
    } else {
        0
    }
}

/// Takes as long as a disk might.
pub(crate) async fn disk() {
    sleep(Duration::from_millis(fastrand::u64(1..=DISK_MS_MAX))).await;
}

/// [`task::spawn_blocking`], or a task in a simulation.
pub(crate) fn spawn_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    if !is_on() {
        return task::spawn_blocking(work);
    }
    task::spawn(async {
        disk().await;
        work()
    })
}
