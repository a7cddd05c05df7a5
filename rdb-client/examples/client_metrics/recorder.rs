//! A small recorder for the crate `metrics`: numbers in memory, and the text that Prometheus reads.
//!
//! An application rather takes a crate for this, such as `metrics-exporter-prometheus`. This one shows all that there is to it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{
    Counter, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};

/// Upper bounds of the classes of a histogram: powers of two from 31 µs to 65536, for durations as well as for sizes.
const BOUNDS: [f64; 32] = {
    let mut bounds = [0.0; 32];
    let mut bound = 1.0 / 32768.0;
    let mut index = 0;
    while index < bounds.len() {
        bounds[index] = bound;
        bound *= 2.0;
        index += 1;
    }
    bounds
};

/// Keeps what is reported. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Numbers(Arc<Mutex<BTreeMap<String, Family>>>);

/// The metrics of one name.
#[derive(Debug, Default)]
struct Family {
    help: String,
    unit: Option<Unit>,
    /// By labels, as they are written.
    series: BTreeMap<String, Series>,
}

#[derive(Debug)]
enum Series {
    Counter(Arc<AtomicU64>),
    /// The bits of a floating-point number.
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<Classes>),
}

/// A histogram. Relaxed: each number is read by itself.
#[derive(Debug, Default)]
struct Classes {
    counts: [AtomicU64; BOUNDS.len()],
    count: AtomicU64,
    /// The bits of a floating-point number.
    sum: AtomicU64,
}

impl HistogramFn for Classes {
    fn record(&self, value: f64) {
        if let Some(class) = BOUNDS.iter().position(|bound| value <= *bound) {
            self.counts[class].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum.increment(value);
    }
}

impl Numbers {
    /// The value of a counter or a gauge, or how often something was recorded, by name and labels as they are written, e.g.
    /// `a_total{kind="b"}`. `None`: there is no such series.
    #[allow(dead_code, reason = "for tests")]
    pub(crate) fn get(&self, sample: &str) -> Option<f64> {
        let (name, labels) = sample.split_at(sample.find('{').unwrap_or(sample.len()));
        let families = self.lock();
        let series = families.get(name)?.series.get(labels)?;
        Some(match series {
            Series::Counter(count) => count.load(Ordering::Relaxed) as f64,
            Series::Gauge(value) => f64::from_bits(value.load(Ordering::Relaxed)),
            Series::Histogram(classes) => classes.count.load(Ordering::Relaxed) as f64,
        })
    }

    /// The names of all metrics with their units and descriptions.
    #[allow(dead_code, reason = "for tests")]
    pub(crate) fn described(&self) -> Vec<(String, Option<Unit>, String)> {
        let families = self.lock();
        let described = families
            .iter()
            .map(|(name, family)| (name.clone(), family.unit, family.help.clone()));
        described.collect()
    }

    /// All numbers in the text form of Prometheus.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (name, family) in &*self.lock() {
            let kind = match family.series.values().next() {
                None => continue,
                Some(Series::Counter(_)) => "counter",
                Some(Series::Gauge(_)) => "gauge",
                Some(Series::Histogram(_)) => "histogram",
            };
            // A string takes all.
            let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}", family.help);
            for (labels, series) in &family.series {
                series.write_to(&mut text, name, labels);
            }
        }
        text
    }

    fn describe(&self, name: &KeyName, unit: Option<Unit>, help: &SharedString) {
        let mut families = self.lock();
        let family = families.entry(name.as_str().to_owned()).or_default();
        family.unit = unit;
        family.help = help.to_string();
    }

    /// Calls `found` with the series of this key, which is made if there is none.
    fn series<T>(&self, key: &Key, new: impl FnOnce() -> Series, found: fn(&Series) -> T) -> T {
        let labels: Vec<_> = key
            .labels()
            .map(|label| format!("{}=\"{}\"", label.key(), label.value()))
            .collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        let mut families = self.lock();
        let family = families.entry(key.name().to_owned()).or_default();
        found(family.series.entry(labels).or_insert_with(new))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Family>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Series {
    fn write_to(&self, text: &mut String, name: &str, labels: &str) {
        // A string takes all.
        let _ = match self {
            Self::Counter(count) => {
                writeln!(text, "{name}{labels} {}", count.load(Ordering::Relaxed))
            }
            Self::Gauge(value) => {
                let value = f64::from_bits(value.load(Ordering::Relaxed));
                writeln!(text, "{name}{labels} {value}")
            }
            Self::Histogram(classes) => classes.write_to(text, name, labels),
        };
    }
}

impl Classes {
    fn write_to(&self, text: &mut String, name: &str, labels: &str) -> std::fmt::Result {
        let inner = labels.trim_start_matches('{').trim_end_matches('}');
        let comma = if inner.is_empty() { "" } else { "," };
        let mut below = 0;
        for (bound, count) in BOUNDS.iter().zip(&self.counts) {
            below += count.load(Ordering::Relaxed);
            writeln!(
                text,
                "{name}_bucket{{{inner}{comma}le=\"{bound}\"}} {below}"
            )?;
        }
        let count = self.count.load(Ordering::Relaxed).max(below);
        let sum = f64::from_bits(self.sum.load(Ordering::Relaxed));
        writeln!(text, "{name}_bucket{{{inner}{comma}le=\"+Inf\"}} {count}")?;
        writeln!(
            text,
            "{name}_sum{labels} {sum}\n{name}_count{labels} {count}"
        )
    }
}

impl Recorder for Numbers {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe(&name, unit, &help);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe(&name, unit, &help);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe(&name, unit, &help);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let found = |series: &Series| match series {
            Series::Counter(count) => Counter::from_arc(Arc::clone(count)),
            _ => Counter::noop(),
        };
        self.series(key, || Series::Counter(Arc::default()), found)
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let found = |series: &Series| match series {
            Series::Gauge(value) => Gauge::from_arc(Arc::clone(value)),
            _ => Gauge::noop(),
        };
        self.series(key, || Series::Gauge(Arc::default()), found)
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let found = |series: &Series| match series {
            Series::Histogram(classes) => Histogram::from_arc(Arc::clone(classes)),
            _ => Histogram::noop(),
        };
        self.series(key, || Series::Histogram(Arc::default()), found)
    }
}
