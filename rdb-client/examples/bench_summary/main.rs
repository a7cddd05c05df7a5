//! Turns what `scripts/bench.sh` measured into a page and a plot: `bench_summary INPUT OUTPUT`, two directories.
//!
//! The input directory has a file `machine` and a directory `runs`. `machine` has lines of `name: value`: `date` names the
//! page, and `judged: no` says that the ratios mean nothing. `runs` has a directory for each measurement with one JSON object
//! per round, as `rdbctl bench` prints it. `ratios` says which of them are compared, and what has to come of it.

#![forbid(unsafe_code)]

mod catalog;
mod markdown;
mod measurements;
mod plot;
mod ratios;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use measurements::Measurements;
use ratios::Verdict;

fn main() -> anyhow::Result<()> {
    let directories: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    match &directories[..] {
        [input, output] => summarize(input, output),
        _ => bail!("usage: bench_summary INPUT OUTPUT, two directories"),
    }
}

/// Writes the page and the plot, and prints where they are.
fn summarize(input: &Path, output: &Path) -> anyhow::Result<()> {
    let machine_file = input.join("machine");
    let machine = fs::read_to_string(&machine_file).with_context(|| cannot_read(&machine_file))?;
    let machine = Machine::parse(&machine);
    let Some(date) = machine.date() else {
        bail!("{} has no line `date: YYYY-MM-DD`", machine_file.display());
    };
    let measurements = Measurements::read(&input.join("runs"))?;
    let mut verdicts = ratios::judge(&measurements);
    if !machine.is_judged() {
        verdicts.iter_mut().for_each(Verdict::withhold);
    }
    fs::create_dir_all(output).with_context(|| cannot_write(output))?;
    let plot_name = format!("{date}.svg");
    let page = markdown::page(&machine, &measurements, &verdicts, &plot_name);
    for (name, text) in [
        (format!("{date}.md"), page),
        (plot_name.clone(), plot::bars(&measurements)),
    ] {
        let file = output.join(name);
        fs::write(&file, text).with_context(|| cannot_write(&file))?;
        println!("{}", file.display());
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

fn cannot_read(path: &Path) -> String {
    format!("cannot read {}", path.display())
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}
