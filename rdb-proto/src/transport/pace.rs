//! How fast a request arrives, which counts only while others wait for the bytes that it holds.
//!
//! A request is charged when a header arrives that says how long its message is. So a few bytes could keep room from all
//! others. While anybody waits for the budget of the process, a request has to arrive at
//! [`ARRIVAL_BYTES_PER_SECOND_MIN`] at least, or it gives way. A waiter waits for [`ADMISSION_WAIT`], and the peer's next
//! request waits behind it.
//!
//! A request that lets us wait is looked at every [`LOOK_INTERVAL`]. The first interval is free.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::limits::{ADMISSION_WAIT, ARRIVAL_BYTES_PER_SECOND_MIN};

const LOOK_INTERVAL: Duration = Duration::from_millis(250);

const BYTES_PER_LOOK: usize =
    ARRIVAL_BYTES_PER_SECOND_MIN * LOOK_INTERVAL.as_millis() as usize / 1000;

/// Even a request that has just begun gives way before the waiter is refused.
const _: () = assert!(3 * LOOK_INTERVAL.as_millis() < ADMISSION_WAIT.as_millis());

/// The pace of one message.
#[derive(Debug, Default)]
pub(super) struct Pace {
    looks: usize,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    /// Ready each time that the message is due for a look, with how many of its bytes should have arrived.
    pub(super) fn poll_look(&mut self, context: &mut Context<'_>) -> Poll<usize> {
        let new = || Box::pin(sleep(LOOK_INTERVAL));
        let alarm = self.alarm.get_or_insert_with(new);
        ready!(alarm.as_mut().poll(context));
        // When nobody has read for long, only one interval counts.
        alarm.as_mut().reset(Instant::now() + LOOK_INTERVAL);
        let due_bytes = self.looks * BYTES_PER_LOOK;
        self.looks += 1;
        Poll::Ready(due_bytes)
    }
}
