//! The result of a run, as a table for people and as one object for programs.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::arguments::{Choice, ClientOptions, Data};
use super::recorder::ErrorCount;
use crate::encoding::KeyEncoding;
use crate::failure::Failure;
use crate::output::{Format, Output, Record, Row};

/// The operations of a run.
pub(crate) struct Measured {
    /// The time from the end of the warm-up to the last answer.
    pub(crate) elapsed: Duration,
    /// Operations that count, of each caller.
    pub(crate) operations_by_caller: Vec<u64>,
    pub(crate) conflicts: u64,
    /// Operations of an open loop that were due and could not begin.
    pub(crate) not_started: Option<u64>,
    /// The latencies in nanoseconds.
    pub(crate) latencies: Histogram<u64>,
    /// The longest time in which no operation succeeded.
    pub(crate) longest_gap: Duration,
    pub(crate) errors: BTreeMap<String, ErrorCount>,
}

/// The settings of the run. Absent: the setting does not apply.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Settings {
    pub(crate) workload: &'static str,
    pub(crate) target: &'static str,
    pub(crate) concurrency: u32,
    pub(crate) threads: usize,
    #[serde(flatten)]
    pub(crate) client: Option<ClientOptions>,
    #[serde(flatten)]
    pub(crate) data: Option<Data>,
    #[serde(flatten)]
    pub(crate) choice: Option<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) read_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scan_limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<f64>,
    pub(crate) warmup_s: f64,
    /// Callers compete for one key: the report says how they fared against each other.
    #[serde(skip)]
    pub(crate) is_contended: bool,
}

/// Settings and findings of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    settings: Settings,
    duration_s: f64,
    operations: u64,
    operations_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_started: Option<u64>,
    conflicts: u64,
    errors: BTreeMap<String, ErrorCount>,
    latency_us: Latency,
    longest_gap_ms: u64,
    #[serde(flatten)]
    contention: Option<Contention>,
}

#[derive(Debug, Serialize)]
struct Latency {
    count: u64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// Figures of callers that conflict with each other.
#[derive(Debug, Serialize)]
struct Contention {
    swaps_per_second: f64,
    /// Operations of the caller that did fewest, over the mean of all callers.
    slowest_over_mean: f64,
    #[serde(skip)]
    conflicts: u64,
}

impl Report {
    pub(crate) fn new(settings: Settings, measured: Measured) -> Self {
        let operations: u64 = measured.operations_by_caller.iter().sum();
        Self {
            contention: settings.is_contended.then(|| Contention::of(&measured)),
            settings,
            duration_s: measured.elapsed.as_secs_f64(),
            operations,
            operations_per_second: per_second(operations, measured.elapsed),
            not_started: measured.not_started,
            conflicts: measured.conflicts,
            errors: measured.errors,
            latency_us: Latency::of(&measured.latencies),
            longest_gap_ms: u64::try_from(measured.longest_gap.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Prints what was found, and fails when an operation had failed.
    pub(crate) fn print(&self, format: Format, output: &mut Output<'_>) -> Result<(), Failure> {
        output.table(std::slice::from_ref(self))?;
        if format == Format::Text
            && let Some(contention) = &self.contention
        {
            output.table(std::slice::from_ref(contention))?;
        }
        let Some((kind, ErrorCount { first, .. })) = self.errors.iter().next() else {
            return Ok(());
        };
        let kinds = self.errors.iter();
        let kinds: Vec<_> = kinds
            .map(|(kind, errors)| format!("{kind}: {}", errors.count))
            .collect();
        Err(Failure::failed(format!(
            "{} operations failed ({}); the first failure: {kind}: {first}",
            self.failed(),
            kinds.join(", "),
        )))
    }

    fn failed(&self) -> u64 {
        self.errors.values().map(|errors| errors.count).sum()
    }
}

impl Contention {
    fn of(measured: &Measured) -> Self {
        let callers = &measured.operations_by_caller;
        let slowest = callers.iter().min().copied().unwrap_or_default();
        let operations: u64 = callers.iter().sum();
        // With no operation at all, the slowest has done as many as the mean: none.
        let mean = (operations as f64 / callers.len().max(1) as f64).max(f64::MIN_POSITIVE);
        Self {
            swaps_per_second: per_second(operations, measured.elapsed),
            slowest_over_mean: slowest as f64 / mean,
            conflicts: measured.conflicts,
        }
    }
}

impl Latency {
    fn of(nanoseconds: &Histogram<u64>) -> Self {
        let at = |quantile| nanoseconds.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            count: nanoseconds.len(),
            mean: (nanoseconds.mean()).round() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: at(1.0),
        }
    }
}

impl Row for Report {
    const HEADINGS: &[&str] = &[
        "WORKLOAD",
        "TARGET",
        "CALLERS",
        "SECONDS",
        "OPERATIONS",
        "PER_SECOND",
        "MEAN_US",
        "P50_US",
        "P90_US",
        "P99_US",
        "P99.9_US",
        "MAX_US",
        "CONFLICTS",
        "FAILED",
    ];
}

impl Record for Report {
    fn cells(&self, _: KeyEncoding) -> Vec<String> {
        let latency = &self.latency_us;
        let mut cells = vec![
            self.settings.workload.to_owned(),
            self.settings.target.to_owned(),
            self.settings.concurrency.to_string(),
            format!("{:.1}", self.duration_s),
            self.operations.to_string(),
            format!("{:.0}", self.operations_per_second),
        ];
        let latencies = [
            latency.mean,
            latency.p50,
            latency.p90,
            latency.p99,
            latency.p999,
            latency.max,
        ];
        cells.extend(latencies.map(|latency| format!("{latency:.1}")));
        cells.push(self.conflicts.to_string());
        cells.push(self.failed().to_string());
        cells
    }
}

impl Row for Contention {
    const HEADINGS: &[&str] = &["SWAPS_PER_SECOND", "CONFLICTS", "SLOWEST/MEAN_CALLER"];
}

impl Record for Contention {
    fn cells(&self, _: KeyEncoding) -> Vec<String> {
        vec![
            format!("{:.0}", self.swaps_per_second),
            self.conflicts.to_string(),
            format!("{:.3}", self.slowest_over_mean),
        ]
    }
}

fn per_second(count: u64, time: Duration) -> f64 {
    match time.as_secs_f64() {
        0.0 => 0.0,
        seconds => (count as f64 / seconds * 10.0).round() / 10.0,
    }
}
