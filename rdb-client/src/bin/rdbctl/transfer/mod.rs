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

/// A line on standard error, if that is a terminal, which is gone in the end.
fn progress(verb: &'static str) -> ProgressBar {
    let line = ProgressBar::new_spinner();
    let template = format!("{{spinner}} {verb} {{human_pos}} entries, {{per_sec}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        line.set_style(style);
    }
    line.enable_steady_tick(PROGRESS_INTERVAL);
    line
}

/// The path of a file. `None`: a standard stream.
fn named(path: Option<&Path>) -> Option<&Path> {
    path.filter(|path| path.as_os_str() != "-")
}
