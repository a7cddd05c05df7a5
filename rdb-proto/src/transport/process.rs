//! The shell of a server process: logging, runtime, termination, exit code.

use std::error::Error;
use std::fmt::Display;
use std::future::Future;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use tokio::task::{JoinError, spawn_blocking};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::limits::{CLOSE_TIMEOUT, EXIT_TIMEOUT};
pub use super::log_filter::LogFilter;
use super::service_manager;
use super::{HealthHandle, Termination};

/// What the help of a server says about its exit codes.
pub const EXIT_CODES: &str = "Exit codes:
  0  it was asked to stop, and has stopped
  1  it failed; starting it again may help
  2  a setting has a value that cannot work
  3  it was refused: its data, its place in the cluster or the clock needs an operator first";

/// Why a process could not start, or not go on. Sorted by what the one who starts it can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Starting again may help.
    Passing = 1,
    /// A setting has to be changed. The command line's parser ends with the same code.
    Setting = 2,
    /// An operator has to look first. Starting again does not help, or does harm.
    Refused = 3,
}

/// The error of a server process.
pub trait ProcessError: Error + Send + Sync + 'static {
    /// What can be done about it.
    fn failure(&self) -> Failure;
}

/// A server that has started.
pub trait ServerProcess {
    /// Why it ended.
    type Error: ProcessError;

    /// Cancel it to start the drain.
    fn drain_token(&self) -> CancellationToken;

    /// Whether it does its work.
    fn health(&self) -> HealthHandle;

    /// Waits for the drain to begin and end, and for the storage to close.
    fn wait(self) -> impl Future<Output = Result<(), Self::Error>>;
}

/// Runs a server's program to its exit code, with logging to stderr. Threads that are still busy at the end, e.g. with a disk that does
/// not answer, get [`EXIT_TIMEOUT`].
pub fn run<E: ProcessError>(
    name: &str,
    log_filter: LogFilter,
    process: impl AsyncFnOnce(Termination) -> Result<(), E>,
) -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(log_filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match run_to_end(process) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            let failure = error.failure();
            eprintln!("{name}: {:#}", anyhow::Error::from(error));
            ExitCode::from(failure as u8)
        }
        Err(error) => {
            eprintln!("{name}: cannot run: {error}");
            ExitCode::from(Failure::Passing as u8)
        }
    }
}

fn run_to_end<E>(
    process: impl AsyncFnOnce(Termination) -> Result<(), E>,
) -> io::Result<Result<(), E>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async { Ok(process(Termination::install()?).await) });
    runtime.shutdown_timeout(EXIT_TIMEOUT);
    ended
}

/// Starts a server and sees it through, until it ends or the process is asked to: then it is drained.
///
/// # Errors
///
/// When it cannot start, or ends for another reason than the drain.
pub async fn serve<S: ServerProcess>(
    start: impl Future<Output = Result<S, S::Error>>,
    mut termination: Termination,
) -> Result<(), S::Error> {
    let server = tokio::select! {
        started = start => started?,
        () = termination.requested() => {
            service_manager::tell_stopping().await;
            tracing::info!("stopped while starting, as it was asked to");
            return Ok(());
        }
    };
    let drain = server.drain_token();
    let telling = service_manager::follow(server.health());
    let draining = async {
        termination.requested().await;
        tracing::info!("asked to stop: draining");
        service_manager::tell_stopping().await;
        drain.cancel();
        std::future::pending().await
    };
    tokio::select! {
        ended = server.wait() => ended?,
        never = draining => never,
        never = telling => match never {},
    }
    tracing::info!("stopped");
    Ok(())
}

/// Starts the drain when `task` ends, for any reason.
pub fn drains_when_it_ends<T>(
    task: impl Future<Output = T>,
    drain: CancellationToken,
) -> impl Future<Output = T> {
    let guard = drain.drop_guard();
    async move {
        let _guard = guard;
        task.await
    }
}

/// Closes a storage in the time that a drain leaves for that. What is not flushed by then is in the write-ahead log, and the
/// next open replays it.
///
/// # Errors
///
/// When closing panics.
pub async fn close<E: Display + Send + 'static>(
    closing: impl FnOnce() -> Result<(), E> + Send + 'static,
) -> Result<(), JoinError> {
    match timeout(CLOSE_TIMEOUT, spawn_blocking(closing)).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!(%error, "not everything was flushed; nothing is lost"),
        Ok(Err(panic)) => return Err(panic),
        Err(_) => {
            tracing::warn!(
                "flushing took too long and was left to the next start; nothing is lost"
            );
        }
    }
    Ok(())
}
