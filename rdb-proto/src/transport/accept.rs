//! Accepting connections: a place for each, and a rare line in the log for those that get none.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::budget::ProcessBudgets;
use super::connection::Connection;
use super::figures::TransportFigures;
use super::listener::Listener;
use super::places::{Place, Places};
use super::unserved::UnservedCalls;
use crate::rare_line::RareLine;

/// How long to wait before accepting again when the process is out of file descriptors.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Accepts the connections of one server.
pub(super) struct Acceptor<L> {
    listener: L,
    places: Arc<Places>,
    process: ProcessBudgets,
    drain: CancellationToken,
    figures: Arc<TransportFigures>,
    unserved: Option<Arc<dyn UnservedCalls>>,
    refusals: Arc<Refusals>,
}

/// The lines of the log about connections that are refused. All connections of a server share them. Each kind has its own, so that none
/// hides another.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// None can be accepted.
    accepting: Line,
    /// There is no place.
    places: Line,
    /// The peer does not speak as it should.
    pub(super) greeting: Line,
}

#[derive(Debug, Default)]
pub(super) struct Line(Mutex<RareLine>);

impl Line {
    /// Takes the turn to write the line, if there is one. Returns how many were left out since the last turn.
    pub(super) fn take_turn(&self) -> Option<u64> {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        line.take_turn(Instant::now())
    }
}

/// A connection with a place.
type Accepted<Stream> = (Stream, Arc<Connection>, Place);

impl<L: Listener> Acceptor<L> {
    /// Each connection is charged to `process`, and closes when `drain` is cancelled.
    pub(super) fn new(
        listener: L,
        places: Arc<Places>,
        process: ProcessBudgets,
        drain: CancellationToken,
        figures: Arc<TransportFigures>,
        unserved: Option<Arc<dyn UnservedCalls>>,
    ) -> Self {
        Self {
            listener,
            places,
            process,
            drain,
            figures,
            unserved,
            refusals: Arc::default(),
        }
    }

    /// The next connection that gets a place. A connection without a place is closed at once, so that its client fails
    /// fast instead of hanging in the backlog. Dropping the future loses no connection that would have got a place.
    pub(super) async fn next(&mut self) -> Accepted<L::Stream> {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    if let Some(accepted) = self.admit(stream, peer) {
                        return accepted;
                    }
                }
                Err(error) => {
                    // Either the peer is gone already, or the process lacks resources: both pass.
                    if let Some(suppressed) = self.refusals.accepting.take_turn() {
                        tracing::warn!(%error, suppressed, "cannot accept a connection");
                    }
                    sleep(ACCEPT_ERROR_PAUSE).await;
                }
            }
        }
    }

    fn admit(&mut self, stream: L::Stream, peer: SocketAddr) -> Option<Accepted<L::Stream>> {
        let closing = self.drain.child_token();
        let connection = Arc::new(Connection::new(&self.process, closing).of_peer(
            peer,
            self.unserved.clone(),
            Arc::clone(&self.refusals),
        ));
        let place = match self.places.take(peer.ip(), &connection) {
            Ok(place) => place,
            Err(full) => {
                self.figures.connections_refused.increment();
                if let Some(suppressed) = self.refusals.places.take_turn() {
                    tracing::warn!(%peer, suppressed, "connection closed: {full}");
                }
                return None;
            }
        };
        if let Err(error) = L::set_nodelay(&stream) {
            tracing::debug!(%peer, %error, "connection was gone before it was set up");
            return None;
        }
        self.figures.connections_accepted.increment();
        Some((stream, connection, place))
    }
}
