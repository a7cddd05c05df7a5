//! `rdbctl`: FlareDB from the command line, on the client library alone.
//!
//! `arguments` defines what can be typed, and `executor` runs it, here or in the `shell`, with one file per subcommand. `output`
//! prints results, and `failure` turns errors into a message and an exit code.

#![forbid(unsafe_code)]

mod arguments;
mod auth;
mod bench;
mod cas;
mod cert;
mod encoding;
mod entry;
mod executor;
mod failure;
mod health;
mod key_range;
mod operator;
mod output;
mod playground;
mod raw;
mod region;
mod session;
mod shell;
mod shell_support;
mod status;
mod store;
mod transfer;
mod tso;
mod value;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use tracing::level_filters::LevelFilter;

use arguments::{Arguments, Command};
use executor::Executor;
use failure::Failure;
use output::{Format, Output};

fn main() -> ExitCode {
    if let Some(failed) = playground::become_process() {
        return failed;
    }
    let Arguments { global, command } = Arguments::of_process();
    let (level, others) = (global.log_level, global.log_level.min(LevelFilter::WARN));
    tracing_subscriber::fmt()
        .with_env_filter(format!("{others},rdb_client={level},rdb_proto={level}"))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && !is_set("NO_COLOR"))
        .init();

    let mut stdout = std::io::BufWriter::new(std::io::stdout().lock());
    let is_terminal = std::io::stdout().is_terminal();
    let mut output = Output::new(global.output, global.key_encoding, is_terminal, &mut stdout);

    if let Command::Shell = command {
        return shell::run(&global, &mut output);
    }
    let executed =
        Executor::new().and_then(|executor| executor.execute(command, &global, &mut output));
    match executed.and_then(|()| output.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure, global.output, &mut output),
    }
}

/// <https://no-color.org>
fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// Says what went wrong: always in words on stderr, and as an object on stdout for programs that read JSON there.
fn report(failure: &Failure, format: Format, output: &mut Output<'_>) -> ExitCode {
    if failure.is_broken_pipe() {
        return ExitCode::SUCCESS;
    }
    if format == Format::Json && !matches!(failure, Failure::Shown(_)) {
        // When both fail, the first failure is reported.
        let _ = output
            .object(&failure.object())
            .and_then(|()| output.flush());
    } else {
        let _ = output.flush();
    }
    // In one piece: a terminal puts its echo between two.
    let line = format!("error: {failure}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    failure.exit_code()
}
