//! A server process: logging, runtime, termination, exit code. Its [`Shell`] is what both servers have around their services.

mod shell;

use std::error::Error;
use std::future::Future;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio_util::sync::CancellationToken;

pub use self::shell::{ListenError, Ports, Shell, Telemetry};
use super::limits::EXIT_TIMEOUT;
pub use super::log_filter::LogFilter;
use super::{Termination, service_manager};
use crate::figures;

/// What the help of a server says about its exit codes.
pub const EXIT_CODES: &str = "Exit codes:
  0  it was asked to stop, and has stopped
  1  it failed; starting it again may help
  2  a setting has a value that cannot work
  3  it was refused: its data, its place in the cluster or the clock needs an operator first";

/// The exit code after a panic, as Rust has it.
const PANICKED: i32 = 101;

/// Why a process could not start or go on. Sorted by what its operator can do.
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

    /// What is around its services.
    fn shell(&self) -> &Shell;

    /// Waits for the drain to begin and end, and for the storage to close.
    fn wait(self) -> impl Future<Output = Result<(), Self::Error>>;

    /// The address that it listens on.
    fn local_addr(&self) -> SocketAddr {
        self.shell().local_addr
    }

    /// Where its status pages are, if there are any.
    fn status_addr(&self) -> Option<SocketAddr> {
        self.shell().status_addr()
    }

    /// Cancel it to start the drain.
    fn drain_token(&self) -> CancellationToken {
        self.shell().drain.clone()
    }
}

/// Runs a server's program, with logging to stderr, and ends the process with its exit code. With TLS, SIGHUP has the certificates read
/// again, and does not end it.
///
/// Threads that are still busy at the end, e.g. with a disk that does not answer, get [`EXIT_TIMEOUT`]. Then the process ends in spite of
/// them, also after a panic, unless what the panic drops waits for them. It does not run the destructors of RocksDB's globals: they wait
/// for RocksDB's threads, and take away what others still use.
pub fn run<E: ProcessError>(
    name: &str,
    log_filter: LogFilter,
    has_tls: bool,
    process: impl AsyncFnOnce(Termination) -> Result<(), E>,
) -> ! {
    tracing_subscriber::fmt()
        .with_env_filter(log_filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    if figures::OFF {
        tracing::warn!(
            "this is a build for measurements, with FLAREDB_WITHOUT_FIGURES: most of its metrics stay at 0"
        );
    }
    let code = match run_to_end(has_tls, process) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            let failure = error.failure();
            eprintln!("{name}: {:#}", anyhow::Error::from(error));
            failure as i32
        }
        Err(error) => {
            eprintln!("{name}: cannot run: {error}");
            Failure::Passing as i32
        }
    };
    signal_hook::low_level::exit(code)
}

fn run_to_end<E>(
    has_tls: bool,
    process: impl AsyncFnOnce(Termination) -> Result<(), E>,
) -> io::Result<Result<(), E>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let running = async {
        let mut termination = Termination::install()?;
        if has_tls {
            termination.leave_hang_up();
        }
        Ok(process(termination).await)
    };
    // What a panic leaves half done is never looked at again.
    let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(running)));
    runtime.shutdown_timeout(EXIT_TIMEOUT);
    ended.unwrap_or_else(|_| signal_hook::low_level::exit(PANICKED))
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
    let telling = service_manager::follow(server.shell().health.clone());
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::env;
    use std::process::Command;
    use std::thread::sleep;
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::task::spawn_blocking;

    use super::*;

    const CHILD: &str = "RDB_TEST_PANICS";

    #[test]
    #[ignore = "the next test starts it: it ends its process"]
    fn panics_while_a_thread_is_busy() {
        if env::var_os(CHILD).is_none() {
            return;
        }
        let _ = run_to_end(false, async |_| -> Result<(), Infallible> {
            let (begins, begun) = oneshot::channel();
            // Long enough to be seen if the process waits for it.
            spawn_blocking(move || {
                begins.send(()).unwrap();
                sleep(Duration::from_secs(30));
            });
            begun.await.unwrap();
            panic!("on purpose");
        });
    }

    #[test]
    fn a_process_that_panics_does_not_wait_for_its_threads() {
        let test = "transport::process::tests::panics_while_a_thread_is_busy";
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", test, "--ignored", "--nocapture"])
            .env(CHILD, "")
            .output()
            .unwrap();
        let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (told(&child.stdout), told(&child.stderr));
        assert_eq!(child.status.code(), Some(PANICKED), "{stdout}{stderr}");
        assert!(stderr.contains("on purpose"), "{stderr}");
        // The panic has not come out of it, to where it ends a test after 30 seconds.
        assert!(!stdout.contains("FAILED"), "{stdout}");
    }
}
