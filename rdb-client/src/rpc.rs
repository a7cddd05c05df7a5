//! [`DataRequest`], the common interface of all data requests: set the context and send. [`PointRequest`]: those that can
//! share a stream.

use std::future::Future;

use bytes::Bytes;
use rdb_proto::kvrpc::kv_cas_client::KvCasClient;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::kvrpc::{self, batch_answer, batch_command};
use rdb_proto::metapb::Context;
use rdb_proto::response::DataResponse;
use rdb_proto::transport::limits::MESSAGE_BYTES_MAX;
use tonic::Status;

use crate::connection::Channel;
use crate::figures::CallKind;

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

    /// What its call counts as.
    const KIND: CallKind;

    fn set_context(&mut self, context: Context);

    /// Sends the request once.
    fn send(self, channel: Channel) -> impl Future<Output = Result<Self::Answer, Status>> + Send;
}

/// A request for one key, which can be a command of a stream.
pub(crate) trait PointRequest: Into<batch_command::Request>
where
    Self: DataRequest<Answer: TryFrom<batch_answer::Response, Error = Status>>,
{
    fn key(&self) -> &Bytes;
}

macro_rules! data_requests {
    ($($kind:ident($request:ident -> $answer:ident) { $access:ident $keyspace:ident, $client:ident::$method:ident })*) => {$(
        impl DataRequest for kvrpc::$request {
            type Answer = kvrpc::$answer;

            const ACCESS: Access = Access::$access;
            const KIND: CallKind = CallKind::$kind;

            fn set_context(&mut self, context: Context) {
                self.context = Some(context);
            }

            async fn send(self, channel: Channel) -> Result<kvrpc::$answer, Status> {
                let mut client = $client::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
                client.$method(self).await.map(tonic::Response::into_inner)
            }
        }
    )*};
}

macro_rules! point_requests {
    ($($command:ident($request:ident -> $answer:ident) $call:tt)*) => {$(
        impl PointRequest for kvrpc::$request {
            fn key(&self) -> &Bytes {
                &self.key
            }
        }
    )*};
}

rdb_proto::data_commands!(data_requests);
rdb_proto::point_commands!(point_requests);
