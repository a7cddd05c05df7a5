//! What a process did in the last 15 minutes, for the charts of its page.
//!
//! One task reads the process's figures every second ([`READ_INTERVAL`]) and keeps a row of them every five. A page that is opened shows
//! the past at once.
//!
//! Invariants:
//! - There are at most [`ROWS_MAX`] rows, each with as many values as there are columns.
//! - Rows have consecutive numbers from 0 on, so that a page asks only for those that it lacks.
//! - Times are counted from the first reading, by a clock that never jumps. The wall clock, which may, is not used.
//! - Only the task and requests for the page take its lock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::figures::HistogramSnapshot;

/// How often figures are read.
pub(super) const READ_INTERVAL: Duration = Duration::from_secs(1);

/// The time between two rows.
const STEP: Duration = Duration::from_secs(5);

/// Most rows: 15 minutes.
const ROWS_MAX: usize = 180;

/// Most rows of one answer to a page that has some already.
const NEW_ROWS_MAX: usize = 12;

/// Most bytes of those rows and of the present values, with up to ten columns.
pub const NEW_ROWS_BYTES_MAX: usize = 1500;

/// Over how many readings the present values are: two seconds, so that a page that looks every second misses nothing.
const PRESENT_READINGS: usize = 2;

/// A figure of a process as it is read at one moment.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// A number at this moment; `None`: there is none. It is shown as it is.
    Level(Option<f64>),
    /// Events since the start. Shown is how many there are in a second.
    Count(u64),
    /// Durations since the start. Shown is how long the slowest hundredth of those in a time took at least, in seconds.
    Durations(HistogramSnapshot),
}

/// Readings under their names, which are the same, in the same order, each time.
pub type Readings = Vec<(&'static str, Reading)>;

/// The rows.
#[derive(Debug, Default)]
pub(super) struct History {
    rows: VecDeque<Row>,
    /// Number of the next row.
    next: u64,
    columns: Vec<&'static str>,
    /// When the first readings were taken.
    began: Option<Instant>,
    /// What the next row begins with.
    row_began: Option<(Instant, Readings)>,
    /// The last ones.
    recent: VecDeque<(Instant, Readings)>,
}

#[derive(Debug)]
struct Row {
    /// Milliseconds since the first reading.
    at_ms: u64,
    /// `NaN`: there is no value.
    values: Box<[f32]>,
}

impl History {
    /// Takes the readings of a moment.
    pub(super) fn take(&mut self, readings: Readings, now: Instant) {
        self.began.get_or_insert(now);
        match &self.row_began {
            None => {
                self.columns = readings.iter().map(|(name, _)| *name).collect();
                self.row_began = Some((now, readings.clone()));
            }
            Some((began, before)) => {
                let elapsed = now.saturating_duration_since(*began);
                // A reading may be a little early or late.
                if elapsed + READ_INTERVAL / 2 >= STEP {
                    let values = values(before, &readings, elapsed);
                    let values = values.map(|value| value.unwrap_or(f64::NAN) as f32);
                    let row = Row {
                        at_ms: self.at_ms(now),
                        values: values.collect(),
                    };
                    self.push(row);
                    self.row_began = Some((now, readings.clone()));
                }
            }
        }
        self.recent.push_back((now, readings));
        if self.recent.len() > PRESENT_READINGS + 1 {
            self.recent.pop_front();
        }
    }

    /// The present values and the rows from number `since` on, as the page takes them. Without a number, or with one that this process
    /// has not come to, all of them.
    pub(super) fn to_json(&self, since: Option<u64>) -> Value {
        let first = self.next - self.rows.len() as u64;
        let since = since.filter(|since| *since <= self.next);
        let (skipped, most) = match since {
            Some(since) => (since.saturating_sub(first) as usize, NEW_ROWS_MAX),
            None => (0, ROWS_MAX),
        };
        let rows = self.rows.iter().skip(skipped).take(most);
        let shown: Vec<Value> = rows.map(Row::to_json).collect();
        let next = first + (skipped + shown.len()) as u64;
        json!({
            "step_ms": STEP.as_millis() as u64,
            "rows_max": ROWS_MAX,
            "columns": self.columns,
            "at_ms": self.recent.back().map_or(0, |(at, _)| self.at_ms(*at)),
            "now": self.present(),
            "next": next,
            "more": next < self.next,
            "rows": shown,
        })
    }

    fn at_ms(&self, at: Instant) -> u64 {
        let since = self.began.map(|began| at.saturating_duration_since(began));
        since.unwrap_or_default().as_millis() as u64
    }

    fn push(&mut self, row: Row) {
        if self.rows.len() == ROWS_MAX {
            self.rows.pop_front();
        }
        self.rows.push_back(row);
        self.next += 1;
    }

    fn present(&self) -> Vec<Value> {
        let (Some((began, before)), Some((ended, after))) =
            (self.recent.front(), self.recent.back())
        else {
            return Vec::new();
        };
        let elapsed = ended.saturating_duration_since(*began);
        values(before, after, elapsed).map(number).collect()
    }
}

impl Row {
    fn to_json(&self) -> Value {
        let values = self.values.iter();
        let values = values.map(|value| number(value.is_finite().then_some(f64::from(*value))));
        let row = [Value::from(self.at_ms)].into_iter().chain(values);
        Value::Array(row.collect())
    }
}

/// What is shown of two readings with that time between them.
fn values<'r>(
    before: &'r Readings,
    after: &'r Readings,
    elapsed: Duration,
) -> impl Iterator<Item = Option<f64>> + 'r {
    let seconds = elapsed.as_secs_f64();
    let both = before.iter().zip(after);
    both.map(move |((_, before), (_, after))| match (before, after) {
        (_, Reading::Level(level)) => *level,
        (Reading::Count(before), Reading::Count(after)) if seconds > 0.0 => {
            Some(after.saturating_sub(*before) as f64 / seconds)
        }
        (Reading::Durations(before), Reading::Durations(after)) => {
            after.since(before).quantile(0.99)
        }
        _ => None,
    })
}

/// A number with at most four digits that matter, since each byte of it is sent to every page.
pub(super) fn number(value: Option<f64>) -> Value {
    let Some(value) = value.filter(|value| value.is_finite()) else {
        return Value::Null;
    };
    let rounded: f64 = format!("{value:.3e}").parse().unwrap_or(value);
    if rounded.fract() == 0.0 && rounded.abs() < 1e15 {
        Value::from(rounded as i64)
    } else {
        Value::from(rounded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::{Counter, Histogram};

    /// A process under a clock that the test moves.
    struct Process {
        history: History,
        now: Instant,
        events: Counter,
        durations: Histogram,
        level: Option<f64>,
    }

    impl Process {
        fn new() -> Self {
            let mut process = Self {
                history: History::default(),
                now: Instant::now(),
                events: Counter::default(),
                durations: Histogram::of_durations(),
                level: None,
            };
            process.read();
            process
        }

        fn read(&mut self) {
            let readings = vec![
                ("events", Reading::Count(self.events.get())),
                ("p99", Reading::Durations(self.durations.snapshot())),
                ("level", Reading::Level(self.level)),
            ];
            self.history.take(readings, self.now);
        }

        fn pass(&mut self, seconds: u64) {
            for _ in 0..seconds {
                self.now += Duration::from_secs(1);
                self.read();
            }
        }

        fn json(&self, since: Option<u64>) -> Value {
            self.history.to_json(since)
        }
    }

    #[test]
    fn a_row_every_five_seconds_has_rates_and_quantiles_of_that_time() {
        let mut process = Process::new();
        process.events.add(10);
        process.durations.note_each(Duration::from_millis(2), 9);
        process.pass(4);
        assert_eq!(process.json(None)["rows"], json!([]));
        assert_eq!(process.json(None)["at_ms"], 4000);
        process.level = Some(0.123_456);
        process.pass(1);
        assert_eq!(
            process.json(None)["rows"],
            json!([[5000, 2, 0.00199, 0.1235]])
        );
        process.pass(5);
        let rows = &process.json(None)["rows"];
        assert_eq!(rows[1], json!([10_000, 0, null, 0.1235]));
    }

    #[test]
    fn the_present_is_what_was_read_in_the_last_two_seconds() {
        let mut process = Process::new();
        assert_eq!(process.json(None)["now"], json!([null, null, null]));
        process.pass(3);
        process.events.add(10);
        for (seconds, now) in [(1, 5), (1, 5), (1, 0)] {
            process.pass(seconds);
            assert_eq!(process.json(None)["now"][0], now);
        }
    }

    #[test]
    fn rows_are_bounded_and_a_page_asks_for_those_it_lacks() {
        let mut process = Process::new();
        process.pass(5 * 200);
        let all = process.json(None);
        assert_eq!(all["rows"].as_array().map(Vec::len), Some(ROWS_MAX));
        assert_eq!((&all["next"], &all["more"]), (&json!(200), &json!(false)));
        assert_eq!(process.json(Some(200))["rows"], json!([]));
        process.pass(5);
        let new = process.json(Some(200));
        assert_eq!(new["rows"], json!([[1_005_000, 0, null, null]]));
        assert_eq!(new["next"], 201);
        // It was away, and comes back for all in pieces.
        let part = process.json(Some(3));
        assert_eq!(part["rows"].as_array().map(Vec::len), Some(NEW_ROWS_MAX));
        assert_eq!(part["rows"][0][0], 110_000);
        assert_eq!((&part["next"], &part["more"]), (&json!(33), &json!(true)));
        // It saw another process.
        let other = process.json(Some(999));
        assert_eq!(other["rows"].as_array().map(Vec::len), Some(ROWS_MAX));
    }

    #[test]
    fn new_rows_are_small_whatever_they_have() {
        let mut history = History::default();
        let mut now = Instant::now();
        const NAMES: [&str; 10] = ["a"; 10];
        for _ in 0..5 * 200 {
            now += Duration::from_secs(1);
            let reading = Reading::Level(Some(-0.001_234));
            history.take(NAMES.map(|name| (name, reading.clone())).to_vec(), now);
        }
        let new = history.to_json(Some(0));
        assert_eq!(new["rows"].as_array().map(Vec::len), Some(NEW_ROWS_MAX));
        let bytes = new["rows"].to_string().len() + new["now"].to_string().len();
        assert!(bytes <= NEW_ROWS_BYTES_MAX, "{bytes}");
    }

    #[test]
    fn numbers_have_four_digits_that_matter() {
        for (value, shown) in [
            (Some(0.0), json!(0)),
            (Some(123_456.0), json!(123_500)),
            (Some(0.1 + 0.2), json!(0.3)),
            (Some(12.3456), json!(12.35)),
            (Some(f64::NAN), Value::Null),
            (None, Value::Null),
        ] {
            assert_eq!(number(value), shown, "{value:?}");
        }
    }
}
