//! The targets of a benchmark: databases, and the limits that they are measured against.
//!
//! Every target is called through one HTTP/2 connection per process and server with the windows of
//! [`rdb_proto::transport`], so that differences are due to the servers.

mod echo_client;
mod echo_server;
mod etcd;
mod failures;
mod flaredb;

use bytes::Bytes;
use rdb_proto::transport::{Connector, endpoint};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::arguments::TargetOptions;
use super::keys::KEY_BYTES;
use super::recorder::OperationError;
use crate::arguments::GlobalArguments;
use crate::failure::Failure;

pub(crate) use echo_client::EchoClient;
pub(crate) use echo_server::serve_echo;
pub(crate) use etcd::Etcd;
pub(crate) use flaredb::{FlareDb, open_timestamp_stream};

/// A database of single values, as strict as it offers: a write is durable when it is answered, a read sees every write
/// that was answered before it began. Cheap to clone; clones share connections.
#[derive(Clone)]
pub(crate) enum Target {
    FlareDb(FlareDb),
    Etcd(Etcd),
}

impl Target {
    pub(crate) async fn connect(
        options: &TargetOptions,
        global: &GlobalArguments,
    ) -> Result<Self, Failure> {
        Ok(match options.endpoint()? {
            None => Self::FlareDb(FlareDb::connect(global, options.client).await?),
            Some(endpoint) => Self::Etcd(Etcd::connect(endpoint, global).await?),
        })
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::FlareDb(_) => FlareDb::NAME,
            Self::Etcd(_) => "etcd",
        }
    }

    pub(crate) fn is_flaredb(&self) -> bool {
        matches!(self, Self::FlareDb(_))
    }

    /// Most entries of one [`put_batch`](Self::put_batch) while keys are loaded.
    pub(crate) fn load_batch_entries(&self) -> u64 {
        match self {
            Self::FlareDb(_) => 1000,
            Self::Etcd(_) => 1,
        }
    }

    /// Batches at a time while keys are loaded.
    pub(crate) fn load_concurrency(&self) -> usize {
        match self {
            Self::FlareDb(_) => 8,
            Self::Etcd(_) => 256,
        }
    }

    /// Writes one value.
    pub(crate) async fn put(
        &self,
        key: [u8; KEY_BYTES],
        value: Bytes,
    ) -> Result<(), OperationError> {
        match self {
            Self::FlareDb(flaredb) => Ok(flaredb.client().raw_put(key, value).await?),
            Self::Etcd(etcd) => Ok(etcd.put(key, value).await?),
        }
    }

    /// Reads one value; `None`: there is no such key.
    pub(crate) async fn get(&self, key: [u8; KEY_BYTES]) -> Result<Option<Bytes>, OperationError> {
        match self {
            Self::FlareDb(flaredb) => Ok(flaredb.client().raw_get(key).await?),
            Self::Etcd(etcd) => Ok(etcd.get(key).await?),
        }
    }

    /// Writes several values, not necessarily at once.
    pub(crate) async fn put_batch(
        &self,
        entries: Vec<([u8; KEY_BYTES], Bytes)>,
    ) -> Result<(), OperationError> {
        match self {
            Self::FlareDb(flaredb) => Ok(flaredb.client().raw_batch_put(entries).await?),
            Self::Etcd(etcd) => {
                for (key, value) in entries {
                    etcd.put(key, value).await?;
                }
                Ok(())
            }
        }
    }
}

/// Connects to `address` with the transport settings that all targets share. `None`: over TCP, as plain text.
async fn connect(
    address: &str,
    global: &GlobalArguments,
    connector: Option<Connector>,
) -> Result<Channel, Failure> {
    let endpoint = endpoint(address, global.connect_timeout())
        .map_err(|error| Failure::usage(error.to_string()))?;
    let connected = match connector {
        Some(connector) => endpoint.connect_with_connector(connector).await,
        None => endpoint.connect().await,
    };
    connected.map_err(|error| Failure::failed(format!("cannot connect to {address}: {error}")))
}

/// A connection that a call can be made on at once.
async fn ready(channel: &Channel) -> Result<Grpc<Channel>, Status> {
    let mut grpc = Grpc::new(channel.clone());
    let ready = grpc.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(grpc)
}

/// A unary call.
async fn call<Q, A>(channel: &Channel, path: &'static str, request: Q) -> Result<A, Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let codec = ProstCodec::<Q, A>::default();
    let mut grpc = ready(channel).await?;
    let answer = grpc.unary(
        Request::new(request),
        PathAndQuery::from_static(path),
        codec,
    );
    Ok(answer.await?.into_inner())
}
