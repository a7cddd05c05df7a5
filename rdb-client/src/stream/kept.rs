//! The task that keeps a stream.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::{End, Traffic, close};
use crate::retry::backoff;

/// Most doublings of the backoff between streams. Calls that wait for a stream have backoffs and deadlines themselves.
const BACKOFF_DOUBLINGS_MAX: u32 = 5;

/// A queue and the task that keeps a stream for it. The task ends with this, and with the runtime it was started on.
#[derive(Debug)]
pub(crate) struct Kept<T> {
    traffic: Arc<T>,
    task: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl<T: Traffic> Kept<T> {
    pub(crate) fn new(traffic: T) -> Self {
        Self {
            traffic: Arc::new(traffic),
            task: Mutex::new(None),
        }
    }

    pub(crate) fn traffic(&self) -> &Arc<T> {
        &self.traffic
    }

    /// Starts the task on the present runtime, for the caller that [`Gate::start`](super::Gate::start) told to.
    pub(crate) fn start(&self) {
        // Locked first: a start that overtook this one would be ended by it.
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        let keeper = Keeper {
            traffic: Arc::clone(&self.traffic),
            has_retired: false,
        };
        *task = Some(AbortOnDropHandle::new(tokio::spawn(keeper.run())));
    }
}

/// Keeps streams one after the other. When it is dropped before it has retired, it abandons the calls.
struct Keeper<T: Traffic> {
    traffic: Arc<T>,
    /// From then on the calls are another keeper's.
    has_retired: bool,
}

impl<T: Traffic> Keeper<T> {
    async fn run(mut self) {
        let mut failures = 0_u32;
        while !self.has_retired {
            let mut was_useful = false;
            let loss = self.keep_stream(&mut was_useful).await;
            close(&*self.traffic);
            self.traffic.lose(loss, was_useful);
            if was_useful {
                failures = 0;
            } else {
                sleep(backoff(failures, fastrand::f64())).await;
                failures = BACKOFF_DOUBLINGS_MAX.min(failures + 1);
            }
            self.has_retired = self.traffic.stop_when_idle();
        }
    }

    /// One stream from its opening to its end. `was_useful` is set when it brings an answer.
    async fn keep_stream(&self, was_useful: &mut bool) -> T::Loss {
        let traffic = &*self.traffic;
        let (mut answers, peer) = match self.traffic.open().await {
            Ok(opened) => opened,
            Err(loss) => return loss,
        };
        let silence_max = traffic.silence_max();
        let mut heard_at = Instant::now();
        let mut look_at = pin!(sleep_until(heard_at + silence_max));
        loop {
            let answer = tokio::select! {
                biased;
                answer = answers.message() => answer,
                () = &mut look_at => {
                    let now = Instant::now();
                    let silent_since = traffic.owed_since().map_or(now, |owed| owed.max(heard_at));
                    if silent_since + silence_max <= now {
                        return traffic.end(&peer, End::Silent);
                    }
                    look_at.as_mut().reset(silent_since + silence_max);
                    continue;
                }
            };
            match answer {
                Ok(Some(answer)) => {
                    if let Err(loss) = traffic.receive(&peer, answer) {
                        return loss;
                    }
                }
                Ok(None) => return traffic.end(&peer, End::Closed),
                Err(status) => return traffic.end(&peer, End::Failed(status)),
            }
            *was_useful = true;
            heard_at = Instant::now();
        }
    }
}

impl<T: Traffic> Drop for Keeper<T> {
    fn drop(&mut self) {
        if !self.has_retired {
            // The transport keeps the requests' side of a stream, and with it the connection, until that side ends.
            close(&*self.traffic);
            self.traffic.abandon();
        }
    }
}

#[cfg(test)]
mod tests;
