//! The server's end of a connection: accepting with a cap, and closing peers that never speak HTTP/2.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::budget::ByteBudget;

/// Length of the HTTP/2 connection preface (RFC 9113, section 3.4), in bytes.
const PREFACE_BYTES: usize = 24;

/// How long to wait before accepting again when the process is out of file descriptors.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(100);

/// An accepted connection. Reading fails once the preface is overdue; dropping it gives its place back.
pub(super) struct Connection {
    stream: TcpStream,
    /// Ready when the preface is overdue; present until it has arrived.
    preface_overdue: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    preface_bytes_missing: usize,
    /// The budget of the process.
    pub(super) process: ByteBudget,
    _place: OwnedSemaphorePermit,
}

/// Accepts connections for ever. One above `connections_max` is closed at once, so that its client fails fast instead of
/// hanging in the backlog. Once `drain` is cancelled, a connection that has not spoken yet is closed.
pub(super) fn accept(
    listener: TcpListener,
    connections_max: usize,
    preface_timeout: Duration,
    process: ByteBudget,
    drain: CancellationToken,
) -> impl Stream<Item = io::Result<Connection>> {
    let places = Arc::new(Semaphore::new(connections_max));
    let accepting = (listener, places, process, drain);
    stream::unfold(accepting, move |accepting| async move {
        let (listener, places, process, drain) = &accepting;
        let connection = next_connection(listener, places, preface_timeout, process, drain).await;
        Some((Ok(connection), accepting))
    })
}

async fn next_connection(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    preface_timeout: Duration,
    process: &ByteBudget,
    drain: &CancellationToken,
) -> Connection {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Either the peer is gone already, or the process lacks resources: both pass.
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_ERROR_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            tracing::warn!(%peer, "connection closed: all places for connections are taken");
            continue;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "connection was gone before it was set up");
            continue;
        }
        let drain = drain.clone();
        let preface_overdue = async move {
            let _ = timeout(preface_timeout, drain.cancelled()).await;
        };
        return Connection {
            stream,
            preface_overdue: Some(Box::pin(preface_overdue)),
            preface_bytes_missing: PREFACE_BYTES,
            process: process.clone(),
            _place: place,
        };
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let Some(overdue) = &mut self.preface_overdue else {
            return read;
        };
        match read {
            Poll::Ready(Ok(())) => {
                let arrived = buf.filled().len() - before;
                self.preface_bytes_missing = self.preface_bytes_missing.saturating_sub(arrived);
                if self.preface_bytes_missing == 0 {
                    self.preface_overdue = None;
                }
                read
            }
            Poll::Ready(Err(_)) => read,
            Poll::Pending if overdue.as_mut().poll(cx).is_ready() => {
                let late = "the peer sent no HTTP/2 preface in time";
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, late)))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
