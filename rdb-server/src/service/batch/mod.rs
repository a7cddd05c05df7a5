//! `kvrpc.KvBatch`: many commands in one message, for as long as both sides keep the stream open.
//!
//! A [`CommandStream`] is one stream. It runs only while the transport asks for the next response, which is what makes flow
//! control end to end: a client that does not read its answers is not read from, and but for one response ahead its reads
//! are not even executed.
//!
//! - `intake` takes a message apart: it submits what writes, one submission per region; it queues what reads; it refuses
//!   what cannot be served.
//! - `writes` waits for the submissions. `reads` executes the queue as far as a response has room: from memory on the spot;
//!   what is not there, or is too large, by a few jobs.
//! - `answers` packs what is ready into a response.
//!
//! What a stream holds is reserved in the bytes in flight of its connection, in three parts: a message with its commands
//! until they are answered; the values of answers that wait; a response until it is sent.

mod answers;
mod intake;
mod reads;
mod stream;
mod writes;

use std::sync::Arc;

use futures::stream::BoxStream;
use rdb_proto::batch::{self, KvBatch, Messages};
use rdb_proto::error::Fault;
use rdb_proto::errorpb::Fate;
use rdb_proto::transport::CallBudget;
use rdb_proto::transport::limits::BATCH_STREAMS_MAX;
use tonic::{Code, Request, Status};

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

    async fn batch(
        &self,
        request: Request<Messages<batch::Request>>,
    ) -> Result<Self::BatchStream, Status> {
        let call = CallBudget::of(&request);
        let batch_streams = Arc::clone(call.batch_streams());
        let place = batch_streams.try_acquire_owned().map_err(|_| Fault {
            limit: Some(BATCH_STREAMS_MAX as u64),
            fate: Fate::NotApplied,
            ..Fault::new(
                Code::ResourceExhausted,
                format!("the connection has {BATCH_STREAMS_MAX} streams of commands already"),
            )
        })?;
        let stream = CommandStream::new(self.router.clone(), call, request.into_inner(), place);
        Ok(stream.responses())
    }
}
