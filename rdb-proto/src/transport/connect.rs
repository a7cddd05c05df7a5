//! The client's end of a connection.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::sleep;
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

/// So long one address of a host is tried alone (RFC 8305, section 5).
const HEAD_START: Duration = Duration::from_millis(250);

impl Default for Connector {
    /// [Plain text](Self::plain_text).
    fn default() -> Self {
        Self::plain_text()
    }
}

/// A connection to `host:port` that sends small messages at once. If the host has several addresses, one that does not answer holds up
/// the others only for a moment.
///
/// # Errors
///
/// When the host has no address, or the last attempt fails.
pub async fn tcp(address: &str) -> io::Result<TcpStream> {
    let stream = first_to_answer(lookup_host(address).await?).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn first_to_answer(mut addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut attempts = FuturesUnordered::new();
    let mut failure = io::Error::new(ErrorKind::NotFound, "the host has no address");
    let mut are_tried = false;
    loop {
        match addresses.next() {
            Some(address) => attempts.push(TcpStream::connect(address)),
            None => are_tried = true,
        }
        tokio::select! {
            connected = attempts.next() => match connected {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => failure = error,
                None => return Err(failure),
            },
            () = sleep(HEAD_START), if !are_tried => {}
        }
    }
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

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};
    use tokio::time::timeout;

    use super::*;

    const HANG_GUARD: Duration = Duration::from_secs(60);

    /// A port that answers no more, since its queue is full.
    async fn silent() -> (TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().expect("a socket");
        let local = "127.0.0.1:0".parse().expect("an address");
        socket.bind(local).expect("a port");
        let listener = socket.listen(0).expect("it listens");
        let address = listener.local_addr().expect("bound");
        let mut queued = Vec::new();
        while let Ok(connected) = timeout(HEAD_START, TcpStream::connect(address)).await {
            queued.push(connected.expect("it is not refused"));
        }
        (listener, queued)
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_leaves_the_next_one_to_be_tried() {
        let (full, _queued) = silent().await;
        let serving = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let all = [&full, &serving].map(|listener| listener.local_addr().expect("bound"));
        let connected = timeout(HANG_GUARD, first_to_answer(all.into_iter())).await;
        let connected = connected.expect("it does not wait for the silent one");
        assert!(connected.is_ok(), "{connected:?}");
    }

    #[tokio::test]
    async fn if_no_address_can_be_connected_the_last_failure_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        drop(listener);
        for (addresses, kind) in [
            (vec![], ErrorKind::NotFound),
            (vec![address; 2], ErrorKind::ConnectionRefused),
        ] {
            let failed = timeout(HANG_GUARD, first_to_answer(addresses.into_iter())).await;
            let failed = failed.expect("it ends").map(drop);
            assert_eq!(failed.map_err(|error| error.kind()), Err(kind));
        }
    }
}
