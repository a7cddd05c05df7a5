//! Serves `kvrpc.KvBatch` as a generated server would, but with buffers that do not outlive what is in them: requests are
//! received as [`Messages`], and responses sent as [`Responses`].

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use futures::future::BoxFuture;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;

use super::responses::Responses;
use super::{Messages, Response};
use crate::transport::grpc_response;

const BATCH_PATH: &str = "/kvrpc.KvBatch/Batch";

/// What serves streams of commands.
#[tonic::async_trait]
pub trait KvBatch: Send + Sync + 'static {
    /// The responses of one stream.
    type BatchStream: Stream<Item = Result<Response, Status>> + Send + 'static;

    /// Takes a stream.
    async fn batch(&self, request: tonic::Request<Messages>) -> Result<Self::BatchStream, Status>;
}

/// Makes a [`KvBatch`] a service.
pub struct KvBatchServer<T> {
    streams: Arc<T>,
}

impl<T: KvBatch> KvBatchServer<T> {
    /// Serves with `streams`.
    pub fn new(streams: T) -> Self {
        Self {
            streams: Arc::new(streams),
        }
    }

    async fn serve(streams: Arc<T>, request: http::Request<Body>) -> Result<Body, Status> {
        let path = request.uri().path();
        if path != BATCH_PATH {
            return Err(Status::unimplemented(format!("there is no {path}")));
        }
        let (parts, body) = request.into_parts();
        let metadata = MetadataMap::from_headers(parts.headers);
        let messages = Messages::new(body);
        let request = tonic::Request::from_parts(metadata, parts.extensions, messages);
        let responses = streams.batch(request).await?;
        Ok(Body::new(Responses::new(responses)))
    }
}

impl<T> Clone for KvBatchServer<T> {
    fn clone(&self) -> Self {
        Self {
            streams: Arc::clone(&self.streams),
        }
    }
}

impl<T> NamedService for KvBatchServer<T> {
    const NAME: &'static str = "kvrpc.KvBatch";
}

impl<T: KvBatch> Service<http::Request<Body>> for KvBatchServer<T> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let serving = Self::serve(Arc::clone(&self.streams), request);
        Box::pin(async { Ok(grpc_response(serving.await)) })
    }
}
