//! A histogram with a fixed number of classes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::OFF;

const US: u64 = 1_000;
const MS: u64 = 1_000 * US;
const S: u64 = 1_000 * MS;

/// Upper bounds of durations in nanoseconds: 50 µs to 10 s in steps of 1, 2, 5.
static DURATION_BOUNDS: [u64; 17] = [
    50 * US,
    100 * US,
    200 * US,
    500 * US,
    MS,
    2 * MS,
    5 * MS,
    10 * MS,
    20 * MS,
    50 * MS,
    100 * MS,
    200 * MS,
    500 * MS,
    S,
    2 * S,
    5 * S,
    10 * S,
];

/// Upper bounds of sizes: powers of two up to the largest batch.
static SIZE_BOUNDS: [u64; 13] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];

/// Counts values by size. Noting one adds to two atomics.
#[derive(Debug)]
pub struct Histogram {
    /// Highest value of each class but the last, ascending.
    bounds: &'static [u64],
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
    /// How many units of a value make one shown unit.
    scale: f64,
}

/// What a [`Histogram`] held at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramSnapshot {
    /// The highest value of each class, with how many values are in that class alone. The bound of the last is infinite.
    pub classes: Vec<(f64, u64)>,
    /// The sum of all values.
    pub sum: f64,
}

impl Histogram {
    /// For durations from 50 µs to 10 s. They are shown in seconds.
    pub fn of_durations() -> Self {
        Self::new(&DURATION_BOUNDS, S as f64)
    }

    /// For sizes of batches, up to 4096.
    pub fn of_sizes() -> Self {
        Self::new(&SIZE_BOUNDS, 1.0)
    }

    fn new(bounds: &'static [u64], scale: f64) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
            scale,
        }
    }

    /// Notes a duration.
    pub fn note(&self, duration: Duration) {
        self.note_each(duration, 1);
    }

    /// Notes that each of `count` took that long.
    pub fn note_each(&self, duration: Duration, count: u64) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.add(nanoseconds, count);
    }

    /// Notes a size.
    pub fn note_size(&self, size: usize) {
        self.add(size as u64, 1);
    }

    fn add(&self, value: u64, count: u64) {
        if count == 0 || OFF {
            return;
        }
        let class = self.bounds.partition_point(|bound| *bound < value);
        if let Some(counted) = self.counts.get(class) {
            counted.fetch_add(count, Relaxed);
        }
        self.sum.fetch_add(value.saturating_mul(count), Relaxed);
    }

    /// What it holds.
    pub fn snapshot(&self) -> HistogramSnapshot {
        let bounds = self.bounds.iter().map(|bound| *bound as f64 / self.scale);
        let bounds = bounds.chain([f64::INFINITY]);
        let counts = self.counts.iter().map(|count| count.load(Relaxed));
        HistogramSnapshot {
            classes: bounds.zip(counts).collect(),
            sum: self.sum.load(Relaxed) as f64 / self.scale,
        }
    }
}

impl HistogramSnapshot {
    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.classes.iter().map(|(_, count)| count).sum()
    }

    /// What was noted after `earlier`, a snapshot of the same histogram.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = earlier.classes.iter().map(|(_, count)| *count);
        let before = before.chain(std::iter::repeat(0));
        let classes = self.classes.iter().zip(before);
        let classes =
            classes.map(|(&(bound, count), before)| (bound, count.saturating_sub(before)));
        Self {
            classes: classes.collect(),
            sum: (self.sum - earlier.sum).max(0.0),
        }
    }

    /// The value that the part `quantile` of all values, from 0 to 1, does not exceed. It is interpolated within its class; what is in
    /// the last class counts as the bound before. `None`: there are no values.
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = quantile.clamp(0.0, 1.0) * count as f64;
        let (mut below, mut lower) = (0.0, 0.0);
        for &(bound, of_class) in &self.classes {
            let of_class = of_class as f64;
            if of_class > 0.0 && below + of_class >= rank {
                if bound.is_infinite() {
                    break;
                }
                return Some(lower + (bound - lower) * (rank - below) / of_class);
            }
            below += of_class;
            if bound.is_finite() {
                lower = bound;
            }
        }
        Some(lower)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(histogram: &Histogram) -> Vec<(f64, u64)> {
        let classes = histogram.snapshot().classes.into_iter();
        classes.filter(|(_, count)| *count > 0).collect()
    }

    #[test]
    fn a_value_is_in_the_class_of_the_lowest_bound_that_is_not_below_it() {
        let histogram = Histogram::of_durations();
        histogram.note(Duration::ZERO);
        histogram.note(Duration::from_micros(50));
        histogram.note(Duration::from_nanos(50_001));
        histogram.note_each(Duration::from_secs(10), 3);
        histogram.note(Duration::from_secs(11));
        assert_eq!(
            counts(&histogram),
            [(50e-6, 2), (100e-6, 1), (10.0, 3), (f64::INFINITY, 1)]
        );
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.count(), 7);
        assert!((snapshot.sum - 41.000_100_001).abs() < 1e-9, "{snapshot:?}");
    }

    #[test]
    fn sizes_are_in_classes_of_powers_of_two() {
        let histogram = Histogram::of_sizes();
        for size in [1, 2, 3, 4096, 4097] {
            histogram.note_size(size);
        }
        assert_eq!(
            counts(&histogram),
            [
                (1.0, 1),
                (2.0, 1),
                (4.0, 1),
                (4096.0, 1),
                (f64::INFINITY, 1)
            ]
        );
        assert_eq!(histogram.snapshot().sum, 8199.0);
    }

    #[test]
    fn nothing_is_noted_of_none() {
        let histogram = Histogram::of_durations();
        histogram.note_each(Duration::from_secs(1), 0);
        assert_eq!(histogram.snapshot().sum, 0.0);
        assert_eq!(histogram.snapshot().count(), 0);
    }

    #[test]
    fn a_difference_has_what_was_noted_in_between() {
        let histogram = Histogram::of_durations();
        histogram.note_each(Duration::from_millis(1), 3);
        let earlier = histogram.snapshot();
        histogram.note_each(Duration::from_millis(1), 2);
        histogram.note(Duration::from_secs(1));
        let noted = histogram.snapshot().since(&earlier);
        let classes = noted.classes.iter().filter(|(_, count)| *count > 0);
        assert_eq!(classes.collect::<Vec<_>>(), [&(1e-3, 2), &(1.0, 1)]);
        assert!((noted.sum - 1.002).abs() < 1e-9, "{noted:?}");
        assert_eq!(earlier.since(&histogram.snapshot()).count(), 0);
    }

    #[test]
    fn a_quantile_lies_in_the_class_of_its_value() {
        let histogram = Histogram::of_durations();
        assert_eq!(histogram.snapshot().quantile(0.99), None);
        histogram.note_each(Duration::from_micros(150), 98);
        let quantile = |of: f64| histogram.snapshot().quantile(of).expect("there are values");
        assert!(quantile(0.0) >= 100e-6 && quantile(1.0) <= 200e-6);
        assert!((quantile(0.5) - 150e-6).abs() < 1e-9, "{}", quantile(0.5));
        histogram.note_each(Duration::from_secs(30), 2);
        assert!(quantile(0.5) <= 200e-6);
        assert_eq!(quantile(0.99), 10.0, "no class is higher");
    }

    #[test]
    fn bounds_ascend() {
        assert!(DURATION_BOUNDS.is_sorted_by(|one, next| one < next));
        assert!(SIZE_BOUNDS.is_sorted_by(|one, next| one < next));
    }
}
