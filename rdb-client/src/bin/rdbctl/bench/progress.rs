//! The progress line: on standard error, and only when that is a terminal.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::runner::Window;

/// One line that is drawn over and over, and is gone in the end.
pub(crate) struct Progress {
    line: ProgressBar,
    began: Instant,
    workload: &'static str,
}

impl Progress {
    /// How often it is worth being drawn.
    pub(crate) const INTERVAL: Duration = Duration::from_millis(250);

    pub(crate) fn new(workload: &'static str) -> Self {
        let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{spinner} {msg}");
        line.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        Self {
            line,
            began: Instant::now(),
            workload,
        }
    }

    /// `operations` have been finished since the beginning of the run whose counted part is `window`.
    pub(crate) fn show(&self, operations: u64, window: Window) {
        if self.line.is_hidden() {
            return;
        }
        let now = Instant::now();
        let phase = if now < window.begin {
            "warming up"
        } else {
            "measuring"
        };
        let left = window.end.saturating_duration_since(now);
        self.draw(
            operations,
            &format!("{phase}, {:.0} s left", left.as_secs_f64()),
        );
    }

    /// `loaded` of `keys` have been written.
    pub(crate) fn show_loading(&self, loaded: u64, keys: u64) {
        if !self.line.is_hidden() {
            self.draw(loaded, &format!("loading {keys} keys"));
        }
    }

    fn draw(&self, operations: u64, phase: &str) {
        let per_second = operations as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        self.line.tick();
        self.line.set_message(format!(
            "{}: {operations} operations, {per_second:.0}/s, {phase}",
            self.workload
        ));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.line.finish_and_clear();
    }
}
