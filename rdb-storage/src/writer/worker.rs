//! The writer's thread: takes what is queued, applies it to one batch, writes that and answers. Entries of a replicated log
//! are written here, too, on the thread of their caller.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rocksdb::{ErrorKind, WriteBatch, WriteOptions};

use super::health::Health;
use super::queue::{Queue, Queued};
use super::warmer::Warmer;
use crate::applied::{AppliedState, flushed};
use crate::apply::Batch;
use crate::command::Outcome;
use crate::engine::Engine;
use crate::error::Error;
use crate::log_entry::{ApplyOptions, LogChange, LogEntry};
use crate::options::{Durability, StorageOptions};
use crate::read::ReadError;
use crate::region::RegionDescriptor;

/// How often RocksDB's own threads are asked whether they met an error. They have no way to tell.
const BACKGROUND_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// How often a write that RocksDB holds back looks whether it may go on.
const HELD_BACK_INTERVAL: Duration = Duration::from_millis(5);

/// What an entry and a command of it take in a log beside keys and values, in bytes.
const LOG_OVERHEAD_BYTES: usize = 32;

/// How much the thread reads from the disk in a round, and one record more.
const DISK_BYTES: usize = 1 << 20;

/// When a batch has read this many bytes, it takes no more submissions.
const BATCH_READ_BYTES: usize = 16 << 20;

/// What the thread works with. The handle shares it.
pub(super) struct Worker {
    pub(super) queue: Arc<Queue>,
    pub(super) warmer: Warmer,
    pub(super) health: Arc<Health>,
    engine: Arc<Engine>,
    durability: Durability,
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

    /// Applies entries of one region on the thread of the caller. `None`: that would block, and nothing was applied.
    pub(super) fn apply(
        &self,
        region_id: u64,
        entries: &[LogEntry],
        options: ApplyOptions,
        may_block: bool,
    ) -> Result<Option<Vec<Vec<Outcome>>>, Error> {
        self.queue.check_open()?;
        self.health.check_log(region_id)?;
        let Some(last) = entries.last() else {
            return Ok(Some(Vec::new()));
        };
        let mut batch = Batch::new(&self.engine);
        let loaded = entries
            .iter()
            .map(|entry| entry.as_applied(region_id, options));
        let loaded: Vec<_> = loaded.collect();
        let mut disk_bytes = if may_block { usize::MAX } else { 0 };
        for entry in &loaded {
            match batch.load(entry, &mut disk_bytes) {
                Err(ReadError::NotInMemory) if !may_block => return Ok(None),
                read => {
                    read.map_err(|error| self.health.stop_log(region_id, error.into()))?;
                }
            }
        }
        let outcomes = loaded.iter().map(|entry| batch.apply(entry)).collect();
        batch.put_position(region_id, &last.position);
        if !self.write(batch, options.write_ahead_log, may_block)? {
            return Ok(None);
        }
        if options.write_ahead_log.is_none() {
            let bytes = entries.iter().map(log_bytes).sum::<usize>() as u64;
            self.replayed_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(Some(outcomes))
    }

    /// Refuses what writes to a region when writing has ended.
    pub(super) fn check(&self, region_id: u64) -> Result<(), Error> {
        self.queue.check_open()?;
        self.health.check(region_id)
    }

    /// Writes the first states of regions that have none, together. Whether there were any.
    pub(super) fn bootstrap(
        &self,
        regions: &[(RegionDescriptor, AppliedState)],
    ) -> Result<bool, Error> {
        let mut batch = Batch::new(&self.engine);
        let mut is_empty = true;
        for (region, state) in regions {
            self.check(region.id)?;
            if flushed(&self.engine, region.id)?.is_none() {
                batch.put_first_state(region, state);
                is_empty = false;
            }
        }
        if is_empty {
            return Ok(false);
        }
        self.write(batch, None, true)?;
        let flushed = self.engine.database.flush();
        flushed.map_err(|error| Error::io("flushing the first states of regions", error))?;
        Ok(true)
    }

    /// Lets a start apply no more than so much of the logs again.
    fn bound_replay(&self) {
        let bytes = self.replayed_bytes.load(Ordering::Relaxed);
        if bytes <= self.replayed_bytes_max {
            return;
        }
        self.replayed_bytes.store(0, Ordering::Relaxed);
        if let Err(error) = self.engine.database.begin_flush() {
            tracing::warn!(%error, "a start will have to apply more of the logs than it should");
        }
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
        while self.engine.database.holds_writes() {
            self.notice_background_error();
            self.health.check_any()?;
            thread::sleep(HELD_BACK_INTERVAL);
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

/// About how long an entry is in its log.
fn log_bytes(entry: &LogEntry) -> usize {
    let commands = match &entry.change {
        LogChange::Proposal(proposal) => &proposal.commands[..],
        LogChange::Membership(_) | LogChange::Check | LogChange::Blank => &[],
    };
    let commands = commands.iter();
    let bytes = commands.map(|command| command.payload_bytes() + LOG_OVERHEAD_BYTES);
    bytes.sum::<usize>() + LOG_OVERHEAD_BYTES
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

    use super::super::queue::WARMINGS_MAX;
    use super::super::room::Room;
    use super::super::{Admitted, PendingWrite, Submission};
    use super::*;
    use crate::applied::applied_position;
    use crate::apply::Entry;
    use crate::command::Command;
    use crate::engine::Family;
    use crate::identity::Role;
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
            let (directory, engine) = Engine::temporary(block_cache_bytes);
            let options = StorageOptions::new(Role::Embedded);
            Self {
                worker: Worker::new(engine, &options),
                room: Room::new(options.write_queue_bytes_max),
                _directory: directory,
            }
        }

        fn submit(&self, commands: Vec<Command>) -> PendingWrite {
            self.queue(Submission::new(1, commands))
        }

        fn queue(&self, submission: Submission) -> PendingWrite {
            let admitted = Admitted::new(submission, self.room.take(1).unwrap());
            let (queued, pending) = Queued::new(admitted);
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

    /// RocksDB may try for ever to get space on a full disk. Here it is a compaction that never comes.
    #[test]
    fn a_write_that_rocksdb_holds_back_is_not_made_when_writing_has_ended() {
        let storage = Stopped::new(8 << 20);
        let engine = &storage.worker.engine;
        engine.database.put("flushed", "v").unwrap();
        engine.database.flush().unwrap();
        let options = [
            ("level0_file_num_compaction_trigger", "100"),
            ("level0_slowdown_writes_trigger", "1"),
            ("level0_stop_writes_trigger", "1"),
        ];
        let family = engine.family(Family::Raw);
        engine.database.set_options_cf(family, &options).unwrap();
        let cause = "the disk is full".to_owned();
        storage.worker.health.stop(cause.clone());
        for write_ahead_log in [Some(Durability::Os), None] {
            let mut batch = Batch::new(engine);
            batch.put_position(1, b"position");
            let written = storage.worker.write(batch, write_ahead_log, true);
            let cause = cause.clone();
            assert_eq!(written, Err(Error::WritesStopped { cause }));
        }
        assert_eq!(applied_position(engine, 1), Ok(None));
    }

    #[test]
    fn a_write_without_the_write_ahead_log_that_meets_a_failed_flush_was_not_made() {
        let storage = Stopped::new(8 << 20);
        let engine = &storage.worker.engine;
        let files = engine.directory().path().join("db");
        // Where there is a directory, RocksDB can make no table.
        for number in 1..100 {
            std::fs::create_dir(files.join(format!("{number:06}.sst"))).unwrap();
        }
        engine.database.put("k", "v").unwrap();
        engine.database.flush().unwrap_err();
        let write = |write_ahead_log, may_wait| {
            let mut batch = Batch::new(engine);
            batch.put_position(1, b"position");
            storage.worker.write(batch, write_ahead_log, may_wait)
        };
        for may_wait in [false, true] {
            let refused = write(None, may_wait).unwrap_err();
            let Error::WritesStopped { cause } = &refused else {
                panic!("{refused:?}");
            };
            assert!(cause.contains(".sst"), "{cause}");
            assert!(storage.worker.health.is_stopped());
            assert_eq!(applied_position(engine, 1), Ok(None));
        }
        let logged = write(Some(Durability::Sync), false).unwrap_err();
        assert!(matches!(logged, Error::Undetermined { .. }), "{logged:?}");
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
            let pending = storage.queue(submission);
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
        for _ in 0..WARMINGS_MAX {
            storage.commit(&mut slow);
            assert!(slow.is_none(), "it is to be warmed");
            assert!(storage.worker.warmer.warm_next());
        }
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

    /// The values are in memory: the first take would read all of them.
    #[test]
    fn a_batch_takes_no_more_when_it_has_read_much() {
        let storage = Stopped::new(8 << 20);
        let record = encode(1, &vec![b'v'; 4 << 20]);
        let engine = &storage.worker.engine;
        let family = engine.family(Family::Versioned);
        let swap = |number: u32| {
            let key = number.to_string();
            engine.database.put_cf(family, &key, &record).unwrap();
            storage.submit(vec![Command::CompareAndSwap {
                key: key.into(),
                expected_version: 1,
                value: "new".into(),
            }])
        };
        let pending: Vec<_> = (0..6).map(swap).collect();
        storage.commit(&mut None);
        assert_eq!(storage.worker.queue.take(Duration::ZERO).unwrap().len(), 2);
        for pending in pending.into_iter().take(4) {
            assert_eq!(pending.wait().unwrap(), [Outcome::Swapped { version: 2 }]);
        }
    }

    /// Each record has a block of its own, so that none comes to memory with another.
    #[test]
    fn a_read_from_the_disk_counts_even_if_it_is_short() {
        const RECORDS: usize = 32;
        let storage = Stopped::new(8 << 20);
        let engine = &storage.worker.engine;
        let mut random = fastrand::Rng::with_seed(1);
        let mut value = vec![0; 4 << 10];
        let mut commands = Vec::new();
        for number in 0..RECORDS {
            random.fill(&mut value);
            let family = engine.family(Family::Versioned);
            let (key, record) = (format!("{number:02}"), encode(1, &value));
            engine.database.put_cf(family, &key, record).unwrap();
            commands.push(Command::CompareAndSwap {
                key: key.into(),
                expected_version: 1,
                value: "new".into(),
            });
        }
        engine.database.flush().unwrap();
        let entry = Entry {
            region_id: 1,
            epoch_version: None,
            commands: &commands,
            membership: None,
            conflict_values_bytes_max: 0,
        };
        let mut batch = Batch::new(engine);
        let loaded = batch.load(&entry, &mut (1 << 20));
        assert!(matches!(loaded, Err(ReadError::NotInMemory)));
        let read = batch.bytes_read() / value.len();
        assert!((1..=16).contains(&read), "{read} of {RECORDS} records");
    }
}
