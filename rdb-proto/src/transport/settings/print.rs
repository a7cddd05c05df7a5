//! What `--print-config` prints: the settings in effect, as a file for `--config`.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use super::file::ConfigFile;
use super::form::Form;
use super::{name, settings};

/// Longest line of a comment, in characters, unless a word is longer.
const COMMENT_WIDTH: usize = 100;

/// A value that a file cannot have.
#[derive(Debug, thiserror::Error)]
#[error("--{0} is not UTF-8, and a file cannot have such a value")]
pub(super) struct NotUtf8(String);

/// The settings that the help shows, and hidden ones that were given, each with its help and where its value came from. Those without a
/// value are comments.
pub(super) fn text(
    command: &Command,
    matches: &ArgMatches,
    file: Option<&ConfigFile>,
) -> Result<String, NotUtf8> {
    let program = command.get_name();
    let mut text = format!("# Settings of {program}, for `{program} --config FILE`\n");
    for argument in settings(command) {
        let source = matches.value_source(argument.get_id().as_str());
        let is_given = source.is_some_and(|source| source != ValueSource::DefaultValue)
            || file.is_some_and(|file| file.values_of(argument).is_some());
        if argument.is_hide_set() && !is_given {
            continue;
        }
        text.push('\n');
        let help = argument.get_long_help().or(argument.get_help());
        let help = help.map(ToString::to_string).unwrap_or_default();
        for paragraph in help.lines() {
            comment(&mut text, paragraph);
        }
        comment(&mut text, &origin(argument, matches, file));
        text.push_str(&assignment(argument, matches)?);
    }
    Ok(text)
}

fn comment(text: &mut String, paragraph: &str) {
    let mut line = "#".to_owned();
    for word in paragraph.split_whitespace() {
        if line.len() > 1 && line.chars().count() + 1 + word.chars().count() > COMMENT_WIDTH {
            text.push_str(&line);
            text.push('\n');
            line = "#".to_owned();
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}

fn origin(argument: &Arg, matches: &ArgMatches, file: Option<&ConfigFile>) -> String {
    match matches.value_source(argument.get_id().as_str()) {
        Some(ValueSource::CommandLine) => format!("From the flag --{}", name(argument)),
        Some(ValueSource::EnvVariable) => {
            let variable = argument.get_env().unwrap_or_default();
            format!("From the variable {}", variable.display())
        }
        Some(_) => match file.filter(|file| file.values_of(argument).is_some()) {
            Some(file) => format!("From the file {}", file.path.display()),
            None => "The default".to_owned(),
        },
        None => "Not set".to_owned(),
    }
}

fn assignment(argument: &Arg, matches: &ArgMatches) -> Result<String, NotUtf8> {
    let (name, form) = (name(argument), Form::of(argument));
    let Some(values) = matches.get_raw(argument.get_id().as_str()) else {
        return Ok(format!("# {name} = {}\n", form.example(argument)));
    };
    let values = values.map(|value| value.to_str().map(str::to_owned));
    let values: Option<Vec<_>> = values.collect();
    let values = values.ok_or_else(|| NotUtf8(name.to_owned()))?;
    Ok(format!("{name} = {}\n", form.file_value(values)))
}
