//! etcd's key-value service, as far as it is needed here.
//!
//! The messages are those of `etcd/api/etcdserverpb/rpc.proto` and `etcd/api/mvccpb/kv.proto` (etcd 3), with the fields
//! that are used. Reads are linearizable, which is etcd's default, and writes are durable when they are answered.

use bytes::Bytes;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::Target;
use super::flaredb::connect;
use crate::arguments::GlobalArguments;
use crate::bench::keys::KEY_BYTES;
use crate::bench::recorder::OperationError;
use crate::failure::Failure;

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// Asks for one key, since it names no end of a range.
#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    entries: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

#[derive(Clone)]
pub(crate) struct Etcd {
    channel: Channel,
}

impl Etcd {
    pub(crate) async fn connect(address: &str, global: &GlobalArguments) -> Result<Self, Failure> {
        let channel = connect(address, global).await?;
        Ok(Self { channel })
    }

    async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = ProstCodec::<Q, A>::default();
        let path = PathAndQuery::from_static(path);
        Ok(grpc
            .unary(Request::new(request), path, codec)
            .await?
            .into_inner())
    }
}

impl Target for Etcd {
    const NAME: &str = "etcd";

    const LOAD_BATCH_ENTRIES: u64 = 1;

    const LOAD_CONCURRENCY: usize = 256;

    async fn put(&self, key: [u8; KEY_BYTES], value: Bytes) -> Result<(), OperationError> {
        let key = Bytes::copy_from_slice(&key);
        let PutResponse {} = self.call(PUT, PutRequest { key, value }).await?;
        Ok(())
    }

    async fn get(&self, key: [u8; KEY_BYTES]) -> Result<Option<Bytes>, OperationError> {
        let key = Bytes::copy_from_slice(&key);
        let answer: RangeResponse = self.call(RANGE, RangeRequest { key }).await?;
        Ok(answer.entries.into_iter().next().map(|entry| entry.value))
    }

    async fn put_batch(
        &self,
        entries: Vec<([u8; KEY_BYTES], Bytes)>,
    ) -> Result<(), OperationError> {
        for (key, value) in entries {
            self.put(key, value).await?;
        }
        Ok(())
    }
}
