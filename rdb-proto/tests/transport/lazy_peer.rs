//! A peer that answers everything but the ping that asks whether it knows that the connection goes away.
//!
//! An HTTP/2 library always answers that, so this one has none.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::fixture::{TestServer, guarded};
use crate::peer::RAW_GET;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// What h2 sends behind its first GOAWAY.
const GOAWAY_PING: [u8; 8] = [0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];

/// Between its calls. Longer, and the server would end the connection because nothing comes; shorter, because too much does.
const PAUSE: Duration = Duration::from_secs(1);

/// One connection.
pub(crate) struct LazyPeer {
    /// Ends when the server closes the connection.
    pub(crate) connection: JoinHandle<()>,
}

impl LazyPeer {
    /// Connects, and waits for a place. Once it is told to go away, it begins a call every [`PAUSE`]; `are_complete` says
    /// whether all of the request arrives.
    pub(crate) async fn connect(server: &TestServer, are_complete: bool) -> Self {
        let socket = TcpStream::connect(&server.address).await;
        let (placed, has_place) = oneshot::channel();
        let exchange = exchange(socket.expect("it listens"), are_complete, placed);
        let connection = tokio::spawn(async move {
            exchange.await.expect_err("it goes on until the end");
        });
        let has_place = guarded("the server speaks", has_place).await;
        has_place.expect("a place");
        Self { connection }
    }
}

/// Reads and answers until the connection ends.
async fn exchange(
    socket: TcpStream,
    are_complete: bool,
    placed: oneshot::Sender<()>,
) -> io::Result<Infallible> {
    let mut placed = Some(placed);
    let mut begins_calls = true;
    let (mut reading, mut writing) = socket.into_split();
    writing
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await?;
    writing.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    let writing = Arc::new(Mutex::new(writing));
    loop {
        let mut header = [0; 9];
        reading.read_exact(&mut header).await?;
        if let Some(placed) = placed.take() {
            let _ = placed.send(());
        }
        let [_, high, low, kind, flags, ..] = header;
        let mut payload = vec![0; usize::from(u16::from_be_bytes([high, low]))];
        reading.read_exact(&mut payload).await?;
        let answer = match kind {
            SETTINGS if flags == 0 => frame(SETTINGS, ACK, 0, &[]),
            PING if flags == 0 && payload != GOAWAY_PING => frame(PING, ACK, 0, &payload),
            GOAWAY if std::mem::take(&mut begins_calls) => {
                tokio::spawn(call(Arc::clone(&writing), are_complete));
                continue;
            }
            _ => continue,
        };
        writing.lock().await.write_all(&answer).await?;
    }
}

/// Begins one call after the other.
async fn call(writing: Arc<Mutex<OwnedWriteHalf>>, are_complete: bool) -> io::Result<()> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", RAW_GET),
        (":authority", "store"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut block = Vec::new();
    for (name, value) in fields {
        // A literal that is not indexed, with a new name.
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    // An empty message, or a part of its header.
    let body = if are_complete { &[0; 5][..] } else { &[0; 2] };
    for stream in (1..).step_by(2) {
        let mut call = frame(HEADERS, END_HEADERS, stream, &block);
        call.extend(frame(DATA, u8::from(are_complete), stream, body));
        writing.lock().await.write_all(&call).await?;
        sleep(PAUSE).await;
    }
    Ok(())
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let header = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&header, payload].concat()
}
