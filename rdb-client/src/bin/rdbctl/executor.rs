//! Runs one command, or several in sequence that share a runtime and a client.

use futures::FutureExt;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::arguments::{Command, GlobalArguments};
use crate::cas::CasCommand;
use crate::failure::Failure;
use crate::operator::OperatorCommand;
use crate::output::Output;
use crate::raw::RawCommand;
use crate::session::{KeptClient, Session};
use crate::store::StoreCommand;
use crate::{
    auth, bench, cas, cert, health, operator, playground, raw, region, shell_support, status,
    store, tso,
};

/// What Ctrl-C does while a command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// Nothing of ours: it ends the process, or the command watches for it itself.
    IsNotOurs,
    /// It ends a command that only reads, wherever that is.
    EndsRead,
    /// It ends a command that may be writing, wherever that is.
    EndsWrite,
}

impl Interrupt {
    /// Runs `work` to its end, or to Ctrl-C if that ends the command.
    pub(crate) async fn limit<T>(
        self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let failure = match self {
            Self::IsNotOurs => return work.await,
            Self::EndsRead => Failure::failed("interrupted"),
            Self::EndsWrite => Failure::interrupted_write(),
        };
        // Ctrl-C is watched for before the work begins.
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => Err(failure),
            done = work => done,
        }
    }
}

/// Runs commands. The connections of its client live on its runtime.
pub(crate) struct Executor {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    client: KeptClient,
    /// Each Ctrl-C in a shell, where it ends the command that runs, and not the process.
    interrupts: Option<Signal>,
}

impl Executor {
    /// The executor of one command. Ctrl-C ends it with the process.
    pub(crate) fn new() -> Result<Self, Failure> {
        // The thread of commands may block on a slow reader of our output; connections are kept alive on the other one.
        Ok(Self {
            runtime: Some(runtime(1)?),
            client: KeptClient::default(),
            interrupts: None,
        })
    }

    /// The executor of a shell: from now on Ctrl-C does not end the process.
    pub(crate) fn of_shell() -> Result<Self, Failure> {
        let mut executor = Self::new()?;
        if let Some(runtime) = &executor.runtime {
            let _entered = runtime.enter();
            executor.interrupts = Some(interrupts()?);
        }
        Ok(executor)
    }

    /// Whether there was a Ctrl-C in a shell since the last question.
    pub(crate) fn was_interrupted(&mut self) -> bool {
        let interrupts = self.interrupts.as_mut();
        interrupts.is_some_and(|interrupts| interrupts.recv().now_or_never().is_some())
    }

    /// Runs `work`, which may block. `None`: there was a Ctrl-C in a shell, now or since the last question.
    pub(crate) fn unless_interrupted<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (Some(runtime), Some(interrupts)) = (&self.runtime, &mut self.interrupts) else {
            return Some(work());
        };
        runtime.block_on(async {
            tokio::select! {
                biased;
                _ = interrupts.recv() => None,
                done = tokio::task::spawn_blocking(work) => done.ok(),
            }
        })
    }

    pub(crate) fn execute(
        &self,
        command: Command,
        global: &GlobalArguments,
        output: &mut Output<'_>,
    ) -> Result<(), Failure> {
        let interrupt = self.interrupt_of(&command);
        let command = match command {
            // The benchmark runs its callers on its own threads.
            Command::Bench(command) => return bench::run(command, global, interrupt, output),
            Command::Cert(command) => return cert::run(command, output),
            Command::Completions(arguments) => {
                return shell_support::completions(&arguments, output);
            }
            Command::Manual(arguments) => return shell_support::manual(&arguments, output),
            other => other,
        };
        let Some(runtime) = &self.runtime else {
            return Err(Failure::failed("the runtime has ended"));
        };
        let session = Session::new(global)?.keeping(&self.client);
        let session = session.in_shell(self.interrupts.is_some());
        runtime.block_on(interrupt.limit(on_runtime(command, &session, output)))
    }

    fn interrupt_of(&self, command: &Command) -> Interrupt {
        match command {
            Command::Playground(_) | Command::Raw(RawCommand::Import(_)) => Interrupt::IsNotOurs,
            Command::Status(arguments) if arguments.watches() => Interrupt::IsNotOurs,
            // The part of a file that it has written is removed.
            Command::Raw(RawCommand::Export(arguments)) if arguments.names_a_file() => {
                Interrupt::EndsRead
            }
            _ if self.interrupts.is_none() => Interrupt::IsNotOurs,
            _ if may_write(command) => Interrupt::EndsWrite,
            _ => Interrupt::EndsRead,
        }
    }
}

fn may_write(command: &Command) -> bool {
    match command {
        Command::Raw(command) => !matches!(
            command,
            RawCommand::Get { .. } | RawCommand::Scan(_) | RawCommand::Export(_)
        ),
        Command::Cas(command) => !matches!(command, CasCommand::Get { .. } | CasCommand::Scan(_)),
        Command::Store(command) => matches!(command, StoreCommand::Remove { .. }),
        Command::Operator(command) => !matches!(command, OperatorCommand::List),
        Command::Auth(command) => command.may_write(),
        Command::Bench(_) => true,
        _ => false,
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // Not waiting for a name lookup or a read of standard input that nobody is interested in any more.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn on_runtime(
    command: Command,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    match command {
        Command::Raw(command) => raw::run(command, session, output).await,
        Command::Cas(command) => cas::run(command, session, output).await,
        Command::Tso(arguments) => tso::run(&arguments, session, output).await,
        Command::Store(command) => store::run(&command, session, output).await,
        Command::Region(command) => region::run(command, session, output).await,
        Command::Playground(arguments) => playground::run(arguments, output).await,
        Command::Operator(command) => operator::run(command, session, output).await,
        Command::Auth(command) => auth::run(command, session, output).await,
        Command::Health => health::run(session, output).await,
        Command::Status(arguments) => status::run(&arguments, session, output).await,
        Command::Bench(_)
        | Command::Cert(_)
        | Command::Completions(_)
        | Command::Manual(_)
        | Command::Shell => Ok(()),
    }
}

/// Each Ctrl-C from now on; it does not end the process any more.
pub(crate) fn interrupts() -> Result<Signal, Failure> {
    signal(SignalKind::interrupt())
        .map_err(|error| Failure::failed(format!("cannot watch for signals: {error}")))
}

/// Runs `work`, and what it spawns, on a runtime with `threads` threads beside this one.
pub(crate) fn on_threads<T>(
    threads: usize,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let runtime = runtime(threads)?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

fn runtime(threads: usize) -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start: {error}")))
}
