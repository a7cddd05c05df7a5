//! A stream of commands without any client library.

use std::collections::BTreeMap;

use bytes::Bytes;
use rdb_proto::batch;
use rdb_proto::errorpb::region_error::Kind;
use rdb_proto::kvrpc::batch_answer::Response;
use rdb_proto::kvrpc::batch_command::Request;
use rdb_proto::kvrpc::kv_batch_client::KvBatchClient;
use rdb_proto::kvrpc::{BatchCommand, BatchRequest, RawGetRequest, RawPutRequest};
use rdb_proto::transport::limits::MESSAGE_BYTES_MAX;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::harness::guarded;

/// Answers by the id of their command.
pub(super) type Answers = BTreeMap<u64, Response>;

/// One stream to a store.
pub(super) struct RawStream {
    requests: Option<Sender>,
    answers: Streaming<batch::Response>,
}

/// The requests' side of a stream.
#[derive(Clone)]
pub(super) struct Sender(mpsc::Sender<batch::Request>);

impl Sender {
    pub(super) async fn send(&self, commands: Vec<BatchCommand>) {
        assert!(self.try_send(commands).await, "it is open");
    }

    /// The same to a store that may have ended the stream; false: it has, and the message is not sent.
    pub(super) async fn try_send(&self, commands: Vec<BatchCommand>) -> bool {
        let message = BatchRequest {
            commands,
            ..BatchRequest::default()
        };
        self.0.send(message.into()).await.is_ok()
    }
}

impl RawStream {
    pub(super) async fn open(channel: Channel) -> Self {
        let (requests, mut queue) = mpsc::channel(1);
        let answers = KvBatchClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
            .batch(futures::stream::poll_fn(move |context| {
                queue.poll_recv(context)
            }))
            .await;
        Self {
            requests: Some(Sender(requests)),
            answers: answers.expect("served").into_inner(),
        }
    }

    /// Sends a message. Does not return before the one before it has gone to the transport.
    pub(super) async fn send(&self, commands: Vec<BatchCommand>) {
        self.sender().send(commands).await;
    }

    /// For sending while answers are being read. This side is closed when all of these are gone, too.
    pub(super) fn sender(&self) -> Sender {
        self.requests.clone().expect("not finished")
    }

    /// Closes this side.
    pub(super) fn finish(&mut self) {
        self.requests = None;
    }

    /// Reads answers until there are so many. Each command has one answer, and each message keeps to the limit.
    pub(super) async fn answers(&mut self, count: usize) -> Answers {
        let (answers, end) = self.answers_until_end(count).await;
        assert_eq!(answers.len(), count, "{end:?}");
        answers
    }

    /// The same from a store that may end the stream before; then its status, and the answers until then.
    pub(super) async fn answers_until_end(&mut self, count: usize) -> (Answers, Option<Status>) {
        let mut answers = Answers::new();
        while answers.len() < count {
            match guarded("an answer", self.answers.message()).await {
                Ok(Some(received)) => collect(received, &mut answers),
                Ok(None) => return (answers, Some(Status::ok("the stream is over"))),
                Err(status) => return (answers, Some(status)),
            }
        }
        (answers, None)
    }

    /// After everything was answered and this side was closed, nothing more comes.
    pub(super) async fn assert_ended(mut self) {
        self.finish();
        let ended = guarded("the stream ends", self.answers.message()).await;
        assert!(matches!(ended, Ok(None)), "{ended:?}");
    }
}

fn collect(received: batch::Response, answers: &mut Answers) {
    assert!(received.message_bytes <= MESSAGE_BYTES_MAX);
    for answer in received.message.answers {
        let response = answer.response.expect("of a kind that is known");
        let earlier = answers.insert(answer.id, response);
        assert!(earlier.is_none(), "command {} is answered twice", answer.id);
    }
}

/// A command to whatever region the store has.
pub(super) fn command(id: u64, request: Request) -> BatchCommand {
    BatchCommand {
        id,
        request: Some(request),
        ..BatchCommand::default()
    }
}

pub(super) fn put(id: u64, key: impl Into<Bytes>, value: impl Into<Bytes>) -> BatchCommand {
    let put = RawPutRequest {
        context: None,
        key: key.into(),
        value: value.into(),
    };
    command(id, Request::RawPut(put))
}

pub(super) fn get(id: u64, key: impl Into<Bytes>) -> BatchCommand {
    let get = RawGetRequest {
        context: None,
        key: key.into(),
    };
    command(id, Request::RawGet(get))
}

/// The value that a raw read has found.
pub(super) fn found_value(response: &Response) -> Option<&Bytes> {
    match response {
        Response::RawGet(found) => found.value.as_ref(),
        other => panic!("not a read's answer: {other:?}"),
    }
}

pub(super) fn is_busy(response: &Response) -> bool {
    let Response::RegionError(error) = response else {
        return false;
    };
    matches!(error.kind, Some(Kind::ServerBusy(_)))
}
