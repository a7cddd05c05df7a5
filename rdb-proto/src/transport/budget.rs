//! Bytes in flight: what was received or is to be sent and is not done yet, bounded per connection and per process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;
use tonic::transport::server::Connected;

use super::limits::{
    BATCH_STREAMS_MAX, CONNECTION_BYTES_GUARANTEED, CONNECTION_BYTES_IN_FLIGHT_MAX,
};

/// A number of bytes that can be in flight at once. Clones share it.
#[derive(Debug, Clone)]
pub struct ByteBudget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bytes_max: usize,
    bytes_taken: AtomicUsize,
}

impl ByteBudget {
    /// A budget of which nothing is taken.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                bytes_max,
                bytes_taken: AtomicUsize::new(0),
            }),
        }
    }

    /// How much is taken at the moment. May be more than the budget, see [`Reservation::more`].
    pub fn bytes_taken(&self) -> usize {
        self.shared.bytes_taken.load(Ordering::Relaxed)
    }

    fn try_take(&self, bytes: usize) -> bool {
        let Shared {
            bytes_max,
            bytes_taken,
        } = &*self.shared;
        let fits = |taken: usize| {
            let after = taken.saturating_add(bytes);
            (after <= *bytes_max).then_some(after)
        };
        bytes_taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .is_ok()
    }

    fn take(&self, bytes: usize) {
        self.shared.bytes_taken.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: usize) {
        self.shared.bytes_taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The budgets of one connection: its own and that of the process.
#[derive(Debug, Clone)]
pub struct BytesInFlight {
    /// Of the connection.
    pub connection: ByteBudget,
    /// Of the process.
    pub process: ByteBudget,
}

impl BytesInFlight {
    /// Takes `bytes` from both budgets, or nothing when one of them is used up. Up to
    /// [`CONNECTION_BYTES_GUARANTEED`] that of the process does not refuse, so that connections which hold what they
    /// were given do not shut others out.
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        if !self.connection.try_take(bytes) {
            return None;
        }
        if self.connection.bytes_taken() <= CONNECTION_BYTES_GUARANTEED {
            self.process.take(bytes);
        } else if !self.process.try_take(bytes) {
            self.connection.give_back(bytes);
            return None;
        }
        Some(Reservation {
            budgets: self.clone(),
            bytes,
        })
    }
}

/// Bytes that are taken until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    budgets: BytesInFlight,
    bytes: usize,
}

impl Reservation {
    /// Takes `bytes` more from the same budgets, whether they fit or not: for what is there already. Whoever comes next
    /// finds less room.
    pub fn more(&self, bytes: usize) -> Self {
        self.budgets.connection.take(bytes);
        self.budgets.process.take(bytes);
        Self {
            budgets: self.budgets.clone(),
            bytes,
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budgets.connection.give_back(self.bytes);
        self.budgets.process.give_back(self.bytes);
    }
}

/// What a service can learn of the connection that a request came over, from the request's extensions.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// The budget of this connection.
    pub bytes_in_flight: ByteBudget,
    /// Places for its `kvrpc.KvBatch` streams.
    pub batch_streams: Arc<Semaphore>,
}

impl Default for ConnectionInfo {
    fn default() -> Self {
        Self {
            bytes_in_flight: ByteBudget::new(CONNECTION_BYTES_IN_FLIGHT_MAX),
            batch_streams: Arc::new(Semaphore::new(BATCH_STREAMS_MAX)),
        }
    }
}

impl Connected for super::connection::Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        ConnectionInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budgets(connection: usize, process: usize) -> BytesInFlight {
        BytesInFlight {
            connection: ByteBudget::new(connection),
            process: ByteBudget::new(process),
        }
    }

    fn taken(budgets: &BytesInFlight) -> (usize, usize) {
        let BytesInFlight {
            connection,
            process,
        } = budgets;
        (connection.bytes_taken(), process.bytes_taken())
    }

    const GUARANTEED: usize = CONNECTION_BYTES_GUARANTEED;

    #[test]
    fn what_is_refused_takes_nothing_and_what_is_dropped_is_given_back() {
        let budgets = budgets(10 * GUARANTEED, 5 * GUARANTEED);
        let first = budgets.try_reserve(3 * GUARANTEED).expect("there is room");
        assert!(
            budgets.try_reserve(3 * GUARANTEED).is_none(),
            "the process is full"
        );
        assert_eq!(taken(&budgets), (3 * GUARANTEED, 3 * GUARANTEED));
        assert!(
            budgets.try_reserve(8 * GUARANTEED).is_none(),
            "the connection is full"
        );
        drop(first);
        assert_eq!(taken(&budgets), (0, 0));
    }

    #[test]
    fn what_is_there_already_leaves_less_for_whoever_comes_next() {
        let budgets = budgets(10 * GUARANTEED, 10 * GUARANTEED);
        let first = budgets.try_reserve(1).expect("there is room");
        let more = first.more(50 * GUARANTEED);
        drop(first);
        assert_eq!(taken(&budgets), (50 * GUARANTEED, 50 * GUARANTEED));
        assert!(budgets.try_reserve(1).is_none());
        drop(more);
        assert!(budgets.try_reserve(1).is_some());
    }

    #[test]
    fn a_connection_gets_its_guaranteed_part_when_others_have_taken_all() {
        let greedy = budgets(10 * GUARANTEED, 5 * GUARANTEED);
        let _held = greedy.try_reserve(5 * GUARANTEED).expect("there is room");
        let modest = BytesInFlight {
            connection: ByteBudget::new(10 * GUARANTEED),
            process: greedy.process.clone(),
        };
        let held = modest.try_reserve(GUARANTEED).expect("guaranteed");
        assert!(modest.try_reserve(1).is_none(), "beyond it is not");
        drop(held);
        assert_eq!(greedy.process.bytes_taken(), 5 * GUARANTEED);
    }
}
