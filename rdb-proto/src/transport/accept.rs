//! Accepting connections: a place for each, and few words about those that get none.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::budget::ProcessBudgets;
use super::connection::Connection;
use super::figures::TransportFigures;
use super::listener::Listener;
use super::places::{Place, Places};
use super::unserved::UnservedCalls;

/// How long to wait before accepting again when the process is out of file descriptors.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(100);

/// A refused connection is logged at most once in that time.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Accepts the connections of one server.
pub(super) struct Acceptor<L> {
    listener: L,
    places: Arc<Places>,
    process: ProcessBudgets,
    drain: CancellationToken,
    figures: Arc<TransportFigures>,
    unserved: Option<Arc<dyn UnservedCalls>>,
    log: RareLog,
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
            log: RareLog::default(),
        }
    }

    /// The next connection that gets a place. One that gets none is closed at once, so that its client fails fast instead
    /// of hanging in the backlog. Dropping the future loses no connection that would have got one.
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
                    self.log.warn(Instant::now(), |suppressed| {
                        tracing::warn!(%error, suppressed, "cannot accept a connection");
                    });
                    sleep(ACCEPT_ERROR_PAUSE).await;
                }
            }
        }
    }

    fn admit(&mut self, stream: L::Stream, peer: SocketAddr) -> Option<Accepted<L::Stream>> {
        let closing = self.drain.child_token();
        let connection =
            Arc::new(Connection::new(&self.process, closing).of_peer(peer, self.unserved.clone()));
        let place = match self.places.take(peer.ip(), &connection) {
            Ok(place) => place,
            Err(full) => {
                self.figures.connections_refused.increment();
                self.log.warn(Instant::now(), |suppressed| {
                    tracing::warn!(%peer, suppressed, "connection closed: {full}");
                });
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

/// Writes a line at most once a [`LOG_INTERVAL`], and how many it has left out since the last one.
#[derive(Debug, Default)]
struct RareLog {
    last: Option<Instant>,
    suppressed: u64,
}

impl RareLog {
    fn warn(&mut self, now: Instant, write: impl FnOnce(u64)) {
        if self.last.is_some_and(|last| now - last < LOG_INTERVAL) {
            self.suppressed += 1;
            return;
        }
        self.last = Some(now);
        write(std::mem::take(&mut self.suppressed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_a_second_with_the_count_of_the_others() {
        let mut log = RareLog::default();
        let begun = Instant::now();
        let mut lines = Vec::new();
        for tenth in 0..25 {
            let now = begun + tenth * LOG_INTERVAL / 10;
            log.warn(now, |suppressed| lines.push(suppressed));
        }
        assert_eq!(lines, [0, 9, 9]);
    }
}
