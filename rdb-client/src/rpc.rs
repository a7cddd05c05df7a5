//! [`DataRequest`], the common interface of all data requests: set the context and send.

use std::future::Future;

use rdb_proto::kvrpc::kv_cas_client::KvCasClient;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::kvrpc::{self, batch_answer, batch_command};
use rdb_proto::metapb::Context;
use rdb_proto::response::DataResponse;
use rdb_proto::transport::limits::MESSAGE_BYTES_MAX;
use tonic::Status;

use crate::connection::Channel;

/// Whether a request writes. It decides what an unknown fate means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// May always be repeated.
    Read,
    /// Is repeated only when it was certainly not applied.
    Write,
}

/// A request to the store that leads a region. A clone is cheap, since keys and values are shared.
pub(crate) trait DataRequest: Clone + Send + Sync + 'static {
    type Answer: DataResponse + Send;

    const ACCESS: Access;

    fn set_context(&mut self, context: Context);

    /// The request as a command of a stream.
    ///
    /// # Errors
    ///
    /// The request itself, when it is always a unary call.
    fn into_command(self) -> Result<batch_command::Request, Self>;

    /// The answer, from the answer of a stream. `None`: it answers another kind of request.
    fn from_response(response: batch_answer::Response) -> Option<Self::Answer>;

    /// Sends the request once.
    fn send(self, channel: Channel) -> impl Future<Output = Result<Self::Answer, Status>> + Send;
}

macro_rules! data_requests {
    ($($request:ident, $access:ident => $client:ident::$method:ident $(, $command:ident)? -> $answer:ident;)*) => {$(
        impl DataRequest for kvrpc::$request {
            type Answer = kvrpc::$answer;

            const ACCESS: Access = Access::$access;

            fn set_context(&mut self, context: Context) {
                self.context = Some(context);
            }

            fn into_command(self) -> Result<batch_command::Request, Self> {
                $(return Ok(batch_command::Request::$command(self));)?
                #[allow(unreachable_code)]
                Err(self)
            }

            fn from_response(_response: batch_answer::Response) -> Option<kvrpc::$answer> {
                $(if let batch_answer::Response::$command(answer) = _response {
                    return Some(answer);
                })?
                None
            }

            async fn send(self, channel: Channel) -> Result<kvrpc::$answer, Status> {
                let mut client = $client::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
                client.$method(self).await.map(tonic::Response::into_inner)
            }
        }
    )*};
}

rdb_proto::point_commands!(data_requests);

data_requests! {
    RawBatchPutRequest, Write => KvRawClient::raw_batch_put -> RawBatchPutResponse;
    RawBatchDeleteRequest, Write => KvRawClient::raw_batch_delete -> RawBatchDeleteResponse;
    RawBatchGetRequest, Read => KvRawClient::raw_batch_get -> RawBatchGetResponse;
    RawScanRequest, Read => KvRawClient::raw_scan -> RawScanResponse;
    RawDeleteRangeRequest, Write => KvRawClient::raw_delete_range -> RawDeleteRangeResponse;
    BatchGetRequest, Read => KvCasClient::batch_get -> BatchGetResponse;
    ScanRequest, Read => KvCasClient::scan -> ScanResponse;
}
