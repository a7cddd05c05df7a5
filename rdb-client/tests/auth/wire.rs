//! Calls past every client library: any path, any bytes, any credentials.

use std::collections::BTreeMap;
use std::error::Error as _;

use bytes::Bytes;
use futures::stream;
use http::uri::PathAndQuery;
use prost::Message;
use rdb_proto::error::{Fault, details};
use rdb_proto::errorpb::Fate;
use rdb_proto::kvrpc::batch_answer::Response;
use rdb_proto::kvrpc::{BatchAnswer, BatchCommand, BatchRequest, BatchResponse};
use tokio::sync::mpsc;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use crate::harness::{AsIs, guarded};

const AUTHORIZATION: &str = "authorization";

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// Those of the status, as they came.
    pub(crate) details: Bytes,
    /// The messages before the status; only the first one of a stream of answers.
    pub(crate) bodies: Vec<Bytes>,
}

impl Answer {
    fn of(status: &Status, bodies: Vec<Bytes>) -> Self {
        Self {
            code: status.code(),
            message: status.message().to_owned(),
            details: Bytes::copy_from_slice(status.details()),
            bodies,
        }
    }

    /// What a client has made of an answer: it does not show the details.
    pub(crate) fn told(code: Code, message: String) -> Self {
        let fault = Fault::new(code, message).with_fate(Fate::NotApplied);
        match code {
            Code::Ok => Self::done(Vec::new()),
            _ => Self::from(&Status::from(fault)),
        }
    }

    fn done(bodies: Vec<Bytes>) -> Self {
        Self::of(&Status::ok(""), bodies)
    }

    /// Whether it was refused for who has called.
    pub(crate) fn is_refusal(&self) -> bool {
        [Code::Unauthenticated, Code::PermissionDenied].contains(&self.code)
    }

    /// A refusal, or that there are no rights to judge by, says that nothing was applied, and nothing else than its cause.
    pub(crate) fn assert_not_applied(&self) {
        assert!(self.bodies.is_empty(), "{self:?}");
        let status = Status::with_details(self.code, "", self.details.clone());
        let error = details(&status).unwrap_or_else(|| panic!("it has no details: {self:?}"));
        assert_eq!(error.fate(), Fate::NotApplied, "{self:?}");
        assert_eq!(error.cause, self.message, "{self:?}");
        assert_eq!((error.field.as_str(), error.limit), ("", None), "{self:?}");
        assert!(!self.message.is_empty(), "it does not say why");
    }
}

impl From<&Status> for Answer {
    fn from(status: &Status) -> Self {
        Self::of(status, Vec::new())
    }
}

/// The request with what a caller shows: the value of the header.
pub(crate) fn with_authorization<T>(mut request: Request<T>, value: Option<&str>) -> Request<T> {
    if let Some(value) = value {
        let mut value: MetadataValue<_> = value.parse().expect("printable");
        value.set_sensitive(true);
        request.metadata_mut().insert(AUTHORIZATION, value);
    }
    request
}

/// How a token is shown.
pub(crate) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// Makes a call. Of a stream of answers only the first is waited for.
///
/// # Panics
///
/// If it was not answered by the server.
pub(crate) async fn call(
    channel: &Channel,
    path: &str,
    authorization: Option<&str>,
    messages: Vec<Bytes>,
) -> Answer {
    match try_call(channel, path, authorization, messages).await {
        Ok(answer) => answer,
        Err(status) => panic!("{path} was not answered: {status}"),
    }
}

/// The same. An error says that the server has not answered.
pub(crate) async fn try_call(
    channel: &Channel,
    path: &str,
    authorization: Option<&str>,
    messages: Vec<Bytes>,
) -> Result<Answer, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    let ready = guarded("connected", grpc.ready()).await;
    ready.map_err(|error| Status::from_error(error.into()))?;
    let request = with_authorization(Request::new(stream::iter(messages)), authorization);
    let parsed = PathAndQuery::try_from(path).expect("a path");
    let answers = guarded(path, grpc.streaming(request, parsed, AsIs)).await;
    let mut answers = match answers {
        Ok(answers) => answers.into_inner(),
        Err(status) => return answered(&status, Vec::new()),
    };
    let mut bodies = Vec::new();
    loop {
        match guarded(path, answers.message()).await {
            Ok(Some(body)) if is_stream(path) => return Ok(Answer::done(vec![body])),
            Ok(Some(body)) => bodies.push(body),
            Ok(None) => return Ok(Answer::done(bodies)),
            Err(status) => return answered(&status, bodies),
        }
    }
}

/// Those whose answers may come for as long as they are open.
fn is_stream(path: &str) -> bool {
    [
        "/grpc.health.v1.Health/Watch",
        "/pdpb.Pd/Tso",
        "/kvrpc.KvBatch/Batch",
    ]
    .contains(&path)
        || path.starts_with("/raftpb.RaftPeer/")
}

/// A status that comes of the connection has a source, one of the server has none.
fn answered(status: &Status, bodies: Vec<Bytes>) -> Result<Answer, Status> {
    if status.source().is_some() {
        return Err(status.clone());
    }
    Ok(Answer::of(status, bodies))
}

/// An open stream of commands to a store.
pub(crate) struct CommandStream {
    messages: mpsc::Sender<Bytes>,
    answers: Streaming<Bytes>,
    next_id: u64,
}

impl CommandStream {
    /// Opens one.
    ///
    /// # Errors
    ///
    /// The store does not take it.
    pub(crate) async fn open(
        channel: &Channel,
        authorization: Option<&str>,
    ) -> Result<Self, Answer> {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        let ready = guarded("connected", grpc.ready()).await;
        ready.expect("it listens");
        let (messages, mut queue) = mpsc::channel(1);
        let queue = stream::poll_fn(move |context| queue.poll_recv(context));
        let request = with_authorization(Request::new(queue), authorization);
        let path = PathAndQuery::from_static("/kvrpc.KvBatch/Batch");
        let answers = guarded("a stream", grpc.streaming(request, path, AsIs)).await;
        let answers = answers.map_err(|status| Answer::from(&status))?;
        Ok(Self {
            messages,
            answers: answers.into_inner(),
            next_id: 0,
        })
    }

    /// Sends these commands as one message, and returns what came of each, in their order: what it would have been as a unary call, without
    /// the response itself.
    ///
    /// # Errors
    ///
    /// The stream has ended, and how.
    pub(crate) async fn commands(
        &mut self,
        commands: Vec<BatchCommand>,
    ) -> Result<Vec<Answer>, Answer> {
        let first = self.next_id;
        self.next_id += commands.len() as u64;
        let commands = commands.into_iter().zip(first..);
        let commands = commands.map(|(command, id)| BatchCommand { id, ..command });
        let message = BatchRequest {
            commands: commands.collect(),
            ..BatchRequest::default()
        };
        // If it has ended, its status says more.
        let _ = self.messages.send(message.encode_to_vec().into()).await;
        let mut answers = BTreeMap::new();
        while answers.len() < usize::try_from(self.next_id - first).expect("few") {
            match guarded("an answer", self.answers.message()).await {
                Ok(Some(body)) => {
                    let received = BatchResponse::decode(body).expect("protobuf");
                    let received = received.answers.into_iter();
                    answers.extend(received.map(|answer| (answer.id, of_command(answer))));
                }
                Ok(None) => return Err(Answer::done(Vec::new())),
                Err(status) => return Err(Answer::from(&status)),
            }
        }
        Ok(answers.into_values().collect())
    }
}

fn of_command(answer: BatchAnswer) -> Answer {
    match answer.response.expect("of a kind that is known") {
        Response::Fault(fault) => Answer::from(&Status::from(*fault)),
        // Which response it is does not matter to those who are let in.
        _ => Answer::done(vec![Bytes::from_static(b"a response")]),
    }
}
