//! The plot: a bar per measurement, as SVG. The scale is logarithmic, since a sync and a timestamp are three orders of
//! magnitude apart. A line across a bar's end spans the rounds.

use std::fmt::Write;

use super::catalog::{CATALOG, Entry};
use super::markdown::grouped;
use super::measurements::{Measurements, Spread};

const ROW_HEIGHT: f64 = 22.0;
const BAR_HEIGHT: f64 = 14.0;
const LABELS_WIDTH: f64 = 430.0;
const BARS_WIDTH: f64 = 480.0;
const NUMBERS_WIDTH: f64 = 90.0;
const TOP: f64 = 30.0;

/// Whose bar it is decides its colour.
const COLOURS: &[(&str, &str)] = &[
    ("etcd", "#b45309"),
    ("redis", "#b91c1c"),
    ("limit", "#6b7280"),
];
const FLAREDB_COLOUR: &str = "#2563eb";

pub(super) fn bars(measurements: &Measurements) -> String {
    let mut svg = String::new();
    // Writing to a string does not fail.
    let _ = write_bars(&mut svg, measurements);
    svg
}

fn write_bars(svg: &mut String, measurements: &Measurements) -> std::fmt::Result {
    let rows: Vec<(&Entry, Spread)> = CATALOG
        .iter()
        .filter(|entry| entry.plotted)
        .filter_map(|entry| {
            Some((
                entry,
                measurements.spread(entry.name, "/operations_per_second")?,
            ))
        })
        .collect();
    let scale = Scale::over(rows.iter().map(|(_, spread)| *spread));
    let width = LABELS_WIDTH + BARS_WIDTH + NUMBERS_WIDTH;
    let height = TOP + ROW_HEIGHT * rows.len() as f64 + 10.0;
    writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">
<rect width="{width}" height="{height}" fill="#ffffff"/>"##
    )?;
    for power in scale.low..=scale.high {
        let x = scale.x(10_f64.powi(power));
        let label = grouped(10_f64.powi(power));
        writeln!(
            svg,
            r##"<line x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{height}" stroke="#e5e7eb"/>
<text x="{x:.1}" y="18" text-anchor="middle" fill="#6b7280">{label}/s</text>"##
        )?;
    }
    for (index, (entry, spread)) in rows.iter().enumerate() {
        let y = TOP + ROW_HEIGHT * index as f64 + (ROW_HEIGHT - BAR_HEIGHT) / 2.0;
        write_bar(svg, &scale, entry, *spread, y)?;
    }
    writeln!(svg, "</svg>")
}

fn write_bar(
    svg: &mut String,
    scale: &Scale,
    entry: &Entry,
    spread: Spread,
    y: f64,
) -> std::fmt::Result {
    let end = scale.x(spread.median);
    let (low, high) = (scale.x(spread.min), scale.x(spread.max));
    let (middle, baseline) = (y + BAR_HEIGHT / 2.0, y + BAR_HEIGHT - 3.0);
    let colour = COLOURS
        .iter()
        .find(|(owner, _)| entry.name.starts_with(owner) || entry.what.starts_with(owner))
        .map_or(FLAREDB_COLOUR, |(_, colour)| colour);
    let (what, number) = (entry.what, grouped(spread.median));
    writeln!(
        svg,
        r##"<text x="{label_x:.1}" y="{baseline:.1}" text-anchor="end" fill="#111827">{what}</text>
<rect x="{LABELS_WIDTH}" y="{y:.1}" width="{bar_width:.1}" height="{BAR_HEIGHT}" fill="{colour}"/>
<line x1="{low:.1}" y1="{middle:.1}" x2="{high:.1}" y2="{middle:.1}" stroke="#111827"/>
<text x="{number_x:.1}" y="{baseline:.1}" fill="#111827">{number}</text>"##,
        label_x = LABELS_WIDTH - 8.0,
        bar_width = end - LABELS_WIDTH,
        number_x = high + 6.0,
    )
}

/// Powers of ten between which all figures lie.
struct Scale {
    low: i32,
    high: i32,
}

impl Scale {
    fn over(spreads: impl Iterator<Item = Spread> + Clone) -> Self {
        let lowest = spreads
            .clone()
            .map(|spread| spread.min)
            .fold(f64::MAX, f64::min);
        let highest = spreads.map(|spread| spread.max).fold(1.0, f64::max);
        let low = lowest.min(highest).max(1.0).log10().floor() as i32;
        let high = (highest.log10().ceil() as i32).max(low + 1);
        Self { low, high }
    }

    fn x(&self, figure: f64) -> f64 {
        let decades = f64::from(self.high - self.low);
        let position = (figure.max(1.0).log10() - f64::from(self.low)) / decades;
        LABELS_WIDTH + BARS_WIDTH * position.clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_longer_bar_is_more_and_nothing_measured_is_no_bar() {
        let mut measurements = Measurements::default();
        assert_eq!(bars(&measurements).matches("<rect").count(), 1);
        measurements.add("put-256", json!({ "operations_per_second": 50_000.0 }));
        measurements.add("fdatasync", json!({ "operations_per_second": 300.0 }));
        let svg = bars(&measurements);
        assert_eq!(svg.matches("<rect").count(), 3);
        let scale = Scale { low: 2, high: 5 };
        assert!(scale.x(300.0) < scale.x(50_000.0));
        assert_eq!(scale.x(100_000.0), LABELS_WIDTH + BARS_WIDTH);
    }
}
