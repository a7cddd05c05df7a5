//! Group commit: one thread owns writing.
//!
//! The thread waits for a submission, takes all that are queued, up to a byte limit, and applies them to one write batch. It
//! writes and syncs that once and completes every submission. No submission is delayed to fill a batch: submissions gather
//! while the sync of the batch before is under way.
//!
//! The thread reads versioned keys from memory. A submission whose keys are not in memory is put aside until the threads of
//! the [`Warmer`](warmer::Warmer) have read them, and others go on. So submissions that wait at the same time are applied in
//! any order. If the keys do not stay in memory, the writing thread itself reads them: one submission at a time, and a few
//! in each round.
//!
//! A submission whose keys cannot be read is not applied and stops writes to its region; other regions go on. The first IO
//! error of a write stops all writes: RocksDB's memory and the disk may differ then, and only the next open can tell what is
//! stored. The submissions of that batch get [`Error::Undetermined`], all later ones [`Error::WritesStopped`]. A write without
//! the write-ahead log that meets an IO error was not made: it is refused like the later ones.

mod admitted;
mod health;
mod pending;
mod queue;
mod room;
mod submission;
mod warmer;
mod worker;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::sync::watch;

use crate::applied::AppliedState;
use crate::command::Outcome;
use crate::engine::Engine;
use crate::error::Error;
use crate::log_entry::{ApplyOptions, LogEntry};
use crate::options::StorageOptions;
use crate::region::RegionDescriptor;
use crate::snapshot::Installing;
pub use admitted::Admitted;
pub use health::WriteHealth;
pub use pending::PendingWrite;
use queue::Queued;
pub use room::{WriteRoom, WriteShare};
pub use submission::Submission;
pub use warmer::NotWarmed;
use warmer::WARMERS;
use worker::Worker;

/// The handle of the writer thread. [`Writer::close`] ends it; so does dropping the handle.
pub(crate) struct Writer {
    worker: Arc<Worker>,
    /// That of submissions that name no other one.
    share: Arc<WriteShare>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Writer {
    pub(crate) fn start(engine: Arc<Engine>, options: &StorageOptions) -> std::io::Result<Self> {
        let worker = Arc::new(Worker::new(engine, options));
        let writer = Self {
            worker: Arc::clone(&worker),
            share: WriteShare::of_queue(options.write_queue_bytes_max),
            threads: Mutex::new(Vec::new()),
        };
        // From here on, dropping the writer ends what was started.
        let thread = thread::Builder::new().name("rdb-writer".to_owned());
        let thread = thread.spawn(move || worker.run())?;
        writer.threads().push(thread);
        for _ in 0..WARMERS {
            let worker = Arc::clone(&writer.worker);
            let thread = thread::Builder::new().name("rdb-warmer".to_owned());
            let thread = thread.spawn(move || worker.warmer.run())?;
            writer.threads().push(thread);
        }
        Ok(writer)
    }

    /// Takes room in the queue for a message. Its submissions count their parts of it. Never waits.
    pub(crate) fn take_room(&self, bytes: usize) -> Result<WriteRoom, Error> {
        self.share.take(bytes, 0)
    }

    /// Another share of the queue's room, for a region.
    pub(crate) fn share(&self) -> Arc<WriteShare> {
        self.share.of_region()
    }

    /// Lets a submission in. Never waits.
    pub(crate) fn admit(&self, submission: Submission) -> Result<Admitted, Error> {
        self.admit_within(&self.share, submission)
    }

    /// The same within the share of its region.
    pub(crate) fn admit_within(
        &self,
        share: &Arc<WriteShare>,
        submission: Submission,
    ) -> Result<Admitted, Error> {
        self.check(submission.region_id)?;
        submission.validate()?;
        let payload_bytes = submission.payload_bytes();
        let (bytes, held_bytes) = submission.charge_bytes(payload_bytes);
        let room = share.take(bytes, held_bytes)?;
        Ok(Admitted::new(
            submission.detached(&room),
            payload_bytes,
            room,
        ))
    }

    /// Refuses writes to a region when writing has ended.
    pub(crate) fn check(&self, region_id: u64) -> Result<(), Error> {
        self.worker.check(region_id)
    }

    /// Queues a submission. Never waits.
    pub(crate) fn submit(&self, submission: Submission) -> Result<PendingWrite, Error> {
        let (queued, pending) = Queued::new(self.admit(submission)?);
        self.worker.queue.push(queued)?;
        Ok(pending)
    }

    /// Calls `then` once what applying the submission reads is in memory.
    pub(crate) fn warm(
        &self,
        admitted: Admitted,
        then: impl FnOnce(Result<Admitted, NotWarmed>) + Send + 'static,
    ) {
        self.worker.warmer.warm(admitted, then);
    }

    /// The same right here. `Err`: the submission is cold, and was counted as such.
    pub(crate) fn warm_from_memory(
        &self,
        admitted: Admitted,
    ) -> Result<Result<Admitted, NotWarmed>, Admitted> {
        self.worker.warmer.warm_from_memory(admitted)
    }

    /// The same on another thread. It is not counted.
    pub(crate) fn warm_from_disk(
        &self,
        admitted: Admitted,
        then: impl FnOnce(Result<Admitted, NotWarmed>) + Send + 'static,
    ) {
        self.worker.warmer.warm_from_disk(admitted, Box::new(then));
    }

    /// Applies entries of one region right here, and writes them at once. `None`: that would block, and nothing was applied.
    pub(crate) fn apply(
        &self,
        region_id: u64,
        entries: &[LogEntry],
        options: ApplyOptions,
        may_block: bool,
    ) -> Result<Option<Vec<Vec<Outcome>>>, Error> {
        let worker = &self.worker;
        worker.apply(region_id, entries, options, may_block)
    }

    /// Writes the first states of regions that have none. Whether there were any. Blocks.
    pub(crate) fn bootstrap(
        &self,
        regions: &[(RegionDescriptor, AppliedState)],
    ) -> Result<bool, Error> {
        self.worker.bootstrap(regions)
    }

    /// Replaces a region with a received snapshot, if `find_space` finds the bytes that this takes. `marked` is called once its mark
    /// is durable, the only one of the region. Blocks.
    pub(crate) fn install(
        &self,
        installing: &Installing,
        marked: impl FnOnce(),
        find_space: impl FnOnce(u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.worker.install(installing, marked, find_space)
    }

    /// Removes a region, and notes that this peer of it was destroyed. Blocks.
    pub(crate) fn destroy_region(&self, region_id: u64, peer_id: u64) -> Result<(), Error> {
        self.worker.destroy_region(region_id, peer_id)
    }

    pub(crate) fn health(&self) -> watch::Receiver<WriteHealth> {
        self.worker.health.watch()
    }

    /// How much room of the queue is taken, and how much there is, in bytes.
    pub(crate) fn room_bytes(&self) -> (usize, usize) {
        self.share.bytes()
    }

    /// How many submissions had keys that were not in memory, since the open.
    pub(crate) fn cold_write_count(&self) -> u64 {
        self.worker.warmer.cold_count()
    }

    /// Refuses new submissions, lets the thread finish the queued ones, and waits for it to end. A second call waits,
    /// too, and does nothing else.
    pub(crate) fn close(&self) {
        self.worker.queue.close();
        self.worker.warmer.close();
        for thread in self.threads().drain(..) {
            // What a warmer calls may drop the last handle of the storage.
            if thread.thread().id() != thread::current().id() {
                // A panic was logged and answered by the worker's guard.
                let _ = thread.join();
            }
        }
    }

    /// The queue is locked until the answer is dropped.
    #[cfg(test)]
    pub(crate) fn locked_queue(&self) -> impl Sized {
        self.worker.queue.locked()
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}
