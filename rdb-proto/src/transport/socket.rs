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

    /// Ready when the peer has closed its side, or is not waited for any more.
    fn poll_peer_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut discarded = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut discarded);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    let new = || Box::pin(sleep(LINGER_TIMEOUT));
                    return self
                        .linger_overdue
                        .get_or_insert_with(new)
                        .as_mut()
                        .poll(cx);
                }
            }
        }
    }

    fn note_written<T>(&self, written: Poll<T>) -> Poll<T> {
        self.connection.traffic.socket_took(written.is_ready());
        written
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
        if self.linger_overdue.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        self.poll_peer_closed(cx).map(Ok)
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
