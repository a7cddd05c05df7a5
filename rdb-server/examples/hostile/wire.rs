//! HTTP/2 and gRPC past every client library, which would neither withhold a window nor stop in the middle of a message.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use prost::Message;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::codegen::http::{HeaderMap, Request};

/// What a client begins a connection with: the text of HTTP/2, and settings that are all defaults.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

const READING_WINDOW_BYTES: u32 = 1 << 20;

/// An HTTP/2 connection. Clones share it; it ends with the last one.
#[derive(Clone)]
pub(crate) struct Line {
    requests: SendRequest<Bytes>,
    connection: Arc<AbortOnDropHandle<()>>,
    address: Arc<str>,
}

/// A call that was begun.
pub(crate) struct Call {
    pub(crate) request: SendStream<Bytes>,
    answer: ResponseFuture,
}

/// A call that goes on after its first message was read.
pub(crate) struct Kept {
    _request: SendStream<Bytes>,
    _answer: RecvStream,
}

/// How a call ended that nobody wants to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It has a status other than OK.
    Refused,
    /// It has an answer.
    Answered,
    /// The stream was reset.
    Reset,
    /// The connection was.
    ConnectionLost,
}

impl Line {
    /// Opens a connection with window 0: the peer may send heads of answers and not a byte of their bodies.
    pub(crate) async fn open(address: &str) -> anyhow::Result<Self> {
        Self::with_window(address, 0).await
    }

    /// Answers can be read.
    pub(crate) async fn open_reading(address: &str) -> anyhow::Result<Self> {
        Self::with_window(address, READING_WINDOW_BYTES).await
    }

    async fn with_window(address: &str, window_bytes: u32) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let (requests, connection) = Builder::new()
            .initial_window_size(window_bytes)
            .handshake(socket)
            .await?;
        let connection = tokio::spawn(async move {
            // Why it ended shows in its calls.
            let _ = connection.await;
        });
        Ok(Self {
            requests,
            connection: Arc::new(AbortOnDropHandle::new(connection)),
            address: address.into(),
        })
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.connection.is_finished()
    }

    /// Begins a call. Waits while the connection has as many as the peer allows.
    pub(crate) async fn call(&self, path: &str) -> Result<Call, h2::Error> {
        let request = Request::post(format!("http://{}{path}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("the parts are valid");
        let mut requests = self.requests.clone().ready().await?;
        let (answer, request) = requests.send_request(request, false)?;
        Ok(Call { request, answer })
    }

    /// Sends a whole unary request, and waits for the head of its answer or its end.
    pub(crate) async fn ask(&self, path: &str, message: Bytes) -> Ending {
        let asked = async {
            let mut call = self.call(path).await?;
            send(&mut call.request, message, true).await?;
            call.ended().await
        };
        Ending::of(asked.await)
    }
}

impl Call {
    /// Waits for the end of the call without granting its answer any window.
    pub(crate) async fn ended(self) -> Result<Ending, h2::Error> {
        // A dropped sender would reset the stream.
        let _request = self.request;
        let (head, mut body) = self.answer.await?.into_parts();
        if is_refusal(&head.headers) {
            return Ok(Ending::Refused);
        }
        end_of(&mut body).await
    }

    /// Reads a message of `bytes` at least. `None`: there is none.
    pub(crate) async fn message(self, bytes: usize) -> Result<Option<Kept>, h2::Error> {
        let mut answer = self.answer.await?.into_body();
        let mut read = 0;
        while read < bytes {
            let Some(data) = answer.data().await.transpose()? else {
                return Ok(None);
            };
            read += data.len();
            answer.flow_control().release_capacity(data.len())?;
        }
        Ok(Some(Kept {
            _request: self.request,
            _answer: answer,
        }))
    }
}

async fn end_of(body: &mut RecvStream) -> Result<Ending, h2::Error> {
    while let Some(data) = body.data().await {
        data?;
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    if is_refusal(&trailers) {
        Ok(Ending::Refused)
    } else {
        Ok(Ending::Answered)
    }
}

fn is_refusal(headers: &HeaderMap) -> bool {
    headers
        .get("grpc-status")
        .is_some_and(|status| status != "0")
}

impl Ending {
    pub(crate) fn of(result: Result<Self, h2::Error>) -> Self {
        match result {
            Ok(ending) => ending,
            Err(error) if error.is_reset() => Self::Reset,
            Err(_) => Self::ConnectionLost,
        }
    }
}

/// Sends all of `bytes`, as fast as the peer lets it.
pub(crate) async fn send(
    stream: &mut SendStream<Bytes>,
    mut bytes: Bytes,
    is_last: bool,
) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let capacity = match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(capacity) => capacity?,
            // The peer has closed the stream; its answer says why.
            None => return Ok(()),
        };
        let part = bytes.split_to(capacity.min(bytes.len()));
        stream.send_data(part, is_last && bytes.is_empty())?;
    }
    Ok(())
}

/// A gRPC message: not compressed, its length, its bytes.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    let mut bytes = begun(message.encoded_len());
    message.encode(&mut bytes).expect("the buffer grows");
    bytes.freeze()
}

/// The same of a body that is encoded already.
pub(crate) fn framed_bytes(body: &[u8]) -> Bytes {
    let mut bytes = begun(body.len());
    bytes.put_slice(body);
    bytes.freeze()
}

fn begun(length: usize) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).expect("below the message limit"));
    bytes
}
