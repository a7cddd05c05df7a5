//! The file of `--config`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{fs, io};

use clap::{Arg, Command, Id};
use toml::{Table, Value};

use super::form::Form;
use super::{name, settings};

/// What a file says.
#[derive(Debug)]
pub(super) struct ConfigFile {
    pub(super) path: PathBuf,
    /// Arguments and their values, in the form of the flag.
    values: Vec<(Id, Vec<String>)>,
}

/// A file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub(super) struct ConfigFileError {
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("the file of --config cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("{}", .0.to_string().trim_end())]
    Syntax(toml::de::Error),
    #[error(
        "there is no setting `{key}`; the nearest is `{nearest}`, and --print-config shows all"
    )]
    UnknownKey { key: String, nearest: String },
    #[error("`{0}` is for one start, so it can only be given as a flag: --{0}")]
    FlagOnly(String),
    #[error("`{key}` is {value}, but takes {wanted}: {key} = {example}")]
    WrongForm {
        key: String,
        value: String,
        wanted: &'static str,
        example: String,
    },
    #[error("`{key}` is {value}: {cause}")]
    Refused {
        key: String,
        value: String,
        cause: String,
    },
}

impl ConfigFile {
    /// Reads and checks a file, also those of its values that a flag or a variable will displace.
    pub(super) fn read(path: &Path, command: &Command) -> Result<Self, ConfigFileError> {
        let at = |problem| ConfigFileError {
            path: path.to_owned(),
            problem,
        };
        let text = fs::read_to_string(path).map_err(|error| at(Problem::Unreadable(error)))?;
        let table: Table = text.parse().map_err(|error| at(Problem::Syntax(error)))?;
        let values = table
            .iter()
            .map(|(key, value)| checked(command, key, value));
        Ok(Self {
            path: path.to_owned(),
            values: values.collect::<Result<_, _>>().map_err(at)?,
        })
    }

    /// The command whose defaults are those of the file, where it has any.
    pub(super) fn give_defaults(&self, command: Command) -> Command {
        command.mut_args(|argument| match self.values_of(&argument) {
            Some(values) => argument.default_values(values),
            None => argument,
        })
    }

    pub(super) fn values_of(&self, argument: &Arg) -> Option<&[String]> {
        let mut values = self.values.iter();
        let (_, values) = values.find(|(id, _)| id == argument.get_id())?;
        Some(values)
    }
}

fn checked(command: &Command, key: &str, value: &Value) -> Result<(Id, Vec<String>), Problem> {
    let argument = argument_of(command, key)?;
    let form = Form::of(argument);
    let values = form.flag_values(value).ok_or_else(|| Problem::WrongForm {
        key: key.to_owned(),
        value: value.to_string(),
        wanted: form.description(),
        example: form.example(argument),
    })?;
    parse_alone(argument, &values).map_err(|cause| Problem::Refused {
        key: key.to_owned(),
        value: value.to_string(),
        cause,
    })?;
    Ok((argument.get_id().clone(), values))
}

fn argument_of<'a>(command: &'a Command, key: &str) -> Result<&'a Arg, Problem> {
    if let Some(argument) = settings(command).find(|argument| name(argument) == key) {
        return Ok(argument);
    }
    if command
        .get_arguments()
        .any(|argument| name(argument) == key)
    {
        return Err(Problem::FlagOnly(key.to_owned()));
    }
    let shown = settings(command).filter(|argument| !argument.is_hide_set());
    let similarity = |argument: &&Arg| strsim::jaro(key, name(argument));
    let nearest = shown.max_by(|one, other| similarity(one).total_cmp(&similarity(other)));
    Err(Problem::UnknownKey {
        key: key.to_owned(),
        nearest: name(nearest.expect("a program has settings")).to_owned(),
    })
}

/// Has the parser of an argument judge values, without the environment and the other arguments.
fn parse_alone(argument: &Arg, values: &[String]) -> Result<(), String> {
    let argument = argument.clone().env(None::<&str>).default_values(values);
    let command = Command::new("file").arg(argument);
    match command.try_get_matches_from(["file"]) {
        Ok(_) => Ok(()),
        Err(error) => Err(error
            .source()
            .map_or_else(|| error.kind().to_string(), ToString::to_string)),
    }
}
