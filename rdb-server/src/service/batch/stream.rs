//! One stream, from its first message to its end.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use rdb_proto::batch;
use rdb_proto::transport::CallBudget;
use rdb_proto::transport::limits::{BATCH_CLOSE_TIMEOUT, BATCH_COMMANDS_MAX};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::answers::{Packing, ReadyAnswers};
use super::intake;
use super::reads::Reads;
use super::writes::WriteGroup;
use crate::router::Router;

/// With so many commands in flight no further message is taken: the client's messages wait in its own window then.
const COMMANDS_IN_FLIGHT_MAX: usize = BATCH_COMMANDS_MAX;

/// How many messages are taken in before answers get their turn: messages may be empty.
const MESSAGES_PER_TURN_MAX: usize = 64;

/// Yields responses as the transport asks for them.
pub(crate) struct CommandStream {
    router: Router,
    call: CallBudget,
    /// `None`: nothing more comes, or is taken.
    requests: Option<Streaming<batch::Request>>,
    commands_in_flight: usize,
    writes: FuturesUnordered<WriteGroup>,
    reads: Reads,
    ready: ReadyAnswers,
    closing: Closing,
    /// What the stream ends with, once everything is answered.
    failure: Option<Status>,
    /// Among the streams of the connection.
    _place: OwnedSemaphorePermit,
}

type Alarm = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How far the end that a drain brings has come.
enum Closing {
    /// Not yet: ready when the drain begins.
    No(Alarm),
    /// The client is to be told.
    Announce,
    /// It was told, and has until then to close its side.
    Announced(Alarm),
    /// Nothing is waited for any more.
    Over,
}

impl CommandStream {
    pub(super) fn new(
        router: Router,
        call: CallBudget,
        requests: Streaming<batch::Request>,
        drain: CancellationToken,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            router,
            call,
            requests: Some(requests),
            commands_in_flight: 0,
            writes: FuturesUnordered::new(),
            reads: Reads::default(),
            ready: ReadyAnswers::default(),
            closing: Closing::No(Box::pin(drain.cancelled_owned())),
            failure: None,
            _place: place,
        }
    }

    fn poll_closing(&mut self, context: &mut Context<'_>) {
        let (alarm, next) = match &mut self.closing {
            Closing::No(begun) => (begun, Closing::Announce),
            Closing::Announced(overdue) => (overdue, Closing::Over),
            Closing::Announce | Closing::Over => return,
        };
        if alarm.as_mut().poll(context).is_ready() {
            if matches!(next, Closing::Over) {
                self.requests = None;
            }
            self.closing = next;
        }
    }

    /// Takes messages in until there are none, or there is enough to do.
    fn poll_requests(&mut self, context: &mut Context<'_>) {
        for _ in 0..MESSAGES_PER_TURN_MAX {
            let Some(requests) = &mut self.requests else {
                return;
            };
            if self.commands_in_flight >= COMMANDS_IN_FLIGHT_MAX {
                return;
            }
            match requests.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(request))) => self.take(request),
                Poll::Ready(Some(Err(failure))) => {
                    self.failure = Some(failure);
                    self.requests = None;
                }
                Poll::Ready(None) => self.requests = None,
                Poll::Pending => return,
            }
        }
        // There may be more; answers come first.
        context.waker().wake_by_ref();
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

    /// What is ready, as a response. `closing`: says that the stream is about to end.
    fn pack(&mut self, context: &mut Context<'_>, closing: bool) -> Option<batch::Response> {
        while let Poll::Ready(Some(answers)) = self.writes.poll_next_unpin(context) {
            self.ready.push(answers);
        }
        let mut packing = Packing::new(&self.call);
        self.ready.pack(&mut packing);
        self.reads.pack(&mut packing);
        while !packing.is_full()
            && let Some(answers) = self.reads.poll_disk(&self.call, context)
        {
            self.ready.push(answers);
            self.ready.pack(&mut packing);
        }
        if packing.is_full() && packing.answer_count() == 0 {
            // It was reads that are not in memory. The worker has other work, too.
            context.waker().wake_by_ref();
        }
        self.commands_in_flight -= packing.answer_count();
        if closing {
            packing.set_closing();
        }
        packing.finish()
    }

    fn is_done(&self) -> bool {
        let nothing_comes = self.requests.is_none();
        nothing_comes && self.writes.is_empty() && self.reads.is_empty() && self.ready.is_empty()
    }
}

impl Stream for CommandStream {
    type Item = Result<batch::Response, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let stream = self.get_mut();
        stream.poll_closing(context);
        stream.poll_requests(context);
        let announces = matches!(stream.closing, Closing::Announce);
        if announces {
            stream.closing = Closing::Announced(Box::pin(sleep(BATCH_CLOSE_TIMEOUT)));
            // Registers the alarm.
            stream.poll_closing(context);
        }
        if let Some(response) = stream.pack(context, announces) {
            return Poll::Ready(Some(Ok(response)));
        }
        if stream.is_done() {
            return Poll::Ready(stream.failure.take().map(Err));
        }
        Poll::Pending
    }
}
