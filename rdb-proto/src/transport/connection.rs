//! One connection of a server: what its calls share, and the task that drives it.
//!
//! Cancelling [`Connection::closing`] closes it. The drain does so, the places when all are taken, and the connection's own
//! task when nothing has moved for long. The peer is then told to go away. Calls that it has sent are still answered, and
//! streams that watch the token end. The connection ends when its peer has acknowledged and the last call has ended, and
//! otherwise as [`Traffic::is_overdue`] says, or earlier when the places cut it off.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::accept::Refusals;
use super::budget::{BytesInFlight, ProcessBudgets};
use super::call_service::CallService;
use super::call_task::CallExecutor;
use super::limits::{
    CALL_WINDOW_BYTES, CONCURRENT_STREAMS_MAX, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT,
    REQUEST_HEADER_LIST_BYTES_MAX, WINDOW_RATIO,
};
use super::methods::{Method, Requests};
use super::places::Place;
use super::secured::Secured;
use super::serve::ServeOptions;
use super::services::Services;
use super::socket::Socket;
use super::stream_places::StreamPlaces;
#[cfg(feature = "tls")]
use super::tls::PeerIdentity;
use super::traffic::{Patience, Traffic};
use super::unserved::{UnservedCall, UnservedCalls};
use super::wire::Wire;
#[cfg(feature = "process")]
use crate::audit::AuditLog;
use crate::trace::TraceContext;

/// A peer that means to call has shaken hands and greeted by then, unless the network or a machine is very slow.
pub(super) const GREETING_EXPECTED: Duration = Duration::from_secs(1);

/// What the calls of one connection share.
#[derive(Debug)]
pub(super) struct Connection {
    bytes_in_flight: BytesInFlight,
    /// The bytes in flight of other stores' streams.
    of_stores: BytesInFlight,
    pub(super) streams: StreamPlaces,
    pub(super) traffic: Traffic,
    pub(super) closing: CancellationToken,
    /// Cancelled when the connection has to end at once, even with calls under way.
    pub(super) cut_off: CancellationToken,
    /// The window of a stream. Known once the peer has greeted.
    pub(super) stream_window_bytes: OnceLock<usize>,
    /// Where it comes from.
    pub(super) peer: Option<SocketAddr>,
    pub(super) accepted_at: Instant,
    /// A call was let in that not everybody may make, and nobody without an identity has called since. Relaxed: it stands for itself.
    is_let_in: AtomicBool,
    unserved: Option<Arc<dyn UnservedCalls>>,
    refusals: Arc<Refusals>,
    /// Whose certificate the peer has presented. Known before its first call.
    #[cfg(feature = "tls")]
    pub(super) peer_identity: OnceLock<Arc<PeerIdentity>>,
    /// Receives what belongs in the audit log. Known before the first call.
    #[cfg(feature = "process")]
    pub(super) audit: OnceLock<AuditLog>,
}

impl Connection {
    pub(super) fn new(process: &ProcessBudgets, closing: CancellationToken) -> Self {
        Self {
            bytes_in_flight: BytesInFlight::of_connection(&process.clients),
            of_stores: BytesInFlight::of_connection(&process.stores),
            streams: StreamPlaces::default(),
            traffic: Traffic::default(),
            closing,
            cut_off: CancellationToken::new(),
            stream_window_bytes: OnceLock::new(),
            peer: None,
            accepted_at: Instant::now(),
            is_let_in: AtomicBool::new(false),
            unserved: None,
            refusals: Arc::default(),
            #[cfg(feature = "tls")]
            peer_identity: OnceLock::new(),
            #[cfg(feature = "process")]
            audit: OnceLock::new(),
        }
    }

    /// The same with its peer, and with the receivers of unserved calls and of refusals.
    pub(super) fn of_peer(
        self,
        peer: SocketAddr,
        unserved: Option<Arc<dyn UnservedCalls>>,
        refusals: Arc<Refusals>,
    ) -> Self {
        Self {
            peer: Some(peer),
            unserved,
            refusals,
            ..self
        }
    }

    /// Writes a line to the log for a connection whose peer does not speak as it should, if it has a turn.
    pub(super) fn note_not_greeted(&self, cause: &str) {
        if let Some(suppressed) = self.refusals.greeting.take_turn() {
            let peer = self.peer.map(tracing::field::display);
            tracing::warn!(peer, suppressed, "connection closed: {cause}");
        }
    }

    /// Whether its peer takes longer to greet than one does that means to call.
    pub(super) fn is_slow_to_greet(&self) -> bool {
        let is_greeted = self.stream_window_bytes.get().is_some();
        !is_greeted && self.accepted_at.elapsed() >= GREETING_EXPECTED
    }

    /// Notes that a restricted call was admitted, or that a call was refused for lack of an identity.
    pub(super) fn note_let_in(&self, is_let_in: bool) {
        self.is_let_in.store(is_let_in, Relaxed);
    }

    /// Whether its peer has called, and not shown that it is a user.
    pub(super) fn is_of_a_stranger(&self) -> bool {
        !self.is_let_in.load(Relaxed) && self.traffic.has_had_calls()
    }

    /// Tells of a call that no handler saw.
    pub(super) fn note_unserved(
        &self,
        method: &Method,
        trace: Option<TraceContext>,
        waited: Duration,
        is_refused: bool,
    ) {
        let Some(unserved) = &self.unserved else {
            return;
        };
        let (service, method) = method.names();
        unserved.note(UnservedCall {
            service,
            method,
            peer: self.peer,
            trace,
            waited,
            is_refused,
        });
    }

    /// The budgets that calls with such requests are charged to.
    pub(super) fn budgets(&self, requests: Requests) -> &BytesInFlight {
        match requests {
            Requests::StoreStream => &self.of_stores,
            _ => &self.bytes_in_flight,
        }
    }

    /// Serves `services` on `stream` until the peer closes it or the connection is closing. `drain` is that of the process.
    pub(super) async fn serve(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send,
        place: Place,
        services: Arc<Services>,
        options: Arc<ServeOptions>,
        drain: CancellationToken,
    ) {
        #[cfg(feature = "process")]
        if let Some(audit) = &options.audit {
            self.audit.get_or_init(|| audit.clone());
        }
        let arriving = async {
            let stream = Wire::new(stream, Arc::clone(&self));
            let stream = self.secured(stream, &options).await?;
            Socket::greeted(stream, &self, options.preface_timeout).await
        };
        let arrived = tokio::select! {
            () = self.closing.cancelled() => None,
            () = self.cut_off.cancelled() => None,
            arrived = arriving => arrived,
        };
        let Some(socket) = arrived else {
            return;
        };
        let tick_duration = Traffic::tick_duration(options.send_stall_timeout);
        let patience = Patience::new(&options);
        let ended = CancellationToken::new();
        let executor = CallExecutor::new(options.send_stall_timeout, drain.clone(), ended.clone());
        let service = CallService::new(
            services,
            Arc::clone(&self),
            place.is_for_stores,
            executor.answered_at_once.clone(),
            &options,
        );
        let stream_window_bytes = place.window_bytes / WINDOW_RATIO;
        self.stream_window_bytes
            .get_or_init(|| stream_window_bytes as usize);
        let builder = builder(executor, place.window_bytes);
        let mut http = pin!(builder.serve_connection(TokioIo::new(socket), service));
        // Dropped before the calls are woken since the connection is.
        let _ended = ended.drop_guard();
        let mut tick = interval_at(Instant::now() + tick_duration, tick_duration);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // Look at what the peer has sent before giving it up.
                biased;
                ended = http.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection failed");
                    }
                    return;
                }
                () = self.closing.cancelled(), if self.traffic.closing_ticks().is_none() => {
                    http.as_mut().graceful_shutdown();
                    self.traffic.begin_closing();
                }
                () = self.cut_off.cancelled() => {
                    tracing::debug!("a connection was cut off: others need its place");
                    return;
                }
                _ = tick.tick() => {
                    self.traffic.tick();
                    let draining = drain.is_cancelled();
                    if self.traffic.is_stuck(draining) {
                        tracing::debug!("a connection was closed: its peer takes no answers");
                        return;
                    }
                    if self.traffic.is_overdue(&patience, draining) {
                        tracing::debug!("a connection was closed: its peer does not go away");
                        return;
                    }
                    if patience.idle.is_some_and(|max| self.traffic.idle_ticks() >= max) {
                        self.closing.cancel();
                    }
                }
            }
        }
    }

    /// The connection after its TLS handshake, where there is one. `None` when that fails or does not end in time.
    async fn secured<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        stream: S,
        options: &ServeOptions,
    ) -> Option<Secured<S>> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &options.tls {
            return match tls.accept(stream, options.preface_timeout).await {
                Ok((stream, identity)) => {
                    if let Some(identity) = identity {
                        self.peer_identity.get_or_init(|| Arc::new(identity));
                    }
                    Some(stream)
                }
                Err(cause) => {
                    // One that went without a word may only have looked whether somebody listens.
                    if let Some(cause) = cause {
                        options.figures.handshakes_failed.increment();
                        self.note_not_greeted(&cause);
                    }
                    None
                }
            };
        }
        let _ = options;
        Some(Secured::Plain(stream))
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
