//! `kvrpc.KvBatch`: many commands in one message, for as long as both sides keep the stream open.
//!
//! A [`CommandStream`] is one stream. It is driven by nothing but the transport asking for the next message, which is what makes
//! flow control end to end: a client that does not read its answers is not read from, and but for one response ahead its
//! reads are not even executed.
//!
//! - `intake` takes a message apart: what writes is handed to the writer at once, one submission per region; what reads is
//!   queued; what cannot be served is refused.
//! - `writes` waits for the submissions, `reads` executes the queue as far as a response has room: from memory right there,
//!   what is not there by a few jobs on blocking threads.
//! - `answers` packs what is ready into a response.

mod answers;
mod intake;
mod reads;
mod stream;
mod writes;

use std::sync::Arc;

use futures::stream::BoxStream;
use rdb_proto::batch;
use rdb_proto::error::Fault;
use rdb_proto::errorpb::Fate;
use rdb_proto::kvrpc::kv_batch_server::KvBatch;
use rdb_proto::transport::CallBudget;
use rdb_proto::transport::limits::BATCH_STREAMS_MAX;
use tonic::{Code, Request, Response, Status, Streaming};

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
        request: Request<Streaming<batch::Request>>,
    ) -> Result<Response<Self::BatchStream>, Status> {
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
        Ok(Response::new(stream.responses()))
    }
}
