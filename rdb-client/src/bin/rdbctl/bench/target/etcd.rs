//! etcd's key-value service, as far as it is needed here.
//!
//! The messages are those of `etcd/api/etcdserverpb/rpc.proto` and `etcd/api/mvccpb/kv.proto` (etcd 3), with the fields
//! that are used. Reads are linearizable, which is etcd's default, and writes are durable when they are answered.

use bytes::Bytes;
use tonic::Status;
use tonic::transport::Channel;

use super::{call, connect};
use crate::arguments::GlobalArguments;
use crate::bench::keys::KEY_BYTES;
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
        let channel = connect(address, global, None).await?;
        Ok(Self { channel })
    }

    pub(super) async fn put(&self, key: [u8; KEY_BYTES], value: Bytes) -> Result<(), Status> {
        let key = Bytes::copy_from_slice(&key);
        let PutResponse {} = call(&self.channel, PUT, PutRequest { key, value }).await?;
        Ok(())
    }

    pub(super) async fn get(&self, key: [u8; KEY_BYTES]) -> Result<Option<Bytes>, Status> {
        let key = Bytes::copy_from_slice(&key);
        let answer: RangeResponse = call(&self.channel, RANGE, RangeRequest { key }).await?;
        Ok(answer.entries.into_iter().next().map(|entry| entry.value))
    }
}
