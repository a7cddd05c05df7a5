//! Runs commands: one, or several one after the other, which then share a runtime and a client.

use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::{Command, GlobalArguments};
use crate::cas::CasCommand;
use crate::failure::Failure;
use crate::operator::OperatorCommand;
use crate::output::Output;
use crate::raw::RawCommand;
use crate::session::{KeptClient, Session};
use crate::store::StoreCommand;
use crate::{
    bench, cas, health, operator, playground, raw, region, shell_support, status, store, tso,
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
    /// Whether Ctrl-C ends the command that runs, and not the process.
    outlives_commands: bool,
}

impl Executor {
    /// One that `outlives_commands` goes on after Ctrl-C.
    pub(crate) fn new(outlives_commands: bool) -> Result<Self, Failure> {
        // The thread of commands may block on a slow reader of our output; connections are kept alive on the other one.
        let runtime = runtime(1)?;
        if outlives_commands {
            let _entered = runtime.enter();
            // From now on a Ctrl-C that nothing waits for is ignored. It does not end the process.
            let watched = signal(SignalKind::interrupt());
            drop(
                watched.map_err(|error| {
                    Failure::failed(format!("cannot watch for signals: {error}"))
                })?,
            );
        }
        Ok(Self {
            runtime: Some(runtime),
            client: KeptClient::default(),
            outlives_commands,
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
            Command::Completions(arguments) => {
                return shell_support::completions(&arguments, output);
            }
            Command::Manual(arguments) => return shell_support::manual(&arguments, output),
            other => other,
        };
        let Some(runtime) = &self.runtime else {
            return Err(Failure::failed("the runtime has ended"));
        };
        let session = Session::new(global).keeping(&self.client);
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
            _ if !self.outlives_commands => Interrupt::IsNotOurs,
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
        Command::Health => health::run(session, output).await,
        Command::Status(arguments) => status::run(&arguments, session, output).await,
        Command::Bench(_) | Command::Completions(_) | Command::Manual(_) | Command::Shell => Ok(()),
    }
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
