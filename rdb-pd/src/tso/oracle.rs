//! Lock-free allocation of timestamps.
//!
//! - `next` only grows, and everything below it is spent.
//! - A timestamp is handed out only below the bound that the caller names.
//! - A timestamp is handed out only up to a distance ahead of the clock that the caller reads. The distance is shorter for
//!   large requests. So when too many timestamps are taken, only large requests wait.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bits of the counter within a millisecond: 262,144 timestamps.
pub const LOGICAL_BITS: u32 = 18;

/// The latest millisecond that fits 46 bits, in the year 4199.
pub(super) const PHYSICAL_MS_MAX: u64 = (1 << (u64::BITS - LOGICAL_BITS)) - 1;

/// How far allocation may run ahead of the clock when counters are used up, in milliseconds. It is more than one step back
/// of the clock, so that a correction delays no allocation.
pub(super) const AHEAD_MAX_MS: u64 = 1_000;

/// Timestamps below the limit of [`AHEAD_MAX_MS`] that an allocation leaves to smaller ones, for each timestamp that it
/// takes. The largest allocation leaves 256 ms. A client that wanted to use up the rest with allocations of n would have to
/// take 262,144 timestamps every millisecond.
const RESERVE_PER_TIMESTAMP: u64 = 1 << 10;

/// The first timestamp of a millisecond.
pub fn compose(physical_ms: u64) -> u64 {
    physical_ms.min(PHYSICAL_MS_MAX) << LOGICAL_BITS
}

/// What an allocation has to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WaitFor {
    /// The durable bound has to be moved.
    #[error("their bound cannot be made durable; see the placement driver's log")]
    Bound,
    /// The clock has to advance.
    #[error(
        "so many were taken that they are ahead of the placement driver's clock; ask again, or for fewer at once"
    )]
    Clock,
}

/// Hands out timestamps.
#[derive(Debug)]
pub struct Oracle {
    /// Everything below is spent. One exchange spends timestamps, and only the order of exchanges counts. Acquire and release
    /// are stronger than needed, and cost nothing beside the exchange.
    next: AtomicU64,
}

impl Oracle {
    /// An oracle whose timestamps are all at or above `first`.
    pub fn new(first: u64) -> Self {
        Self {
            next: AtomicU64::new(first),
        }
    }

    /// The lowest timestamp that may still be handed out.
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// Takes `count` consecutive timestamps below `bound`, at or above the present millisecond `now_ms`, and returns the
    /// first. When the counter of a millisecond is used up, the physical part moves on by itself.
    ///
    /// # Errors
    ///
    /// [`WaitFor`] when there are no such timestamps at the moment. Nothing is spent.
    pub fn allocate(&self, count: u32, now_ms: u64, bound: u64) -> Result<u64, WaitFor> {
        let now = compose(now_ms);
        let reserve = u64::from(count) * RESERVE_PER_TIMESTAMP;
        let latest = compose(now_ms.saturating_add(AHEAD_MAX_MS)).saturating_sub(reserve);
        let mut next = self.next.load(Ordering::Acquire);
        loop {
            let first = next.max(now);
            let end = first.saturating_add(count.into());
            if end > bound {
                return Err(WaitFor::Bound);
            }
            if end > latest {
                return Err(WaitFor::Clock);
            }
            match self
                .next
                .compare_exchange_weak(next, end, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Ok(first),
                Err(current) => next = current,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::thread;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_timestamp_has_46_bits_of_milliseconds_and_18_of_counter() {
        assert_eq!(compose(1), 262_144);
        assert_eq!(compose(PHYSICAL_MS_MAX) >> LOGICAL_BITS, PHYSICAL_MS_MAX);
        let oracle = Oracle::new(0);
        assert_eq!(oracle.allocate(1, 7, u64::MAX), Ok(7 << 18));
        assert_eq!(oracle.allocate(1, 7, u64::MAX), Ok((7 << 18) + 1));
    }

    #[test]
    fn a_used_up_millisecond_moves_on_by_itself_but_not_far_ahead_of_the_clock() {
        let oracle = Oracle::new(compose(100));
        for batch in 0..2_900 {
            assert_eq!(
                oracle.allocate(65_536, 100, u64::MAX),
                Ok(compose(100) + batch * 65_536)
            );
        }
        while oracle.allocate(1, 100, u64::MAX).is_ok() {}
        assert_eq!(oracle.allocate(1, 100, u64::MAX), Err(WaitFor::Clock));
        assert!(oracle.next() <= compose(100 + AHEAD_MAX_MS));
        assert!(oracle.allocate(1, 101, u64::MAX).is_ok());
    }

    #[test]
    fn those_who_ask_for_few_do_not_wait_for_those_who_ask_for_many() {
        let oracle = Oracle::new(compose(100));
        for (many, few) in [(65_536, 32_768), (32_768, 256), (256, 1)] {
            while oracle.allocate(many, 100, u64::MAX).is_ok() {}
            // More than can be asked for in such pieces before the clock goes on by a millisecond.
            for _ in 0..100 {
                assert!(oracle.allocate(few, 100, u64::MAX).is_ok(), "{few}");
            }
            assert!(oracle.allocate(many, 100, u64::MAX).is_err());
        }
    }

    proptest! {
        #[test]
        fn ranges_never_overlap_never_pass_the_bound_and_only_grow(
            requests in vec((1u32..70_000, 0u64..200, 0u64..200), 1..200),
        ) {
            let oracle = Oracle::new(compose(50));
            let mut end = compose(50);
            for (count, now_ms, bound_ms) in requests {
                let bound = compose(bound_ms);
                match oracle.allocate(count, now_ms, bound) {
                    Ok(first) => {
                        prop_assert!(first >= end && first >= compose(now_ms));
                        end = first + u64::from(count);
                        prop_assert!(end <= bound);
                    }
                    Err(_) => prop_assert_eq!(oracle.next(), end, "a refusal spends nothing"),
                }
            }
        }
    }

    #[test]
    fn threads_never_share_a_timestamp() {
        let oracle = Oracle::new(0);
        let takers: Vec<Vec<u64>> = thread::scope(|scope| {
            let taker = || {
                (0..2_000)
                    .map(|_| oracle.allocate(3, 1_000, u64::MAX).unwrap())
                    .collect()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(taker)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        for taken in &takers {
            assert!(taken.is_sorted());
        }
        let all: BTreeSet<u64> = takers
            .into_iter()
            .flatten()
            .flat_map(|first| first..first + 3)
            .collect();
        assert_eq!(all.len(), 8 * 2_000 * 3);
    }
}
