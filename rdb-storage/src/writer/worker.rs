//! The writer's thread: takes what is queued, applies it to one batch, writes that and answers.

mod regions;
mod replicated;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rocksdb::{ErrorKind, WriteBatch, WriteOptions};

use super::health::Health;
use super::queue::{Queue, Queued};
use super::warmer::Warmer;
use crate::apply::Batch;
use crate::engine::Engine;
use crate::error::Error;
use crate::options::{Durability, StorageOptions};
use crate::read::ReadError;

/// How often RocksDB's own threads are asked whether they met an error. They have no way to tell.
const BACKGROUND_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// How often a write that RocksDB holds back looks whether it may go on.
const HELD_BACK_INTERVAL: Duration = Duration::from_millis(5);

/// How much the thread reads from the disk in a round, and one record more.
const DISK_BYTES: usize = 1 << 20;

/// Bytes read at which a batch takes no more submissions.
const BATCH_READ_BYTES: usize = 16 << 20;

/// What the thread works with. The handle shares it.
pub(super) struct Worker {
    pub(super) queue: Arc<Queue>,
    pub(super) warmer: Warmer,
    pub(super) health: Arc<Health>,
    engine: Arc<Engine>,
    durability: Durability,
    /// Held while a region begins, ends or is replaced: each looks at what is stored before it writes, in several steps.
    regions: Mutex<()>,
    /// Bytes of log that were applied without the write-ahead log since the data was last flushed for that reason. Relaxed:
    /// an estimate.
    replayed_bytes: AtomicU64,
    /// When these are more, the data is flushed.
    replayed_bytes_max: u64,
}

/// A submission whose keys do not stay in memory, and what was read of it.
struct Slow<'a> {
    queued: Queued,
    batch: Batch<'a>,
}

impl Slow<'_> {
    fn read_on(&mut self) -> Result<(), ReadError> {
        let mut entry = self.queued.entry();
        let copied = self.batch.copied_bytes();
        let mut left = DISK_BYTES;
        entry.conflict_values_bytes_max = entry.conflict_values_bytes_max.saturating_sub(copied);
        self.batch.load(&entry, &mut left)
    }
}

impl Worker {
    pub(super) fn new(engine: Arc<Engine>, options: &StorageOptions) -> Self {
        let health = Arc::new(Health::new());
        Self {
            queue: Arc::new(Queue::new(options.write_batch_bytes_max)),
            warmer: Warmer::new(Arc::clone(&engine), Arc::clone(&health)),
            health,
            engine,
            durability: options.durability,
            regions: Mutex::default(),
            replayed_bytes: AtomicU64::new(0),
            replayed_bytes_max: options.wal_bytes_max,
        }
    }

    pub(super) fn run(&self) {
        let _guard = EndOfWriting(self);
        let mut checked = Instant::now();
        let mut slow = None;
        loop {
            let idle = match slow {
                None => BACKGROUND_CHECK_INTERVAL,
                Some(_) => Duration::ZERO,
            };
            let Some(taken) = self.queue.take(idle) else {
                break;
            };
            self.commit(taken, &mut slow);
            if checked.elapsed() >= BACKGROUND_CHECK_INTERVAL {
                self.notice_background_error();
                self.engine.database.note_figures();
                if !self.health.is_stopped() {
                    self.bound_replay();
                    self.engine.database.make_up_for_flush();
                }
                checked = Instant::now();
            }
        }
        if let Some(slow) = slow {
            slow.queued.complete(Err(Error::Closed));
        }
    }

    fn notice_background_error(&self) {
        if !self.health.is_stopped()
            && let Some(cause) = self.engine.database.background_error()
        {
            self.health.stop(cause);
        }
    }

    /// Applies what was taken, and reads on for the slow submission.
    fn commit<'a>(&'a self, taken: VecDeque<Queued>, slow: &mut Option<Slow<'a>>) {
        let (mut batch, first) = self.read_on(slow);
        let mut loaded = self.load(&mut batch, taken, slow);
        loaded.extend(first);
        let outcomes: Vec<_> = loaded
            .iter()
            .map(|queued| batch.apply(&queued.entry()))
            .collect();
        if let Some(slow) = slow {
            slow.batch.forget(&batch);
        }
        let written = self.write(batch, Some(self.durability), true);
        for (queued, outcomes) in loaded.into_iter().zip(outcomes) {
            queued.complete(written.clone().map(|_| outcomes));
        }
    }

    /// Begins a batch: with the slow submission, if all of it was read.
    fn read_on<'a>(&'a self, slow: &mut Option<Slow<'a>>) -> (Batch<'a>, Option<Queued>) {
        if let Some(mut reading) = slow.take() {
            match reading.read_on() {
                Ok(()) => return (reading.batch, Some(reading.queued)),
                Err(ReadError::NotInMemory) => *slow = Some(reading),
                Err(ReadError::Failed(error)) => {
                    let region_id = reading.queued.region_id();
                    let stopped = self.health.stop_region(region_id, error);
                    reading.queued.complete(Err(stopped));
                }
            }
        }
        (Batch::new(&self.engine), None)
    }

    /// Reads what the submissions depend on. Returns those that can be applied; the others are answered, or put back, or one
    /// is the slow one.
    fn load<'a>(
        &'a self,
        batch: &mut Batch<'_>,
        mut taken: VecDeque<Queued>,
        slow: &mut Option<Slow<'a>>,
    ) -> Vec<Queued> {
        let (mut loaded, mut cold) = (Vec::with_capacity(taken.len()), Vec::new());
        while batch.bytes_read() < BATCH_READ_BYTES
            && let Some(queued) = taken.pop_front()
        {
            let region_id = queued.region_id();
            if let Err(stopped) = self.health.check(region_id) {
                queued.complete(Err(stopped));
                continue;
            }
            match batch.load(&queued.entry(), &mut 0) {
                Ok(()) => loaded.push(queued),
                Err(ReadError::NotInMemory) if queued.stays_cold() && slow.is_none() => {
                    let batch = Batch::new(&self.engine);
                    *slow = Some(Slow { queued, batch });
                }
                Err(ReadError::NotInMemory) => cold.push(queued),
                Err(ReadError::Failed(error)) => {
                    queued.complete(Err(self.health.stop_region(region_id, error)));
                }
            }
        }
        self.queue.put_back(taken);
        for queued in cold {
            let (admitted, then) = self.queue.put_aside(queued);
            self.warmer.put_aside(admitted, then);
        }
        loaded
    }

    /// Refuses what writes to a region when writing has ended.
    pub(super) fn check(&self, region_id: u64) -> Result<(), Error> {
        self.queue.check_open()?;
        self.health.check(region_id)
    }

    /// Writes a batch, through the write-ahead log if it has a durability there. `false`: RocksDB holds writes back, and this one
    /// may not wait.
    fn write(
        &self,
        batch: Batch<'_>,
        write_ahead_log: Option<Durability>,
        may_wait: bool,
    ) -> Result<bool, Error> {
        let changes_regions = batch.changes_regions();
        let write_batch = batch.into_write_batch();
        if write_batch.is_empty() {
            return Ok(true);
        }
        let database = &self.engine.database;
        // A write that waits when a flush finds the disk full would wait on while RocksDB tries to get space, maybe for ever.
        let is_risky = may_wait && database.may_hold_writes();
        let spare = is_risky.then(|| WriteBatch::from_data(write_batch.data()));
        let waits = may_wait && !is_risky;
        let write = |write_batch, waits| {
            database.write_opt(write_batch, &write_options(write_ahead_log, waits))
        };
        let mut written = write(write_batch, waits);
        if !waits && matches!(&written, Err(error) if error.kind() == ErrorKind::Incomplete) {
            let Some(spare) = spare else {
                return Ok(false);
            };
            self.wait_while_held_back()?;
            written = write(spare, true);
        }
        written.map_err(|error| {
            let cause = self.engine.database.write_failure(&error);
            self.health.stop(cause.clone());
            // RocksDB looks for errors of flushes, begins new logs and lets writes wait before it makes a write. Without the
            // write-ahead log, making one does no IO and does not wait.
            let came_before = matches!(error.kind(), ErrorKind::IOError | ErrorKind::Incomplete);
            if write_ahead_log.is_none() && came_before {
                return Error::WritesStopped { cause };
            }
            Error::Undetermined { cause }
        })?;
        if changes_regions {
            self.engine.forget_epochs();
        }
        Ok(true)
    }

    /// Waits until RocksDB takes writes again, or writing has ended.
    fn wait_while_held_back(&self) -> Result<(), Error> {
        let database = &self.engine.database;
        let mut noted = Instant::now();
        while database.holds_writes() {
            self.notice_background_error();
            self.health.check_any()?;
            // They tell of this, too.
            database.note_figures();
            thread::sleep(HELD_BACK_INTERVAL);
            let now = Instant::now();
            database.note_held_back(now - noted);
            noted = now;
        }
        Ok(())
    }
}

fn write_options(write_ahead_log: Option<Durability>, waits: bool) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(write_ahead_log.is_none());
    options.set_sync(write_ahead_log == Some(Durability::Sync));
    options.set_no_slowdown(!waits);
    options
}

/// Ends the queue with the thread. When the thread unwinds, it says that writing has ended; its submissions are answered as
/// undetermined by being dropped.
struct EndOfWriting<'a>(&'a Worker);

impl Drop for EndOfWriting<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.health.stop("the writer thread panicked".to_owned());
        }
        self.0.queue.end();
    }
}
