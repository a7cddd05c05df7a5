//! Whether a history is linearizable: whether each call can be taken to happen at one moment between its beginning and its
//! end, so that all calls in the order of these moments are what a [`Model`] does.
//!
//! The algorithm is that of Wing and Gong with the cache of Lowe ("Testing for linearizability", 2017): take the calls that
//! may come next one after the other, go back where none fits, and never search twice from the same calls taken with the same
//! state. Keys are independent of each other, so each is searched by itself. A search that takes too long is given up, which fails
//! the run as a violation does.
//!
//! The search is our own and not that of `porcupine-rs`: `docs/replication.md`, "How histories are checked", says why. A test compares
//! it with trying all orders.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// Searching further than this says nothing in reasonable time. A history of a run needs about as many steps as it has calls.
const STEPS_MAX: usize = 20_000_000;

/// What calls on one key do one after the other.
pub(crate) trait Model {
    type State: Clone + Debug + Default + Eq + Hash;

    /// A call with its result.
    type Call: Debug;

    /// The state after the call, or `None` if the call has another result in this state.
    fn step(state: &Self::State, call: &Self::Call) -> Option<Self::State>;
}

/// A call and when it was made, in any unit. One whose end is not known ends at [`u64::MAX`].
#[derive(Debug, Clone)]
pub(crate) struct Interval<C> {
    pub(crate) began: u64,
    pub(crate) ended: u64,
    pub(crate) call: C,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Linearizable,
    /// The indexes of a longest order that fits, and the call that fits nowhere behind it.
    Violated {
        order: Vec<usize>,
        misfit: usize,
    },
    /// The search was given up.
    Unknown,
}

/// Checks the calls on one key.
pub(crate) fn check<M: Model>(calls: &[Interval<M::Call>]) -> Verdict {
    Search::<M>::new(calls).run(STEPS_MAX)
}

struct Search<'a, M: Model> {
    calls: &'a [Interval<M::Call>],
    /// The ends of intervals that are left, in order of time.
    left: Timeline,
    state: M::State,
    taken: Bits,
    /// The calls that are taken, in their order, each with the state before it.
    order: Vec<(usize, M::State)>,
    seen: HashSet<(Bits, M::State)>,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(calls: &'a [Interval<M::Call>]) -> Self {
        Self {
            calls,
            left: Timeline::of(calls),
            state: M::State::default(),
            taken: Bits::new(calls.len()),
            order: Vec::new(),
            seen: HashSet::new(),
        }
    }

    fn run(mut self, steps_max: usize) -> Verdict {
        let mut longest: Option<(Vec<usize>, usize)> = None;
        let mut at = self.left.first();
        for _ in 0..steps_max {
            let Some(end) = at else {
                return Verdict::Linearizable;
            };
            let call = self.left.call(end);
            if self.left.is_beginning(end) {
                at = if self.take(call) {
                    self.left.first()
                } else {
                    self.left.next(end)
                };
                continue;
            }
            // The call has ended before any other of those that are left began, and does not fit.
            if longest
                .as_ref()
                .is_none_or(|(order, _)| self.order.len() > order.len())
            {
                let order = self.order.iter().map(|&(call, _)| call).collect();
                longest = Some((order, call));
            }
            let Some((last, state)) = self.order.pop() else {
                let (order, misfit) = longest.unwrap_or_default();
                return Verdict::Violated { order, misfit };
            };
            self.state = state;
            self.taken.clear(last);
            at = self.left.put_back(last);
        }
        Verdict::Unknown
    }

    /// Takes a call as the next one, if it fits and leads somewhere new.
    fn take(&mut self, call: usize) -> bool {
        let Some(state) = M::step(&self.state, &self.calls[call].call) else {
            return false;
        };
        self.taken.set(call);
        if !self.seen.insert((self.taken.clone(), state.clone())) {
            self.taken.clear(call);
            return false;
        }
        let before = std::mem::replace(&mut self.state, state);
        self.order.push((call, before));
        self.left.remove(call);
        true
    }
}

/// The beginnings and ends of calls in order of time: a list from which a call is removed, and put back again in the reverse
/// order. Where times are equal, beginnings come first: such calls overlap.
struct Timeline {
    /// The call of each place, and whether the place is its beginning.
    places: Vec<(usize, bool)>,
    /// The places of each call.
    of_call: Vec<[usize; 2]>,
    /// By place, with the head of the list behind all others.
    next: Vec<usize>,
    previous: Vec<usize>,
}

impl Timeline {
    fn of<C>(calls: &[Interval<C>]) -> Self {
        let mut ends: Vec<_> = (0..)
            .zip(calls)
            .flat_map(|(call, interval)| [(interval.began, 0, call), (interval.ended, 1, call)])
            .collect();
        ends.sort_unstable();
        let places: Vec<_> = ends
            .into_iter()
            .map(|(_, end, call)| (call, end == 0))
            .collect();
        let mut of_call = vec![[0; 2]; calls.len()];
        for (place, &(call, is_beginning)) in places.iter().enumerate() {
            of_call[call][usize::from(!is_beginning)] = place;
        }
        let (count, head) = (places.len() + 1, places.len());
        Self {
            places,
            of_call,
            next: (0..count).map(|place| (place + 1) % count).collect(),
            previous: (0..count)
                .map(|place| if place == 0 { head } else { place - 1 })
                .collect(),
        }
    }

    fn head(&self) -> usize {
        self.places.len()
    }

    fn first(&self) -> Option<usize> {
        self.next(self.head())
    }

    fn next(&self, place: usize) -> Option<usize> {
        Some(self.next[place]).filter(|&next| next != self.head())
    }

    fn call(&self, place: usize) -> usize {
        self.places[place].0
    }

    fn is_beginning(&self, place: usize) -> bool {
        self.places[place].1
    }

    fn remove(&mut self, call: usize) {
        for place in self.of_call[call] {
            let (previous, next) = (self.previous[place], self.next[place]);
            self.next[previous] = next;
            self.previous[next] = previous;
        }
    }

    /// Puts back the call that was removed last, and returns the place after its beginning.
    fn put_back(&mut self, call: usize) -> Option<usize> {
        let [beginning, end] = self.of_call[call];
        for place in [end, beginning] {
            let (previous, next) = (self.previous[place], self.next[place]);
            self.next[previous] = place;
            self.previous[next] = place;
        }
        self.next(beginning)
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Bits(Box<[u64]>);

impl Bits {
    fn new(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)].into())
    }

    fn set(&mut self, bit: usize) {
        self.0[bit / 64] |= 1 << (bit % 64);
    }

    fn clear(&mut self, bit: usize) {
        self.0[bit / 64] &= !(1 << (bit % 64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register of small numbers that begins at 0.
    struct Register;

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Access {
        Read(u8),
        Write(u8),
    }

    impl Model for Register {
        type State = u8;
        type Call = Access;

        fn step(&state: &u8, call: &Access) -> Option<u8> {
            match *call {
                Access::Read(seen) => (seen == state).then_some(state),
                Access::Write(value) => Some(value),
            }
        }
    }

    use Access::{Read, Write};

    fn verdict(calls: &[(u64, u64, Access)]) -> Verdict {
        let calls = calls
            .iter()
            .map(|&(began, ended, call)| Interval { began, ended, call });
        check::<Register>(&calls.collect::<Vec<_>>())
    }

    fn is_linearizable(calls: &[(u64, u64, Access)]) -> bool {
        match verdict(calls) {
            Verdict::Linearizable => true,
            Verdict::Violated { .. } => false,
            Verdict::Unknown => panic!("it was given up"),
        }
    }

    #[test]
    fn calls_that_overlap_may_come_in_either_order() {
        assert!(is_linearizable(&[]));
        assert!(is_linearizable(&[
            (0, 9, Write(1)),
            (1, 2, Read(0)),
            (3, 4, Read(1))
        ]));
        assert!(is_linearizable(&[
            (0, 9, Write(1)),
            (0, 9, Write(2)),
            (1, 2, Read(2)),
            (3, 4, Read(1))
        ]));
        assert!(
            is_linearizable(&[(0, 5, Write(1)), (5, 9, Read(0))]),
            "at the same moment"
        );
    }

    #[test]
    fn what_has_ended_comes_before_what_begins_later() {
        assert!(!is_linearizable(&[(0, 1, Write(1)), (2, 3, Read(0))]));
        assert!(!is_linearizable(&[
            (0, 9, Write(1)),
            (1, 2, Read(1)),
            (3, 4, Read(0))
        ]));
        let twice = [
            (0, 9, Write(1)),
            (1, 2, Read(1)),
            (3, 4, Write(2)),
            (5, 6, Read(2)),
            (7, 8, Read(1)),
        ];
        assert!(!is_linearizable(&twice), "a write that is made twice");
    }

    #[test]
    fn the_order_that_fits_and_the_call_that_does_not_are_named() {
        let calls = [
            (0, 1, Write(1)),
            (2, 3, Read(1)),
            (4, 5, Read(7)),
            (6, 7, Read(1)),
        ];
        let order = vec![0, 1];
        assert_eq!(verdict(&calls), Verdict::Violated { order, misfit: 2 });
    }

    #[test]
    fn what_may_never_end_may_happen_late_or_not_be_seen() {
        const NEVER: u64 = u64::MAX;
        assert!(is_linearizable(&[
            (0, NEVER, Write(1)),
            (1, 2, Read(0)),
            (3, 4, Read(0))
        ]));
        assert!(is_linearizable(&[
            (0, NEVER, Write(1)),
            (1, 2, Read(0)),
            (3, 4, Read(1))
        ]));
        assert!(!is_linearizable(&[
            (0, NEVER, Write(1)),
            (1, 2, Read(1)),
            (3, 4, Read(0))
        ]));
    }

    #[test]
    fn a_search_that_takes_too_long_is_given_up() {
        let calls = [(0, 9, Write(1)), (0, 9, Write(2)), (0, 9, Read(0))];
        let calls = calls.map(|(began, ended, call)| Interval { began, ended, call });
        assert_eq!(Search::<Register>::new(&calls).run(3), Verdict::Unknown);
    }

    /// Tries all orders.
    fn brute_force(calls: &[(u64, u64, Access)], state: u8, taken: &mut Vec<usize>) -> bool {
        if taken.len() == calls.len() {
            return true;
        }
        (0..calls.len()).any(|next| {
            let left = || (0..calls.len()).filter(|call| !taken.contains(call));
            let may_be_next =
                !taken.contains(&next) && left().all(|other| calls[other].1 >= calls[next].0);
            let Some(state) = Register::step(&state, &calls[next].2).filter(|_| may_be_next) else {
                return false;
            };
            taken.push(next);
            let fits = brute_force(calls, state, taken);
            taken.pop();
            fits
        })
    }

    #[test]
    fn it_finds_what_trying_all_orders_finds() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut found = [0; 2];
        for _ in 0..20_000 {
            let calls: Vec<_> = (0..random.usize(1..7))
                .map(|_| {
                    let began = random.u64(0..8);
                    let value = random.u8(0..3);
                    let call = if random.bool() {
                        Read(value)
                    } else {
                        Write(value)
                    };
                    (began, began + random.u64(0..6), call)
                })
                .collect();
            let expected = brute_force(&calls, 0, &mut Vec::new());
            assert_eq!(is_linearizable(&calls), expected, "{calls:?}");
            found[usize::from(expected)] += 1;
        }
        assert!(found.iter().all(|&count| count > 1000), "{found:?}");
    }
}
