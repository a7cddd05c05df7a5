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
        let message = BatchRequest {
            commands,
            ..BatchRequest::default()
        };
        self.0.send(message.into()).await.expect("it is open");
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
        let mut answers = Answers::new();
        while answers.len() < count {
            self.read(&mut answers).await.expect("there is more");
        }
        assert_eq!(answers.len(), count);
        answers
    }

    /// After everything was answered and this side was closed, nothing more comes.
    pub(super) async fn assert_ended(mut self) {
        self.finish();
        let ended = guarded("the stream ends", self.answers.message()).await;
        assert!(matches!(ended, Ok(None)), "{ended:?}");
    }

    async fn read(&mut self, answers: &mut Answers) -> Option<()> {
        let received: Result<Option<batch::Response>, Status> =
            guarded("an answer", self.answers.message()).await;
        let received = received.expect("the stream is open")?;
        assert!(received.message_bytes <= MESSAGE_BYTES_MAX);
        for answer in received.message.answers {
            let response = answer.response.expect("of a kind that is known");
            let earlier = answers.insert(answer.id, response);
            assert!(earlier.is_none(), "command {} is answered twice", answer.id);
        }
        Some(())
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
