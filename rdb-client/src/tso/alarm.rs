//! One timer for all callers of a round.
//!
//! A timer for each call would cost a third of all that a call costs. So the first caller of a round sets an alarm at its
//! deadline. When it rings, it wakes all callers of the round, and each sets a timer for the rest of its time. A caller
//! whose deadline is earlier or whose runtime is another sets its own timer at once: the alarm's runtime may stand still.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use tokio::runtime::{Handle, Id};
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that wakes its bell, whether anything polls it or not. Dropping it stops it.
#[derive(Debug)]
pub(super) struct Alarm {
    runtime: Id,
    at: Instant,
    /// It was not too late to set it.
    rings: bool,
    /// Never polled again. The lock makes it shareable.
    _timer: Mutex<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Sets an alarm on the present runtime. One in the past does not ring.
    pub(super) fn set(at: Instant, bell: impl Wake + Send + Sync + 'static) -> Self {
        let bell = Waker::from(Arc::new(bell));
        // Polled once to have the bell woken, whatever the task that does it may still do in this turn.
        let mut timer = Box::pin(sleep_until(at));
        let polled = unconstrained(timer.as_mut());
        let polled = pin!(polled).poll(&mut Context::from_waker(&bell));
        Self {
            rings: polled.is_pending(),
            runtime: Handle::current().id(),
            at,
            _timer: Mutex::new(timer),
        }
    }

    /// Whether the alarm rings on the present runtime, no later than `deadline_at`. It may have rung.
    pub(super) fn covers(&self, deadline_at: Instant) -> bool {
        self.rings && self.at <= deadline_at && self.runtime == Handle::current().id()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::Notify;
    use tokio::time::timeout;

    use super::*;

    struct Bell(Arc<Notify>);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.notify_one();
        }
    }

    #[tokio::test]
    async fn an_alarm_rings_although_nobody_polls_it() {
        let rung = Arc::new(Notify::new());
        let at = Instant::now() + Duration::from_millis(20);
        let _alarm = Alarm::set(at, Bell(Arc::clone(&rung)));
        let heard = timeout(Duration::from_secs(60), rung.notified()).await;
        heard.expect("it rings");
    }

    #[test]
    fn an_alarm_covers_later_deadlines_on_its_own_runtime() {
        let runtime = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
        };
        let (own, other) = (runtime().expect("threads"), runtime().expect("threads"));
        let hour = Duration::from_secs(3600);
        let at = Instant::now() + hour;
        let set = |at| Alarm::set(at, Bell(Arc::default()));
        let alarm = own.block_on(async { set(at) });
        own.block_on(async {
            assert!(alarm.covers(at) && alarm.covers(at + hour));
            assert!(!alarm.covers(at - hour), "it would ring too late");
            let late = set(Instant::now() - hour);
            assert!(!late.covers(at), "it does not ring");
        });
        other.block_on(async { assert!(!alarm.covers(at)) });
    }
}
