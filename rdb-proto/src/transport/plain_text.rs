//! The caller's end of a connection in plain text: it greets first, and sends requests only to a peer that speaks plain text, too.
//!
//! HTTP/2 lets a caller send its first request, with its token, right behind its preface. A port that speaks TLS would be sent the token
//! where everybody on the way can read it. So the preface goes first, with empty settings (RFC 9113, sections 3.4 and 6.5.3). A peer that
//! acknowledges these has understood them. Then hyper takes over. The preface that it writes is left out.

use std::io::{self, Cursor, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Chain, ReadBuf};
use tokio::time::timeout;

use super::wrong_port::{EMPTY_SETTINGS, GOAWAY, INADEQUATE_SECURITY, PORT_SPEAKS_TLS};

/// What a caller sends first (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frames of HTTP/2, and a flag (RFC 9113, sections 4.1 and 6.5).
const FRAME_HEAD_BYTES: usize = 9;
const SETTINGS: u8 = 4;
const ACKNOWLEDGEMENT: u8 = 1;

/// Longest answer to the greeting, in bytes. Servers send their settings and a window, which take less than a hundred.
const ANSWER_BYTES_MAX: usize = 4 << 10;

/// How long the peer may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);

/// A connection whose peer has answered the greeting.
#[derive(Debug)]
pub(super) struct Greeted<Stream> {
    /// The answer, which is read again, and what comes after it.
    stream: Chain<Cursor<Vec<u8>>, Stream>,
    /// How much of hyper's preface is still to be left out, in bytes.
    preface_bytes_left: usize,
}

impl<Stream: AsyncRead + AsyncWrite + Unpin> Greeted<Stream> {
    /// Greets, and waits for the answer.
    ///
    /// # Errors
    ///
    /// When the peer does not answer in time, or not in HTTP/2 and plain text.
    pub(super) async fn greet(stream: Stream) -> io::Result<Self> {
        let greeted = timeout(ANSWER_TIMEOUT, Self::exchange(stream)).await;
        greeted.unwrap_or_else(|_| Err(io::Error::new(ErrorKind::TimedOut, "no answer in time")))
    }

    async fn exchange(mut stream: Stream) -> io::Result<Self> {
        let greeting = [&PREFACE[..], &EMPTY_SETTINGS].concat();
        stream.write_all(&greeting).await?;
        let mut answer = Vec::new();
        loop {
            let mut head = [0; FRAME_HEAD_BYTES];
            stream.read_exact(&mut head).await.map_err(unanswered)?;
            let [high, middle, low, kind, flags, ..] = head;
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            let is_acknowledgement = kind == SETTINGS && flags & ACKNOWLEDGEMENT != 0;
            let begins_with_settings =
                !answer.is_empty() || (kind == SETTINGS && !is_acknowledgement);
            if !begins_with_settings || answer.len() + length > ANSWER_BYTES_MAX {
                return Err(io::Error::other("it does not speak HTTP/2"));
            }
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await.map_err(unanswered)?;
            if kind == GOAWAY {
                return Err(sent_away(&payload));
            }
            if is_acknowledgement {
                // hyper has sent no settings yet that could be acknowledged.
                return Ok(Self {
                    stream: Cursor::new(answer).chain(stream),
                    preface_bytes_left: PREFACE.len(),
                });
            }
            answer.extend(head);
            answer.extend(payload);
        }
    }

    fn writing(&mut self) -> Pin<&mut Stream> {
        Pin::new(self.stream.get_mut().1)
    }
}

fn unanswered(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => io::Error::new(
            error.kind(),
            "it has ended the connection without an answer",
        ),
        _ => error,
    }
}

/// Why the peer ends the connection. The reason is behind the id of a stream.
fn sent_away(goaway: &[u8]) -> io::Error {
    let wants_tls = goaway.get(4..8) == Some(&INADEQUATE_SECURITY.to_be_bytes()[..]);
    io::Error::other(if wants_tls {
        format!(
            "{PORT_SPEAKS_TLS}: give this store --tls-cert, --tls-key and --tls-ca, or rdbctl --ca"
        )
    } else {
        "it has ended the connection".to_owned()
    })
}

impl<Stream: AsyncRead + Unpin> AsyncRead for Greeted<Stream> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<Stream: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Greeted<Stream> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.preface_bytes_left == 0 {
            return self.writing().poll_write(cx, buf);
        }
        let left_out = self.preface_bytes_left.min(buf.len());
        self.preface_bytes_left -= left_out;
        Poll::Ready(Ok(left_out))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writing().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writing().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.preface_bytes_left == 0 {
            return self.writing().poll_write_vectored(cx, bufs);
        }
        let first = bufs.iter().find(|buf| !buf.is_empty());
        self.poll_write(cx, first.map_or(&[][..], |buf| &buf[..]))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.get_ref().1.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const ACKNOWLEDGED: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];
    const WINDOW_UPDATE: [u8; 13] = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 1, 0, 0];

    /// What becomes of the greeting if this is answered, and nothing more.
    async fn answered(answer: &[u8]) -> (io::Result<Greeted<DuplexStream>>, DuplexStream) {
        let (stream, mut peer) = duplex(1 << 10);
        peer.write_all(answer).await.expect("it fits");
        peer.shutdown().await.expect("it is open");
        (Greeted::greet(stream).await, peer)
    }

    #[tokio::test]
    async fn the_answer_is_read_again_without_the_acknowledgement_and_the_preface_is_sent_once() {
        let first = [&EMPTY_SETTINGS[..], &WINDOW_UPDATE].concat();
        let (greeted, mut peer) = answered(&[&first[..], &ACKNOWLEDGED, b"more"].concat()).await;
        let mut greeted = greeted.expect("it has answered");
        greeted.write_all(PREFACE).await.expect("it is open");
        greeted.write_all(b"settings").await.expect("it is open");
        let mut read = Vec::new();
        greeted.read_to_end(&mut read).await.expect("it is open");
        assert_eq!(read, [&first[..], b"more"].concat());
        drop(greeted);
        let mut sent = Vec::new();
        peer.read_to_end(&mut sent).await.expect("it is open");
        let expected = [&PREFACE[..], &EMPTY_SETTINGS, b"settings"].concat();
        assert_eq!(sent, expected);
    }

    #[tokio::test]
    async fn who_does_not_answer_in_http_2_and_plain_text_is_sent_nothing_more() {
        let goaway = |reason: u32| {
            let head = [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0];
            [&EMPTY_SETTINGS[..], &head, &[0; 4], &reason.to_be_bytes()].concat()
        };
        for (answer, told) in [
            (goaway(INADEQUATE_SECURITY), PORT_SPEAKS_TLS),
            (goaway(0), "it has ended the connection"),
            (b"HTTP/1.1 400 Bad Request".to_vec(), "it does not speak"),
            (ACKNOWLEDGED.to_vec(), "it does not speak"),
            (EMPTY_SETTINGS.to_vec(), "without an answer"),
            (Vec::new(), "without an answer"),
        ] {
            let (greeted, mut peer) = answered(&answer).await;
            let refused = greeted.map(drop).expect_err("it is refused").to_string();
            assert!(refused.contains(told), "{refused}");
            let mut sent = Vec::new();
            peer.read_to_end(&mut sent).await.expect("it is open");
            assert_eq!(sent, [&PREFACE[..], &EMPTY_SETTINGS].concat());
        }
    }
}
