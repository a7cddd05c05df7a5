//! Connections over the simulated network. Every byte that is written is in the trace, as a digest.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rdb_proto::transport::{Connector, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

use crate::world::World;

pub(crate) const PORT: u16 = 7000;

/// Connects from a store.
pub(crate) fn connector(store_id: u64, world: &Arc<World>) -> Connector {
    let world = Arc::clone(world);
    Connector::new(move |address| {
        let world = Arc::clone(&world);
        async move {
            let stream = TcpStream::connect(address).await?;
            Ok(Wired {
                stream,
                store_id,
                world,
            })
        }
    })
}

/// What a store serves on.
pub(crate) struct Listening {
    listener: TcpListener,
    store_id: u64,
    world: Arc<World>,
}

impl Listening {
    pub(crate) async fn bind(store_id: u64, world: &Arc<World>) -> io::Result<Self> {
        Ok(Self {
            listener: TcpListener::bind((IpAddr::from(Ipv4Addr::UNSPECIFIED), PORT)).await?,
            store_id,
            world: Arc::clone(world),
        })
    }
}

impl Listener for Listening {
    type Stream = Wired;

    async fn accept(&self) -> io::Result<(Wired, SocketAddr)> {
        let (stream, peer) = self.listener.accept().await?;
        let wired = Wired {
            stream,
            store_id: self.store_id,
            world: Arc::clone(&self.world),
        };
        Ok((wired, peer))
    }

    fn set_nodelay(stream: &Wired) -> io::Result<()> {
        stream.stream.set_nodelay(true)
    }
}

/// One end of a connection.
pub(crate) struct Wired {
    stream: TcpStream,
    store_id: u64,
    world: Arc<World>,
}

impl AsyncRead for Wired {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wired {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(written)) = written {
            self.world.writes(self.store_id, &bytes[..written]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
