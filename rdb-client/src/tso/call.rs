//! One caller: takes a seat, waits for its round's answer, and leaves its seat when it is dropped.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::rounds::Seat;
use super::stream::TsoStream;
use crate::Error;

/// Resolves to the first of `count` consecutive timestamps. The call begins when it is first polled.
pub(super) struct Call<'a> {
    stream: &'a TsoStream,
    count: u32,
    /// Present while it waits.
    seat: Option<Seat>,
}

impl<'a> Call<'a> {
    pub(super) fn new(stream: &'a TsoStream, count: u32) -> Self {
        Self {
            stream,
            count,
            seat: None,
        }
    }
}

impl Future for Call<'_> {
    type Output = Result<u64, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(seat) = &self.seat else {
            let seat = self.stream.join(self.count, cx.waker().clone())?;
            self.seat = Some(seat);
            return Poll::Pending;
        };
        if seat.round.outcome().is_none() {
            self.stream.wait_on(seat, cx.waker());
        }
        let Some(outcome) = seat.round.outcome() else {
            return Poll::Pending;
        };
        let first = outcome.clone().map(|first| first + u64::from(seat.offset));
        self.seat = None;
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
