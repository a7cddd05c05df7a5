//! The client of `serve-echo`.

use rdb_proto::pdpb::{GetTsoRequest, GetTsoResponse};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{IntoStreamingRequest, Streaming};
use tonic_prost::ProstCodec;

use super::echo_server::{ECHO, EMPTY};
use super::{call, connect, ready};
use crate::arguments::GlobalArguments;
use crate::bench::recorder::OperationError;
use crate::bench::workload::{Caller, Done};
use crate::failure::Failure;

/// One connection to `serve-echo`, shared by clones. As a [`Caller`] it makes empty calls.
#[derive(Clone)]
pub(crate) struct EchoClient {
    channel: Channel,
}

impl EchoClient {
    pub(crate) const NAME: &str = "echo";

    pub(crate) async fn connect(address: &str, global: &GlobalArguments) -> Result<Self, Failure> {
        let channel = connect(address, global, None).await?;
        Ok(Self { channel })
    }

    /// A stream on which each of `requests` is echoed.
    pub(crate) async fn echo(
        &self,
        requests: impl IntoStreamingRequest<Message = GetTsoRequest>,
    ) -> Result<Streaming<GetTsoResponse>, Failure> {
        let requests = requests.into_streaming_request();
        let path = PathAndQuery::from_static(ECHO);
        let opened = async {
            let mut grpc = ready(&self.channel).await?;
            grpc.streaming(requests, path, ProstCodec::default()).await
        };
        let opened = opened.await;
        Ok(opened
            .map_err(|status| Failure::failed(status.to_string()))?
            .into_inner())
    }
}

impl Caller for EchoClient {
    async fn operate(&mut self) -> Result<Done, OperationError> {
        call::<(), ()>(&self.channel, EMPTY, ()).await?;
        Ok(Done::default())
    }
}
