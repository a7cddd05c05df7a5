//! The bare socket of a connection, below TLS: notes whether the kernel takes bytes.
//!
//! Only this layer can see that: TLS takes bytes that it cannot send yet, and reports nothing until all are sent.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::Connection;

pub(super) struct Wire<Stream> {
    stream: Stream,
    connection: Arc<Connection>,
}

impl<Stream> Wire<Stream> {
    pub(super) fn new(stream: Stream, connection: Arc<Connection>) -> Self {
        Self { stream, connection }
    }

    fn note_written(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.connection.traffic.socket_took(written.is_ready());
        written
    }
}

impl<Stream: AsyncRead + Unpin> AsyncRead for Wire<Stream> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<Stream: AsyncWrite + Unpin> AsyncWrite for Wire<Stream> {
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
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
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
    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio_util::sync::CancellationToken;

    use super::super::budget::{ByteBudget, ProcessBudgets};
    use super::super::traffic::STALLED_TICKS;
    use super::*;

    const KERNEL_BYTES: usize = 4;

    fn connection() -> Arc<Connection> {
        let process = ProcessBudgets {
            clients: ByteBudget::new(0),
            stores: ByteBudget::new(0),
        };
        Arc::new(Connection::new(&process, CancellationToken::new()))
    }

    #[tokio::test]
    async fn a_peer_that_takes_a_byte_now_and_then_is_slow_and_one_that_takes_none_is_stuck() {
        let (stream, mut peer) = duplex(KERNEL_BYTES);
        let connection = connection();
        let mut wire = Wire::new(stream, Arc::clone(&connection));
        let stand_still = || (0..STALLED_TICKS).for_each(|_| connection.traffic.tick());
        wire.write_all(&[0; KERNEL_BYTES]).await.expect("it fits");
        for _ in 0..3 {
            assert!(wire.write(&[0]).now_or_never().is_none(), "all is full");
            wire.flush().await.expect("nothing waits in it");
            stand_still();
            assert!(connection.traffic.is_stuck(false));
            peer.read_u8().await.expect("there are some");
            wire.write_u8(0).await.expect("it takes one");
            assert!(!connection.traffic.is_stuck(false));
        }
    }

    #[cfg(feature = "tls")]
    #[tokio::test]
    async fn over_tls_a_peer_that_reads_slowly_is_not_stuck() {
        use std::time::Duration;

        use super::super::tls::certificates::Ca;
        use super::super::tls::{ClientTls, ClientTlsOptions, Pem, ServerTls, ServerTlsOptions};

        const HANG_GUARD: Duration = Duration::from_secs(60);
        const RECORD_BYTES: usize = 16 << 10;
        const RECORDS: usize = 3;

        let ca = Ca::new();
        let issued = ca.server();
        let server = ServerTls::new(ServerTlsOptions {
            certificate: Pem::Text(issued.certificate.into_bytes()),
            key: Pem::Text(issued.key.into_bytes()),
            client_ca: None,
        });
        let server = server.expect("it can be used");
        let client = ClientTls::new(ClientTlsOptions::with_ca_pem(ca.pem.as_bytes()));
        let client = client.expect("it can be used");
        let (stream, peer) = duplex(RECORD_BYTES / 16);
        let connection = connection();
        let wire = Wire::new(stream, Arc::clone(&connection));
        let accepting = server.accept(wire, HANG_GUARD);
        let (accepted, connected) = tokio::join!(accepting, client.connect("localhost:1", peer));
        let (mut stream, _) = accepted.expect("they shake hands");
        let mut peer = connected.expect("they shake hands");
        // TLS takes all of it at once.
        let sending = tokio::spawn(async move {
            stream.write_all(&[0; RECORDS * RECORD_BYTES]).await?;
            stream.flush().await
        });
        for _ in 0..RECORDS {
            let mut record = vec![0; RECORD_BYTES];
            peer.read_exact(&mut record).await.expect("it is sent");
            (1..STALLED_TICKS).for_each(|_| connection.traffic.tick());
            assert!(!connection.traffic.is_stuck(false));
        }
        let sent = sending.await.expect("no panic");
        sent.expect("all is read");
    }
}
