//! The settings of a server process: flags, environment variables, and a file with the names of the flags.
//!
//! A setting is declared once, as an argument of clap that has a flag and a variable. The flag wins over the variable, the variable over
//! the file, the file over the default. A flag without a variable is for a single start, so a file cannot set it.
//!
//! The values of a file become defaults of their arguments. So the parsers of the arguments check them like flags and variables.
//! `file` reads them, `form` is how a setting is written in a file, and `print` writes such a file.

mod file;
mod form;
mod print;
#[cfg(test)]
mod tests;

use std::env;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, Parser, value_parser};
use clap_mangen::Man;

use self::file::ConfigFile;
use super::allocator;
use super::process::Failure;

const CONFIG: &str = "config";
const PRINT_CONFIG: &str = "print-config";
const MANUAL: &str = "manual";

/// Section of the manual: programs that administrators run.
const MANUAL_SECTION: &str = "8";

/// Reads the settings of this process. Call it first in `main`: it may start the program anew (`allocator`).
///
/// Ends the process when there is nothing to start: after `--help`, `--version`, `--manual` and `--print-config`, and with exit code 2 when
/// a setting cannot work. `validate` checks what the types of the settings do not; it decides over the exit code of `--print-config`.
pub fn read<C: Parser, E: Display>(validate: impl FnOnce(&C) -> Result<(), E>) -> C {
    // Before the file is read, since one that is a pipe can be read only once.
    allocator::set_up();
    let arguments: Vec<_> = env::args_os().collect();
    // As with `--help`, no setting has to be right.
    if arguments
        .iter()
        .skip(1)
        .any(|argument| *argument == *format!("--{MANUAL}"))
    {
        process::exit(print_manual(with_own_flags(C::command())));
    }
    let settings = Settings::parse(&arguments).unwrap_or_else(|error| error.exit());
    if settings.matches.get_flag(PRINT_CONFIG) {
        process::exit(settings.print(validate));
    }
    settings.config
}

/// Settings, and where they came from.
#[derive(Debug)]
struct Settings<C> {
    config: C,
    command: Command,
    matches: ArgMatches,
    file: Option<ConfigFile>,
}

impl<C: Parser> Settings<C> {
    fn parse(arguments: &[OsString]) -> Result<Self, clap::Error> {
        let mut command = with_own_flags(C::command());
        let mut matches = command.clone().try_get_matches_from(arguments)?;
        let mut file = None;
        if let Some(path) = matches.get_one::<PathBuf>(CONFIG) {
            let read = ConfigFile::read(path, &command)
                .map_err(|error| command.error(ErrorKind::ValueValidation, error))?;
            command = read.give_defaults(command);
            matches = command.clone().try_get_matches_from(arguments)?;
            file = Some(read);
        }
        let config = C::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        Ok(Self {
            config,
            command,
            matches,
            file,
        })
    }

    /// Prints the settings and returns the exit code.
    fn print<E: Display>(self, validate: impl FnOnce(&C) -> Result<(), E>) -> i32 {
        let name = self.command.get_name();
        let text = match print::text(&self.command, &self.matches, self.file.as_ref()) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("{name}: {error}");
                return Failure::Setting as i32;
            }
        };
        if let Err(error) = io::stdout().write_all(text.as_bytes()) {
            eprintln!("{name}: cannot print the settings: {error}");
            return Failure::Passing as i32;
        }
        if let Err(error) = validate(&self.config) {
            eprintln!("{name}: {error}");
            return Failure::Setting as i32;
        }
        0
    }
}

/// Prints the manual page and returns the exit code.
fn print_manual(command: Command) -> i32 {
    let name = command.get_name().to_owned();
    let page = Man::new(command).section(MANUAL_SECTION);
    match page.render(&mut io::stdout()) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{name}: cannot print the manual page: {error}");
            Failure::Passing as i32
        }
    }
}

/// Adds the flags that both programs have beside their settings.
fn with_own_flags(command: Command) -> Command {
    let program = command.get_name().to_uppercase().replace('-', "_");
    let config = Arg::new(CONFIG)
        .long(CONFIG)
        .env(format!("{program}_CONFIG"))
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help(
            "Take what neither a flag nor a variable says from this file: TOML, with the names of the flags. Paths in it are relative \
             to the working directory",
        );
    let print_config = Arg::new(PRINT_CONFIG)
        .long(PRINT_CONFIG)
        .action(ArgAction::SetTrue)
        .help("Print the settings in effect as such a file, with where each came from, and exit");
    let manual = Arg::new(MANUAL)
        .long(MANUAL)
        .action(ArgAction::SetTrue)
        .help("Print the manual page, and exit");
    command.args([config, print_config, manual])
}

/// The arguments that a file can set.
fn settings(command: &Command) -> impl Iterator<Item = &Arg> {
    let arguments = command.get_arguments();
    arguments.filter(|argument| argument.get_env().is_some() && argument.get_id() != CONFIG)
}

/// The name of a setting in a file.
fn name(argument: &Arg) -> &str {
    let id = argument.get_id().as_str();
    argument.get_long().unwrap_or(id)
}
