//! How fast a request arrives, which counts only while others wait for the bytes that it holds.
//!
//! A request is charged when the header with the length of its message arrives. So a few bytes could take room from all
//! others. While anybody waits for the budget of the process, a request has to arrive at [`ARRIVAL_BYTES_PER_SECOND_MIN`]
//! at least, or it gives way. A waiter waits for [`ADMISSION_WAIT`], and the peer's next request waits behind it.
//!
//! A peer can send no more than a window for each round trip, and late connections have small windows. So no request has
//! to send more than a window per look.
//!
//! A request that keeps the server waiting is looked at every [`LOOK_INTERVAL`]. The first interval is free.

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
    /// Ready each time that the message is due for a look, with how many of its bytes should have arrived on a stream with
    /// that window.
    pub(super) fn poll_look(
        &mut self,
        window_bytes: usize,
        context: &mut Context<'_>,
    ) -> Poll<usize> {
        let new = || Box::pin(sleep(LOOK_INTERVAL));
        let alarm = self.alarm.get_or_insert_with(new);
        ready!(alarm.as_mut().poll(context));
        // When nobody has read for long, only one interval counts.
        alarm.as_mut().reset(Instant::now() + LOOK_INTERVAL);
        let due_bytes = self.looks * BYTES_PER_LOOK.min(window_bytes);
        self.looks += 1;
        Poll::Ready(due_bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn a_request_has_a_moment_and_then_to_send_a_window_each_time() {
        for (window_bytes, due_bytes) in [(8 << 10, 8 << 10), (1 << 20, 256 << 10)] {
            let mut pace = Pace::default();
            for looks in 0..3 {
                let due = poll_fn(|context| pace.poll_look(window_bytes, context)).await;
                assert_eq!(due, looks * due_bytes);
            }
        }
    }
}
