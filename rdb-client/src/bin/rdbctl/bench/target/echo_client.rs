//! The other end of `serve-echo`.

use rdb_proto::pdpb::{GetTsoRequest, GetTsoResponse};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::echo_server::{ECHO, EMPTY};
use super::flaredb::connect;
use crate::arguments::GlobalArguments;
use crate::bench::recorder::OperationError;
use crate::bench::stream::Credits;
use crate::failure::Failure;

/// One connection to `serve-echo`, shared by clones.
#[derive(Clone)]
pub(crate) struct EchoClient {
    channel: Channel,
}

impl EchoClient {
    pub(crate) async fn connect(address: &str, global: &GlobalArguments) -> Result<Self, Failure> {
        let channel = connect(address, global).await?;
        Ok(Self { channel })
    }

    pub(crate) async fn call_empty(&self) -> Result<(), OperationError> {
        let mut grpc = self.ready().await?;
        let codec = ProstCodec::<(), ()>::default();
        grpc.unary(Request::new(()), PathAndQuery::from_static(EMPTY), codec)
            .await?;
        Ok(())
    }

    /// A stream on which each of `requests` is echoed.
    pub(crate) async fn echo(
        &self,
        requests: Credits<GetTsoRequest>,
    ) -> Result<Streaming<GetTsoResponse>, Failure> {
        let path = PathAndQuery::from_static(ECHO);
        let opened = async {
            let mut grpc = self.ready().await?;
            grpc.streaming(Request::new(requests), path, ProstCodec::default())
                .await
        };
        let opened = opened.await;
        Ok(opened
            .map_err(|status| Failure::failed(status.to_string()))?
            .into_inner())
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone());
        let ready = grpc.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(grpc)
    }
}
