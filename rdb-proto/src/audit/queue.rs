//! Events that wait to be written.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::{AuditEvent, AuditRank};

/// Most events that wait. The writer may have taken as many again.
pub(super) const QUEUE_EVENTS_MAX: usize = 16 << 10;

/// Most events that wait when a refusal is offered. Anybody who can sign in can cause refusals as fast as a server takes calls.
pub(super) const REFUSALS_MAX: usize = QUEUE_EVENTS_MAX / 2;

/// Most events that wait when a write is offered. What is left is for administrative calls.
pub(super) const WRITES_MAX: usize = QUEUE_EVENTS_MAX - 1024;

/// Most events that wait when one of this rank is offered.
const fn room_of(rank: AuditRank) -> usize {
    match rank {
        AuditRank::Refusal => REFUSALS_MAX,
        AuditRank::Write => WRITES_MAX,
        AuditRank::Administrative => QUEUE_EVENTS_MAX,
    }
}

/// An event, and when it was noted.
#[derive(Debug)]
pub(super) struct Noted {
    pub(super) at: SystemTime,
    pub(super) event: AuditEvent,
}

/// A queue with one taker. Offering never waits: the lock is held only for some instructions.
///
/// It is open; then ending, while what it has is still taken; then ended, when it takes no more offers. [`end`](Self::end) moves it on
/// first, and [`take`](Self::take) once it is empty.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    /// How many events wait, noted while the lock is held, for readers that must not take it. Relaxed: only a figure.
    noted: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Noted>,
    /// The taker waits for an event, and the first offer wakes it.
    is_waited_for: bool,
    is_ending: bool,
    has_ended: bool,
}

impl State {
    fn has_nothing(&mut self) -> bool {
        self.events.is_empty() && !self.is_ending
    }
}

/// What there was to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Events,
    /// Nothing in that time.
    Nothing,
    /// Nothing any more.
    End,
}

impl Queue {
    /// Whether there was room for an event of its rank.
    pub(super) fn offer(&self, noted: Noted) -> bool {
        let mut state = self.state();
        if state.has_ended || state.events.len() >= room_of(noted.event.rank) {
            return false;
        }
        state.events.push_back(noted);
        self.noted.store(state.events.len(), Relaxed);
        let is_waited_for = mem::take(&mut state.is_waited_for);
        drop(state);
        if is_waited_for {
            self.changed.notify_one();
        }
        true
    }

    /// Takes all that waits into `taken`, which is empty. Waits for something, at most that long if there is a bound.
    pub(super) fn take(&self, taken: &mut VecDeque<Noted>, wait_max: Option<Duration>) -> Taken {
        let mut state = self.state();
        if state.has_nothing() {
            state.is_waited_for = true;
            state = match wait_max {
                Some(wait_max) => {
                    let waited =
                        self.changed
                            .wait_timeout_while(state, wait_max, State::has_nothing);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.changed.wait_while(state, State::has_nothing);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
            state.is_waited_for = false;
        }
        mem::swap(&mut state.events, taken);
        self.noted.store(0, Relaxed);
        if !taken.is_empty() {
            Taken::Events
        } else if state.is_ending {
            state.has_ended = true;
            Taken::End
        } else {
            Taken::Nothing
        }
    }

    /// Waits that long, but not at the end. Returns whether it is the end.
    pub(super) fn pause(&self, pause: Duration) -> bool {
        let goes_on = |state: &mut State| !state.is_ending;
        let waited = self
            .changed
            .wait_timeout_while(self.state(), pause, goes_on);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_ending
    }

    /// What is in it is taken, and then nothing is offered any more.
    pub(super) fn end(&self) {
        self.state().is_ending = true;
        self.changed.notify_all();
    }

    /// The taker is gone: takes and counts what is left.
    pub(super) fn abandon(&self) -> usize {
        let mut state = self.state();
        state.has_ended = true;
        self.noted.store(0, Relaxed);
        mem::take(&mut state.events).len()
    }

    /// How many events waited a moment ago. It never waits, and delays nobody.
    pub(super) fn waiting(&self) -> usize {
        self.noted.load(Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::thread;

    use super::super::AuditCaller;
    use super::*;

    fn of_rank(rank: AuditRank) -> Noted {
        Noted {
            at: SystemTime::now(),
            event: AuditEvent {
                rank,
                ..AuditEvent::of_call(AuditCaller::default(), ("a.B", "C"), "ok")
            },
        }
    }

    fn noted() -> Noted {
        of_rank(AuditRank::Administrative)
    }

    #[test]
    fn refusals_leave_room_for_writes_and_both_for_administrative_calls() {
        let queue = Queue::default();
        let mut waiting = 0;
        for (rank, room) in [
            (AuditRank::Refusal, REFUSALS_MAX),
            (AuditRank::Write, WRITES_MAX),
            (AuditRank::Administrative, QUEUE_EVENTS_MAX),
        ] {
            while queue.offer(of_rank(rank)) {
                waiting += 1;
            }
            assert_eq!(waiting, room, "{rank:?}");
        }
        let (all, mut taken) = (REFUSALS_MAX, VecDeque::new());
        queue.take(&mut taken, None);
        assert!((0..all).all(|_| queue.offer(of_rank(AuditRank::Refusal))));
    }

    #[test]
    fn there_is_room_for_a_bounded_number_until_they_are_taken() {
        let (queue, mut taken) = (Queue::default(), VecDeque::new());
        for _ in 0..QUEUE_EVENTS_MAX {
            assert!(queue.offer(noted()));
        }
        assert!(!queue.offer(noted()));
        assert_eq!(queue.waiting(), QUEUE_EVENTS_MAX);
        assert_eq!(queue.take(&mut taken, None), Taken::Events);
        assert_eq!((taken.len(), queue.waiting()), (QUEUE_EVENTS_MAX, 0));
        assert!(queue.offer(noted()));
        assert_eq!(queue.waiting(), 1);
        assert_eq!((queue.abandon(), queue.waiting()), (1, 0));
        assert!(!queue.offer(noted()), "nobody takes it");
    }

    #[test]
    fn who_takes_is_woken_by_an_event_and_by_the_end() {
        let queue = Queue::default();
        thread::scope(|scope| {
            let taker = scope.spawn(|| {
                let (mut taken, mut count) = (VecDeque::new(), 0);
                while queue.take(&mut taken, None) != Taken::End {
                    count += taken.len();
                    taken.clear();
                }
                count
            });
            for _ in 0..1000 {
                assert!(queue.offer(noted()));
            }
            queue.end();
            assert_eq!(taker.join().expect("no panic"), 1000, "none is lost");
        });
        assert!(queue.pause(Duration::MAX), "it is the end");
    }

    #[test]
    fn a_scrape_reads_how_many_wait_without_the_lock() {
        let queue = Arc::<Queue>::default();
        assert!(queue.offer(noted()));
        let _held = queue.state();
        let (show, shown) = mpsc::channel();
        thread::spawn({
            let queue = Arc::clone(&queue);
            move || show.send(queue.waiting())
        });
        // Far above what a busy machine needs.
        assert_eq!(shown.recv_timeout(Duration::from_secs(300)), Ok(1));
    }

    #[test]
    fn waiting_has_a_bound() {
        let (queue, mut taken) = (Queue::default(), VecDeque::new());
        let soon = Duration::from_millis(1);
        assert_eq!(queue.take(&mut taken, Some(soon)), Taken::Nothing);
        assert!(!queue.pause(soon));
    }
}
