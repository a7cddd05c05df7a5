//! Serving gRPC until told to stop, then draining.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use super::budget::ByteBudget;
use super::connection::accept;
use super::limits::{
    CALL_TIMEOUT, CONCURRENT_STREAMS_MAX, CONNECTION_WINDOW_BYTES, CONNECTIONS_MAX, DRAIN_TIMEOUT,
    HEADER_LIST_BYTES_MAX, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, PREFACE_TIMEOUT,
    PROCESS_BYTES_IN_FLIGHT_MAX, STREAM_WINDOW_BYTES,
};

/// What differs between processes and tests; everything else is in [`super::limits`].
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Most connections open at once; one more is closed as soon as it is accepted.
    pub connections_max: usize,
    /// How long a new connection may take to send its HTTP/2 preface.
    pub preface_timeout: Duration,
    /// How long to wait for the work in flight after the drain has begun.
    pub drain_timeout: Duration,
    /// The budget of the process for requests and answers.
    pub bytes_in_flight: ByteBudget,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            connections_max: CONNECTIONS_MAX,
            preface_timeout: PREFACE_TIMEOUT,
            drain_timeout: DRAIN_TIMEOUT,
            bytes_in_flight: ByteBudget::new(PROCESS_BYTES_IN_FLIGHT_MAX),
        }
    }
}

/// Serving ended for another reason than the drain.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The transport gave up.
    #[error("serving gRPC on {address} failed")]
    Transport {
        /// Where it listened.
        address: SocketAddr,
        /// Why it ended.
        source: tonic::transport::Error,
    },
    /// The listener has no address, so it is not listening.
    #[error("the listening socket is unusable")]
    Listener(#[from] std::io::Error),
    /// The compiled-in descriptors cannot be read.
    #[error("gRPC reflection cannot be set up")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Serves `routes` on `listener` and gRPC reflection beside them until `drain` is cancelled. Then no connection is
/// accepted any more, open ones are told to go away, and the calls in flight are waited for, `drain_timeout` at most.
///
/// Streams that never end by themselves have to watch `drain` and end.
///
/// # Errors
///
/// [`ServeError`] when the transport fails before the drain.
pub async fn serve(
    listener: TcpListener,
    routes: Routes,
    options: ServeOptions,
    drain: CancellationToken,
) -> Result<(), ServeError> {
    let address = listener.local_addr()?;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(crate::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let incoming = accept(
        listener,
        options.connections_max,
        options.preface_timeout,
        options.bytes_in_flight,
        drain.clone(),
    );
    let serving = Server::builder()
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .timeout(CALL_TIMEOUT)
        .max_concurrent_streams(CONCURRENT_STREAMS_MAX)
        .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_routes(routes.add_service(reflection))
        .serve_with_incoming_shutdown(incoming, drain.clone().cancelled_owned());

    let overdue = async {
        drain.cancelled().await;
        tokio::time::sleep(options.drain_timeout).await;
    };
    tokio::select! {
        served = serving => served.map_err(|source| ServeError::Transport { address, source }),
        () = overdue => {
            tracing::warn!(
                drain_timeout_ms = options.drain_timeout.as_millis(),
                "calls were still in flight at the end of the drain; they end with the process"
            );
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpStream;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    use super::super::{endpoint, health};
    use super::*;

    #[tokio::test]
    async fn a_drain_does_not_wait_for_a_connection_that_never_spoke() {
        const HANG_GUARD: Duration = Duration::from_secs(30);
        let options = ServeOptions {
            preface_timeout: 10 * HANG_GUARD,
            drain_timeout: 10 * HANG_GUARD,
            ..ServeOptions::default()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let drain = CancellationToken::new();
        let (_handle, service) = health(&[], drain.clone());
        let serving = serve(listener, Routes::new(service), options, drain.clone());
        let serving = tokio::spawn(serving);

        let mut silent = TcpStream::connect(address).await.expect("it listens");
        // An answer on a later connection shows that the silent one was accepted.
        let endpoint = endpoint(&address.to_string(), HANG_GUARD).expect("an address");
        let channel = endpoint.connect().await.expect("it listens");
        let checked = HealthClient::new(channel)
            .check(HealthCheckRequest::default())
            .await;
        checked.expect("served");

        drain.cancel();
        let served = tokio::time::timeout(HANG_GUARD, serving).await;
        served
            .expect("the drain ends")
            .expect("no panic")
            .expect("in good order");
        let mut greeting = Vec::new();
        let closed = tokio::time::timeout(HANG_GUARD, silent.read_to_end(&mut greeting)).await;
        assert!(closed.is_ok(), "the silent connection is closed");
    }
}
