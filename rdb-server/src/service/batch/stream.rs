//! One stream, from its first message to its end.

use std::future::{Future, pending, ready};
use std::pin::Pin;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered, unfold};
use rdb_proto::auth::Pass;
use rdb_proto::batch::{self, Messages};
use rdb_proto::transport::Call;
use rdb_proto::transport::limits::{BATCH_CLOSE_TIMEOUT, BATCH_COMMANDS_MAX};
use tokio::select;
use tokio::task::yield_now;
use tokio::time::sleep;
use tonic::Status;

use super::answers::{AnswerGroup, Packing, ReadyAnswers};
use super::intake;
use super::reads::Reads;
use crate::metrics::Arrival;
use crate::router::Router;

/// Commands in flight at which no further message is taken. The client's messages then wait in the HTTP/2 window.
const COMMANDS_IN_FLIGHT_MAX: usize = BATCH_COMMANDS_MAX;

/// Most messages that are taken before answers get their turn. Messages may be empty.
const MESSAGES_PER_TURN_MAX: usize = 64;

/// A stream and everything that is under way on it.
pub(super) struct CommandStream {
    router: Router,
    call: Arc<Call>,
    /// `None`: nothing more comes, or is taken.
    requests: Option<Messages>,
    commands_in_flight: usize,
    writes: FuturesUnordered<BoxFuture<'static, AnswerGroup>>,
    reads: Reads,
    ready: ReadyAnswers,
    closing: Closing,
    /// Ready when `closing` moves to its next state.
    alarm: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// The error that the stream ends with, once everything is answered.
    failure: Option<Status>,
}

/// Steps of a stream whose connection is closing. `alarm` moves it from `No` to `Announce`, and later to `Over`. The
/// response that tells the client moves it to `Announced`.
#[derive(PartialEq, Eq)]
enum Closing {
    /// The connection stays open.
    No,
    /// The next response tells the client.
    Announce,
    /// The client was told, and has [`BATCH_CLOSE_TIMEOUT`] to close its side.
    Announced,
    /// No more messages are taken.
    Over,
}

impl CommandStream {
    pub(super) fn new(router: Router, call: Arc<Call>, requests: Messages) -> Self {
        Self {
            reads: Reads::new(Arc::clone(router.figures())),
            router,
            requests: Some(requests),
            commands_in_flight: 0,
            writes: FuturesUnordered::new(),
            ready: ReadyAnswers::default(),
            closing: Closing::No,
            alarm: Box::pin(call.closing().clone().cancelled_owned()),
            call,
            failure: None,
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

    /// Takes the messages that have arrived, then makes a response of the answers that are ready, or waits. `None`: the
    /// stream is over.
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
                    // All reads that were tried are cold. Other tasks of the worker get a turn.
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
        let arrival = Arrival::of(&self.call);
        let arrived = self.call.take_arrived(request.message_bytes);
        let budgets = self.call.bytes_in_flight();
        let (caller, router) = (self.call.caller(), &self.router);
        let audit = router.figures().commands.audit();
        let audited = |pass: Option<&Pass>| audit.of_message(&self.call, pass);
        let taken = intake::take(request, arrival, arrived, caller, router, budgets, audited);
        self.commands_in_flight += taken.command_count;
        for answered in taken.answered {
            self.ready.push(answered);
        }
        self.writes.extend(taken.writes);
        for reads in taken.reads {
            self.reads.push(reads);
        }
    }

    /// Whether there is something to send, or there are reads to try.
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

/// The next message, or `None` at the end of the stream. Never ready after that.
async fn next_message(requests: &mut Option<Messages>) -> Option<Result<batch::Request, Status>> {
    match requests {
        Some(requests) => requests.next().await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bytes::Bytes;
    use futures::stream;
    use rdb_proto::kvrpc::batch_command::Request;
    use rdb_proto::kvrpc::{BatchCommand, BatchRequest, RawPutRequest};
    use rdb_proto::transport::limits::MESSAGE_BYTES_MAX;
    use tokio::time::timeout;
    use tonic::body::Body;
    use tonic::codec::{Codec, EncodeBody};

    use super::super::intake::tests::{Fixture, fixture, get};
    use super::*;

    const HANG_GUARD: Duration = Duration::from_secs(300);

    /// A stream whose client sends these messages, and then neither more nor the end.
    fn stream_of(fixture: &Fixture, messages: Vec<Vec<Request>>) -> CommandStream {
        let messages = messages.into_iter().map(|requests| {
            let commands = requests.into_iter().zip(0..);
            let commands = commands.map(|(request, id)| BatchCommand {
                id,
                request: Some(request),
                ..BatchCommand::default()
            });
            let commands = commands.collect();
            let message = BatchRequest {
                commands,
                ..BatchRequest::default()
            };
            Ok(batch::Request::from(message))
        });
        let client = batch::BatchCodec::<batch::Request, batch::Response>::default().encoder();
        let source = stream::iter(messages.collect::<Vec<_>>()).chain(stream::pending());
        let body = EncodeBody::new_client(client, source, None, Some(MESSAGE_BYTES_MAX));
        let requests = Messages::new(Body::new(body));
        CommandStream::new(fixture.router.clone(), fixture.call.clone(), requests)
    }

    async fn response(stream: &mut CommandStream) -> Option<batch::Response> {
        let response = timeout(HANG_GUARD, stream.next_response()).await;
        let response = response.expect("a response, or the end").transpose();
        response.expect("the stream does not fail")
    }

    #[tokio::test]
    async fn a_client_with_many_commands_in_flight_is_not_read_from() {
        const MESSAGES: usize = 4;
        let fixture = fixture().await;
        let messages = vec![vec![get("k"); BATCH_COMMANDS_MAX]; MESSAGES];
        let mut stream = stream_of(&fixture, messages);
        let mut answered = 0;
        while answered < MESSAGES * BATCH_COMMANDS_MAX {
            let response = response(&mut stream).await.expect("it goes on");
            answered += response.message.answers.len();
            let in_flight = stream.commands_in_flight;
            // One message at most was taken when there was room for a single command.
            let most = COMMANDS_IN_FLIGHT_MAX - 1 + BATCH_COMMANDS_MAX;
            assert!(in_flight <= most, "{in_flight} commands");
        }
    }

    #[tokio::test]
    async fn a_message_is_charged_as_it_came_until_it_is_answered() {
        const VALUE_BYTES: usize = 1 << 20;
        let fixture = fixture().await;
        let put = Request::RawPut(RawPutRequest {
            key: "k".into(),
            value: Bytes::from(vec![b'v'; VALUE_BYTES]),
            ..RawPutRequest::default()
        });
        let mut stream = stream_of(&fixture, vec![vec![put]]);
        let message = next_message(&mut stream.requests).await;
        stream.receive(message);
        let taken = fixture.bytes_taken();
        assert!(
            (VALUE_BYTES..VALUE_BYTES + 1024).contains(&taken),
            "{taken} bytes"
        );
        let response = response(&mut stream).await.expect("an answer");
        assert_eq!(response.message.answers.len(), 1);
        let taken = fixture.bytes_taken();
        assert!(taken < 1024, "{taken} bytes for the answer");
    }

    #[tokio::test]
    async fn a_client_that_does_not_close_its_side_is_cut_off() {
        let fixture = fixture().await;
        let mut stream = stream_of(&fixture, Vec::new());
        fixture.call.closing().cancel();
        let told = Instant::now();
        let closing = response(&mut stream).await.expect("it is told");
        assert!(closing.message.closing);
        assert!(response(&mut stream).await.is_none());
        assert!(told.elapsed() >= BATCH_CLOSE_TIMEOUT, "it had time to");
    }
}
