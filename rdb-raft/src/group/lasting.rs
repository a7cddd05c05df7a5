//! Calls that run to their end, even if the caller gives up.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::runtime::Handle;

/// A call into openraft. If its caller drops it, a separate task runs the rest.
///
/// A call that openraft cannot take waits for the group's core to end, and the first to wait takes its only join handle. If
/// that call were dropped, openraft would panic in all later calls, also in the shutdown.
pub(super) struct Lasting<T: Send + 'static> {
    call: Option<BoxFuture<'static, T>>,
    runtime: Handle,
}

impl<T: Send + 'static> Lasting<T> {
    pub(super) fn new(runtime: &Handle, call: impl Future<Output = T> + Send + 'static) -> Self {
        Self {
            call: Some(call.boxed()),
            runtime: runtime.clone(),
        }
    }
}

impl<T: Send + 'static> Future for Lasting<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let call = self.call.as_mut().expect("it is not polled after its end");
        let polled = call.poll_unpin(context);
        if polled.is_ready() {
            self.call = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Lasting<T> {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            self.runtime.spawn(call);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_call_that_is_given_up_runs_to_its_end() {
        let (go_on, waits) = oneshot::channel();
        let (ends, end) = oneshot::channel();
        let mut call = Lasting::new(&Handle::current(), async {
            waits.await.unwrap();
            ends.send(7).unwrap();
        });
        assert!((&mut call).now_or_never().is_none());
        drop(call);
        go_on.send(()).unwrap();
        assert_eq!(end.await, Ok(7));
    }
}
