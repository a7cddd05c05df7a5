//! The service that other stores call.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use rdb_proto::batch::Messages;
use rdb_proto::raftpb::Reply;
use rdb_proto::transport::grpc_response;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codec::{Codec, EncodeBody, SingleMessageCompressionOverride};
use tonic::codegen::{Service, http};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;
use tonic_prost::prost::Message;

use super::REPLY_BYTES_MAX;
use super::append_receiver::receive_appends;
use super::connection::ITEM_BYTES_MIN;
use super::greeting::StoreIdentity;
use super::incoming::{Incoming, Replies};
use super::requests::{REQUEST_BYTES_MIN, requests};
use super::snapshot::PATIENCE;
use super::snapshot_receiver::receive;
use super::starts::Starts;
use crate::node::Node;

const BULK_PATH: &str = "/raftpb.RaftPeer/Bulk";
const URGENT_PATH: &str = "/raftpb.RaftPeer/Urgent";
const SNAPSHOT_PATH: &str = "/raftpb.RaftPeer/Snapshot";

/// The service `raftpb.RaftPeer`, for [`rdb_proto::transport::Services`].
///
/// A stream runs only while the transport asks for the next reply. So nothing is taken from a store that does not read its
/// replies. Streams end when the server drains, and when a later start of their store was met.
#[derive(Clone)]
pub struct PeerService {
    identity: Arc<OnceLock<StoreIdentity>>,
    node: Arc<Node>,
    starts: Arc<Starts>,
}

impl PeerService {
    /// Serves the groups of `node`, which is on this store, once the store knows who it is.
    pub fn new(
        identity: Arc<OnceLock<StoreIdentity>>,
        node: Arc<Node>,
        starts: Arc<Starts>,
    ) -> Self {
        Self {
            identity,
            node,
            starts,
        }
    }

    async fn serve(self, request: http::Request<Body>) -> Result<Body, Status> {
        let (parts, body) = request.into_parts();
        let identity = self.identity.get().copied();
        let identity = identity.ok_or_else(|| Status::unavailable("the store has no id yet"))?;
        let metadata = MetadataMap::from_headers(parts.headers);
        let (serve, item_bytes_min): (fn(Incoming) -> Replies, _) = match parts.uri.path() {
            BULK_PATH => (receive_appends, ITEM_BYTES_MIN),
            URGENT_PATH => (requests, REQUEST_BYTES_MIN),
            SNAPSHOT_PATH => {
                let messages = Messages::new(body);
                let request = Request::from_parts(metadata, parts.extensions, messages);
                return Ok(encoded(
                    receive(request, identity, self.node, self.starts).await?,
                ));
            }
            path => return Err(Status::unimplemented(format!("there is no {path}"))),
        };
        let request = Request::from_parts(metadata, parts.extensions, Messages::new(body));
        let accepted = Incoming::accept(request, identity, self.node, &self.starts, item_bytes_min);
        let incoming = timeout(PATIENCE, accepted).await;
        let incoming = incoming
            .map_err(|_| Status::deadline_exceeded("no greeting has arrived for a while"))??;
        let welcome = Reply {
            answers: Vec::new(),
            start: Some(self.starts.own()),
        };
        let replies = stream::iter([Ok(welcome)]).chain(serve(incoming));
        Ok(encoded(replies.boxed()))
    }
}

fn encoded<Reply: Message + Default + 'static>(
    replies: BoxStream<'static, Result<Reply, Status>>,
) -> Body {
    Body::new(EncodeBody::new_server(
        ProstCodec::<Reply, Reply>::default().encoder(),
        replies,
        None,
        SingleMessageCompressionOverride::default(),
        Some(REPLY_BYTES_MAX),
    ))
}

impl NamedService for PeerService {
    const NAME: &'static str = "raftpb.RaftPeer";
}

impl Service<http::Request<Body>> for PeerService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let serving = self.clone().serve(request);
        Box::pin(async { Ok(grpc_response(serving.await)) })
    }
}
