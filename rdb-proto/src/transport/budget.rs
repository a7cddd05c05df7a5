//! Bytes in flight: what was received or is to be sent and is not done yet, bounded per connection and per process.
//!
//! A [`ByteBudget`] counts bytes. A [`BytesInFlight`] is the pair that every request is charged to: the budget of its
//! connection and that of the process. Streams of other stores have a separate pair. A [`Reservation`] holds bytes of both
//! until it is dropped.
//!
//! Invariants:
//! - What is reserved is given back exactly once, also when a wait is cancelled after it was granted.
//! - Waiters are served in their order, and nobody overtakes them, so that small reservations do not starve a large one.
//!   There are two exceptions. The process never refuses what fits into the guaranteed part of a connection.
//!   [`Reservation::try_grow_to`] overtakes, since waiters may wait for what the reservation holds.
//! - Budgets may be overdrawn: by guaranteed parts, by [`Reservation::more`], and by an answer that its handler has not
//!   reserved. Then nothing else fits.

mod byte_budget;

use std::time::Duration;

use tokio::time::Instant;

use super::limits::{CONNECTION_BYTES_GUARANTEED, CONNECTION_BYTES_IN_FLIGHT_MAX};

pub use byte_budget::ByteBudget;

/// The budgets of one connection: its own and that of the process.
#[derive(Debug, Clone)]
pub struct BytesInFlight {
    /// The budget of the connection.
    pub connection: ByteBudget,
    /// The budget of the process, which all connections share.
    pub process: ByteBudget,
    /// The part of the connection's budget that the process does not refuse. Waiters hold none of it.
    guaranteed: ByteBudget,
}

/// The budgets of a process.
#[derive(Debug, Clone)]
pub(super) struct ProcessBudgets {
    pub(super) clients: ByteBudget,
    /// For what other stores send. What clients wait for may depend on it.
    pub(super) stores: ByteBudget,
}

/// A reservation did not fit in time. Nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes in flight of the connection or of the process are used up")]
pub struct Busy;

impl BytesInFlight {
    /// The budgets of a new connection.
    pub fn of_connection(process: &ByteBudget) -> Self {
        Self {
            connection: ByteBudget::new(CONNECTION_BYTES_IN_FLIGHT_MAX),
            process: process.clone(),
            guaranteed: ByteBudget::new(CONNECTION_BYTES_GUARANTEED),
        }
    }

    /// Takes `bytes` from both budgets, or nothing when one of them is used up or somebody waits for it. The process's
    /// budget does not refuse what fits into the connection's [`CONNECTION_BYTES_GUARANTEED`], so that connections that hold
    /// much do not shut others out.
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        self.try_reserve_by(bytes, ByteBudget::try_take)
    }

    fn try_reserve_by(
        &self,
        bytes: usize,
        try_take: impl Fn(&ByteBudget, usize) -> bool,
    ) -> Option<Reservation> {
        if !try_take(&self.connection, bytes) {
            return None;
        }
        if try_take(&self.guaranteed, bytes) {
            self.process.take(bytes);
            return Some(self.reserved(bytes, bytes));
        }
        if !try_take(&self.process, bytes) {
            self.connection.give_back(bytes);
            return None;
        }
        Some(self.reserved(bytes, 0))
    }

    /// Takes `bytes` that the caller can do without: only where half of each budget stays free for others.
    pub fn try_reserve_spare(&self, bytes: usize) -> Option<Reservation> {
        let is_spare = self.connection.can_spare(bytes) && self.process.can_spare(bytes);
        is_spare.then(|| self.try_reserve(bytes)).flatten()
    }

    /// Like [`try_reserve`](Self::try_reserve), but waits up to `wait` for its turn.
    ///
    /// # Errors
    ///
    /// [`Busy`] when there was no room in time, and at once for more than one of the budgets can ever hold.
    pub async fn reserve(&self, bytes: usize, wait: Duration) -> Result<Reservation, Busy> {
        if let Some(reservation) = self.try_reserve(bytes) {
            return Ok(reservation);
        }
        // Boxed, so that calls whose bytes fit carry no more than a pointer for it.
        Box::pin(self.wait_for(bytes, Instant::now() + wait)).await
    }

    async fn wait_for(&self, bytes: usize, deadline: Instant) -> Result<Reservation, Busy> {
        if !self.connection.take_by(bytes, deadline).await {
            return Err(Busy);
        }
        let mut of_connection = GivenBack(&self.connection, bytes);
        let guaranteed_bytes = tokio::select! {
            biased;
            true = self.guaranteed.take_by(bytes, deadline) => {
                self.process.take(bytes);
                bytes
            }
            true = self.process.take_by(bytes, deadline) => 0,
            else => return Err(Busy),
        };
        of_connection.1 = 0;
        Ok(self.reserved(bytes, guaranteed_bytes))
    }

    /// Takes `bytes` whether they fit or not: for what is there already.
    pub(super) fn take(&self, bytes: usize) -> Reservation {
        self.connection.take(bytes);
        self.process.take(bytes);
        self.reserved(bytes, 0)
    }

    /// The reservation of bytes that are taken.
    fn reserved(&self, bytes: usize, guaranteed_bytes: usize) -> Reservation {
        Reservation {
            budgets: self.clone(),
            bytes,
            guaranteed_bytes,
        }
    }
}

/// Gives bytes back when it is dropped.
struct GivenBack<'a>(&'a ByteBudget, usize);

impl Drop for GivenBack<'_> {
    fn drop(&mut self) {
        self.0.give_back(self.1);
    }
}

/// Bytes that are taken until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    budgets: BytesInFlight,
    bytes: usize,
    /// How many of `bytes` are of the guaranteed part.
    guaranteed_bytes: usize,
}

impl Reservation {
    /// Takes `bytes` more from the same budgets, even if they do not fit, for memory that is already in use. Later
    /// reservations find less room.
    pub fn more(&self, bytes: usize) -> Self {
        self.budgets.take(bytes)
    }

    /// Grows to `bytes` if that fits, ahead of all that wait. Returns whether it did.
    pub fn try_grow_to(&mut self, bytes: usize) -> bool {
        let missing = bytes.saturating_sub(self.bytes);
        let grown = self.budgets.try_reserve_by(missing, ByteBudget::overtake);
        grown.map(|grown| self.join(grown)).is_some()
    }

    /// How many bytes it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether all of it is of the guaranteed part of its connection.
    pub(super) fn is_guaranteed(&self) -> bool {
        self.guaranteed_bytes == self.bytes
    }

    /// Gives back what is beyond `bytes`: once the size that was guessed is known.
    pub fn shrink_to(&mut self, bytes: usize) {
        drop(self.split_off(self.bytes.saturating_sub(bytes)));
    }

    /// Moves up to `bytes` into a new reservation.
    pub fn split_off(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        let guaranteed_bytes = bytes.min(self.guaranteed_bytes);
        self.bytes -= bytes;
        self.guaranteed_bytes -= guaranteed_bytes;
        self.budgets.reserved(bytes, guaranteed_bytes)
    }

    /// Adds what `other` holds, which has to be of the same connection.
    pub(super) fn join(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
        self.guaranteed_bytes += std::mem::take(&mut other.guaranteed_bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budgets.connection.give_back(self.bytes);
            self.budgets.process.give_back(self.bytes);
            self.budgets.guaranteed.give_back(self.guaranteed_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::join_all;

    use super::*;

    fn budgets(connection: usize, process: usize) -> BytesInFlight {
        BytesInFlight {
            connection: ByteBudget::new(connection),
            process: ByteBudget::new(process),
            guaranteed: ByteBudget::new(CONNECTION_BYTES_GUARANTEED),
        }
    }

    fn taken(budgets: &BytesInFlight) -> (usize, usize) {
        let BytesInFlight {
            connection,
            process,
            guaranteed,
        } = budgets;
        assert!(guaranteed.bytes_taken() <= connection.bytes_taken());
        (connection.bytes_taken(), process.bytes_taken())
    }

    const GUARANTEED: usize = CONNECTION_BYTES_GUARANTEED;
    const LONG: Duration = Duration::from_secs(3600);

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
        let modest = BytesInFlight::of_connection(&greedy.process);
        let held = modest.try_reserve(GUARANTEED).expect("guaranteed");
        assert!(modest.try_reserve(1).is_none(), "beyond it is not");
        drop(held);
        assert_eq!(greedy.process.bytes_taken(), 5 * GUARANTEED);
    }

    #[test]
    fn what_can_be_done_without_leaves_half_to_others() {
        let budgets = budgets(100, 60);
        let spare = budgets.try_reserve_spare(30).expect("half of the process");
        assert!(budgets.try_reserve_spare(1).is_none());
        let needed = budgets.try_reserve(30).expect("the other half");
        assert_eq!(taken(&budgets), (60, 60));
        drop((spare, needed));
    }

    #[test]
    fn a_reservation_can_be_split_joined_and_shrunk() {
        let budgets = budgets(100, 100);
        let mut first = budgets.try_reserve(50).expect("there is room");
        let second = first.split_off(20);
        assert_eq!((first.bytes(), second.bytes()), (30, 20));
        first.join(second);
        first.shrink_to(7);
        assert_eq!(taken(&budgets), (7, 7));
        assert_eq!(budgets.guaranteed.bytes_taken(), 7);
        first.join(first.more(3));
        assert_eq!(first.split_off(100).bytes(), 10);
        assert_eq!(taken(&budgets), (0, 0));
    }

    /// Many calls at once on a connection must not wait for each other when others have taken the budget of the process.
    #[tokio::test]
    async fn what_waits_does_not_use_up_the_guaranteed_part() {
        let greedy = budgets(10 * GUARANTEED, 5 * GUARANTEED);
        let _held = greedy.try_reserve(5 * GUARANTEED).expect("there is room");
        let modest = BytesInFlight::of_connection(&greedy.process);
        let mut served = 0;
        let mut waiting: Vec<_> = (0..16)
            .map(|_| Box::pin(modest.reserve(GUARANTEED / 2, LONG)))
            .collect();
        let mut too_large = Box::pin(modest.reserve(2 * GUARANTEED, LONG));
        assert!((&mut too_large).now_or_never().is_none());
        while !waiting.is_empty() {
            let mut held = Vec::new();
            waiting.retain_mut(|waiting| match waiting.now_or_never() {
                Some(reserved) => {
                    held.push(reserved.expect("guaranteed"));
                    false
                }
                None => true,
            });
            assert_eq!(held.len(), 2, "as many as fit, after {served}");
            served += held.len();
        }
        drop(too_large);
        assert_eq!(taken(&modest).0, 0);
        assert_eq!(greedy.process.bytes_taken(), 5 * GUARANTEED);
    }

    #[tokio::test]
    async fn those_who_wait_are_served_in_their_order_and_not_overtaken() {
        let budgets = budgets(10 * GUARANTEED, 5 * GUARANTEED);
        let guaranteed = budgets.try_reserve(GUARANTEED).expect("there is room");
        let held = budgets.try_reserve(4 * GUARANTEED).expect("there is room");
        let mut large = Box::pin(budgets.reserve(4 * GUARANTEED, LONG));
        let mut small = Box::pin(budgets.reserve(1, LONG));
        assert!((&mut large).now_or_never().is_none());
        assert!((&mut small).now_or_never().is_none());
        drop(held);
        assert!(budgets.try_reserve(1).is_none(), "others were first");
        assert!((&mut small).now_or_never().is_none());
        let large = large.await.expect("its turn");
        drop(large);
        drop((small.await.expect("its turn"), guaranteed));
        assert_eq!(taken(&budgets), (0, 0));
    }

    #[tokio::test]
    async fn what_is_reserved_grows_in_spite_of_those_who_wait_but_not_beyond_the_budget() {
        let budgets = budgets(10 * GUARANTEED, 5 * GUARANTEED);
        let mut held = budgets.try_reserve(4 * GUARANTEED).expect("there is room");
        let mut waiting = Box::pin(budgets.reserve(2 * GUARANTEED, LONG));
        assert!((&mut waiting).now_or_never().is_none());
        assert!(held.try_grow_to(4 * GUARANTEED + 1));
        assert!(!held.try_grow_to(6 * GUARANTEED));
        let bytes = 4 * GUARANTEED + 1;
        assert_eq!(
            (held.bytes(), budgets.process.bytes_taken()),
            (bytes, bytes)
        );
        drop(held);
        drop(waiting.await.expect("its turn"));
        assert_eq!(taken(&budgets), (0, 0));
    }

    #[tokio::test]
    async fn a_wait_that_ends_takes_nothing_and_lets_the_next_go_on() {
        let budgets = budgets(10 * GUARANTEED, 5 * GUARANTEED);
        let guaranteed = budgets.try_reserve(GUARANTEED).expect("there is room");
        let held = budgets.try_reserve(3 * GUARANTEED).expect("there is room");
        let mut large = Box::pin(budgets.reserve(2 * GUARANTEED, Duration::from_millis(10)));
        assert!((&mut large).now_or_never().is_none());
        let mut small = Box::pin(budgets.reserve(GUARANTEED, LONG));
        assert!((&mut small).now_or_never().is_none());
        assert!(matches!(large.await, Err(Busy)));
        drop(small.await.expect("it fits"));
        drop((held, guaranteed));
        assert_eq!(taken(&budgets), (0, 0));
        let never = budgets.reserve(6 * GUARANTEED, LONG).now_or_never();
        assert!(matches!(never, Some(Err(Busy))), "it can never fit");
        assert_eq!(taken(&budgets), (0, 0));
    }

    #[tokio::test]
    async fn a_wait_that_is_cancelled_after_it_was_granted_gives_back() {
        let budgets = budgets(4 * GUARANTEED, 2 * GUARANTEED);
        let held = budgets.try_reserve(2 * GUARANTEED).expect("there is room");
        let mut waiting = Box::pin(budgets.reserve(2 * GUARANTEED, LONG));
        assert!((&mut waiting).now_or_never().is_none());
        drop(held);
        assert_eq!(budgets.process.bytes_taken(), 2 * GUARANTEED, "granted");
        drop(waiting);
        assert_eq!(taken(&budgets), (0, 0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_at_once_lose_nothing_and_all_get_their_turn() {
        let process = ByteBudget::new(3 * GUARANTEED);
        let tasks = (0..64_usize).map(|task| {
            let budgets = BytesInFlight::of_connection(&process);
            tokio::spawn(async move {
                for round in 0..100 {
                    let bytes = GUARANTEED + (task * 31 + round * 17) % (2 * GUARANTEED);
                    let reserved = budgets.reserve(bytes, LONG).await.expect("its turn");
                    tokio::task::yield_now().await;
                    drop(reserved);
                }
            })
        });
        for ended in join_all(tasks).await {
            ended.expect("no panic");
        }
        assert_eq!(process.bytes_taken(), 0);
    }
}
