//! The page.

use std::fmt::Write;

use super::Machine;
use super::catalog::CATALOG;
use super::measurements::{Measurements, Spread};
use super::ratios::Verdict;

const HOW: &str = "\
Every measurement ran once in each round, one after the other, so that a change of the machine meets all of them alike. \
Client and server share the machine, and each side of a ratio has one process for each. FlareDB's client makes as many \
connections as it does by default; etcd and the echo server are called through one. Writes are durable when they are \
answered: FlareDB with its default `--durability sync`, etcd with its defaults, Redis with `appendonly yes` and \
`appendfsync always`. All data lies on one file system. Redis is measured by `redis-benchmark`, which sends values that \
repeat; everything else by `rdbctl bench` and the engine's example `limits`. Throughput counts operations that began \
after the warm-up, over the time until the last of them was answered. Latency of an open loop counts from when an \
operation was due.";

pub(super) fn page(
    machine: &Machine,
    measurements: &Measurements,
    verdicts: &[Verdict],
    plot_name: &str,
) -> String {
    let mut page = String::new();
    // Writing to a string does not fail.
    let _ = write_page(&mut page, machine, measurements, verdicts, plot_name);
    page
}

fn write_page(
    page: &mut String,
    machine: &Machine,
    measurements: &Measurements,
    verdicts: &[Verdict],
    plot_name: &str,
) -> std::fmt::Result {
    let date = machine.date().unwrap_or_default();
    writeln!(page, "# Measured on {date}\n\n| machine | |\n| --- | --- |")?;
    for (name, value) in &machine.lines {
        writeln!(page, "| {} | {} |", cell(name), cell(value))?;
    }
    writeln!(
        page,
        "\n{HOW}\n\n![Throughput of every measurement]({plot_name})\n"
    )?;
    writeln!(page, "## Ratios\n\nOf medians over all rounds.\n")?;
    writeln!(
        page,
        "| ratio | found | target | reached |\n| --- | ---: | --- | --- |"
    )?;
    for verdict in verdicts {
        let found = verdict
            .value
            .map_or("–".to_owned(), |value| format!("{value:.2}"));
        writeln!(
            page,
            "| {} | {found} | {} | {} |",
            verdict.what, verdict.target, verdict.reached
        )?;
    }
    writeln!(
        page,
        "\n## Measurements\n\nThroughput in operations per second, latency in microseconds; medians over the rounds.\n"
    )?;
    writeln!(
        page,
        "| name | measurement | median | lowest – highest | p50 | p99 | rounds |\n| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    )?;
    for (name, what) in listed(measurements) {
        write_measurement(page, measurements, name, what)?;
    }
    let failures = measurements.failures();
    if !failures.is_empty() {
        writeln!(page, "\n## Failures\n")?;
    }
    for (name, count) in failures {
        writeln!(page, "- {name}: {count} operations failed")?;
    }
    Ok(())
}

/// What the catalog knows in its order, then the rest by name.
fn listed(measurements: &Measurements) -> Vec<(&str, &str)> {
    let known = CATALOG.iter().map(|entry| (entry.name, entry.what));
    let unknown = measurements
        .names()
        .filter(|name| CATALOG.iter().all(|entry| entry.name != *name))
        .map(|name| (name, ""));
    known.chain(unknown).collect()
}

fn write_measurement(
    page: &mut String,
    measurements: &Measurements,
    name: &str,
    what: &str,
) -> std::fmt::Result {
    let Some(Spread {
        median,
        min,
        max,
        rounds,
    }) = measurements.spread(name, "/operations_per_second")
    else {
        return Ok(());
    };
    let rate = measurements
        .setting(name, "/rate")
        .and_then(serde_json::Value::as_f64);
    let rate = rate.map_or(String::new(), |rate| format!(" ({}/s due)", grouped(rate)));
    let latency = |pointer| {
        let spread = measurements.spread(name, pointer);
        spread.map_or("–".to_owned(), |spread| grouped(spread.median))
    };
    let (p50, p99) = (latency("/latency_us/p50"), latency("/latency_us/p99"));
    let (median, min, max) = (grouped(median), grouped(min), grouped(max));
    writeln!(
        page,
        "| `{name}` | {what}{rate} | {median} | {min} – {max} | {p50} | {p99} | {rounds} |"
    )
}

/// A number with commas between thousands.
pub(super) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ratios::judge;

    #[test]
    fn thousands_are_grouped() {
        for (number, expected) in [
            (0.4, "0"),
            (999.0, "999"),
            (1000.0, "1,000"),
            (1_234_567.8, "1,234,568"),
        ] {
            assert_eq!(grouped(number), expected);
        }
    }

    #[test]
    fn the_page_has_the_machine_each_measurement_each_ratio_and_each_failure() {
        let mut measurements = Measurements::default();
        let latency = json!({ "p50": 12.0, "p99": 3456.0 });
        let object = json!({ "operations_per_second": 1500.0, "latency_us": latency, "errors": { "busy": 1 } });
        measurements.add("put-256", object.clone());
        measurements.add("something-else", object);
        let machine = Machine::parse("date: 2026-01-02\ncores: 2 | 4\n");
        let page = page(
            &machine,
            &measurements,
            &judge(&measurements),
            "2026-01-02.svg",
        );
        for expected in [
            "# Measured on 2026-01-02\n",
            "| cores | 2 \\| 4 |\n",
            "| `put-256` | raw_put, 256 callers | 1,500 | 1,500 – 1,500 | 12 | 3,456 | 1 |\n",
            "| `something-else` |",
            "| cas on distinct keys / raw_put, 256 callers | – | at least 0.7 | not measured |\n",
            "(2026-01-02.svg)",
            "- put-256: 1 operations failed\n",
        ] {
            assert!(page.contains(expected), "{expected}\n{page}");
        }
    }
}
