//! One timer for all callers of a round.
//!
//! A timer for each call would cost a third of all that a call costs. So the first caller of a round starts a timer that
//! fires at its deadline. It wakes all callers of the round, and each sets a timer for the rest of its time. A caller whose
//! deadline is earlier or whose runtime is another sets its own timer at once: the runtime of the round's timer may stand
//! still.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use tokio::runtime::{Handle, Id};
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that fires whether anything polls it or not. Dropping it stops it.
#[derive(Debug)]
pub(super) struct RoundTimer {
    runtime: Id,
    fires_at: Instant,
    /// False: it was started too late, and never fires.
    fires: bool,
    /// Never polled again. The lock makes it shareable.
    _timer: Mutex<Pin<Box<Sleep>>>,
}

impl RoundTimer {
    /// Starts a timer on the present runtime that wakes `callers`. One in the past does not fire.
    pub(super) fn start(fires_at: Instant, callers: impl Wake + Send + Sync + 'static) -> Self {
        let callers = Waker::from(Arc::new(callers));
        // One poll registers the waker, however much the task has used up of its turn.
        let mut timer = Box::pin(sleep_until(fires_at));
        let polled = unconstrained(timer.as_mut());
        let polled = pin!(polled).poll(&mut Context::from_waker(&callers));
        Self {
            fires: polled.is_pending(),
            runtime: Handle::current().id(),
            fires_at,
            _timer: Mutex::new(timer),
        }
    }

    /// Whether it wakes callers on the present runtime, no later than `deadline_at`. It may have fired.
    pub(super) fn wakes_by(&self, deadline_at: Instant) -> bool {
        self.fires && self.fires_at <= deadline_at && self.runtime == Handle::current().id()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::Notify;
    use tokio::time::timeout;

    use super::*;

    struct Callers(Arc<Notify>);

    impl Wake for Callers {
        fn wake(self: Arc<Self>) {
            self.0.notify_one();
        }
    }

    #[tokio::test]
    async fn a_timer_fires_although_nobody_polls_it() {
        let woken = Arc::new(Notify::new());
        let at = Instant::now() + Duration::from_millis(20);
        let _timer = RoundTimer::start(at, Callers(Arc::clone(&woken)));
        let fired = timeout(Duration::from_secs(60), woken.notified()).await;
        fired.expect("it fires");
    }

    #[test]
    fn a_timer_wakes_for_later_deadlines_on_its_own_runtime() {
        let runtime = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
        };
        let (own, other) = (runtime().expect("threads"), runtime().expect("threads"));
        let hour = Duration::from_secs(3600);
        let at = Instant::now() + hour;
        let start = |at| RoundTimer::start(at, Callers(Arc::default()));
        let timer = own.block_on(async { start(at) });
        own.block_on(async {
            assert!(timer.wakes_by(at) && timer.wakes_by(at + hour));
            assert!(!timer.wakes_by(at - hour), "it would fire too late");
            let late = start(Instant::now() - hour);
            assert!(!late.wakes_by(at), "it does not fire");
        });
        other.block_on(async { assert!(!timer.wakes_by(at)) });
    }
}
