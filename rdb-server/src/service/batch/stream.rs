//! One stream, from its first message to its end.

use std::future::{Future, pending, ready};
use std::pin::Pin;

use futures::StreamExt;
use futures::stream::{BoxStream, FuturesUnordered, unfold};
use rdb_proto::batch::{self, Messages};
use rdb_proto::transport::CallBudget;
use rdb_proto::transport::limits::{BATCH_CLOSE_TIMEOUT, BATCH_COMMANDS_MAX};
use tokio::select;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::yield_now;
use tokio::time::sleep;
use tonic::Status;

use super::answers::{Packing, ReadyAnswers};
use super::intake;
use super::reads::Reads;
use super::writes::WriteGroup;
use crate::router::Router;

/// Commands in flight at which no further message is taken: the client's messages then wait in its window.
const COMMANDS_IN_FLIGHT_MAX: usize = BATCH_COMMANDS_MAX;

/// How many messages are taken in before answers get their turn: messages may be empty.
const MESSAGES_PER_TURN_MAX: usize = 64;

/// What is under way on a stream.
pub(super) struct CommandStream {
    router: Router,
    call: CallBudget,
    /// `None`: nothing more comes, or is taken.
    requests: Option<Messages<batch::Request>>,
    commands_in_flight: usize,
    writes: FuturesUnordered<WriteGroup>,
    reads: Reads,
    ready: ReadyAnswers,
    closing: Closing,
    /// Ready when `closing` is to go on.
    alarm: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// What the stream ends with, once everything is answered.
    failure: Option<Status>,
    /// Among the streams of the connection.
    _place: OwnedSemaphorePermit,
}

/// How far the end that closing the connection brings has come.
#[derive(PartialEq, Eq)]
enum Closing {
    /// The connection stays open.
    No,
    /// The client is to be told.
    Announce,
    /// It was told, and has a while to close its side.
    Announced,
    /// Nothing is waited for any more.
    Over,
}

impl CommandStream {
    pub(super) fn new(
        router: Router,
        call: CallBudget,
        requests: Messages<batch::Request>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            router,
            requests: Some(requests),
            commands_in_flight: 0,
            writes: FuturesUnordered::new(),
            reads: Reads::default(),
            ready: ReadyAnswers::default(),
            closing: Closing::No,
            alarm: Box::pin(call.closing().clone().cancelled_owned()),
            call,
            failure: None,
            _place: place,
        }
    }

    /// The responses, each made when the transport asks for it.
    pub(super) fn responses(self) -> BoxStream<'static, Result<batch::Response, Status>> {
        let next = |mut stream: Self| async move {
            let response = stream.next_response().await?;
            Some((response, stream))
        };
        unfold(self, next).boxed()
    }

    /// Takes everything in that is there, then makes a response of what is ready, or waits. `None`: the stream is over.
    async fn next_response(&mut self) -> Option<Result<batch::Response, Status>> {
        let mut messages_taken = 0;
        loop {
            let has_turn = messages_taken < MESSAGES_PER_TURN_MAX;
            let takes_messages = has_turn && self.commands_in_flight < COMMANDS_IN_FLIGHT_MAX;
            self.reads.start_jobs(&self.call);
            select! {
                biased;
                () = &mut self.alarm, if self.closing != Closing::Over => self.go_on_closing(),
                message = next_message(&mut self.requests), if takes_messages => {
                    messages_taken += 1;
                    self.receive(message);
                }
                Some(answers) = self.writes.next() => self.ready.push(answers),
                Some(answers) = self.reads.next_from_disk() => self.ready.push(answers),
                () = ready(()), if self.has_answers() => {
                    if let Some(response) = self.pack() {
                        return Some(Ok(response));
                    }
                    // It was reads that are not in memory. The worker has other work, too.
                    yield_now().await;
                }
                () = ready(()), if self.is_done() => return self.failure.take().map(Err),
                () = yield_now(), if !has_turn => messages_taken = 0,
            }
        }
    }

    fn go_on_closing(&mut self) {
        if self.closing == Closing::No {
            self.closing = Closing::Announce;
            self.alarm = Box::pin(sleep(BATCH_CLOSE_TIMEOUT));
        } else {
            self.closing = Closing::Over;
            self.requests = None;
        }
    }

    fn receive(&mut self, message: Option<Result<batch::Request, Status>>) {
        match message {
            Some(Ok(request)) => return self.take(request),
            Some(Err(failure)) => self.failure = Some(failure),
            None => {}
        }
        self.requests = None;
    }

    fn take(&mut self, request: batch::Request) {
        // The message is reserved together with what its commands take.
        self.call.release_arrived();
        let taken = intake::take(request, &self.router, self.call.bytes_in_flight());
        self.commands_in_flight += taken.command_count;
        for answered in taken.answered {
            self.ready.push(answered);
        }
        self.writes.extend(taken.writes);
        for reads in taken.reads {
            self.reads.push(reads);
        }
    }

    /// Whether a response can be made, or reads can be tried for one.
    fn has_answers(&self) -> bool {
        self.closing == Closing::Announce || !self.ready.is_empty() || self.reads.has_untried()
    }

    fn pack(&mut self) -> Option<batch::Response> {
        let mut packing = Packing::new(&self.call);
        self.ready.pack(&mut packing);
        self.reads.pack(&mut packing);
        self.commands_in_flight -= packing.answer_count();
        if self.closing == Closing::Announce {
            packing.set_closing();
            self.closing = Closing::Announced;
        }
        packing.finish()
    }

    fn is_done(&self) -> bool {
        let nothing_comes = self.requests.is_none();
        nothing_comes && self.writes.is_empty() && self.reads.is_empty() && self.ready.is_empty()
    }
}

/// The next message, or the end of the stream; never ready after that.
async fn next_message(
    requests: &mut Option<Messages<batch::Request>>,
) -> Option<Result<batch::Request, Status>> {
    match requests {
        Some(requests) => requests.next().await,
        None => pending().await,
    }
}
