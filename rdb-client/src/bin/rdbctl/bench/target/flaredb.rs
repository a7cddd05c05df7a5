//! FlareDB, through the client library; only the bare timestamp stream bypasses it.

use std::sync::Arc;

use http::HeaderValue;
use rdb_client::{Client, TokenSource};
use rdb_proto::auth::{AUTHORIZATION, TokenFile};
use rdb_proto::pdpb::pd_client::PdClient;
use rdb_proto::pdpb::{GetTsoRequest, GetTsoResponse};
use rdb_proto::transport::{endpoint, raise_open_files_limit};
use tonic::transport::Channel;
use tonic::{IntoStreamingRequest, Streaming};

use super::connect;
use crate::arguments::GlobalArguments;
use crate::bench::arguments::ClientOptions;
use crate::failure::Failure;
use crate::session::Session;

#[derive(Clone)]
pub(crate) struct FlareDb {
    client: Client,
    _idle_connections: Arc<[Channel]>,
}

impl FlareDb {
    pub(crate) const NAME: &str = "flaredb";

    pub(crate) async fn connect(
        global: &GlobalArguments,
        options: ClientOptions,
    ) -> Result<Self, Failure> {
        let session = Session::new(global)?.with_unary(options.unary);
        let client = session.connect().await?;
        let idle = idle_connections(&client, options.idle_connections, global).await?;
        Ok(Self {
            client,
            _idle_connections: idle.into(),
        })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }
}

/// Opens `count` connections to the first store that is up, on which nothing happens.
async fn idle_connections(
    client: &Client,
    count: u32,
    global: &GlobalArguments,
) -> Result<Vec<Channel>, Failure> {
    let mut connections = Vec::new();
    if count > 0 {
        raise_open_files_limit(count as usize);
        let stores = client.stores().await?;
        let store = stores
            .first()
            .ok_or_else(|| Failure::failed("there is no store to open idle connections to"))?;
        let endpoint = endpoint(&store.address, global.connect_timeout())
            .map_err(|error| Failure::failed(error.to_string()))?;
        let connector = global.connector()?;
        for opened in 0..count {
            let connected = match connector.clone() {
                Some(connector) => endpoint.connect_with_connector(connector).await,
                None => endpoint.connect().await,
            };
            let connection = connected.map_err(|error| {
                Failure::failed(format!(
                    "{opened} of {count} idle connections are open, one more cannot be: {error}"
                ))
            })?;
            connections.push(connection);
        }
    }
    Ok(connections)
}

/// A stream of single timestamps from the first placement driver, on a separate connection.
pub(crate) async fn open_timestamp_stream(
    global: &GlobalArguments,
    requests: impl IntoStreamingRequest<Message = GetTsoRequest>,
) -> Result<Streaming<GetTsoResponse>, Failure> {
    let address = global
        .pd
        .first()
        .ok_or_else(|| Failure::usage("--pd names no placement driver"))?;
    // Without `--ca`, a port that speaks TLS is not sent the token.
    let connector = global.connector()?.unwrap_or_default();
    let channel = connect(address, global, Some(connector)).await?;
    let mut requests = requests.into_streaming_request();
    if let Some(authorization) = authorization(global)? {
        let headers = requests.metadata_mut().as_mut();
        headers.insert(AUTHORIZATION, authorization);
    }
    let answers = PdClient::new(channel).tso(requests).await;
    let answers = answers.map_err(|status| Failure::failed(format!("{address}: {status}")))?;
    Ok(answers.into_inner())
}

/// The header that says who it is, on a connection that is not the client's.
fn authorization(global: &GlobalArguments) -> Result<Option<HeaderValue>, Failure> {
    let value = match global.token()? {
        None => return Ok(None),
        Some(TokenSource::Given(token)) => token.header_value(),
        Some(TokenSource::File(path)) => TokenFile::open(path)
            .map_err(|error| Failure::usage(format!("--token-file: {error}")))?
            .header_value(),
        Some(_) => return Err(Failure::usage("this has no use for such a token")),
    };
    Ok(Some(value))
}
