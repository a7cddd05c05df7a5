//! What is made from the definition of the command line: completions for shells, and manual pages.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::arguments::Arguments;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) const COMPLETIONS_AFTER_HELP: &str = "\
Examples:
  source <(rdbctl completions bash)
  rdbctl completions zsh > ~/.zfunc/_rdbctl
  rdbctl completions fish > ~/.config/fish/completions/rdbctl.fish";

pub(crate) const MANUAL_AFTER_HELP: &str = "\
Example:
  rdbctl manual ~/.local/share/man/man1 && man rdbctl-raw-put";

#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// The shell that they are for
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManualArguments {
    /// Where the pages are written, one for each subcommand; made if it is missing
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Prints the completions of a shell, the same in every format.
pub(crate) fn completions(
    arguments: &CompletionsArguments,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let mut command = Arguments::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    Ok(output.writer().write_all(&script)?)
}

/// Writes the manual pages.
pub(crate) fn manual(arguments: &ManualArguments, output: &mut Output<'_>) -> Result<(), Failure> {
    let directory = &arguments.directory;
    fs::create_dir_all(directory)
        .and_then(|()| write_pages(directory))
        .map_err(|error| Failure::failed(format!("{}: {error}", directory.display())))?;
    output.done()
}

fn write_pages(directory: &Path) -> std::io::Result<()> {
    clap_mangen::generate_to(Arguments::command(), directory)
}
