//! The writer's thread: takes what is queued, applies it to one batch, writes that and answers. Entries of a replicated log
//! are written here, too, on the thread of their caller.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rocksdb::WriteOptions;

use super::health::Health;
use super::queue::{Queue, Queued};
use crate::apply::{Batch, Entry};
use crate::command::Outcome;
use crate::engine::Engine;
use crate::error::Error;
use crate::options::{Durability, StorageOptions};
use crate::read::ReadError;

/// How often RocksDB's own threads are asked whether they met an error. They have no way to tell.
const BACKGROUND_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// How much the thread reads from the disk in a round, and one record more.
const DISK_BYTES: usize = 1 << 20;

/// When a batch has read this many bytes, it takes no more submissions.
const BATCH_READ_BYTES: usize = 16 << 20;

/// What the thread works with. The handle shares it.
pub(super) struct Worker {
    pub(super) queue: Queue,
    pub(super) engine: Arc<Engine>,
    pub(super) health: Health,
    write_options: WriteOptions,
    /// Submissions that were put aside. Relaxed: a figure.
    pub(super) cold_writes: AtomicU64,
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
        Self {
            queue: Queue::new(options.write_batch_bytes_max),
            engine,
            health: Health::new(),
            write_options: write_options(options.durability),
            cold_writes: AtomicU64::new(0),
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
                self.check_background();
                checked = Instant::now();
            }
        }
        if let Some(slow) = slow {
            slow.queued.complete(Err(Error::Closed));
        }
    }

    fn check_background(&self) {
        if self.health.is_stopped() {
            return;
        }
        if let Some(cause) = self.engine.database.background_error() {
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
        let written = self.write(batch, &self.write_options);
        for (queued, outcomes) in loaded.into_iter().zip(outcomes) {
            queued.complete(written.clone().map(|()| outcomes));
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
                    let stopped = self.stop_region(region_id, error);
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
                    queued.complete(Err(self.stop_region(region_id, error)));
                }
            }
        }
        let cold_count = cold.len() as u64;
        self.cold_writes.fetch_add(cold_count, Ordering::Relaxed);
        self.queue.put_back(taken, cold);
        loaded
    }

    /// Applies entries of one region on the thread of the caller.
    pub(super) fn apply(
        &self,
        region_id: u64,
        entries: &[Entry<'_>],
        durability: Durability,
    ) -> Result<Vec<Vec<Outcome>>, Error> {
        self.queue.check_open()?;
        self.health.check(region_id)?;
        let mut batch = Batch::new(&self.engine);
        let mut disk_bytes = usize::MAX;
        for entry in entries {
            batch
                .load(entry, &mut disk_bytes)
                .map_err(|error| self.stop_region(region_id, error.into()))?;
        }
        let entries = entries.iter();
        let outcomes = entries.map(|entry| batch.apply(entry)).collect();
        self.write(batch, &write_options(durability))?;
        Ok(outcomes)
    }

    /// Ends writing to a region whose data could not be read, and returns why.
    fn stop_region(&self, region_id: u64, error: Error) -> Error {
        self.health.stop_region(region_id, error.to_string());
        error
    }

    fn write(&self, batch: Batch<'_>, options: &WriteOptions) -> Result<(), Error> {
        let changes_regions = batch.changes_regions();
        let write_batch = batch.into_write_batch();
        if write_batch.is_empty() {
            return Ok(());
        }
        let written = self.engine.database.write_opt(write_batch, options);
        written.map_err(|error| {
            let cause = error.to_string();
            self.health.stop(cause.clone());
            Error::Undetermined { cause }
        })?;
        if changes_regions {
            self.engine.forget_epochs();
        }
        Ok(())
    }
}

fn write_options(durability: Durability) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(durability == Durability::Sync);
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

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use bytes::Bytes;

    use super::super::room::Room;
    use super::super::{PendingWrite, Submission};
    use super::*;
    use crate::command::Command;
    use crate::engine::Family;
    use crate::identity::{DataDirectory, Role};
    use crate::keys::{self, versioned::encode};
    use crate::region::RegionDescriptor;

    /// A storage whose thread does not run.
    struct Stopped {
        worker: Worker,
        room: Arc<Room>,
        _directory: tempfile::TempDir,
    }

    impl Stopped {
        fn new(block_cache_bytes: usize) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let options = StorageOptions {
                block_cache_bytes,
                ..StorageOptions::new(Role::Embedded)
            };
            let data_directory = DataDirectory::open(directory.path(), options.role, true).unwrap();
            let engine = Arc::new(Engine::open(Arc::new(data_directory), &options, true).unwrap());
            Self {
                worker: Worker::new(engine, &options),
                room: Room::new(options.write_queue_bytes_max),
                _directory: directory,
            }
        }

        fn submit(&self, commands: Vec<Command>) -> PendingWrite {
            let submission = Submission::new(1, commands);
            let (queued, pending) = Queued::new(submission, self.room.take(1).unwrap());
            self.worker.queue.push(queued).unwrap();
            pending
        }

        fn commit<'a>(&'a self, slow: &mut Option<Slow<'a>>) {
            let taken = self.worker.queue.take(Duration::ZERO);
            self.worker.commit(taken.unwrap(), slow);
        }
    }

    /// The thread starts late here, as if it had waited for the disk: what is queued by then needs no wait of its own.
    #[test]
    fn what_is_queued_while_the_writer_is_busy_is_synced_once_and_answered_each() {
        const SUBMISSIONS: usize = 64;
        let storage = Stopped::new(8 << 20);
        let submit = |number: usize| {
            let (key, value) = (number.to_string().into(), "v".into());
            storage.submit(vec![Command::PutRaw { key, value }])
        };
        let pending: Vec<_> = (0..SUBMISSIONS).map(submit).collect();
        let engine = Arc::clone(&storage.worker.engine);
        let syncs_before = engine.database.wal_sync_count();
        storage.worker.queue.close();
        storage.worker.run();
        assert_eq!(engine.database.wal_sync_count() - syncs_before, 1);
        for pending in pending {
            assert_eq!(pending.wait().unwrap().len(), 1);
        }
    }

    #[test]
    fn an_epoch_is_read_once_until_it_changes() {
        let storage = Stopped::new(8 << 20);
        let region = |version| RegionDescriptor {
            id: 1,
            start_key: Bytes::new(),
            end_key: Bytes::new(),
            conf_version: 1,
            version,
            peers: Vec::new(),
        };
        let commit = |submission: Submission| {
            let (queued, pending) = Queued::new(submission, storage.room.take(1).unwrap());
            storage.worker.queue.push(queued).unwrap();
            storage.commit(&mut None);
            pending.wait().unwrap().remove(0)
        };
        let put_region = |version| Submission::new(1, vec![Command::PutRegion(region(version))]);
        let delete = || {
            let key = "k".into();
            Submission::new(1, vec![Command::DeleteRaw { key }]).under_epoch(3)
        };
        commit(put_region(3));
        assert_eq!(commit(delete()), Outcome::Done);
        // Past the writer: only a read of the database would see it.
        let engine = &storage.worker.engine;
        let (key, record) = (keys::region::key(1), keys::region::encode(&region(9)));
        let family = engine.family(Family::RaftState);
        engine.database.put_cf(family, key, record).unwrap();
        assert_eq!(commit(delete()), Outcome::Done);
        commit(put_region(4));
        let current_version = 4;
        assert_eq!(commit(delete()), Outcome::EpochChanged { current_version });
    }

    #[test]
    fn values_that_do_not_stay_in_memory_are_read_a_few_at_a_time_between_other_writes() {
        const KEYS: usize = 8;
        let storage = Stopped::new(64 << 10);
        let engine = &storage.worker.engine;
        let mut random = fastrand::Rng::with_seed(1);
        let mut value = vec![0; 1 << 20];
        for number in 0..KEYS {
            random.fill(&mut value);
            let family = engine.family(Family::Versioned);
            let record = encode(1, &value);
            engine
                .database
                .put_cf(family, number.to_string(), record)
                .unwrap();
        }
        engine.database.flush().unwrap();

        // This one stays in the memtable.
        let family = engine.family(Family::Versioned);
        engine
            .database
            .put_cf(family, "warm", encode(1, b""))
            .unwrap();

        let swap = |key: String| Command::CompareAndSwap {
            key: key.into(),
            expected_version: 1,
            value: "new".into(),
        };
        let keys = (0..KEYS).map(|number| number.to_string());
        let keys = std::iter::once("warm".to_owned()).chain(keys);
        let mut slow = None;
        let mut all = storage.submit(keys.map(swap).collect());
        storage.commit(&mut slow);
        assert!(slow.is_none(), "it is to be warmed");
        storage.worker.queue.take_cold().unwrap().give_up();
        storage.commit(&mut slow);
        storage.commit(&mut slow);
        assert!(slow.is_some(), "it is being read");
        let other = storage.submit(vec![swap("warm".to_owned())]);
        storage.commit(&mut slow);
        assert_eq!(other.wait().unwrap(), [Outcome::Swapped { version: 2 }]);

        let mut rounds = 0;
        let outcomes = loop {
            let mut context = Context::from_waker(Waker::noop());
            match Pin::new(&mut all).poll(&mut context) {
                Poll::Ready(outcomes) => break outcomes.unwrap(),
                Poll::Pending => storage.commit(&mut slow),
            }
            rounds += 1;
        };
        assert!(rounds >= KEYS - 3, "{rounds}");
        let overtaken = Outcome::Conflict {
            current_version: 2,
            current_value: Some("new".into()),
        };
        assert_eq!(outcomes[0], overtaken);
        assert_eq!(outcomes[1..], vec![Outcome::Swapped { version: 2 }; KEYS]);
    }
}
