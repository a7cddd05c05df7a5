//! The server's end of a TCP connection: closes peers that never speak HTTP/2, sees whether the socket takes bytes, and does
//! not cut off what it has sent last.
//!
//! A socket that is closed with bytes unread answers with a reset, and that makes the peer lose what it has not read yet:
//! its last answers and the word that the connection goes away. A peer that reads always sends something (windows), so the
//! socket reads on until the peer has closed its side, too.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};

use super::connection::Connection;

/// Length of the HTTP/2 connection preface (RFC 9113, section 3.4), in bytes.
const PREFACE_BYTES: usize = 24;

/// How long the peer has to close its side.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// An accepted connection. Reading fails once the preface is overdue, or while it is missing and the connection is closing.
pub(super) struct Socket {
    stream: TcpStream,
    connection: Arc<Connection>,
    /// Ready when the preface is overdue; present until it has arrived.
    preface_overdue: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    preface_bytes_missing: usize,
    /// Ready when the peer is not waited for any more; present once our side is closed.
    linger_overdue: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    pub(super) fn new(
        stream: TcpStream,
        connection: Arc<Connection>,
        preface_timeout: Duration,
    ) -> Self {
        let closing = connection.closing.clone();
        let preface_overdue = async move {
            let _ = timeout(preface_timeout, closing.cancelled()).await;
        };
        Self {
            stream,
            connection,
            preface_overdue: Some(Box::pin(preface_overdue)),
            preface_bytes_missing: PREFACE_BYTES,
            linger_overdue: None,
        }
    }

    fn note_written<T>(&self, written: Poll<T>) -> Poll<T> {
        self.connection.traffic.socket_took(written.is_ready());
        written
    }
}

/// Ready when the peer has closed its side, or `overdue` is. What the peer sends is discarded.
fn poll_peer_closed(
    stream: &mut (impl AsyncRead + Unpin),
    overdue: &mut Pin<Box<Sleep>>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    // First, since a peer that never stops sending keeps the loop busy.
    if overdue.as_mut().poll(cx).is_ready() {
        return Poll::Ready(());
    }
    let mut discarded = [0; 4096];
    loop {
        let mut buffer = ReadBuf::new(&mut discarded);
        match ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer)) {
            Ok(()) if !buffer.filled().is_empty() => {}
            _ => return Poll::Ready(()),
        }
    }
}

impl AsyncRead for Socket {
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

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note_written(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = &mut *self;
        if socket.linger_overdue.is_none() {
            ready!(Pin::new(&mut socket.stream).poll_shutdown(cx))?;
        }
        let new = || Box::pin(sleep(LINGER_TIMEOUT));
        let overdue = socket.linger_overdue.get_or_insert_with(new);
        poll_peer_closed(&mut socket.stream, overdue, cx).map(Ok)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note_written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::repeat;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_never_stops_sending_is_not_waited_for() {
        const HANG_GUARD: Duration = Duration::from_secs(60);
        let mut peer = repeat(0);
        let mut overdue = Box::pin(sleep(Duration::from_millis(10)));
        let closed = poll_fn(|cx| poll_peer_closed(&mut peer, &mut overdue, cx));
        let ended = timeout(HANG_GUARD, closed).await;
        ended.expect("it gets a moment only");
    }
}
