//! One connection of a server: what its calls share, and the task that drives it.
//!
//! Cancelling [`Connection::closing`] closes it. The drain does so, the places when all are taken, and the connection's own
//! task when nothing has moved for long. The peer is then told to go away. Calls that it has sent are still answered, and
//! streams that watch the token end. The connection ends when its last call has ended.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::budget::{ByteBudget, BytesInFlight};
use super::call_service::CallService;
use super::call_task::CallExecutor;
use super::limits::{
    CALL_WINDOW_BYTES, CONCURRENT_STREAMS_MAX, CONNECTION_CLOSE_TIMEOUT, KEEPALIVE_INTERVAL,
    KEEPALIVE_TIMEOUT, REQUEST_HEADER_LIST_BYTES_MAX, WINDOW_RATIO,
};
use super::places::Place;
use super::serve::ServeOptions;
use super::socket::Socket;
use super::stream_places::StreamPlaces;
use super::traffic::Traffic;

/// What the calls of one connection share.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) bytes_in_flight: BytesInFlight,
    pub(super) streams: StreamPlaces,
    pub(super) traffic: Traffic,
    pub(super) closing: CancellationToken,
}

impl Connection {
    pub(super) fn new(process: &ByteBudget, closing: CancellationToken) -> Self {
        Self {
            bytes_in_flight: BytesInFlight::of_connection(process),
            streams: StreamPlaces::default(),
            traffic: Traffic::default(),
            closing,
        }
    }

    /// Serves `routes` on `stream` until the peer closes it or the connection is closing. `drain` is that of the process.
    pub(super) async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        place: Place,
        routes: Routes,
        options: Arc<ServeOptions>,
        drain: CancellationToken,
    ) {
        let socket = Socket::greeted(stream, Arc::clone(&self), options.preface_timeout);
        let Some(socket) = socket.await else {
            return;
        };
        let tick_duration = Traffic::tick_duration(options.send_stall_timeout);
        let idle_ticks_max = options
            .idle_timeout
            .map(|timeout| ticks(timeout, tick_duration));
        let silent_call_ticks = silent_call_ticks(&options);
        let executor = CallExecutor::new(options.send_stall_timeout, drain.clone());
        let service = CallService::new(routes, Arc::clone(&self), &options);
        let builder = builder(executor, place.window_bytes);
        let mut http = pin!(builder.serve_connection(TokioIo::new(socket), service));
        let mut tick = interval_at(Instant::now() + tick_duration, tick_duration);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut closing_since = None;
        loop {
            tokio::select! {
                ended = http.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection failed");
                    }
                    return;
                }
                () = self.closing.cancelled(), if closing_since.is_none() => {
                    http.as_mut().graceful_shutdown();
                    closing_since = Some(Instant::now());
                }
                _ = tick.tick() => {
                    self.traffic.tick();
                    if self.traffic.is_stuck(drain.is_cancelled()) {
                        tracing::debug!("a connection was closed: its peer takes no answers");
                        return;
                    }
                    let is_overdue = |since: Instant| since.elapsed() >= CONNECTION_CLOSE_TIMEOUT;
                    // A drain has a timeout of its own.
                    if closing_since.is_some_and(is_overdue)
                        && !drain.is_cancelled()
                        && !self.traffic.is_in_use(silent_call_ticks)
                    {
                        return;
                    }
                    // More than the ticks of the timeout: the first of them may have been nearly over.
                    if idle_ticks_max.is_some_and(|max| self.traffic.idle_ticks() > max) {
                        self.closing.cancel();
                    }
                }
            }
        }
    }
}

fn builder(executor: CallExecutor, window_bytes: u32) -> http2::Builder<CallExecutor> {
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        // gRPC has no use for it, and making it panics when the clock is before 1970.
        .auto_date_header(false)
        .initial_connection_window_size(window_bytes)
        .initial_stream_window_size(window_bytes / WINDOW_RATIO)
        .max_concurrent_streams(CONCURRENT_STREAMS_MAX.min(window_bytes / CALL_WINDOW_BYTES))
        .max_header_list_size(REQUEST_HEADER_LIST_BYTES_MAX)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    builder
}

/// After how many ticks without traffic a call is a stream that nobody uses: a unary one has ended before.
pub(super) fn silent_call_ticks(options: &ServeOptions) -> u32 {
    let tick_duration = Traffic::tick_duration(options.send_stall_timeout);
    ticks(options.call_timeout, tick_duration).saturating_add(1)
}

/// How many ticks `timeout` takes, rounded up.
fn ticks(timeout: Duration, tick_duration: Duration) -> u32 {
    let ticks = timeout.as_millis().div_ceil(tick_duration.as_millis());
    u32::try_from(ticks).unwrap_or(u32::MAX)
}
