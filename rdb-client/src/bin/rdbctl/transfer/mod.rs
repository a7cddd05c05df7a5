//! `rdbctl raw export` and `import`: entries in a file.
//!
//! `form` is what the file looks like, `export` writes it and `import` reads it.

mod export;
mod form;
mod import;

use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

pub(crate) use export::{ExportArguments, export};
pub(crate) use import::{ImportArguments, import};

use crate::encoding::KeyEncoding;
use crate::output::Record;

/// How often the progress line is drawn.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// What was done.
#[derive(Serialize)]
struct Transferred {
    entries: u64,
}

impl Record for Transferred {
    fn cells(&self, _: KeyEncoding) -> Vec<String> {
        vec![format!("{} entries", self.entries)]
    }
}

/// Its position is a number of entries.
const SPINNER: &str = "{spinner} {msg} {human_pos} entries, {per_sec}";

/// Its position is a place in a file.
const BAR: &str = "{msg} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";

/// A line on standard error, if that is a terminal, which is gone in the end. It is a bar for a file whose size is known, and a spinner
/// otherwise.
fn progress(verb: &'static str, file_bytes: Option<u64>) -> ProgressBar {
    let (line, template) = match file_bytes {
        Some(bytes) => (ProgressBar::new(bytes), BAR),
        None => (ProgressBar::new_spinner(), SPINNER),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        line.set_style(style);
    }
    line.set_message(verb);
    line.enable_steady_tick(PROGRESS_INTERVAL);
    line
}

/// The path of a file. `None`: a standard stream.
fn named(path: Option<&Path>) -> Option<&Path> {
    path.filter(|path| path.as_os_str() != "-")
}
