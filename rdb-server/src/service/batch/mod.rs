//! `kvrpc.KvBatch`: many commands in one message, for as long as both sides keep the stream open.
//!
//! A [`CommandStream`] is one stream. It runs only while the transport asks for the next response. So flow control works end
//! to end: no messages are taken from a client that does not read its answers, and its reads are executed for at most one
//! response ahead.
//!
//! - `intake` takes a message apart: it submits writes, one submission per region; it queues reads; it answers commands that
//!   cannot be served.
//! - `writes` waits for the submissions.
//! - `reads` executes the queued reads as far as a response has room. Values in memory are read at once. Jobs read values
//!   that are not in memory or are too large, a few at a time.
//! - `answers` packs the answers that are ready into a response.
//!
//! A stream reserves its memory in the bytes in flight of its connection, in three parts: a message with its commands until
//! they are answered; the values of answers that wait; a response until it is sent.

mod answers;
mod intake;
mod reads;
mod stream;
mod writes;

use futures::stream::BoxStream;
use rdb_proto::batch::{self, KvBatch, Messages};
use rdb_proto::transport::CallBudget;
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
        let call = CallBudget::of(&request);
        let stream = CommandStream::new(self.router.clone(), call, request.into_inner());
        Ok(stream.responses())
    }
}
