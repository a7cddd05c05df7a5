//! What can come next on a line: subcommands, options and their values, from the definition of the command line.

use clap::{Command, CommandFactory};
use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

use crate::arguments::Arguments;

/// What can be typed instead of a command.
const META: [&str; 3] = ["\\help", "\\q", "\\timing"];

pub(super) struct Completion {
    command: Command,
}

impl Completion {
    pub(super) fn new() -> Self {
        let mut command = Arguments::command();
        // Gives global options to subcommands.
        command.build();
        Self { command }
    }

    /// What the last word of `line`, which may be empty, can be completed to.
    fn candidates(&self, line: &str) -> Vec<String> {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        let last = if line.ends_with(char::is_whitespace) {
            ""
        } else {
            words.pop().unwrap_or_default()
        };
        let mut candidates = self.all(&words);
        if words.is_empty() {
            candidates.extend(META.map(str::to_owned));
        }
        let is_option = last.starts_with('-');
        candidates.retain(|candidate| {
            candidate.starts_with(last) && candidate.starts_with('-') == is_option
        });
        candidates.sort();
        candidates.dedup();
        candidates
    }

    /// What can stand behind `words`.
    fn all(&self, words: &[&str]) -> Vec<String> {
        let command = words.iter().fold(&self.command, |command, word| {
            command.find_subcommand(word).unwrap_or(command)
        });
        let option = words.last().and_then(|word| {
            let mut options = command.get_opts();
            options.find(|option| is_called(option, word))
        });
        if let Some(option) = option {
            let values = option.get_possible_values().into_iter();
            return values.map(|value| value.get_name().to_owned()).collect();
        }
        let subcommands = command.get_subcommands();
        let subcommands = subcommands.filter(|subcommand| !subcommand.is_hide_set());
        let options = command.get_arguments();
        let options = options.filter(|option| !option.is_hide_set());
        let options = options.filter_map(|option| option.get_long());
        subcommands
            .map(|subcommand| subcommand.get_name().to_owned())
            .chain(options.map(|name| format!("--{name}")))
            .collect()
    }
}

/// Whether `word` is the name of an option.
fn is_called(option: &clap::Arg, word: &str) -> bool {
    if let Some(long) = word.strip_prefix("--") {
        return option.get_long() == Some(long);
    }
    let short = word.strip_prefix('-').and_then(|rest| rest.chars().next());
    short.is_some() && word.chars().count() == 2 && option.get_short() == short
}

impl Completer for Completion {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let before = line.get(..position).unwrap_or(line);
        let last = before.rfind(char::is_whitespace);
        // White space may have several bytes.
        let start = last.map_or(0, |at| {
            let space = before[at..].chars().next();
            at + space.map_or(0, char::len_utf8)
        });
        Ok((start, self.candidates(before)))
    }
}

impl Helper for Completion {}
impl Highlighter for Completion {}
impl Hinter for Completion {
    type Hint = String;
}
impl Validator for Completion {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_options_and_their_values_are_completed() {
        let completion = Completion::new();
        for (line, candidates) in [
            ("ra", &["raw"][..]),
            ("\\", &META),
            ("raw delete-", &["delete-range"]),
            ("raw export --fo", &["--form"]),
            ("raw export --form ", &["binary", "jsonl"]),
            ("tso --time", &["--timeout"]),
            ("tso -o ", &["json", "text"]),
            ("raw get k", &[]),
            ("help ra", &["raw"]),
        ] {
            assert_eq!(completion.candidates(line), candidates, "{line}");
        }
        assert!(completion.candidates("").contains(&"status".to_owned()));
    }
}
