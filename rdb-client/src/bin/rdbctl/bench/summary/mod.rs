//! `rdbctl bench report`: turns what `scripts/bench.sh` measured into a page and a plot.
//!
//! The input directory has a file `machine` (lines of `name: value`, of which `date` names the page,
//! and `judged: no` says that the ratios mean nothing) and, in `runs`, a
//! directory for each measurement with one JSON object per round, as the workloads print it. `ratios` says which of them
//! are compared, and what has to come of it.

mod catalog;
mod markdown;
mod measurements;
mod plot;
mod ratios;

use std::fs;
use std::path::Path;

use super::arguments::ReportArguments;
use crate::failure::Failure;
use crate::output::Output;

use measurements::Measurements;
use ratios::Verdict;

/// Writes the page and the plot, and prints where they are.
pub(super) fn run(arguments: &ReportArguments, output: &mut Output<'_>) -> Result<(), Failure> {
    let machine_file = arguments.input.join("machine");
    let machine =
        fs::read_to_string(&machine_file).map_err(|error| cannot_read(&machine_file, &error))?;
    let machine = Machine::parse(&machine);
    let Some(date) = machine.date() else {
        let file = machine_file.display();
        return Err(Failure::failed(format!(
            "{file} has no line `date: YYYY-MM-DD`"
        )));
    };
    let measurements = Measurements::read(&arguments.input.join("runs"))?;
    let mut verdicts = ratios::judge(&measurements);
    if !machine.is_judged() {
        verdicts.iter_mut().for_each(Verdict::withhold);
    }
    fs::create_dir_all(&arguments.out).map_err(|error| cannot_write(&arguments.out, &error))?;
    let plot_name = format!("{date}.svg");
    let page = markdown::page(&machine, &measurements, &verdicts, &plot_name);
    for (name, text) in [
        (format!("{date}.md"), page),
        (plot_name.clone(), plot::bars(&measurements)),
    ] {
        let file = arguments.out.join(name);
        fs::write(&file, text).map_err(|error| cannot_write(&file, &error))?;
        output.line(&file.display().to_string())?;
    }
    Ok(())
}

/// What was measured on, and with what: names and values in the order they are to be shown in.
struct Machine {
    lines: Vec<(String, String)>,
}

impl Machine {
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once(": "));
        let lines = lines.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self {
            lines: lines.collect(),
        }
    }

    fn is_judged(&self) -> bool {
        let judged = self.lines.iter().find(|(name, _)| name == "judged");
        judged.is_none_or(|(_, value)| !value.starts_with("no"))
    }

    /// Part of file names, so nothing else may be in it.
    fn date(&self) -> Option<&str> {
        let (_, date) = self.lines.iter().find(|(name, _)| name == "date")?;
        let is_date = date.len() == 10 && date.chars().all(|c| c.is_ascii_digit() || c == '-');
        is_date.then_some(date)
    }
}

fn cannot_read(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::failed(format!("cannot read {}: {error}", path.display()))
}

fn cannot_write(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::failed(format!("cannot write {}: {error}", path.display()))
}
