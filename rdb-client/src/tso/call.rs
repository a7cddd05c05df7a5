//! One caller: takes a seat, waits for its round's answer or its deadline, and leaves its seat when it is dropped.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Sleep, sleep_until};

use super::rounds::Seat;
use super::stream::TimestampStream;
use crate::Error;
use crate::retry::Deadline;

/// Resolves to the first of `count` consecutive timestamps. The call begins when it is first polled.
pub(super) struct Call<'a> {
    stream: &'a TimestampStream,
    count: u32,
    deadline: Deadline,
    /// Present while it waits.
    seat: Option<Seat>,
    /// Present when the round's timer does not wake this caller by its deadline, or has fired.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<'a> Call<'a> {
    pub(super) fn new(stream: &'a TimestampStream, count: u32, deadline: Deadline) -> Self {
        Self {
            stream,
            count,
            deadline,
            seat: None,
            timer: None,
        }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Result<u64, Error>> {
        let deadline = self.deadline;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline.at())));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(self.stream.overdue(deadline)))
    }
}

impl Future for Call<'_> {
    type Output = Result<u64, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let call = self.get_mut();
        let Some(seat) = &mut call.seat else {
            let seat = call.stream.join(call.count, cx.waker().clone())?;
            let is_woken = call.stream.share_timer(&seat, call.deadline);
            call.seat = Some(seat);
            return if is_woken {
                Poll::Pending
            } else {
                call.poll_deadline(cx)
            };
        };
        if seat.round.outcome().is_none() {
            call.stream.wait_on(seat, cx.waker());
        }
        let Some(outcome) = seat.round.outcome() else {
            return call.poll_deadline(cx);
        };
        let first = outcome.clone().map(|first| first + u64::from(seat.offset));
        call.seat = None;
        Poll::Ready(first)
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(seat) = self.seat.take()
            && seat.round.outcome().is_none()
        {
            self.stream.leave(&seat);
        }
    }
}
