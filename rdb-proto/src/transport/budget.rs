//! Bytes in flight: what was received or is to be sent and is not done yet, bounded per connection and per process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tonic::transport::server::Connected;

use super::limits::CONNECTION_BYTES_IN_FLIGHT_MAX;

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

    /// What does not fit is taken only if nothing else is: a single message never waits for more room than there is.
    fn try_take(&self, bytes: usize) -> bool {
        let Shared {
            bytes_max,
            bytes_taken,
        } = &*self.shared;
        let fits = |taken: usize| {
            let after = taken.saturating_add(bytes);
            (after <= *bytes_max || taken == 0).then_some(after)
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
    /// Takes `bytes` from both budgets, or nothing when one of them is used up.
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        if !self.connection.try_take(bytes) {
            return None;
        }
        if !self.process.try_take(bytes) {
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
}

impl ConnectionInfo {
    pub(super) fn new() -> Self {
        Self {
            bytes_in_flight: ByteBudget::new(CONNECTION_BYTES_IN_FLIGHT_MAX),
        }
    }
}

impl Connected for super::connection::Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        ConnectionInfo::new()
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

    #[test]
    fn what_is_refused_takes_nothing_and_what_is_dropped_is_given_back() {
        let budgets = budgets(100, 50);
        let first = budgets.try_reserve(30).expect("there is room");
        assert!(budgets.try_reserve(30).is_none(), "the process is full");
        assert_eq!(taken(&budgets), (30, 30));
        drop(first);
        assert_eq!(taken(&budgets), (0, 0));
    }

    #[test]
    fn what_is_there_already_leaves_less_for_whoever_comes_next() {
        let budgets = budgets(100, 100);
        let first = budgets.try_reserve(1).expect("there is room");
        let more = first.more(500);
        drop(first);
        assert_eq!(taken(&budgets), (500, 500));
        assert!(budgets.try_reserve(1).is_none());
        drop(more);
        assert!(budgets.try_reserve(1).is_some());
    }

    #[test]
    fn what_is_larger_than_the_budget_passes_alone() {
        let budgets = budgets(10, 10);
        let large = budgets.try_reserve(11).expect("alone");
        assert!(budgets.try_reserve(1).is_none());
        drop(large);
    }
}
