//! One caller: takes a seat, waits for its round's answer or its deadline, and leaves its seat when it is dropped.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::dispatcher::Dispatcher;
use super::rounds::Seat;
use crate::Error;
use crate::retry::Deadline;

/// Resolves to the first of `count` consecutive timestamps. The call begins when it is first polled.
pub(super) struct Call<'a> {
    dispatcher: &'a Arc<Dispatcher>,
    count: u32,
    deadline: Deadline,
    /// Present while it waits.
    seat: Option<Seat>,
}

impl<'a> Call<'a> {
    pub(super) fn new(dispatcher: &'a Arc<Dispatcher>, count: u32, deadline: Deadline) -> Self {
        Self {
            dispatcher,
            count,
            deadline,
            seat: None,
        }
    }
}

impl Future for Call<'_> {
    type Output = Result<u64, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(seat) = &self.seat else {
            let waker = cx.waker().clone();
            let seat = self.dispatcher.join(self.count, waker, self.deadline)?;
            self.seat = Some(seat);
            return Poll::Pending;
        };
        if seat.round.outcome().is_none() {
            self.dispatcher.wait_on(seat, cx.waker());
        }
        if let Some(outcome) = seat.round.outcome() {
            let first = outcome.clone().map(|first| first + u64::from(seat.offset));
            self.seat = None;
            return Poll::Ready(first);
        }
        if self.deadline.remaining().is_zero() {
            return Poll::Ready(Err(self.dispatcher.overdue(self.deadline)));
        }
        Poll::Pending
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(seat) = self.seat.take()
            && seat.round.outcome().is_none()
        {
            self.dispatcher.leave(&seat);
        }
    }
}
