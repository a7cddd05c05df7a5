//! The server's end of a connection. It ends when the peer does not speak HTTP/2, and does not cut off what was sent last.
//!
//! Closing a socket with unread bytes sends a reset, and then the peer loses what it has not read yet: its last answers
//! and the GOAWAY. A peer that reads always sends something (window updates), so the socket reads on until the peer has
//! closed its side, too.

use std::future::Future;
use std::io::{self, Cursor};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Chain, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};

use super::connection::Connection;
use super::plain_text::PREFACE;
use super::secured::Secured;
use super::wrong_port::{
    PORT_SPEAKS_PLAIN_TEXT, answer_and_close, is_handshake, is_http_1, to_http_1, to_tls,
};

const PREFACE_BYTES: usize = PREFACE.len();

/// How long the peer has to close its side.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// An accepted connection whose peer has sent its preface.
pub(super) struct Socket<Stream> {
    /// The preface, which is read again, and what comes after it.
    stream: Chain<Cursor<[u8; PREFACE_BYTES]>, Secured<Stream>>,
    /// Ready when the peer is no longer waited for; present once our side is closed.
    linger_overdue: Option<Pin<Box<Sleep>>>,
}

impl<Stream: AsyncRead + AsyncWrite + Unpin> Socket<Stream> {
    /// Waits for the preface of the peer, or as many bytes of something else. `None` when it does not come in time, or the peer speaks HTTP/1.1, or TLS where that is off.
    pub(super) async fn greeted(
        mut stream: Secured<Stream>,
        connection: &Connection,
        preface_timeout: Duration,
    ) -> Option<Self> {
        let mut preface = [0; PREFACE_BYTES];
        let greeted = timeout(preface_timeout, stream.read_exact(&mut preface)).await;
        greeted.ok()?.ok()?;
        let refusal = if stream.is_plain() && is_handshake(&preface) {
            connection.note_not_greeted(PORT_SPEAKS_PLAIN_TEXT);
            Some(to_tls())
        } else {
            is_http_1(&preface).then(to_http_1)
        };
        if let Some(refusal) = refusal {
            answer_and_close(&mut stream, &refusal).await;
            return None;
        }
        Some(Self {
            stream: Cursor::new(preface).chain(stream),
            linger_overdue: None,
        })
    }

    fn writing(&mut self) -> Pin<&mut Secured<Stream>> {
        Pin::new(self.stream.get_mut().1)
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

impl<Stream: AsyncRead + AsyncWrite + Unpin> AsyncRead for Socket<Stream> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<Stream: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Socket<Stream> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writing().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writing().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = &mut *self;
        if socket.linger_overdue.is_none() {
            ready!(socket.writing().poll_shutdown(cx))?;
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
        self.writing().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.get_ref().1.is_write_vectored()
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
