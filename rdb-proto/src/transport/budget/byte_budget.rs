//! One budget: a number of bytes, and the queue of reservations that wait for some of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// A number of bytes that can be in flight at once. Clones share it.
#[derive(Debug, Clone)]
pub struct ByteBudget {
    shared: Arc<Shared>,
}

/// `bytes_taken` and `waiter_count` are accessed with sequential consistency: who gives bytes back sees a waiter that has
/// counted itself, or that waiter sees the bytes.
#[derive(Debug)]
struct Shared {
    bytes_max: usize,
    bytes_taken: AtomicUsize,
    /// Number of entries in `waiters`, readable without the lock.
    waiter_count: AtomicUsize,
    waiters: Mutex<Waiters>,
}

#[derive(Debug, Default)]
struct Waiters {
    next_ticket: u64,
    /// By ticket, so in their order.
    waiting: BTreeMap<u64, Waiter>,
}

#[derive(Debug)]
struct Waiter {
    bytes: usize,
    granted: oneshot::Sender<()>,
}

impl ByteBudget {
    /// A budget of which nothing is taken.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                bytes_max,
                bytes_taken: AtomicUsize::new(0),
                waiter_count: AtomicUsize::new(0),
                waiters: Mutex::default(),
            }),
        }
    }

    /// How much is taken at the moment. May be more than the budget, see [`Reservation::more`](super::Reservation::more).
    pub fn bytes_taken(&self) -> usize {
        self.shared.bytes_taken.load(Ordering::SeqCst)
    }

    /// Takes `bytes` if they fit and nobody waits.
    pub(super) fn try_take(&self, bytes: usize) -> bool {
        self.shared.waiter_count.load(Ordering::SeqCst) == 0 && self.shared.take_if_fits(bytes)
    }

    /// Takes `bytes` if they fit, whoever waits.
    pub(super) fn overtake(&self, bytes: usize) -> bool {
        self.shared.take_if_fits(bytes)
    }

    /// Whether half of the budget stays free when `bytes` more are taken.
    pub(super) fn can_spare(&self, bytes: usize) -> bool {
        let after = self.bytes_taken().saturating_add(bytes);
        after <= self.shared.bytes_max / 2
    }

    /// Takes `bytes` whether they fit or not.
    pub(super) fn take(&self, bytes: usize) {
        self.shared.bytes_taken.fetch_add(bytes, Ordering::SeqCst);
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.shared.bytes_taken.fetch_sub(bytes, Ordering::SeqCst);
        if self.shared.waiter_count.load(Ordering::SeqCst) > 0 {
            self.shared.grant(&mut self.shared.waiters());
        }
    }

    /// Takes `bytes`, after everybody who waits already. `false` when `deadline` came first, or it can never fit.
    pub(super) async fn take_by(&self, bytes: usize, deadline: Instant) -> bool {
        if self.try_take(bytes) {
            return true;
        }
        if bytes > self.shared.bytes_max {
            return false;
        }
        let mut waiting = self.wait_for(bytes);
        let granted = timeout_at(deadline, &mut waiting.granted).await;
        waiting.is_taken = matches!(granted, Ok(Ok(())));
        waiting.is_taken
    }

    fn wait_for(&self, bytes: usize) -> Waiting<'_> {
        let (granting, granted) = oneshot::channel();
        let mut waiters = self.shared.waiters();
        let ticket = waiters.next_ticket;
        waiters.next_ticket += 1;
        let waiter = Waiter {
            bytes,
            granted: granting,
        };
        waiters.waiting.insert(ticket, waiter);
        self.shared.waiter_count.fetch_add(1, Ordering::SeqCst);
        // What was given back meanwhile has not seen this waiter.
        self.shared.grant(&mut waiters);
        Waiting {
            budget: self,
            ticket,
            bytes,
            granted,
            is_taken: false,
        }
    }
}

impl Shared {
    fn take_if_fits(&self, bytes: usize) -> bool {
        let fits = |taken: usize| {
            let after = taken.saturating_add(bytes);
            (after <= self.bytes_max).then_some(after)
        };
        self.bytes_taken
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits)
            .is_ok()
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives what is free to those who have waited longest.
    fn grant(&self, waiters: &mut Waiters) {
        while let Some(first) = waiters.waiting.first_entry() {
            let bytes = first.get().bytes;
            if !self.take_if_fits(bytes) {
                return;
            }
            self.waiter_count.fetch_sub(1, Ordering::SeqCst);
            if first.remove().granted.send(()).is_err() {
                // It is being dropped, and has not seen the grant.
                self.bytes_taken.fetch_sub(bytes, Ordering::SeqCst);
            }
        }
    }
}

/// A place among the waiters. Dropping it gives the place back, and the bytes if they were granted and not used.
struct Waiting<'a> {
    budget: &'a ByteBudget,
    ticket: u64,
    bytes: usize,
    granted: oneshot::Receiver<()>,
    is_taken: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.is_taken {
            return;
        }
        self.granted.close();
        if self.granted.try_recv().is_ok() {
            return self.budget.give_back(self.bytes);
        }
        let shared = &self.budget.shared;
        let mut waiters = shared.waiters();
        if waiters.waiting.remove(&self.ticket).is_some() {
            shared.waiter_count.fetch_sub(1, Ordering::SeqCst);
        }
        // The next in the queue may want less.
        shared.grant(&mut waiters);
    }
}
