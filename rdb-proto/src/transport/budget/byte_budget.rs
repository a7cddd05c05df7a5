//! One budget: a number of bytes, and the queue of reservations that wait for some of them.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// A number of bytes that can be in flight at once. Clones share it.
#[derive(Debug, Clone)]
pub struct ByteBudget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bytes_max: usize,
    state: Mutex<State>,
    /// Bytes taken when the lock was last released, for readers that must not take it. Relaxed: only a figure.
    bytes_noted: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    bytes_max: usize,
    bytes_taken: usize,
    next_ticket: u64,
    /// How many bytes each waiter wants, by ticket, so in order of arrival. A waiter is removed when it is granted them.
    waiters: BTreeMap<u64, (usize, oneshot::Sender<()>)>,
}

impl ByteBudget {
    /// A budget with nothing taken.
    pub fn new(bytes_max: usize) -> Self {
        let state = State {
            bytes_max,
            ..State::default()
        };
        Self {
            shared: Arc::new(Shared {
                bytes_max,
                state: Mutex::new(state),
                bytes_noted: AtomicUsize::new(0),
            }),
        }
    }

    /// How much can be taken.
    pub(in super::super) fn bytes_max(&self) -> usize {
        self.shared.bytes_max
    }

    /// How much was taken a moment ago. It never waits, and delays nobody that takes or gives back.
    pub fn bytes_noted(&self) -> usize {
        self.shared.bytes_noted.load(Ordering::Relaxed)
    }

    /// How much is taken at the moment. May be more than the budget, see [`Reservation::more`](super::Reservation::more).
    pub fn bytes_taken(&self) -> usize {
        self.state().bytes_taken
    }

    /// Whether anybody waits for a part of it.
    pub(in crate::transport) fn is_waited_for(&self) -> bool {
        !self.state().waiters.is_empty()
    }

    /// Takes `bytes` if they fit and nobody waits.
    pub(super) fn try_take(&self, bytes: usize) -> bool {
        self.state().try_take(bytes)
    }

    /// Takes `bytes` if they fit, ahead of all waiters.
    pub(super) fn overtake(&self, bytes: usize) -> bool {
        self.state().overtake(bytes)
    }

    /// Whether half of the budget stays free when `bytes` more are taken.
    pub(super) fn can_spare(&self, bytes: usize) -> bool {
        let state = self.state();
        state.bytes_taken.saturating_add(bytes) <= state.bytes_max / 2
    }

    /// Takes `bytes` whether they fit or not.
    pub(super) fn take(&self, bytes: usize) {
        self.state().bytes_taken += bytes;
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.state().give_back(bytes);
    }

    /// Takes `bytes`, after everybody who waits already. `false` when `deadline` came first, or it can never fit.
    pub(super) async fn take_by(&self, bytes: usize, deadline: Instant) -> bool {
        let (granting, granted) = oneshot::channel();
        let ticket = {
            let mut state = self.state();
            if state.try_take(bytes) {
                return true;
            }
            if bytes > state.bytes_max {
                return false;
            }
            let state = &mut *state;
            state.next_ticket += 1;
            state.waiters.insert(state.next_ticket, (bytes, granting));
            state.next_ticket
        };
        let mut waiting = Waiting {
            budget: self,
            ticket,
            bytes,
        };
        let is_granted = matches!(timeout_at(deadline, granted).await, Ok(Ok(())));
        if is_granted {
            waiting.bytes = 0;
        }
        is_granted
    }

    fn state(&self) -> Locked<'_> {
        let Shared {
            state, bytes_noted, ..
        } = &*self.shared;
        Locked {
            state: state.lock().unwrap_or_else(PoisonError::into_inner),
            bytes_noted,
        }
    }
}

/// The state while it is locked. What is taken is noted before the lock is given back.
struct Locked<'a> {
    state: MutexGuard<'a, State>,
    bytes_noted: &'a AtomicUsize,
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.bytes_noted
            .store(self.state.bytes_taken, Ordering::Relaxed);
    }
}

impl State {
    fn try_take(&mut self, bytes: usize) -> bool {
        self.waiters.is_empty() && self.overtake(bytes)
    }

    fn overtake(&mut self, bytes: usize) -> bool {
        let after = self.bytes_taken.saturating_add(bytes);
        let fits = after <= self.bytes_max;
        if fits {
            self.bytes_taken = after;
        }
        fits
    }

    /// Gives `bytes` back, and what is free then to those who have waited longest.
    fn give_back(&mut self, bytes: usize) {
        self.bytes_taken -= bytes;
        while let Some(&(bytes, _)) = self.waiters.values().next()
            && self.overtake(bytes)
        {
            if let Some((_, (_, granted))) = self.waiters.pop_first() {
                // If nobody receives it, the wait is being dropped, which gives the bytes back.
                let _ = granted.send(());
            }
        }
    }
}

/// A wait for `bytes`. Dropping it gives the place in the queue back, or the bytes if they were granted and not used.
struct Waiting<'a> {
    budget: &'a ByteBudget,
    ticket: u64,
    bytes: usize,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.budget.state();
        let is_granted = state.waiters.remove(&self.ticket).is_none();
        // The next in the queue may want less.
        state.give_back(if is_granted { self.bytes } else { 0 });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_scrape_reads_what_is_taken_without_the_lock() {
        let budget = ByteBudget::new(100);
        budget.take(7);
        let _held = budget.state();
        let (show, shown) = mpsc::channel();
        thread::spawn({
            let budget = budget.clone();
            move || show.send((budget.bytes_noted(), budget.bytes_max()))
        });
        // Far above what a busy machine needs.
        let shown = shown.recv_timeout(Duration::from_secs(300));
        assert_eq!(shown, Ok((7, 100)));
    }
}
