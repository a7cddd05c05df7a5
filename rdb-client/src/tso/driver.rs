//! The task that holds the stream: opens it when somebody waits, hands out its answers, and opens another when it breaks.
//!
//! It ends with the client, or with the runtime that it was started on; calls on another runtime then start another.

use std::sync::Arc;

use tokio::time::sleep;

use super::dispatcher::Dispatcher;
use super::requests::Requests;
use crate::retry::{Failure, backoff};
use crate::routing::Held;

/// Starts it on the present runtime.
pub(super) fn start(dispatcher: &Arc<Dispatcher>) {
    let driver = Driver(Arc::clone(dispatcher));
    tokio::spawn(async move { driver.run().await });
}

/// Tells the dispatcher when it goes, however that comes.
struct Driver(Arc<Dispatcher>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.driver_ended();
    }
}

impl Driver {
    async fn run(&self) {
        tokio::select! {
            biased;
            () = self.hold_streams() => {}
            () = self.0.watch_deadlines() => {}
            () = self.0.closed.notified() => {}
        }
    }

    /// Holds one stream after the other, for ever.
    async fn hold_streams(&self) {
        let mut waits = 0;
        loop {
            self.0.callers_came().await;
            let failure = self.hold_stream(&mut waits).await;
            self.0.lose_stream();
            match failure {
                Failure::Final(error) => self.0.fail(&error),
                Failure::Again { error, .. } => {
                    self.0.failed_for_now(error);
                    self.pause(&mut waits).await;
                }
            }
        }
    }

    /// Opens a stream and hands out its answers until it fails. `waits` counts the failures since the last answer.
    async fn hold_stream(&self, waits: &mut u32) -> Failure {
        let placement_driver = &self.0.placement_driver;
        let opened = placement_driver.hold(|mut client| {
            let requests = Requests::new(&self.0);
            async move { client.tso(requests).await }
        });
        let Held { mut answers, peer } = match opened.await {
            Ok(held) => held,
            Err(failure) => return failure,
        };
        self.0.opened();
        let mut spare = Vec::new();
        loop {
            let answer = tokio::select! {
                biased;
                answer = answers.message() => answer,
                () = self.0.silent() => return placement_driver.is_silent(&peer),
            };
            let answered = match answer {
                Ok(Some(answer)) => self.0.answer(answer, std::mem::take(&mut spare)),
                Ok(None) => return placement_driver.has_ended(&peer),
                Err(status) => return placement_driver.has_failed(&peer, &status),
            };
            match answered {
                Ok(left) => spare = left,
                Err(error) => return error.into(),
            }
            *waits = 0;
        }
    }

    async fn pause(&self, waits: &mut u32) {
        let wait = backoff(*waits, fastrand::f64());
        *waits = waits.saturating_add(1);
        sleep(wait).await;
    }
}
