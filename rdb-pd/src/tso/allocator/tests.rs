use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rdb_storage::Error;
use tokio::sync::Semaphore;

use super::super::clock::ClockSettings;
use super::*;

const START_MS: u64 = 1_700_000_000_000;

/// A clock that the test moves.
#[derive(Clone, Default)]
struct Hand {
    elapsed_ms: Arc<AtomicU64>,
}

impl Clock for Hand {
    fn wall_ms(&self) -> u64 {
        START_MS + self.elapsed_ms.load(Ordering::Relaxed)
    }

    fn elapsed_ms(&self) -> u64 {
        self.elapsed_ms.load(Ordering::Relaxed)
    }
}

/// Keeps bounds in memory; each needs a permit, and fails when the gate is closed.
#[derive(Clone)]
struct Gate {
    permits: Arc<Semaphore>,
    persisted: Arc<Mutex<Vec<u64>>>,
}

impl Gate {
    fn open() -> Self {
        let permits = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Self {
            permits,
            persisted: Arc::default(),
        }
    }

    fn with_permits(permits: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(permits)),
            ..Self::open()
        }
    }

    fn last(&self) -> u64 {
        *self.persisted.lock().unwrap().last().unwrap()
    }
}

impl BoundStore for Gate {
    async fn persist(&self, bound_ms: u64) -> Result<(), Error> {
        let permit = self.permits.acquire().await.map_err(|_| Error::Closed)?;
        permit.forget();
        self.persisted.lock().unwrap().push(bound_ms);
        Ok(())
    }
}

fn clock(hand: &Hand, bound_ms: Option<u64>) -> PhysicalClock<Hand> {
    let settings = ClockSettings {
        jump_max: Duration::from_secs(86_400),
        accept_jump_at_start: false,
    };
    PhysicalClock::start(hand.clone(), bound_ms, settings).unwrap()
}

#[tokio::test]
async fn the_bound_is_durable_before_the_first_timestamp_below_it() {
    let (hand, gate) = (Hand::default(), Gate::open());
    let allocator = Allocator::start(clock(&hand, None), gate.clone(), None)
        .await
        .unwrap();
    let first = allocator.allocate(10).await.unwrap();
    assert_eq!(first, compose(START_MS));
    assert!(first + 10 <= compose(gate.last()));
}

#[tokio::test]
async fn a_restart_begins_at_the_persisted_bound() {
    let hand = Hand::default();
    let bound_ms = START_MS + 3_000;
    let restarted = Allocator::start(clock(&hand, Some(bound_ms)), Gate::open(), Some(bound_ms));
    assert_eq!(
        restarted.await.unwrap().allocate(1).await,
        Ok(compose(bound_ms))
    );
}

#[tokio::test]
async fn a_start_that_cannot_persist_fails() {
    let (hand, gate) = (Hand::default(), Gate::with_permits(0));
    gate.permits.close();
    assert!(
        Allocator::start(clock(&hand, None), gate, None)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn nothing_at_or_above_the_bound_is_handed_out_while_it_cannot_be_persisted() {
    let (hand, gate) = (Hand::default(), Gate::with_permits(1));
    let allocator = Allocator::start(clock(&hand, None), gate.clone(), None)
        .await
        .unwrap();
    let keeper = tokio::spawn({
        let allocator = Arc::clone(&allocator);
        async move { allocator.keep_bound().await }
    });
    hand.elapsed_ms.store(WINDOW_MS - 1, Ordering::Relaxed);
    let last = allocator.allocate(1).await.unwrap();
    assert!(last < compose(gate.last()));

    hand.elapsed_ms.store(WINDOW_MS, Ordering::Relaxed);
    assert_eq!(
        allocator.allocate(1).await,
        Err(AllocatorError(WaitFor::Bound))
    );
    let figures = allocator.figures();
    assert_eq!(figures.timestamps.get(), 1);
    assert_eq!(
        (figures.waits_for_bound.get(), figures.failures.get()),
        (1, 1)
    );
    assert_eq!(allocator.position().to_bound_ms, 0);

    let waiting = allocator.allocate(1);
    gate.permits.add_permits(1);
    let first = waiting.await.unwrap();
    assert!(first > last && first < compose(gate.last()));
    assert_eq!(figures.timestamps.get(), 2);
    assert_eq!(figures.failures.get(), 1);
    assert_eq!(figures.bound_moves.snapshot().count(), 2);
    keeper.abort();
}

#[tokio::test]
async fn a_wait_for_the_clock_is_not_blamed_on_the_bound() {
    let (hand, gate) = (Hand::default(), Gate::open());
    let allocator = Allocator::start(clock(&hand, None), gate, None)
        .await
        .unwrap();
    // The bound has room, and the clock stands still.
    while allocator.try_allocate(65_536).is_ok() {}
    assert_eq!(
        allocator.allocate(65_536).await,
        Err(AllocatorError(WaitFor::Clock))
    );
    assert_eq!(allocator.figures().waits_for_clock.get(), 1);
    assert_eq!(allocator.figures().waits_for_bound.get(), 0);
    assert_eq!(allocator.position().ahead_of_clock_ms, 0);
}

#[tokio::test]
async fn the_bound_is_moved_before_it_is_reached() {
    let (hand, gate) = (Hand::default(), Gate::open());
    let allocator = Allocator::start(clock(&hand, None), gate, None)
        .await
        .unwrap();
    let keeper = tokio::spawn({
        let allocator = Arc::clone(&allocator);
        async move { allocator.keep_bound().await }
    });
    for step in 1..10 {
        let moved = allocator.bound_moved.notified();
        hand.elapsed_ms
            .store(step * (WINDOW_LEFT_MIN_MS + 100), Ordering::Relaxed);
        assert!(
            allocator.try_allocate(65_536).is_ok(),
            "no request ever waits"
        );
        timeout(Duration::from_secs(60), moved)
            .await
            .expect("the bound is moved");
    }
    keeper.abort();
}
