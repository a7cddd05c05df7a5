//! `rdbctl`: FlareDB from the command line, on the client library alone.
//!
//! `arguments` is what can be typed, one file per subcommand does it, `output` prints what came of it, `failure` turns
//! what went wrong into a message and an exit code.

#![forbid(unsafe_code)]

mod arguments;
mod bench;
mod cas;
mod encoding;
mod entry;
mod failure;
mod health;
mod key_range;
mod operator;
mod output;
mod playground;
mod raw;
mod region;
mod session;
mod shell_support;
mod status;
mod store;
mod transfer;
mod tso;
mod value;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use tracing::level_filters::LevelFilter;

use arguments::{Arguments, Command, GlobalArguments};
use failure::Failure;
use output::{Format, Output};
use session::Session;

fn main() -> ExitCode {
    if let Some(failed) = playground::become_process() {
        return failed;
    }
    let Arguments { global, command } = Arguments::parse();
    let (level, others) = (global.log_level, global.log_level.min(LevelFilter::WARN));
    tracing_subscriber::fmt()
        .with_env_filter(format!("{others},rdb_client={level},rdb_proto={level}"))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && !is_set("NO_COLOR"))
        .init();

    let mut stdout = std::io::BufWriter::new(std::io::stdout().lock());
    let is_terminal = std::io::stdout().is_terminal();
    let mut output = Output::new(global.output, global.key_encoding, is_terminal, &mut stdout);

    let result = execute(command, &global, &mut output).and_then(|()| output.flush());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure, &global, &mut output),
    }
}

/// <https://no-color.org>
fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

fn execute(
    command: Command,
    global: &GlobalArguments,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let command = match command {
        // The benchmark runs its callers on its own threads.
        Command::Bench(command) => return bench::run(command, global, output),
        Command::Completions(arguments) => return shell_support::completions(&arguments, output),
        Command::Manual(arguments) => return shell_support::manual(&arguments, output),
        other => other,
    };
    let session = Session::new(global);
    // This thread may block on a slow reader of our output; connections are kept alive on the other one.
    on_threads(1, async {
        match command {
            Command::Raw(command) => raw::run(command, &session, output).await,
            Command::Cas(command) => cas::run(command, &session, output).await,
            Command::Tso(arguments) => tso::run(&arguments, &session, output).await,
            Command::Store(command) => store::run(&command, &session, output).await,
            Command::Region(command) => region::run(command, &session, output).await,
            Command::Playground(arguments) => playground::run(arguments, output).await,
            Command::Operator(command) => operator::run(command, &session, output).await,
            Command::Bench(_) | Command::Completions(_) | Command::Manual(_) => Ok(()),
            Command::Health => health::run(&session, output).await,
            Command::Status(arguments) => status::run(&arguments, &session, output).await,
        }
    })
}

/// Runs `work`, and what it spawns, on a runtime with `threads` threads beside this one.
fn on_threads<T>(
    threads: usize,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
    let result = runtime.block_on(work);
    // Not waiting for a name lookup or a read of standard input that nobody is interested in any more.
    runtime.shutdown_background();
    result
}

/// Says what went wrong: always in words on stderr, and as an object on stdout for programs that read JSON there.
fn report(failure: &Failure, global: &GlobalArguments, output: &mut Output<'_>) -> ExitCode {
    if failure.is_broken_pipe() {
        return ExitCode::SUCCESS;
    }
    if global.output == Format::Json {
        // When both fail, the first failure is reported.
        let _ = output
            .object(&failure.object())
            .and_then(|()| output.flush());
    } else {
        let _ = output.flush();
    }
    let _ = writeln!(std::io::stderr(), "error: {failure}");
    failure.exit_code()
}
