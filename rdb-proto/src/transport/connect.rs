//! The client's end of a connection.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::Endpoint;

use super::address::{AddressError, check_address};
use super::limits::{
    CONNECTION_WINDOW_BYTES, HEADER_LIST_BYTES_MAX, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT,
    STREAM_WINDOW_BYTES,
};
use super::plain_text::Greeted;

/// An endpoint for `address` (`host:port`) with this crate's windows and keepalive.
///
/// # Errors
///
/// [`AddressError`] when the address has another form. Nothing is resolved or connected here.
pub fn endpoint(address: &str, connect_timeout: Duration) -> Result<Endpoint, AddressError> {
    check_address(address)?;
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| AddressError::new(address, "it does not fit into a URL"))?;
    Ok(endpoint
        .connect_timeout(connect_timeout)
        .tcp_nodelay(true)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

/// Connects an [`Endpoint`]: as plain text, over TLS, or over a simulated network.
#[derive(Clone)]
pub struct Connector(Arc<Connect>);

type Connect =
    dyn Fn(Uri) -> BoxFuture<'static, io::Result<TokioIo<Box<dyn ByteStream>>>> + Send + Sync;

/// A connection of a [`Connector`].
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for S {}

impl Connector {
    /// Connects to `host:port` with `connect`.
    pub fn new<S, Connecting>(
        connect: impl Fn(String) -> Connecting + Send + Sync + 'static,
    ) -> Self
    where
        S: ByteStream + 'static,
        Connecting: Future<Output = io::Result<S>> + Send + 'static,
    {
        Self(Arc::new(move |uri: Uri| {
            let address = uri.authority().map_or("", |authority| authority.as_str());
            let connecting = connect(address.to_owned());
            Box::pin(async {
                let stream: Box<dyn ByteStream> = Box::new(connecting.await?);
                Ok(TokioIo::new(stream))
            })
        }))
    }

    /// Connects over TCP, as plain text. No request is sent, and so no token, before the peer has answered in plain text, too.
    pub fn plain_text() -> Self {
        Self::new(|address| async move { Greeted::greet(tcp(&address).await?).await })
    }
}

/// A connection to `host:port` that sends small messages at once.
pub(super) async fn tcp(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl fmt::Debug for Connector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn ByteStream>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        (self.0)(uri)
    }
}
