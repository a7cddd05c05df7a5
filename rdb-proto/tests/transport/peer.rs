//! A peer that decides itself what it sends and reads.

use std::pin::pin;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::request::Builder;
use tonic::codegen::http::{HeaderMap, Request};

use crate::fixture::{TestServer, guarded};

pub(crate) const RAW_GET: &str = "/kvrpc.KvRaw/RawGet";
pub(crate) const RAW_DELETE: &str = "/kvrpc.KvRaw/RawDelete";
pub(crate) const RAW_BATCH_PUT: &str = "/kvrpc.KvRaw/RawBatchPut";
pub(crate) const BATCH: &str = "/kvrpc.KvBatch/Batch";
pub(crate) const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

const FRAME_HEADER_BYTES: usize = 5;

/// How long a test waits for what must not happen, and the timeouts it sets.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

/// One HTTP/2 connection.
pub(crate) struct Peer {
    requests: SendRequest<Bytes>,
    /// From then on nothing is read from the socket, or written to it.
    pub(crate) deaf: CancellationToken,
    /// Ends with the connection.
    pub(crate) connection: JoinHandle<Result<(), h2::Error>>,
}

/// One call: its open side, and its answer to come.
pub(crate) struct Stream {
    pub(crate) sending: SendStream<Bytes>,
    pub(crate) answer: ResponseFuture,
}

impl Peer {
    /// Reads up to `window_bytes` of each answer.
    pub(crate) async fn connect(server: &TestServer, window_bytes: u32) -> Self {
        let socket = TcpStream::connect(&server.address)
            .await
            .expect("it listens");
        Self::over(socket, window_bytes).await
    }

    /// The same over a connection that is made already.
    pub(crate) async fn over(
        socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        window_bytes: u32,
    ) -> Self {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(window_bytes)
            .initial_connection_window_size(1 << 30)
            .initial_max_send_streams(256);
        let (requests, connection) = builder.handshake(socket).await.expect("it speaks HTTP/2");
        let deaf = CancellationToken::new();
        let is_deaf = deaf.clone();
        let connection = tokio::spawn(async move {
            let mut connection = pin!(connection);
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = is_deaf.cancelled() => std::future::pending().await,
            }
        });
        Self {
            requests,
            deaf,
            connection,
        }
    }

    /// Begins a call with `body`, and ends it if `is_complete`.
    pub(crate) async fn call(&mut self, path: &str, body: Bytes, is_complete: bool) -> Stream {
        let begun = self.try_call(path, body, is_complete).await;
        begun.expect("open")
    }

    /// Like [`call`](Self::call), on a connection that the server may have closed.
    pub(crate) async fn try_call(
        &mut self,
        path: &str,
        body: Bytes,
        is_complete: bool,
    ) -> Result<Stream, h2::Error> {
        self.begin(head(path), body, is_complete).await
    }

    /// Begins a call with this `head`.
    pub(crate) async fn begin(
        &mut self,
        head: Builder,
        body: Bytes,
        is_complete: bool,
    ) -> Result<Stream, h2::Error> {
        let requests = self.requests.clone().ready();
        self.requests = guarded("room for a stream", requests).await?;
        let request = head.body(()).expect("well formed");
        let (answer, mut sending) = self.requests.send_request(request, false)?;
        sending.send_data(body, is_complete)?;
        Ok(Stream { sending, answer })
    }
}

/// The head of a call.
pub(crate) fn head(path: &str) -> Builder {
    Request::post(format!("http://store{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

/// The message in its frame.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    begun(message.encoded_len(), &message.encode_to_vec())
}

/// The frame of a message of `length` bytes, of which only `part` is there.
pub(crate) fn begun(length: usize, part: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(length as u32);
    frame.put_slice(part);
    frame.freeze()
}

/// What an answer is, once it is read to its end.
pub(crate) struct Answer {
    /// Without the frame around it.
    pub(crate) message: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Stream {
    /// Reads all of the answer.
    pub(crate) async fn read(self) -> Result<Answer, h2::Error> {
        let Self { sending, answer } = self;
        let response = guarded("an answer begins", answer).await?;
        let headers = response.headers().clone();
        let mut body = response.into_body();
        let mut read = BytesMut::new();
        while let Some(data) = guarded("an answer goes on", body.data()).await {
            let data = data?;
            let _ = body.flow_control().release_capacity(data.len());
            read.extend_from_slice(&data);
        }
        let trailers = guarded("an answer ends", body.trailers()).await?;
        drop(sending);
        Ok(Answer {
            message: read.split_off(FRAME_HEADER_BYTES.min(read.len())).freeze(),
            trailers: trailers.unwrap_or(headers),
        })
    }

    /// The answer's body, nothing of which is read.
    pub(crate) async fn unread(self) -> Result<RecvStream, h2::Error> {
        Ok(guarded("an answer begins", self.answer).await?.into_body())
    }
}

/// Waits until the server resets the stream of `body`, of which what has arrived is read but no window given.
pub(crate) async fn reset_reason(mut body: RecvStream) -> Option<h2::Reason> {
    loop {
        match guarded("the stream is reset", body.data()).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return error.reason(),
            None => return None,
        }
    }
}
