//! Metrics in the text form of OpenMetrics, each under its name; and the older text form, made from that.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::figures::HistogramSnapshot;

/// Names and values of labels. Neither may come from a key or from a client, so that their number is bounded.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

/// Where metrics are written to, one after the other.
///
/// A name is given as queries name it: a counter's ends with `_total`, and a unit is a part of the name (`_seconds`, `_bytes`).
pub struct Exposition<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Exposition<'_> {
    /// A number that only grows.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.counters(name, help, [(&[] as Labels<'_>, value)])
    }

    /// Numbers that only grow, each with its labels.
    pub fn counters<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        let mut metric = self.begin(without_total(name), help, MetricType::Counter)?;
        for (labels, value) in values {
            with_labels(&mut metric, labels, |one| {
                one.encode_counter::<NoLabelSet, u64, u64>(&value, None)
            })?;
        }
        Ok(())
    }

    /// Times that only grow, each with its labels.
    pub fn counters_of_seconds<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> fmt::Result {
        let mut metric = self.begin(without_total(name), help, MetricType::Counter)?;
        for (labels, seconds) in values {
            with_labels(&mut metric, labels, |one| {
                one.encode_counter::<NoLabelSet, f64, f64>(&seconds, None)
            })?;
        }
        Ok(())
    }

    /// A number at this moment.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.gauges(name, help, [(&[] as Labels<'_>, value)])
    }

    /// Numbers at this moment, each with its labels.
    pub fn gauges<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> fmt::Result {
        let mut metric = self.begin(name, help, MetricType::Gauge)?;
        for (labels, value) in values {
            with_labels(&mut metric, labels, |one| {
                // Whole numbers have no fraction, as everybody writes them.
                if value.fract() == 0.0 && value.abs() < WHOLE_BELOW {
                    one.encode_gauge(&(value as i64))
                } else {
                    one.encode_gauge(&value)
                }
            })?;
        }
        Ok(())
    }

    /// How often something took how long, or was how large.
    pub fn histogram(
        &mut self,
        name: &str,
        help: &str,
        snapshot: &HistogramSnapshot,
    ) -> fmt::Result {
        self.histograms(name, help, [(&[] as Labels<'_>, snapshot)])
    }

    /// The same for several, each with its labels.
    pub fn histograms<'l>(
        &mut self,
        name: &str,
        help: &str,
        snapshots: impl IntoIterator<Item = (Labels<'l>, &'l HistogramSnapshot)>,
    ) -> fmt::Result {
        let mut metric = self.begin(name, help, MetricType::Histogram)?;
        for (labels, snapshot) in snapshots {
            let HistogramSnapshot { classes, sum } = snapshot;
            with_labels(&mut metric, labels, |one| {
                one.encode_histogram::<NoLabelSet>(*sum, snapshot.count(), classes, None)
            })?;
        }
        Ok(())
    }

    /// Facts that do not change while the process runs. The name ends with `_info`.
    pub fn info(&mut self, name: &str, help: &str, labels: Labels<'_>) -> fmt::Result {
        let name = name.strip_suffix("_info").unwrap_or(name);
        let mut metric = self.begin(name, help, MetricType::Info)?;
        metric.encode_info(&labels)
    }

    /// The encoder adds the unit to the name, which is why it is taken off.
    fn begin<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        metric_type: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        let (name, unit) = if let Some(bare) = name.strip_suffix("_seconds") {
            (bare, Some(&SECONDS))
        } else if let Some(bare) = name.strip_suffix("_bytes") {
            (bare, Some(&BYTES))
        } else {
            (name, None)
        };
        self.encoder
            .encode_descriptor(name, help, unit, metric_type)
    }
}

static SECONDS: Unit = Unit::Seconds;
static BYTES: Unit = Unit::Bytes;

/// A floating-point number below has all whole numbers exactly.
const WHOLE_BELOW: f64 = (1_u64 << 53) as f64;

/// The encoder adds it to the name of each sample.
fn without_total(name: &str) -> &str {
    name.strip_suffix("_total").unwrap_or(name)
}

/// Has `encode` write a sample with labels.
fn with_labels(
    metric: &mut MetricEncoder<'_>,
    labels: Labels<'_>,
    encode: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    if labels.is_empty() {
        return encode(metric);
    }
    encode(&mut metric.encode_family(&labels)?)
}

/// The text of what `write` writes, as `/metrics` has it.
///
/// # Errors
///
/// Only those of `write`.
pub fn text(
    write: impl Fn(&mut Exposition<'_>) -> fmt::Result + Send + Sync + 'static,
) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Written(write)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// The same metrics in the older text form of Prometheus, version 0.0.4. There a counter is described under the name of its samples,
/// facts are gauges, and a unit is a part of the name only.
pub(super) fn older_form(text: &str) -> String {
    let mut older = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some((_, told)) = described(line, "# HELP ") {
            help = Some(told);
        } else if let Some((name, kind)) = described(line, "# TYPE ") {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            if let Some(help) = help.take() {
                older.push_str(&format!("# HELP {name}{suffix} {help}\n"));
            }
            older.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with("# ") {
            older.push_str(line);
            older.push('\n');
        }
    }
    older
}

/// The name, and what a line that begins with `keyword` says of it.
fn described<'l>(line: &'l str, keyword: &str) -> Option<(&'l str, &'l str)> {
    line.strip_prefix(keyword)?.split_once(' ')
}

struct Written<F>(F);

impl<F> fmt::Debug for Written<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Written")
    }
}

impl<F> Collector for Written<F>
where
    F: Fn(&mut Exposition<'_>) -> fmt::Result + Send + Sync + 'static,
{
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        (self.0)(&mut Exposition { encoder })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::figures::Histogram;

    const NONE: Labels<'_> = &[];

    #[test]
    fn a_metric_has_the_name_that_it_was_given_with_its_help_type_and_unit() {
        let written = text(|exposition| {
            exposition.counter("a_total", "Counts.", 3)?;
            exposition.counters_of_seconds("b_seconds_total", "Takes.", [(NONE, 1.5)])?;
            exposition.counters(
                "c_bytes_total",
                "Weighs.",
                [(&[("of", "x")] as Labels<'_>, 2)],
            )?;
            exposition.gauge("d_bytes", "Is.", 7.0)?;
            exposition.gauge("e_seconds", "Is.", 0.25)?;
            exposition.info("f_build_info", "Is.", &[("version", "1")])
        });
        let expected = "\
# HELP a Counts.
# TYPE a counter
a_total 3
# HELP b_seconds Takes.
# TYPE b_seconds counter
# UNIT b_seconds seconds
b_seconds_total 1.5
# HELP c_bytes Weighs.
# TYPE c_bytes counter
# UNIT c_bytes bytes
c_bytes_total{of=\"x\"} 2
# HELP d_bytes Is.
# TYPE d_bytes gauge
# UNIT d_bytes bytes
d_bytes 7
# HELP e_seconds Is.
# TYPE e_seconds gauge
# UNIT e_seconds seconds
e_seconds 0.25
# HELP f_build Is.
# TYPE f_build info
f_build_info{version=\"1\"} 1
# EOF
";
        assert_eq!(written.as_deref(), Ok(expected));
    }

    #[test]
    fn in_the_older_form_counters_are_described_by_the_names_of_their_samples() {
        let written = text(|exposition| {
            exposition.counter("a_total", "Counts.", 3)?;
            exposition.gauge("d_bytes", "Is.", 7.0)?;
            exposition.info("f_build_info", "Is.", &[("version", "1")])
        });
        let expected = "\
# HELP a_total Counts.
# TYPE a_total counter
a_total 3
# HELP d_bytes Is.
# TYPE d_bytes gauge
d_bytes 7
# HELP f_build_info Is.
# TYPE f_build_info gauge
f_build_info{version=\"1\"} 1
";
        assert_eq!(older_form(&written.expect("a string takes all")), expected);
    }

    #[test]
    fn a_histogram_has_cumulative_classes_a_sum_and_a_count() {
        let histogram = Histogram::of_durations();
        histogram.note_each(Duration::from_micros(60), 2);
        histogram.note(Duration::from_secs(20));
        let snapshot = histogram.snapshot();
        let written = text(move |exposition| {
            let labels: Labels<'_> = &[("of", "x")];
            exposition.histograms("h_seconds", "Takes.", [(labels, &snapshot)])
        });
        let written = written.expect("a string takes all");
        for line in [
            "# TYPE h_seconds histogram",
            "h_seconds_count{of=\"x\"} 3",
            "h_seconds_bucket{le=\"0.00005\",of=\"x\"} 0",
            "h_seconds_bucket{le=\"0.0001\",of=\"x\"} 2",
            "h_seconds_bucket{le=\"10.0\",of=\"x\"} 2",
            "h_seconds_bucket{le=\"+Inf\",of=\"x\"} 3",
        ] {
            assert!(
                written.lines().any(|found| found == line),
                "{line}\n{written}"
            );
        }
    }
}
