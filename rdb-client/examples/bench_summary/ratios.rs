//! What is compared, and what has to come of it.

use super::measurements::Measurements;

const PER_SECOND: &str = "/operations_per_second";
const P50: &str = "/latency_us/p50";
const P99: &str = "/latency_us/p99";
const SERVER_NS: &str = "/server_ns_per_operation";

/// A figure of a measurement: its name, and where in the object the figure is.
type Figure = (&'static str, &'static str);

/// A median, or several added up, over another.
struct Ratio {
    what: &'static str,
    value: Figure,
    /// Added up. Empty: the value itself is judged, in units of `unit`.
    over: &'static [Figure],
    unit: f64,
    bound: Bound,
    /// What would be better than the bound.
    aim: Option<f64>,
}

/// What a ratio has to be.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// It is only of interest.
    None,
}

/// A ratio as it was found.
pub(super) struct Verdict {
    pub(super) what: &'static str,
    /// `None`: a measurement is missing.
    pub(super) value: Option<f64>,
    pub(super) target: String,
    pub(super) reached: &'static str,
}

impl Verdict {
    /// Leaves open whether the target was reached.
    pub(super) fn withhold(&mut self) {
        if self.value.is_some() {
            self.reached = "not judged";
        }
    }
}

impl Ratio {
    const fn new(what: &'static str, value: Figure, over: &'static [Figure], bound: Bound) -> Self {
        Self {
            what,
            value,
            over,
            unit: 1.0,
            bound,
            aim: None,
        }
    }

    const fn aiming_for(mut self, aim: f64) -> Self {
        self.aim = Some(aim);
        self
    }

    const fn in_units_of(mut self, unit: f64) -> Self {
        self.unit = unit;
        self
    }
}

const MIB: f64 = (1 << 20) as f64;

const RATIOS: &[Ratio] = &[
    Ratio::new(
        "raw_get, unary, 64 in flight / empty unary call",
        ("get-unary-64", PER_SECOND),
        &[("empty-64", PER_SECOND)],
        Bound::AtLeast(0.85),
    ),
    Ratio::new(
        "raw_get, batched, 256 callers / empty unary call, 256 in flight",
        ("get-256", PER_SECOND),
        &[("empty-256", PER_SECOND)],
        Bound::AtLeast(4.0),
    )
    .aiming_for(6.0),
    Ratio::new(
        "raw_put, durable, 256 callers / etcd put, 256 in flight",
        ("put-256", PER_SECOND),
        &[("etcd-put-256", PER_SECOND)],
        Bound::AtLeast(4.0),
    )
    .aiming_for(5.0),
    Ratio::new(
        "raw_put, durable, three stores, 256 callers / put of three etcd nodes, 256 in flight",
        ("put-256-three", PER_SECOND),
        &[("etcd-put-256-three", PER_SECOND)],
        Bound::AtLeast(4.0),
    )
    .aiming_for(8.0),
    Ratio::new(
        "raw_put, durable, three stores, 1 caller: p50 / that of three etcd nodes",
        ("put-1-three", P50),
        &[("etcd-put-1-three", P50)],
        Bound::None,
    ),
    Ratio::new(
        "raw_get, three stores, 256 callers / linearizable get of three etcd nodes, 256 in flight",
        ("get-256-three", PER_SECOND),
        &[("etcd-get-256-three", PER_SECOND)],
        Bound::None,
    ),
    Ratio::new(
        "raw_put, three stores, 256 callers, while one that is 1 GiB behind gets a snapshot / while it is away",
        ("put-256-behind", PER_SECOND),
        &[("put-256-away", PER_SECOND)],
        Bound::AtLeast(0.7),
    ),
    Ratio::new(
        "most memory of the leader, in MiB, while that one gets the snapshot, beyond the most before",
        ("catch-up", "/leader_bytes_more"),
        &[],
        Bound::AtMost(64.0),
    )
    .in_units_of(MIB),
    Ratio::new(
        "raw_put, durable, 256 callers / the same before",
        ("put-256-now", PER_SECOND),
        &[("put-256-before", PER_SECOND)],
        Bound::AtLeast(0.8),
    ),
    Ratio::new(
        "raw_put, durable, 1 caller: p50 / the same before",
        ("put-1-now", P50),
        &[("put-1-before", P50)],
        Bound::AtMost(1.2),
    ),
    Ratio::new(
        "raw_get, 256 callers / the same before",
        ("get-256-now", PER_SECOND),
        &[("get-256-before", PER_SECOND)],
        Bound::AtLeast(0.9),
    ),
    Ratio::new(
        "cas on distinct keys, 256 callers / the same before",
        ("cas-256-now", PER_SECOND),
        &[("cas-256-before", PER_SECOND)],
        Bound::None,
    ),
    Ratio::new(
        "processor time of the three stores for each raw_put of 256 callers / that of one store before",
        ("put-256-three", SERVER_NS),
        &[("put-256-before", SERVER_NS)],
        Bound::AtMost(4.0),
    ),
    Ratio::new(
        "raw_put, durable, 1 caller: p50 / (fdatasync p50 + empty unary p50)",
        ("put-1", P50),
        &[("fdatasync", P50), ("empty-1", P50)],
        Bound::AtMost(1.3),
    ),
    Ratio::new(
        "cas on distinct keys / raw_put, 256 callers",
        ("cas-256", PER_SECOND),
        &[("put-256", PER_SECOND)],
        Bound::AtLeast(0.7),
    ),
    Ratio::new(
        "the same with keys that are not cached",
        ("cas-cold-256", PER_SECOND),
        &[("put-256", PER_SECOND)],
        Bound::None,
    ),
    Ratio::new(
        "cas-hot, 64 callers with backoff: successful swaps/s / 1 caller's cas/s",
        ("cas-hot-64", PER_SECOND),
        &[("cas-1", PER_SECOND)],
        Bound::AtLeast(0.6),
    ),
    Ratio::new(
        "cas-hot, 64 callers over 30 s: slowest caller / mean caller",
        ("cas-hot-64-30s", "/slowest_over_mean"),
        &[],
        Bound::AtLeast(0.1),
    ),
    Ratio::new(
        "tso(), 1,000 callers, each awaiting its own timestamp: millions/s",
        ("tso-1000", PER_SECOND),
        &[],
        Bound::AtLeast(1.0),
    )
    .in_units_of(1e6)
    .aiming_for(2.0),
    Ratio::new(
        "TSO stream without coalescing, messages/s / echo stream",
        ("tso-stream", PER_SECOND),
        &[("echo-stream", PER_SECOND)],
        Bound::AtLeast(0.9),
    ),
    Ratio::new(
        "raw_get, 1 caller: batched p50 / unary p50",
        ("get-1", P50),
        &[("get-unary-1", P50)],
        Bound::AtMost(1.1),
    ),
    Ratio::new(
        "puts at half of etcd's peak load: p99 / etcd's p99",
        ("put-half", P99),
        &[("etcd-put-half", P99)],
        Bound::AtMost(0.5),
    ),
    Ratio::new(
        "anonymous memory of the server after 10 million keys, in MiB, block cache filled by reads",
        ("memory-read", "/anonymous_bytes"),
        &[],
        Bound::AtMost(700.0),
    )
    .in_units_of(MIB),
    Ratio::new(
        "the same before any reads",
        ("memory-loaded", "/anonymous_bytes"),
        &[],
        Bound::AtMost(700.0),
    )
    .in_units_of(MIB),
    Ratio::new(
        "export of a million keys, JSON lines / raw_get, 256 callers",
        ("export-jsonl", PER_SECOND),
        &[("get-256-transfer", PER_SECOND)],
        Bound::AtLeast(0.5),
    ),
    Ratio::new(
        "the same, binary",
        ("export-binary", PER_SECOND),
        &[("get-256-transfer", PER_SECOND)],
        Bound::AtLeast(0.5),
    ),
    Ratio::new(
        "import of a million keys, JSON lines / raw_put, 256 callers",
        ("import-jsonl", PER_SECOND),
        &[("put-256-transfer", PER_SECOND)],
        Bound::AtLeast(0.5),
    ),
    Ratio::new(
        "the same, binary",
        ("import-binary", PER_SECOND),
        &[("put-256-transfer", PER_SECOND)],
        Bound::AtLeast(0.5),
    ),
    Ratio::new(
        "raw_get, 256 callers, while 1,000 idle connections are open / without",
        ("get-256-idle", PER_SECOND),
        &[("get-256", PER_SECOND)],
        Bound::AtLeast(0.9),
    ),
    Ratio::new(
        "raw_put, 256 callers, while 1,000 idle connections are open / without",
        ("put-256-idle", PER_SECOND),
        &[("put-256", PER_SECOND)],
        Bound::AtLeast(0.9),
    ),
];

/// Every ratio, as far as it was measured.
pub(super) fn judge(measurements: &Measurements) -> Vec<Verdict> {
    let judged = RATIOS.iter().map(|ratio| {
        let value = ratio.value(measurements);
        Verdict {
            what: ratio.what,
            value,
            target: ratio.target(),
            reached: ratio.reached(value),
        }
    });
    judged.collect()
}

impl Ratio {
    fn value(&self, measurements: &Measurements) -> Option<f64> {
        let median = |(name, pointer)| Some(measurements.spread(name, pointer)?.median);
        let value = median(self.value)? / self.unit;
        let over: Vec<f64> = self
            .over
            .iter()
            .map(|figure| median(*figure))
            .collect::<Option<_>>()?;
        match over.iter().sum::<f64>() {
            _ if over.is_empty() => Some(value),
            sum if sum > 0.0 => Some(value / sum),
            _ => None,
        }
    }

    fn target(&self) -> String {
        let aim = self
            .aim
            .map_or(String::new(), |aim| format!(", aim for {aim}"));
        match self.bound {
            Bound::AtLeast(bound) => format!("at least {bound}{aim}"),
            Bound::AtMost(bound) => format!("at most {bound}{aim}"),
            Bound::None => "reported".to_owned(),
        }
    }

    fn reached(&self, value: Option<f64>) -> &'static str {
        match (value, self.bound) {
            (None, _) => "not measured",
            (Some(_), Bound::None) => "",
            (Some(value), Bound::AtLeast(bound)) if value >= bound => match self.aim {
                Some(aim) if value < aim => "yes, not the aim",
                _ => "yes",
            },
            (Some(value), Bound::AtMost(bound)) if value <= bound => "yes",
            (Some(_), _) => "**no**",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn verdict<'a>(verdicts: &'a [Verdict], what: &str) -> &'a Verdict {
        let mut found = verdicts
            .iter()
            .filter(|verdict| verdict.what.contains(what));
        found.next().expect(what)
    }

    #[test]
    fn a_ratio_is_of_medians_and_is_judged_by_its_bound_and_aim() {
        let mut measurements = Measurements::default();
        for (name, per_second) in [
            ("get-256", 45.0),
            ("get-256", 9.0),
            ("get-256", 50.0),
            ("empty-256", 10.0),
        ] {
            measurements.add(name, json!({ "operations_per_second": per_second }));
        }
        let verdicts = judge(&measurements);
        let batched = verdict(&verdicts, "raw_get, batched, 256");
        assert_eq!(batched.value, Some(4.5));
        assert_eq!(batched.reached, "yes, not the aim");
        assert_eq!(batched.target, "at least 4, aim for 6");
        assert_eq!(verdict(&verdicts, "etcd put").reached, "not measured");

        let mut withheld = verdicts;
        withheld.iter_mut().for_each(Verdict::withhold);
        assert_eq!(
            verdict(&withheld, "raw_get, batched, 256").reached,
            "not judged"
        );
        assert_eq!(verdict(&withheld, "etcd put").reached, "not measured");
    }

    #[test]
    fn several_figures_below_the_line_are_added_up() {
        let mut measurements = Measurements::default();
        for (name, p50) in [("put-1", 450.0), ("fdatasync", 250.0), ("empty-1", 50.0)] {
            measurements.add(name, json!({ "latency_us": { "p50": p50 } }));
        }
        let verdicts = judge(&measurements);
        let single = verdict(&verdicts, "fdatasync p50");
        assert_eq!(single.value, Some(1.5));
        assert_eq!(single.reached, "**no**");
    }

    #[test]
    fn a_figure_without_anything_below_the_line_is_judged_in_its_unit() {
        let mut measurements = Measurements::default();
        measurements.add("memory-read", json!({ "anonymous_bytes": 600 << 20 }));
        measurements.add("tso-1000", json!({ "operations_per_second": 2_500_000.0 }));
        let verdicts = judge(&measurements);
        assert_eq!(verdict(&verdicts, "anonymous memory").value, Some(600.0));
        assert_eq!(verdict(&verdicts, "anonymous memory").reached, "yes");
        assert_eq!(verdict(&verdicts, "tso()").value, Some(2.5));
        assert_eq!(verdict(&verdicts, "tso()").reached, "yes");
    }
}
