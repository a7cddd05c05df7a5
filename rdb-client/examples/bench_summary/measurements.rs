//! What was measured: by name, one object per round.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use super::cannot_read;

/// All measurements of a run of `scripts/bench.sh`.
#[derive(Debug, Default)]
pub(super) struct Measurements {
    by_name: BTreeMap<String, Vec<Value>>,
}

/// A figure over all rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) rounds: usize,
}

impl Measurements {
    /// Reads `directory/NAME/ROUND.json`. Rounds that ended in failure have left no file, or an object that says so.
    pub(super) fn read(directory: &Path) -> anyhow::Result<Self> {
        let mut measurements = Self::default();
        for (name, path) in entries(directory)? {
            for (_, file) in entries(&path)? {
                let text = fs::read_to_string(&file).with_context(|| cannot_read(&file))?;
                let first_line = text.lines().next().unwrap_or_default();
                let object =
                    serde_json::from_str(first_line).with_context(|| cannot_read(&file))?;
                measurements.add(&name, object);
            }
        }
        Ok(measurements)
    }

    pub(super) fn add(&mut self, name: &str, object: Value) {
        self.by_name
            .entry(name.to_owned())
            .or_default()
            .push(object);
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// The figure at `pointer` (as in RFC 6901) of each round of `name`. `None`: there is none.
    pub(super) fn spread(&self, name: &str, pointer: &str) -> Option<Spread> {
        let rounds = self.by_name.get(name)?.iter();
        let figures = rounds.filter_map(|round| round.pointer(pointer)?.as_f64());
        Spread::of(figures.collect())
    }

    /// The first round's setting at `pointer`.
    pub(super) fn setting(&self, name: &str, pointer: &str) -> Option<&Value> {
        self.by_name.get(name)?.first()?.pointer(pointer)
    }

    /// Operations that failed, over all rounds and measurements.
    pub(super) fn failures(&self) -> Vec<(&str, u64)> {
        let failed = |round: &Value| match round.get("errors").and_then(Value::as_object) {
            Some(errors) => errors.values().filter_map(Value::as_u64).sum(),
            None => u64::from(round.get("error").is_some()),
        };
        self.by_name
            .iter()
            .map(|(name, rounds)| (name.as_str(), rounds.iter().map(failed).sum()))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

impl Spread {
    fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        let upper = figures.len() / 2;
        let lower = (figures.len() - 1) / 2;
        Some(Self {
            median: (figures[lower] + figures[upper]) / 2.0,
            min,
            max,
            rounds: figures.len(),
        })
    }
}

fn entries(directory: &Path) -> anyhow::Result<Vec<(String, std::path::PathBuf)>> {
    let read = || -> std::io::Result<Vec<_>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            entries.push((
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            ));
        }
        entries.sort();
        Ok(entries)
    };
    read().with_context(|| cannot_read(directory))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_median_of_an_even_number_of_rounds_lies_between_the_middle_two() {
        let mut measurements = Measurements::default();
        for per_second in [4.0, 1.0, 100.0, 2.0] {
            measurements.add("put", json!({ "operations_per_second": per_second }));
        }
        let spread = measurements.spread("put", "/operations_per_second");
        let expected = Spread {
            median: 3.0,
            min: 1.0,
            max: 100.0,
            rounds: 4,
        };
        assert_eq!(spread, Some(expected));
        assert_eq!(measurements.spread("put", "/other"), None);
        assert_eq!(measurements.spread("get", "/operations_per_second"), None);
    }

    #[test]
    fn failures_are_counted_over_all_rounds() {
        let mut measurements = Measurements::default();
        measurements.add("put", json!({ "errors": { "busy": 2, "lost": 1 } }));
        measurements.add("put", json!({ "errors": {} }));
        measurements.add("get", json!({ "errors": {} }));
        measurements.add("scan", json!({ "error": { "kind": "failed" } }));
        assert_eq!(measurements.failures(), [("put", 3), ("scan", 1)]);
    }
}
