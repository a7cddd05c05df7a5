//! Where one call waits for its answer.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use rdb_proto::kvrpc::batch_answer::Response;

use crate::Error;

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Interrupted {
    /// The command was never handed to the transport, or the store refused the stream: it certainly was not applied.
    NotProcessed {
        /// What prevented it.
        cause: Arc<str>,
    },
    /// The store does not let this client have a stream: the command certainly was not applied.
    Refused {
        /// Why not.
        error: Error,
        /// Whether it has refused a new stream, which is final. If it has ended an open stream, the next one decides: the client may
        /// have another token by now.
        at_opening: bool,
    },
    /// The stream ended after the command was handed to the transport.
    Lost {
        /// How it ended.
        cause: Arc<str>,
    },
}

/// Shared by a call and the queue that its command is in.
#[derive(Debug)]
pub(super) struct Slot {
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// The command is in the queue.
    Waiting(Option<Waker>),
    /// The command was handed to the transport.
    Sent(Option<Waker>),
    Answered(Result<Response, Interrupted>),
    /// The call has its answer, or was abandoned.
    Left,
}

impl Slot {
    /// The queue's end and the call's.
    pub(super) fn new() -> (Arc<Self>, Answer) {
        let slot = Arc::new(Self {
            state: Mutex::new(State::Waiting(None)),
        });
        let answer = Answer {
            slot: Arc::clone(&slot),
        };
        (slot, answer)
    }

    /// Marks the command as handed to the transport. False: the call has gone, there is no need to send it.
    pub(super) fn send(&self) -> bool {
        let mut state = self.state();
        match &mut *state {
            State::Waiting(waker) => {
                let waker = waker.take();
                *state = State::Sent(waker);
                true
            }
            State::Sent(_) | State::Answered(_) | State::Left => false,
        }
    }

    /// Ends the call, if it is still there.
    pub(super) fn complete(&self, answer: Result<Response, Interrupted>) {
        let mut state = self.state();
        let waker = match &mut *state {
            State::Waiting(waker) | State::Sent(waker) => waker.take(),
            State::Answered(_) | State::Left => return,
        };
        *state = State::Answered(answer);
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is a single assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer to come. Dropping it abandons the call: a command that still waits is not sent.
#[derive(Debug)]
pub(crate) struct Answer {
    slot: Arc<Slot>,
}

impl Answer {
    /// Gives the call up if its command was not handed to the transport, and will not be then. False: it was.
    pub(crate) fn withdraw(&mut self) -> bool {
        let mut state = self.slot.state();
        let is_unprocessed = matches!(
            *state,
            State::Waiting(_)
                | State::Answered(Err(
                    Interrupted::NotProcessed { .. } | Interrupted::Refused { .. }
                ))
        );
        if is_unprocessed {
            let left = std::mem::replace(&mut *state, State::Left);
            // The drop of a waker may run foreign code, so not under the lock.
            drop(state);
            drop(left);
        }
        is_unprocessed
    }
}

impl Future for Answer {
    type Output = Result<Response, Interrupted>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.slot.state();
        match &mut *state {
            State::Waiting(waker) | State::Sent(waker) => {
                let stale = match waker {
                    Some(waker) if waker.will_wake(context.waker()) => None,
                    waker => waker.replace(context.waker().clone()),
                };
                // Its drop may run foreign code, so not under the lock.
                drop(state);
                drop(stale);
                Poll::Pending
            }
            State::Answered(_) | State::Left => {
                match std::mem::replace(&mut *state, State::Left) {
                    State::Answered(answer) => Poll::Ready(answer),
                    // Polled again after it was ready.
                    _ => Poll::Pending,
                }
            }
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let left = std::mem::replace(&mut *self.slot.state(), State::Left);
        // An answer may be large; it is dropped outside the lock.
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, poll};
    use rdb_proto::kvrpc::RawPutResponse;

    use super::*;

    fn response() -> Response {
        Response::RawPut(RawPutResponse::default())
    }

    fn interrupted() -> Interrupted {
        Interrupted::Lost {
            cause: "cut".into(),
        }
    }

    #[test]
    fn a_call_gets_its_first_answer_whether_it_waits_for_it_yet_or_not() {
        let (slot, answer) = Slot::new();
        assert!(slot.send());
        slot.complete(Ok(response()));
        slot.complete(Err(interrupted()));
        assert_eq!(answer.now_or_never(), Some(Ok(response())));
    }

    #[tokio::test]
    async fn a_call_that_waits_is_woken_also_when_it_was_sent_meanwhile() {
        let (slot, mut answer) = Slot::new();
        assert!(poll!(&mut answer).is_pending());
        assert!(slot.send());
        let waiting = tokio::spawn(answer);
        tokio::task::yield_now().await;
        slot.complete(Err(interrupted()));
        assert_eq!(waiting.await.expect("no panic"), Err(interrupted()));
    }

    #[test]
    fn a_command_is_sent_once_and_its_answer_taken_once() {
        let (slot, mut answer) = Slot::new();
        assert!(slot.send());
        assert!(!slot.send(), "twice");
        slot.complete(Ok(response()));
        assert!((&mut answer).now_or_never().is_some());
        assert!((&mut answer).now_or_never().is_none(), "taken already");
    }

    #[test]
    fn a_call_that_is_given_up_as_not_sent_is_never_sent() {
        let (slot, mut answer) = Slot::new();
        assert!(answer.withdraw());
        assert!(!slot.send());

        let (slot, mut answer) = Slot::new();
        assert!(slot.send());
        assert!(!answer.withdraw(), "it is on its way");
        slot.complete(Ok(response()));
        assert_eq!(answer.now_or_never(), Some(Ok(response())), "and answered");
    }

    #[test]
    fn giving_a_call_up_knows_how_its_command_ended_meanwhile() {
        let not_sent = || Interrupted::NotProcessed { cause: "x".into() };
        let refused = || Interrupted::Refused {
            error: Error::Unauthenticated { cause: "x".into() },
            at_opening: true,
        };
        let lost = || Interrupted::Lost { cause: "x".into() };
        for (result, withdrawn) in [
            (Err(not_sent()), true),
            (Err(refused()), true),
            (Err(lost()), false),
            (Ok(response()), false),
        ] {
            let (slot, mut answer) = Slot::new();
            slot.complete(result);
            assert_eq!(answer.withdraw(), withdrawn);
        }
    }

    #[test]
    fn a_call_that_has_gone_is_not_sent_and_needs_no_answer() {
        let (slot, answer) = Slot::new();
        drop(answer);
        assert!(!slot.send());
        slot.complete(Ok(response()));
        assert_eq!(Arc::strong_count(&slot), 1);
    }
}
