//! Which part of the log is kept for a snapshot on its way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long the log is kept after a snapshot was sent. In that time the peer gets the entries after it; otherwise it would need another
/// snapshot.
const GRACE: Duration = Duration::from_secs(30);

/// Longest time that the log is kept for one snapshot. A peer that takes longer needs another snapshot.
const HOLD_MAX: Duration = Duration::from_secs(3600);

/// The positions of the snapshots that are being sent, or were a short time ago.
#[derive(Clone, Default)]
pub(crate) struct Holds(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    last: u64,
    /// By the number of the snapshot: its index, and until when it holds at most.
    held: BTreeMap<u64, (u64, Instant)>,
}

/// Keeps the log after an index for as long as it is there, and a little longer, but not for ever.
pub(crate) struct Hold {
    holds: Holds,
    number: u64,
}

impl Holds {
    pub(crate) fn hold(&self, index: u64) -> Hold {
        let mut state = self.lock();
        state.last += 1;
        let number = state.last;
        state
            .held
            .insert(number, (index, Instant::now() + HOLD_MAX));
        let holds = self.clone();
        Hold { holds, number }
    }

    /// The index after which the log is needed. `None`: it is not.
    pub(crate) fn first(&self, now: Instant) -> Option<u64> {
        let mut state = self.lock();
        state.held.retain(|_, (_, end)| now <= *end);
        state.held.values().map(|(index, _)| *index).min()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.holds.lock();
        if let Some((_, end)) = state.held.get_mut(&self.number) {
            *end = (*end).min(Instant::now() + GRACE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_kept_for_the_earliest_snapshot_and_a_little_longer() {
        let (holds, began) = (Holds::default(), Instant::now());
        assert_eq!(holds.first(began), None);
        let (later, earlier) = (holds.hold(9), holds.hold(7));
        assert_eq!(holds.first(began + 2 * GRACE), Some(7));
        drop(earlier);
        assert_eq!(holds.first(began), Some(7));
        assert_eq!(holds.first(Instant::now() + 2 * GRACE), Some(9));
        drop(later);
        assert_eq!(holds.first(Instant::now() + 2 * GRACE), None);
    }

    #[test]
    fn no_snapshot_keeps_the_log_for_ever() {
        let holds = Holds::default();
        let _hold = holds.hold(7);
        let taken = Instant::now();
        assert_eq!(holds.first(taken + HOLD_MAX / 2), Some(7));
        assert_eq!(holds.first(taken + 2 * HOLD_MAX), None);
    }
}
