//! The shell of a server process: allocator, logging, runtime, termination, exit code.

use std::error::Error;
use std::future::Future;
use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::Termination;
use super::allocator;
use super::limits::EXIT_TIMEOUT;

/// A server that has started.
pub trait ServerProcess {
    /// Why it ended.
    type Error: Error + Send + Sync + 'static;

    /// Cancel it to start the drain.
    fn drain_token(&self) -> CancellationToken;

    /// Waits for the drain to begin and end, and for the storage to close.
    fn wait(self) -> impl Future<Output = Result<(), Self::Error>>;
}

/// Runs `process`, which has to be the first thing that the program does, with logging to stderr at `log_level`, and says on stderr under `name` why it failed. Threads that are
/// still busy then, e.g. with a disk that does not answer, get [`EXIT_TIMEOUT`].
pub fn run(
    name: &str,
    log_level: &str,
    process: impl Future<Output = anyhow::Result<()>>,
) -> ExitCode {
    allocator::set_up();
    match run_logged(log_level, process) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_logged(
    log_level: &str,
    process: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(log_level).with_context(|| {
        format!(
            "--log-level {log_level:?} is not understood; e.g. info, debug or warn,rocksdb=debug"
        )
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(process);
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
) -> anyhow::Result<()> {
    let mut termination = Termination::install()?;
    let server = tokio::select! {
        started = start => started?,
        () = termination.requested() => {
            tracing::info!("asked to stop while starting");
            return Ok(());
        }
    };
    let drain = server.drain_token();
    let draining = async {
        termination.requested().await;
        tracing::info!("asked to stop: draining");
        drain.cancel();
        std::future::pending().await
    };
    tokio::select! {
        ended = server.wait() => Ok(ended?),
        never = draining => never,
    }
}
