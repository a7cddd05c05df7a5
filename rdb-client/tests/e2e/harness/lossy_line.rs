//! A line to a store on which requests arrive and answers get lost.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// Forwards connections. Once a request with the marker has passed, the client's side ends with what comes next from the
/// store, which is lost; the store sees its peer fall silent. The marker has to be short, so that it passes in one piece.
#[derive(Debug)]
pub(crate) struct LossyLine {
    address: String,
    _forwarding: AbortOnDropHandle<()>,
}

impl LossyLine {
    pub(crate) async fn open(target: String, marker: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it listens").to_string();
        let forwarding = async move {
            // Connections end with the line.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(forward(client, target.clone(), marker));
            }
        };
        Self {
            address,
            _forwarding: AbortOnDropHandle::new(tokio::spawn(forwarding)),
        }
    }

    /// Where to connect instead of the target.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}

async fn forward(client: TcpStream, target: String, marker: &'static str) -> io::Result<()> {
    let (mut requests, mut to_client) = client.into_split();
    let (mut answers, mut to_server) = TcpStream::connect(target).await?.into_split();
    let lossy = AtomicBool::new(false);
    let upwards = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = requests.read(&mut buffer).await?;
            let bytes = &buffer[..length];
            if bytes.is_empty() {
                if lossy.load(Ordering::Acquire) {
                    return Ok(());
                }
                return to_server.shutdown().await;
            }
            if bytes
                .windows(marker.len())
                .any(|window| window == marker.as_bytes())
            {
                lossy.store(true, Ordering::Release);
            }
            to_server.write_all(bytes).await?;
        }
    };
    let downwards = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = answers.read(&mut buffer).await?;
            let bytes = &buffer[..length];
            if bytes.is_empty() {
                return to_client.shutdown().await;
            }
            if lossy.load(Ordering::Acquire) {
                // It may have gone by itself.
                let _ = to_client.shutdown().await;
                continue;
            }
            to_client.write_all(bytes).await?;
        }
    };
    tokio::try_join!(upwards, downwards)?;
    Ok(())
}
