//! Records operations while callers run, cheaply enough for millions of operations per second.
//!
//! Each worker thread has a histogram, behind a lock that other threads take only to show progress and at the end. One
//! histogram per caller would not fit the processor's caches, since there are many callers.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::gap::Gap;

/// Longest latency that is told from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(600);

/// Significant decimal digits of recorded latencies.
const PRECISION_DIGITS: u8 = 3;

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static THREAD: Cell<usize> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed));
}

/// Why an operation failed.
#[derive(Debug, Clone)]
pub(crate) struct OperationError {
    /// Groups failures: a word or two.
    pub(crate) kind: String,
    /// The whole story.
    pub(crate) message: String,
}

/// The failures of one kind.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct ErrorCount {
    pub(crate) count: u64,
    /// What the first one said.
    #[serde(skip)]
    pub(crate) first: String,
}

/// Shared by all callers of a run.
pub(crate) struct Recorder {
    threads: Vec<Mutex<Recorded>>,
    errors: Mutex<BTreeMap<String, ErrorCount>>,
    gap: Gap,
}

/// What one thread has recorded. Aligned to cache lines, so that no two threads share one.
#[repr(align(128))]
struct Recorded {
    /// Operations that were finished, counted ones or not.
    finished: u64,
    latencies: Histogram<u64>,
}

impl Recorder {
    /// Operations may count from `begin` on.
    pub(crate) fn new(threads: usize, begin: Instant) -> Self {
        let recorded = |_| {
            Mutex::new(Recorded {
                finished: 0,
                latencies: histogram(),
            })
        };
        Self {
            threads: (0..threads.max(1)).map(recorded).collect(),
            errors: Mutex::default(),
            gap: Gap::new(begin),
        }
    }

    /// An operation was finished at `ended`. With a latency, it counts.
    pub(crate) fn record(&self, latency: Option<Duration>, ended: Instant) {
        let thread = THREAD.with(Cell::get) % self.threads.len();
        let mut recorded = lock(&self.threads[thread]);
        recorded.finished += 1;
        if let Some(latency) = latency {
            let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
            recorded.latencies.saturating_record(nanoseconds);
            self.gap.note_success(ended);
        }
    }

    pub(crate) fn record_error(&self, error: OperationError) {
        let mut errors = lock(&self.errors);
        let first = error.message;
        let counted = errors
            .entry(error.kind)
            .or_insert(ErrorCount { count: 0, first });
        counted.count += 1;
    }

    /// Operations that have been finished so far, counted ones or not.
    pub(crate) fn progress(&self) -> u64 {
        let threads = self.threads.iter();
        threads.map(|recorded| lock(recorded).finished).sum()
    }

    /// All latencies, in nanoseconds.
    pub(crate) fn latencies(&self) -> Histogram<u64> {
        let mut all = histogram();
        for recorded in &self.threads {
            all += &lock(recorded).latencies;
        }
        all
    }

    /// The longest time up to `end` in which no operation that counts succeeded.
    pub(crate) fn longest_gap(&self, end: Instant) -> Duration {
        self.gap.longest(end)
    }

    pub(crate) fn errors(&self) -> BTreeMap<String, ErrorCount> {
        lock(&self.errors).clone()
    }
}

fn histogram() -> Histogram<u64> {
    let max = u64::try_from(LATENCY_MAX.as_nanos()).unwrap_or(u64::MAX);
    Histogram::new_with_bounds(1, max, PRECISION_DIGITS).expect("the bounds and digits are valid")
}

/// A panic elsewhere leaves a histogram that is at worst short of one operation.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_threads_record_is_merged() {
        let now = Instant::now();
        let recorder = Recorder::new(2, now);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    recorder.record(None, now);
                    for operation in 1..=1000 {
                        recorder.record(Some(Duration::from_micros(operation)), now);
                    }
                });
            }
        });
        let latencies = recorder.latencies();
        assert_eq!(latencies.len(), 8000);
        assert_eq!(recorder.progress(), 8008);
        let median = latencies.value_at_quantile(0.5);
        assert!((499_000..=502_000).contains(&median), "{median}");
    }

    #[test]
    fn errors_are_counted_by_kind_and_the_first_is_kept() {
        let recorder = Recorder::new(1, Instant::now());
        for (kind, message) in [("busy", "one"), ("busy", "two"), ("lost", "three")] {
            recorder.record_error(OperationError {
                kind: kind.to_owned(),
                message: message.to_owned(),
            });
        }
        let errors = recorder.errors();
        assert_eq!(errors["busy"].count, 2);
        assert_eq!(errors["busy"].first, "one");
        assert_eq!(errors["lost"].count, 1);
    }
}
