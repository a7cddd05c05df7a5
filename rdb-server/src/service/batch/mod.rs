//! `kvrpc.KvBatch`: streams of messages with many commands each.
//!
//! A [`CommandStream`] is one stream. It runs only while the transport asks for the next response. So flow control works end
//! to end: no messages are taken from a client that does not read its answers, and its reads run at most one response ahead.
//!
//! - `intake` takes a message apart: it checks the sender's rights, submits writes, by region, queues reads, and answers
//!   commands that cannot be served.
//! - `writes` waits for the submissions.
//! - `reads` executes the queued reads as far as a response has room. Values in memory are read at once. Values that are
//!   not in memory or are too large are read by jobs, a few at a time.
//! - `answers` packs the answers that are ready into a response.
//!
//! A stream reserves memory from the bytes in flight of its connection, in three parts: a message and its commands until
//! they are answered; the values of waiting answers; a response until it is sent.

mod answers;
mod intake;
mod reads;
mod stream;
mod writes;

use futures::stream::BoxStream;
use rdb_proto::batch::{self, KvBatch, Messages};
use rdb_proto::transport::Call;
use tonic::{Request, Status};

use crate::router::Router;
use stream::CommandStream;

/// Serves both keyspaces of the regions that the router knows.
pub(crate) struct BatchService {
    router: Router,
}

impl BatchService {
    pub(crate) fn new(router: Router) -> Self {
        Self { router }
    }
}

#[tonic::async_trait]
impl KvBatch for BatchService {
    type BatchStream = BoxStream<'static, Result<batch::Response, Status>>;

    async fn batch(&self, request: Request<Messages>) -> Result<Self::BatchStream, Status> {
        let call = Call::of(&request);
        let stream = CommandStream::new(self.router.clone(), call, request.into_inner());
        Ok(stream.responses())
    }
}

#[cfg(test)]
mod tests {
    use futures::stream::{self, StreamExt};
    use rdb_proto::kvrpc::batch_answer::Response;
    use rdb_proto::kvrpc::batch_command::Request;
    use rdb_proto::kvrpc::kv_batch_client::KvBatchClient;
    use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
    use rdb_proto::kvrpc::{BatchCommand, BatchRequest, RawGetRequest};
    use tonic::transport::Channel;
    use tonic::{Code, Streaming};

    use super::super::fixture::{Served, User, guarded, until};
    use super::batch;

    const VALUE_BYTES: usize = 1 << 20;

    /// All together are far more than what may be kept for a client.
    const READS: u64 = 256;

    fn get(key: &'static str) -> RawGetRequest {
        RawGetRequest {
            key: key.into(),
            ..RawGetRequest::default()
        }
    }

    /// A message that reads a key `count` times.
    fn reads_of(key: &'static str, count: u64) -> BatchRequest {
        let commands = (0..count).map(|id| BatchCommand {
            id,
            request: Some(Request::RawGet(get(key))),
            ..BatchCommand::default()
        });
        BatchRequest {
            commands: commands.collect(),
            ..BatchRequest::default()
        }
    }

    /// A stream with such a message, which stays open.
    async fn reads(channel: Channel, key: &'static str, count: u64) -> Streaming<batch::Response> {
        let message = reads_of(key, count);
        let messages = stream::iter([message.into()]).chain(stream::pending());
        let mut client = KvBatchClient::new(channel);
        let opened = guarded("the stream is open", client.batch(messages)).await;
        opened.expect("served").into_inner()
    }

    /// The unread stream is not reset meanwhile: the server would wait for longer than the whole test may take.
    #[tokio::test]
    async fn a_client_that_reads_no_answers_holds_up_nobody_else() {
        let server = Served::start().await;
        let value = vec![b'v'; VALUE_BYTES];
        let storage = server.storage.clone();
        let put = move || storage.put_raw("large", value);
        let put = tokio::task::spawn_blocking(put).await;
        put.expect("no panic").expect("put");
        let _unread = reads(server.connect_unread().await, "large", READS).await;
        let is_held = || server.budget.bytes_taken() >= VALUE_BYTES;
        until("answers wait for the client", is_held).await;

        let channel = server.connect().await;
        for _ in 0..10 {
            let mut answers = reads(channel.clone(), "large", 1).await;
            let answer = guarded("an answer on a stream", answers.message()).await;
            let mut answer = answer.expect("served").expect("it goes on");
            match answer.message.answers.pop().expect("one").response {
                Some(Response::RawGet(found)) => assert!(found.value.is_some()),
                other => panic!("{other:?}"),
            }
            let mut client = KvRawClient::new(channel.clone());
            let call = guarded("a call is answered", client.raw_get(get("large"))).await;
            assert!(call.expect("served").into_inner().value.is_some());
            assert!(is_held());
        }
    }

    /// They all came before, and wait until the client has taken the answers to those before them.
    #[tokio::test]
    async fn reads_that_wait_are_refused_once_the_right_to_them_is_revoked() {
        let user = User::reader("own/");
        let server = Served::start_with(Some(user.guard.clone())).await;
        let storage = server.storage.clone();
        let put = move || storage.put_raw("own/large", vec![b'v'; VALUE_BYTES]);
        let put = tokio::task::spawn_blocking(put).await;
        put.expect("no panic").expect("put");
        let message = reads_of("own/large", READS);
        let messages = stream::iter([message.into()]).chain(stream::pending());
        let mut client = KvBatchClient::new(server.connect().await);
        let opened = guarded("it is open", client.batch(user.request(messages))).await;
        let mut answers = opened.expect("served").into_inner();
        let (mut read, mut refused) = (0, 0);
        while read + refused < READS {
            let answer = guarded("an answer", answers.message()).await;
            let answer = answer.expect("served").expect("it goes on");
            for answer in answer.message.answers {
                match answer.response {
                    Some(Response::RawGet(_)) => read += 1,
                    Some(Response::Fault(fault)) => {
                        assert_eq!(fault.code, Code::PermissionDenied as u32);
                        refused += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            user.grant_elsewhere();
        }
        assert!(read > 0, "the first answer came before");
        assert!(refused > 0, "{read} were read");
    }
}
