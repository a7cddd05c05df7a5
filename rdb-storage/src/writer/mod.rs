//! Group commit: one thread owns writing.
//!
//! The thread blocks for the first submission, takes what else is queued up to a byte limit, applies all of it to one
//! write batch, writes and syncs that once, and completes every submission. Nothing is ever delayed to fill a batch:
//! batches form while the sync of the one before is under way.
//!
//! The first IO error ends writing: RocksDB's memory and the disk may then differ, and only the next open can tell what
//! is there. The batch in hand is [`Error::Undetermined`], everything later is [`Error::WritesStopped`].

mod pending;
mod queue;

use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rocksdb::WriteOptions;
use tokio::sync::watch;

use crate::apply::{Applied, Unreadable, apply};
use crate::command::{Command, Outcome};
use crate::engine::Engine;
use crate::error::Error;
use crate::options::{Durability, StorageOptions};
pub use pending::PendingWrite;
use queue::{Queue, Queued, Taken};

/// How often RocksDB's own threads are asked whether they met an error. They have no way to tell.
const BACKGROUND_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Writes that are applied together or not at all.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The region that all commands belong to; [`EMBEDDED_REGION_ID`](crate::limits::EMBEDDED_REGION_ID) when embedded.
    pub region_id: u64,
    /// Applied in order.
    pub commands: Vec<Command>,
    /// What the submission counts in the queue, in bytes. A command that shares a received message's buffer keeps all of
    /// it alive, so the message's size is what to charge.
    pub charge_bytes: usize,
}

/// What an entry, and a submission itself, cost in memory beside keys and values.
const ENTRY_OVERHEAD_BYTES: usize = 128;

impl Submission {
    /// A submission that is charged the size of its own commands.
    pub fn new(region_id: u64, commands: Vec<Command>) -> Self {
        let charge = |command: &Command| {
            command.payload_bytes() + command.entry_count() * ENTRY_OVERHEAD_BYTES
        };
        let charge_bytes = ENTRY_OVERHEAD_BYTES + commands.iter().map(charge).sum::<usize>();
        Self {
            region_id,
            commands,
            charge_bytes,
        }
    }

    /// The same, charged `message_bytes` when that is more.
    pub fn charged(mut self, message_bytes: usize) -> Self {
        self.charge_bytes = self.charge_bytes.max(message_bytes);
        self
    }
}

/// Whether writes are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteHealth {
    /// They are.
    Healthy,
    /// An IO error ended writing until the next open.
    Stopped {
        /// What RocksDB said.
        cause: String,
    },
}

/// The handle of the writer thread. [`Writer::close`] ends it; so does dropping the handle.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    thread: std::sync::Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    queue: Queue,
    /// Why writing has ended.
    stopped: OnceLock<String>,
    health: watch::Sender<WriteHealth>,
}

impl Shared {
    fn stop(&self, cause: String) {
        tracing::error!(%cause, "writes have stopped; they are refused until the storage is opened again");
        let cause = self.stopped.get_or_init(|| cause).clone();
        self.health.send_replace(WriteHealth::Stopped { cause });
    }
}

impl Writer {
    pub(crate) fn start(engine: Arc<Engine>, options: &StorageOptions) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Queue::new(options.write_queue_bytes_max, options.write_batch_bytes_max),
            stopped: OnceLock::new(),
            health: watch::Sender::new(WriteHealth::Healthy),
        });
        let mut write_options = WriteOptions::default();
        write_options.set_sync(options.durability == Durability::Sync);
        let worker = Worker {
            shared: Arc::clone(&shared),
            engine,
            write_options,
        };
        let thread = thread::Builder::new()
            .name("rdb-writer".to_owned())
            .spawn(move || worker.run())?;
        Ok(Self {
            shared,
            thread: std::sync::Mutex::new(Some(thread)),
        })
    }

    /// Queues a submission. Never waits.
    pub(crate) fn submit(&self, submission: Submission) -> Result<PendingWrite, Error> {
        if let Some(cause) = self.shared.stopped.get() {
            return Err(Error::WritesStopped {
                cause: cause.clone(),
            });
        }
        for command in &submission.commands {
            command.validate()?;
        }
        self.shared.queue.validate(&submission)?;
        let (queued, pending) = Queued::new(submission);
        self.shared.queue.push(queued)?;
        Ok(pending)
    }

    pub(crate) fn health(&self) -> watch::Receiver<WriteHealth> {
        self.shared.health.subscribe()
    }

    /// Refuses new submissions, lets the thread finish the queued ones, and waits for it to end. A second call waits,
    /// too, and does nothing else.
    pub(crate) fn close(&self) {
        self.shared.queue.close();
        let mut thread = self
            .thread
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // A panic was logged and answered by the worker's guard.
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

/// What the thread owns.
struct Worker {
    shared: Arc<Shared>,
    engine: Arc<Engine>,
    write_options: WriteOptions,
}

impl Worker {
    fn run(self) {
        let _guard = StopOnPanic(&self.shared);
        let mut checked = Instant::now();
        loop {
            match self.shared.queue.take(BACKGROUND_CHECK_INTERVAL) {
                Taken::Submissions(submissions) => self.commit(submissions),
                Taken::Nothing => {}
                Taken::Closed => return,
            }
            if checked.elapsed() >= BACKGROUND_CHECK_INTERVAL {
                self.check_background();
                checked = Instant::now();
            }
        }
    }

    fn check_background(&self) {
        if self.shared.stopped.get().is_some() {
            return;
        }
        if let Some(cause) = self.engine.background_error() {
            self.shared.stop(cause);
        }
    }

    fn commit(&self, submissions: Vec<Queued>) {
        let charged = submissions.iter().map(Queued::charge_bytes).sum();
        let results = self.write(&submissions);
        // Room first: whoever is told of a completion may submit again at once.
        self.shared.queue.release(charged);
        match results {
            Ok(outcomes) => {
                for (submission, outcomes) in submissions.into_iter().zip(outcomes) {
                    submission.complete(Ok(outcomes));
                }
            }
            Err(failure) => {
                for submission in submissions {
                    let error = failure.of(&submission);
                    submission.complete(Err(error));
                }
            }
        }
    }

    fn write(&self, submissions: &[Queued]) -> Result<Vec<Vec<Outcome>>, Failure> {
        if let Some(cause) = self.shared.stopped.get() {
            return Err(Failure::OfAll(Error::WritesStopped {
                cause: cause.clone(),
            }));
        }
        let runs: Vec<_> = submissions.iter().map(Queued::run).collect();
        let Applied {
            write_batch,
            outcomes,
        } = apply(&self.engine, &runs).map_err(|unreadable| {
            // Nothing was written. Passing the command over would make this copy of the data differ from others.
            self.shared.stop(unreadable.error.to_string());
            Failure::OfSome(unreadable)
        })?;
        if !write_batch.is_empty() {
            let written = self
                .engine
                .database
                .write_opt(write_batch, &self.write_options);
            written.map_err(|error| {
                self.shared.stop(error.to_string());
                Failure::OfAll(Error::Undetermined {
                    cause: error.to_string(),
                })
            })?;
        }
        Ok(outcomes)
    }
}

/// Why the submissions of a take were not applied, or may not have been.
enum Failure {
    OfAll(Error),
    /// Some met what could not be read; for the others writing has stopped.
    OfSome(Unreadable),
}

impl Failure {
    fn of(&self, submission: &Queued) -> Error {
        match self {
            Self::OfAll(error) => error.clone(),
            Self::OfSome(unreadable) if unreadable.concerns(submission.run().1) => {
                unreadable.error.clone()
            }
            Self::OfSome(unreadable) => Error::WritesStopped {
                cause: unreadable.error.to_string(),
            },
        }
    }
}

/// Says that writing has ended when the thread unwinds; its submissions are answered as undetermined by being dropped.
struct StopOnPanic<'a>(&'a Shared);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop("the writer thread panicked".to_owned());
            self.0.queue.close();
            self.0.queue.abandon();
        }
    }
}
