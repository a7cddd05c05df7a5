//! One HTTP/2 connection, as gRPC stubs use it.
//!
//! tonic's own channel connects again by itself, and tells by the type of an inner error only whether a request was sent.
//! This one never connects again. Its errors are [`ConnectionError`]s, which say what is certain.

use std::error::Error as StdError;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, Uri, header};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::{self, Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rdb_proto::auth::AUTHORIZATION;
use rdb_proto::trace::{self, TRACEPARENT, TraceContext};
use rdb_proto::transport::limits::{
    CONCURRENT_STREAMS_MAX, CONCURRENT_STREAMS_MIN, CONNECTION_WINDOW_BYTES, HEADER_LIST_BYTES_MAX,
    KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, STREAM_WINDOW_BYTES,
};
use rdb_proto::transport::{PORT_SPEAKS_TLS, Secured, tcp, wants_tls};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::PollSemaphore;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use super::Security;
use super::security::Bearer;

const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("rdb-client/", env!("CARGO_PKG_VERSION")));

/// Most calls under way at once on a connection: one fewer than a server accepts. With the last one h2 is full: hyper holds that request back
/// until h2 has opened its stream, and if the connection ends before that, it cannot tell such a request from one that was sent. So a write
/// can still be undetermined that was not sent, if others were given up right before: for h2 they last until it has reset them.
pub(crate) const CALLS_MAX: usize = CONCURRENT_STREAMS_MAX as usize - 1;

/// As many until the peer has told how many it accepts: one fewer than every server does.
const CALLS_BEFORE_SETTINGS: usize = CONCURRENT_STREAMS_MIN as usize - 1;

/// Why a call got no response, or only a part of one.
#[derive(Debug, thiserror::Error)]
#[error("the connection failed")]
pub(crate) struct ConnectionError {
    /// Whether it is certain that the peer has done nothing for the request.
    unprocessed: bool,
    /// `None`: the connection had ended before.
    source: Option<hyper::Error>,
}

impl ConnectionError {
    /// The error that `status` was made from; `None`: the peer sent the status.
    pub(crate) fn of(status: &Status) -> Option<&Self> {
        let mut source = status.source();
        while let Some(error) = source {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            source = error.source();
        }
        None
    }

    /// The innermost error in words: those around it say only by which layers it came.
    pub(crate) fn cause(&self) -> String {
        self.source
            .as_ref()
            .map_or_else(|| self.to_string(), innermost)
    }

    /// Whether the request certainly was not processed: it was never written to the connection, or the peer refused its
    /// stream before it looked at it (RFC 9113, 6.8 and 8.7).
    pub(crate) fn is_unprocessed(&self) -> bool {
        self.unprocessed
    }

    /// Whether the connection takes no more requests. A reset ends one call and leaves the others alone (RFC 9113, 5.4.2).
    pub(crate) fn is_broken(&self) -> bool {
        let cause = self.source.as_ref().and_then(h2_error);
        !cause.is_some_and(h2::Error::is_reset)
    }

    fn new(source: hyper::Error, was_sent: bool) -> Self {
        Self {
            unprocessed: !was_sent || is_refused(&source),
            source: Some(source),
        }
    }

    fn ended_before() -> Self {
        Self {
            unprocessed: true,
            source: None,
        }
    }

    /// Makes the error that ends a response which has begun.
    fn cut(source: hyper::Error) -> Self {
        Self {
            unprocessed: false,
            source: Some(source),
        }
    }
}

/// A GOAWAY fails only those streams with a remote GOAWAY that lie above its last stream id.
fn is_refused(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|cause| {
        let refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
        cause.is_remote() && (refused || cause.is_go_away())
    })
}

fn innermost(error: &hyper::Error) -> String {
    if h2_error(error).is_some_and(wants_tls) {
        return format!(
            "{PORT_SPEAKS_TLS}: give the CA of its certificate (Config::with_tls, rdbctl --ca)"
        );
    }
    let innermost = std::iter::successors(Some(error as &dyn StdError), |&error| error.source());
    innermost.last().unwrap_or(error).to_string()
}

fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    error.source().and_then(<dyn StdError>::downcast_ref)
}

/// Sends requests over one connection. Clones share it; it is closed when all of them and their calls are gone.
///
/// A call needs a place, of which there are at most [`CALLS_MAX`].
#[derive(Debug)]
pub(crate) struct Channel {
    requests: Arc<Requests>,
    /// Why the connection has ended, once it has ended by a failure.
    failure: watch::Receiver<Option<String>>,
    authority: Authority,
    places: PollSemaphore,
    /// The place of this clone's next call.
    place: Option<OwnedSemaphorePermit>,
    /// What this clone's calls are a part of.
    trace: Option<TraceContext>,
    /// The token that calls carry.
    bearer: Option<Bearer>,
}

type Connection = http2::Connection<TokioIo<Secured<TcpStream>>, Body, TokioExecutor>;

type Sent = Result<Response<Incoming>, TrySendError<Request<Body>>>;

/// The way to the task that sends requests; closed when that has ended.
///
/// There is one sender, and it ends with the task: a request that was queued while the task ended stays in the queue
/// until the last sender is dropped, so its call would wait for ever.
#[derive(Debug)]
struct Requests(Mutex<Option<SendRequest<Body>>>);

impl Requests {
    fn is_closed(&self) -> bool {
        let requests = self.lock();
        requests.as_ref().is_none_or(SendRequest::is_closed)
    }

    /// `None`: it is closed.
    fn send(&self, request: Request<Body>) -> Option<impl Future<Output = Sent> + use<>> {
        let mut requests = self.lock();
        requests
            .as_mut()
            .map(|requests| requests.try_send_request(request))
    }

    fn lock(&self) -> MutexGuard<'_, Option<SendRequest<Body>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves a connection until it ends, and adds the places that the peer's settings allow beyond [`CALLS_BEFORE_SETTINGS`].
///
/// Settings that arrive do not wake it. It looks at them with the next request that it sends, and a peer that has answered a call has told
/// them before. The first call of a connection is its greeting, so they are known to the second.
async fn serve(mut connection: Connection, places: &Semaphore) -> hyper::Result<()> {
    let mut given = CALLS_BEFORE_SETTINGS;
    poll_fn(|context| {
        let ended = Pin::new(&mut connection).poll(context);
        if given < CALLS_MAX {
            let accepted = connection.current_max_send_streams();
            let allowed = CALLS_MAX.min(accepted.saturating_sub(1));
            places.add_permits(allowed.saturating_sub(given));
            given = allowed.max(given);
        }
        ended
    })
    .await
}

/// Closes the way to a task when that ends, also with its runtime.
struct CloseAtEnd(Weak<Requests>);

impl Drop for CloseAtEnd {
    fn drop(&mut self) {
        if let Some(requests) = self.0.upgrade() {
            let sender = requests.lock().take();
            // Not under the lock.
            drop(sender);
        }
    }
}

impl Clone for Channel {
    fn clone(&self) -> Self {
        Self {
            requests: Arc::clone(&self.requests),
            failure: self.failure.clone(),
            authority: self.authority.clone(),
            places: self.places.clone(),
            place: None,
            trace: self.trace,
            bearer: self.bearer.clone(),
        }
    }
}

impl Channel {
    /// Connects to `address`, a `host:port`. The connection is served by a task of the present runtime.
    pub(crate) async fn connect(
        address: &str,
        security: &Security,
    ) -> Result<Self, Box<dyn StdError + Send + Sync>> {
        let authority = address.parse()?;
        let stream = tcp(address).await?;
        let stream = security.secure(address, stream).await?;
        let handshake = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            // Until the peer has told.
            .initial_max_send_streams(CONCURRENT_STREAMS_MIN as usize)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream));
        let (requests, connection) = handshake.await?;
        let requests = Arc::new(Requests(Mutex::new(Some(requests))));
        let closing = CloseAtEnd(Arc::downgrade(&requests));
        let places = Arc::new(Semaphore::new(CALLS_BEFORE_SETTINGS));
        let served_places = Arc::clone(&places);
        let (told, failure) = watch::channel(None);
        // It ends with the last request and the last clone of `requests`.
        tokio::spawn(async move {
            let _closing = closing;
            if let Err(error) = serve(connection, &served_places).await {
                tracing::debug!(%error, "a connection broke");
                told.send_replace(Some(innermost(&error)));
            }
        });
        Ok(Self {
            requests,
            failure,
            authority,
            places: PollSemaphore::new(places),
            place: None,
            trace: None,
            bearer: security.bearer.clone(),
        })
    }

    /// Waits for a place for the next call. Until that call begins, nothing is sent.
    pub(crate) async fn take_place(&mut self) {
        // It cannot fail.
        let _ = poll_fn(|context| self.poll_ready(context)).await;
    }

    /// The same for calls that are parts of this trace. It keeps its place.
    pub(crate) fn traced(self, trace: Option<&TraceContext>) -> Self {
        Self {
            trace: trace.copied(),
            ..self
        }
    }

    /// The same for calls that carry no token.
    pub(super) fn anonymous(self) -> Self {
        Self {
            bearer: None,
            ..self
        }
    }

    /// Whether the connection takes no more requests.
    pub(crate) fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    /// Waits until the connection has ended, and says why if it has ended by a failure.
    pub(super) async fn failure(&mut self) -> Option<String> {
        // Else its task has ended without one.
        let failed = self.failure.wait_for(Option::is_some).await.ok()?;
        failed.clone()
    }

    /// Completes the URI, of which stubs set only the method, and adds the headers that every request carries.
    fn addressed(&self, mut request: Request<Body>) -> Request<Body> {
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(self.authority.clone());
        // A stub's path is a path.
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        request.headers_mut().insert(header::USER_AGENT, USER_AGENT);
        if let Some(trace) = &self.trace {
            let headers = request.headers_mut();
            headers.insert(&TRACEPARENT, trace::header_value(trace));
        }
        if let Some(bearer) = &self.bearer {
            let headers = request.headers_mut();
            headers.insert(AUTHORIZATION, bearer.header_value());
        }
        request
    }
}

/// A response body whose errors are [`ConnectionError`]s. Its call is over when it is dropped.
pub(crate) struct ResponseBody {
    body: Incoming,
    _place: Option<OwnedSemaphorePermit>,
}

impl hyper::body::Body for ResponseBody {
    type Data = Bytes;
    type Error = ConnectionError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ConnectionError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        frame.map(|frame| frame.map(|frame| frame.map_err(ConnectionError::cut)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<ResponseBody>;
    type Error = ConnectionError;
    type Future =
        Pin<Box<dyn Future<Output = Result<Self::Response, ConnectionError>> + Send + 'static>>;

    /// Takes a place. A closed connection has places, too: its requests fail with certainty.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        if self.place.is_none() {
            // The semaphore is never closed.
            self.place = ready!(self.places.poll_acquire(context));
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let request = self.addressed(request);
        let place = self.place.take();
        let response = self.requests.send(request);
        Box::pin(async move {
            let response = response.ok_or_else(ConnectionError::ended_before)?;
            match response.await {
                Ok(response) => Ok(response.map(|body| ResponseBody {
                    body,
                    _place: place,
                })),
                Err(error) => {
                    // hyper gives back what it has not written.
                    let was_sent = error.message().is_none();
                    Err(ConnectionError::new(error.into_error(), was_sent))
                }
            }
        })
    }
}

#[cfg(test)]
mod tests;
