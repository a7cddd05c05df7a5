//! Serving gRPC until told to stop, then draining.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::accept::Acceptor;
use super::budget::{ByteBudget, ProcessBudgets};
use super::figures::{CountedConnection, TransportFigures};
use super::limits::{
    CALL_TIMEOUT, CONNECTIONS_MAX, DRAIN_TIMEOUT, IDLE_TIMEOUT, MESSAGE_BYTES_MAX, PREFACE_TIMEOUT,
    PROCESS_BYTES_IN_FLIGHT_MAX, SEND_STALL_TIMEOUT, STORES_BYTES_PART,
};
use super::listener::Listener;
use super::places::Places;
use super::services::Services;
#[cfg(feature = "tls")]
use super::tls::ServerTls;
use super::traffic::Patience;
use super::uncharged::UnchargedCalls;
use super::unserved::UnservedCalls;
#[cfg(feature = "process")]
use crate::audit::AuditLog;
#[cfg(feature = "process")]
use crate::auth::Guard;

/// What differs between processes and tests; everything else is in [`super::limits`].
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Most connections at once. For one more, the one that has been idle longest is closed; if none is idle, the new one
    /// is.
    pub connections_max: usize,
    /// Most connections from one IP address.
    pub connections_per_address_max: Option<usize>,
    /// How long a connection may have no traffic on any call before it is closed; `None`: for ever.
    pub idle_timeout: Option<Duration>,
    /// How long a call may take until its answer begins, and a message of a stream until it has arrived.
    pub call_timeout: Duration,
    /// How long a peer may keep an answer from being sent before its call is reset.
    pub send_stall_timeout: Duration,
    /// How long a new connection may take to send its HTTP/2 preface, and, before that, for its TLS handshake.
    pub preface_timeout: Duration,
    /// How long to wait for the work in flight after the drain has begun.
    pub drain_timeout: Duration,
    /// The budget of the process for requests and answers.
    pub bytes_in_flight: ByteBudget,
    /// That for what other stores send, beside it.
    pub stores_bytes_in_flight: ByteBudget,
    /// The places of calls that are not charged to either.
    pub uncharged_calls: Arc<UnchargedCalls>,
    /// Most connections beyond `connections_max` that can only call `raftpb.RaftPeer`.
    pub store_connections_max: usize,
    /// Cancelled some time after the drain has begun, when others no longer need calls of this process to go on without it.
    /// Until then everything is served. This time is a part of `drain_timeout`. `None`: there is nothing of that kind.
    pub handed_over: Option<CancellationToken>,
    /// Counts what is served.
    pub figures: Arc<TransportFigures>,
    /// Is told of calls that are not served.
    pub unserved: Option<Arc<dyn UnservedCalls>>,
    /// `None`: connections are plain text.
    #[cfg(feature = "tls")]
    pub tls: Option<Arc<ServerTls>>,
    /// Whom calls are allowed to. `None`: everybody.
    #[cfg(feature = "process")]
    pub guard: Option<Arc<Guard>>,
    /// Where administrative calls and refusals are noted.
    #[cfg(feature = "process")]
    pub audit: Option<AuditLog>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            connections_max: CONNECTIONS_MAX,
            connections_per_address_max: None,
            idle_timeout: Some(IDLE_TIMEOUT),
            call_timeout: CALL_TIMEOUT,
            send_stall_timeout: SEND_STALL_TIMEOUT,
            preface_timeout: PREFACE_TIMEOUT,
            drain_timeout: DRAIN_TIMEOUT,
            bytes_in_flight: ByteBudget::new(PROCESS_BYTES_IN_FLIGHT_MAX),
            stores_bytes_in_flight: ByteBudget::new(stores_bytes(PROCESS_BYTES_IN_FLIGHT_MAX)),
            uncharged_calls: Arc::default(),
            store_connections_max: 0,
            handed_over: None,
            figures: Arc::default(),
            unserved: None,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "process")]
            guard: None,
            #[cfg(feature = "process")]
            audit: None,
        }
    }
}

/// How many bytes in flight are for other stores beside those for clients.
fn stores_bytes(clients_bytes: usize) -> usize {
    (clients_bytes / STORES_BYTES_PART).max(2 * MESSAGE_BYTES_MAX)
}

/// A flag has a number that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flag} is {value}; it has to be from {minimum} to {maximum}")]
pub struct OutOfRange {
    flag: &'static str,
    value: u64,
    minimum: u64,
    maximum: u64,
}

impl OutOfRange {
    /// Checks the number that a flag was given.
    ///
    /// # Errors
    ///
    /// When it is outside of the range.
    pub fn check(
        flag: &'static str,
        value: impl TryInto<u64>,
        range: RangeInclusive<u64>,
    ) -> Result<(), Self> {
        let value = value.try_into().unwrap_or(u64::MAX);
        if range.contains(&value) {
            return Ok(());
        }
        let (minimum, maximum) = range.into_inner();
        Err(Self {
            flag,
            value,
            minimum,
            maximum,
        })
    }
}

/// More connections, and more MiB, than any machine has, and far from overflow.
const COUNT_MAX: u64 = 1_000_000;

impl ServeOptions {
    /// Twice the largest message, so that one always fits with its overhead.
    pub const MESSAGE_MIB_MIN: u64 = (MESSAGE_BYTES_MAX >> 19) as u64;

    /// The options that both servers have as flags. `idle_timeout_s` 0: never.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] names the flag that cannot work.
    pub fn checked(
        bytes_in_flight_mib: usize,
        connections_max: usize,
        connections_per_address_max: Option<usize>,
        idle_timeout_s: u64,
    ) -> Result<Self, OutOfRange> {
        let in_flight = Self::MESSAGE_MIB_MIN..=COUNT_MAX;
        let counts = 1..=COUNT_MAX;
        let per_address_max = connections_per_address_max.unwrap_or(1);
        OutOfRange::check("--bytes-in-flight-mib", bytes_in_flight_mib, in_flight)?;
        OutOfRange::check("--connections-max", connections_max, counts.clone())?;
        OutOfRange::check("--connections-per-address-max", per_address_max, counts)?;
        Ok(Self {
            connections_max,
            connections_per_address_max,
            idle_timeout: (idle_timeout_s > 0).then(|| Duration::from_secs(idle_timeout_s)),
            bytes_in_flight: ByteBudget::new(bytes_in_flight_mib << 20),
            stores_bytes_in_flight: ByteBudget::new(stores_bytes(bytes_in_flight_mib << 20)),
            ..Self::default()
        })
    }
}

/// The compiled-in descriptors cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("gRPC reflection cannot be set up")]
pub struct ServeError(#[from] tonic_reflection::server::Error);

/// Serves `services` on `listener` and gRPC reflection beside them until `drain` is cancelled and, if there is one,
/// [`ServeOptions::handed_over`] is cancelled, too. Then no more connections are accepted, open ones are told to go away, and
/// calls in flight are waited for, at most `drain_timeout` from the beginning of the drain.
///
/// Streams that never end by themselves have to watch [`Call::closing`](super::Call::closing) and end.
///
/// # Errors
///
/// [`ServeError`] before anything is served.
pub async fn serve(
    listener: impl Listener,
    services: Services,
    options: ServeOptions,
    drain: CancellationToken,
) -> Result<(), ServeError> {
    let services = Arc::new(with_reflection(services)?);
    let places = Places::new(
        options.connections_max,
        options.connections_per_address_max,
        options.store_connections_max,
        Patience::new(&options),
        options.bytes_in_flight.bytes_max(),
    );
    let process = ProcessBudgets {
        clients: options.bytes_in_flight.clone(),
        stores: options.stores_bytes_in_flight.clone(),
    };
    let closes = options.handed_over.clone().unwrap_or_else(|| drain.clone());
    let options = Arc::new(options);
    let figures = &options.figures;
    let mut acceptor = Acceptor::new(
        listener,
        Arc::clone(&places),
        process,
        closes.clone(),
        Arc::clone(figures),
        options.unserved.clone(),
    );
    let mut connections = JoinSet::new();
    let mut drain_began = None;
    loop {
        tokio::select! {
            () = closes.cancelled() => break,
            () = drain.cancelled(), if drain_began.is_none() => drain_began = Some(Instant::now()),
            (stream, connection, place) = acceptor.next() => {
                let (services, of_connection) = (Arc::clone(&services), Arc::clone(&options));
                let counted = CountedConnection(Arc::clone(figures));
                let served = connection.serve(stream, place, services, of_connection, closes.clone());
                connections.spawn(async move {
                    let _counted = counted;
                    served.await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
    // Closes the listening socket.
    drop(acceptor);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    let drain_began = drain_began.unwrap_or_else(Instant::now);
    let deadline = drain_began + options.drain_timeout;
    let has_ended = timeout_at(deadline, all_ended).await.is_ok();
    let calls = places.calls();
    if !has_ended && calls > 0 {
        tracing::warn!(
            drain_timeout_ms = options.drain_timeout.as_millis(),
            calls,
            "calls were still in flight at the end of the drain; their connections are closed"
        );
    }
    Ok(())
}

/// Older tools ask for `v1alpha`.
fn with_reflection(services: Services) -> Result<Services, tonic_reflection::server::Error> {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(crate::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let services = services.add_service(builder().build_v1()?);
    Ok(services.add_service(builder().build_v1alpha()?))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    use super::super::{endpoint, health};
    use super::*;

    #[tokio::test]
    async fn a_drain_does_not_wait_for_a_connection_that_never_spoke() {
        const HANG_GUARD: Duration = Duration::from_secs(30);
        let options = ServeOptions {
            preface_timeout: 10 * HANG_GUARD,
            drain_timeout: 10 * HANG_GUARD,
            ..ServeOptions::default()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let drain = CancellationToken::new();
        let (_handle, service) = health(&[], drain.clone());
        let serving = serve(
            listener,
            Services::default().add_service(service),
            options,
            drain.clone(),
        );
        let serving = tokio::spawn(serving);

        let mut silent = TcpStream::connect(address).await.expect("it listens");
        // An answer on a later connection shows that the silent one was accepted.
        let endpoint = endpoint(&address.to_string(), HANG_GUARD).expect("an address");
        let channel = endpoint.connect().await.expect("it listens");
        let checked = HealthClient::new(channel)
            .check(HealthCheckRequest::default())
            .await;
        checked.expect("served");

        drain.cancel();
        let served = tokio::time::timeout(HANG_GUARD, serving).await;
        served
            .expect("the drain ends")
            .expect("no panic")
            .expect("in good order");
        let mut greeting = Vec::new();
        let closed = tokio::time::timeout(HANG_GUARD, silent.read_to_end(&mut greeting)).await;
        assert!(closed.is_ok(), "the silent connection is closed");
    }
}
