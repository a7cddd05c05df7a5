//! FlareDB, through the client library; only the bare timestamp stream goes around it.

use bytes::Bytes;
use rdb_client::Client;
use rdb_proto::pdpb::pd_client::PdClient;
use rdb_proto::pdpb::{GetTsoRequest, GetTsoResponse};
use rdb_proto::transport::{endpoint, raise_open_files_limit};
use tonic::Streaming;
use tonic::transport::Channel;

use super::Target;
use crate::arguments::GlobalArguments;
use crate::bench::arguments::ClientOptions;
use crate::bench::keys::KEY_BYTES;
use crate::bench::recorder::OperationError;
use crate::bench::stream::Credits;
use crate::failure::Failure;
use crate::session::Session;

#[derive(Clone)]
pub(crate) struct FlareDb {
    client: Client,
}

impl FlareDb {
    pub(crate) async fn connect(
        global: &GlobalArguments,
        options: ClientOptions,
    ) -> Result<Self, Failure> {
        let session = Session::new(global).with_unary(options.unary);
        let client = session.connect().await?;
        Ok(Self { client })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }
}

impl Target for FlareDb {
    const NAME: &str = "flaredb";

    const LOAD_BATCH_ENTRIES: u64 = 1000;

    const LOAD_CONCURRENCY: usize = 8;

    async fn put(&self, key: [u8; KEY_BYTES], value: Bytes) -> Result<(), OperationError> {
        Ok(self.client.raw_put(key, value).await?)
    }

    async fn get(&self, key: [u8; KEY_BYTES]) -> Result<Option<Bytes>, OperationError> {
        Ok(self.client.raw_get(key).await?)
    }

    async fn put_batch(
        &self,
        entries: Vec<([u8; KEY_BYTES], Bytes)>,
    ) -> Result<(), OperationError> {
        Ok(self.client.raw_batch_put(entries).await?)
    }
}

/// Connections to a store on which nothing happens; closed when this is dropped.
pub(crate) struct IdleConnections {
    _connections: Vec<Channel>,
}

impl IdleConnections {
    /// Opens `count` connections to the first store that is up.
    pub(crate) async fn open(
        client: &Client,
        count: u32,
        global: &GlobalArguments,
    ) -> Result<Self, Failure> {
        let mut connections = Vec::new();
        if count > 0 {
            raise_open_files_limit(count as usize);
            let stores = client.stores().await?;
            let store = stores
                .first()
                .ok_or_else(|| Failure::failed("there is no store to open idle connections to"))?;
            let endpoint = endpoint(&store.address, global.connect_timeout())
                .map_err(|error| Failure::failed(error.to_string()))?;
            for opened in 0..count {
                let connection = endpoint.connect().await.map_err(|error| {
                    Failure::failed(format!(
                        "{opened} of {count} idle connections are open, one more cannot be: {error}"
                    ))
                })?;
                connections.push(connection);
            }
        }
        Ok(Self {
            _connections: connections,
        })
    }
}

/// A stream of single timestamps from the first placement driver, on a separate connection.
pub(crate) async fn open_timestamp_stream(
    global: &GlobalArguments,
    requests: Credits<GetTsoRequest>,
) -> Result<Streaming<GetTsoResponse>, Failure> {
    let address = global
        .pd
        .first()
        .ok_or_else(|| Failure::usage("--pd names no placement driver"))?;
    let channel = connect(address, global).await?;
    let answers = PdClient::new(channel).tso(requests).await;
    let answers = answers.map_err(|status| Failure::failed(format!("{address}: {status}")))?;
    Ok(answers.into_inner())
}

/// Connects to `address` with the transport settings that all targets share.
pub(super) async fn connect(address: &str, global: &GlobalArguments) -> Result<Channel, Failure> {
    let endpoint = endpoint(address, global.connect_timeout())
        .map_err(|error| Failure::usage(error.to_string()))?;
    let connected = endpoint.connect().await;
    connected.map_err(|error| Failure::failed(format!("cannot connect to {address}: {error}")))
}
