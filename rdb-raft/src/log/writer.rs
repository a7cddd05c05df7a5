//! The thread that writes all logs.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rdb_storage::remedy;
use tokio::sync::{oneshot, watch};

use super::cache::CachedBytes;
use super::group_log::{GroupLog, noted_peer};
use super::health::stopped;
use super::job::Job;
use super::queue::{Queue, Taken};
use super::{Batch, LogDevice, LogHealth, LogStore, keys};
use crate::encoding;
use crate::figures::LogFigures;
use crate::mutant::Mutant;
use crate::simulation;

/// How often the device is asked for failures that no write has returned.
const BACKGROUND_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Writes the logs of all groups. Dropping it closes it.
pub struct LogWriter {
    shared: Arc<Shared>,
    cached_bytes: Arc<CachedBytes>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    queue: Arc<Queue>,
    device: Arc<dyn LogDevice>,
    health: watch::Sender<LogHealth>,
    figures: Arc<LogFigures>,
}

impl LogWriter {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When the system has no thread left.
    pub fn start(device: Arc<dyn LogDevice>) -> io::Result<Self> {
        let figures = Arc::<LogFigures>::default();
        let shared = Arc::new(Shared {
            queue: Arc::new(Queue::new(Arc::clone(&figures))),
            device,
            health: watch::Sender::new(LogHealth::Healthy),
            figures,
        });
        let worker = Worker {
            shared: Arc::clone(&shared),
            batch: Batch::default(),
        };
        let thread = if simulation::is_on() {
            tokio::spawn(worker.run_as_task());
            None
        } else {
            let thread = thread::Builder::new().name("rdb-log-writer".to_owned());
            Some(thread.spawn(move || worker.run())?)
        };
        Ok(Self {
            thread: Mutex::new(thread),
            cached_bytes: Arc::default(),
            shared,
        })
    }

    /// Opens the log of a group, which is empty if the device has none. It reads a few records and may block.
    ///
    /// A group has one [`LogStore`] at a time: a second one would not know what the first one changes.
    ///
    /// # Errors
    ///
    /// When the device cannot be read, or what it holds is damaged.
    pub fn open_group(&self, group_id: u64) -> io::Result<LogStore> {
        let shared = &self.shared;
        let cached_bytes = Arc::clone(&self.cached_bytes);
        let log = GroupLog::open(&*shared.device, group_id, cached_bytes)?;
        let (queue, device) = (Arc::clone(&shared.queue), Arc::clone(&shared.device));
        Ok(LogStore::new(Arc::new(log), queue, device))
    }

    /// The peer that was noted as the owner of a group's log. May block.
    pub(crate) fn noted_peer(&self, group_id: u64) -> io::Result<Option<u64>> {
        noted_peer(&*self.shared.device, group_id)
    }

    /// All groups with any record, each with the owner of its log, if that was noted and can be read. May block.
    pub(crate) fn groups(&self) -> io::Result<BTreeMap<u64, Option<u64>>> {
        let (start, end) = keys::beside_entries();
        let mut groups = BTreeMap::new();
        let mut visit = |key: &[u8], record: &[u8]| {
            if let Ok((group_id, is_peer)) = keys::group(key) {
                let peer = groups.entry(group_id).or_insert(None);
                if is_peer {
                    *peer = encoding::peer::decode(record).ok();
                }
            }
            ControlFlow::Continue(())
        };
        self.shared.device.scan(&start, &end, &mut visit)?;
        Ok(groups)
    }

    /// Removes the note of whose log that of a group is, durably.
    pub(crate) async fn forget_peer(&self, group_id: u64) -> io::Result<()> {
        let (noted, durable) = oneshot::channel();
        self.shared.queue.push(Job::Peer {
            group_id,
            peer_id: None,
            noted,
        })?;
        let ended = |_| stopped("the writer ended before it was forgotten whose log it is");
        durable.await.map_err(ended)?
    }

    /// Durably removes the log and the vote of a group, in any state. Nobody may change the log any more.
    pub(crate) async fn destroy_group(&self, group_id: u64) -> io::Result<()> {
        let (destroyed, durable) = oneshot::channel();
        self.shared.queue.push(Job::Destroy {
            group_id,
            destroyed,
        })?;
        let ended = |_| stopped("the writer ended before the log was destroyed");
        durable.await.map_err(ended)?
    }

    /// Whether logs are written.
    pub fn health(&self) -> watch::Receiver<LogHealth> {
        self.shared.health.subscribe()
    }

    /// Whether the write and sync that is under way has taken longer than `patience` by now.
    pub(crate) fn stands_still(&self, patience: Duration) -> bool {
        self.shared.queue.stands_still(patience)
    }

    /// What it counts.
    pub(crate) fn figures(&self) -> &Arc<LogFigures> {
        &self.shared.figures
    }

    /// Refuses new changes, lets the thread write those that are queued, and waits for it to end.
    pub fn close(&self) {
        self.shared.queue.close("it was closed");
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // A panic was logged and answered by the worker's guard.
            let _ = thread.join();
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// Notes a batch of jobs that was written, of so many bytes.
    fn note(&self, jobs: &[Job], bytes: usize, took: Duration) {
        let figures = &self.figures;
        figures.commit_durations.note(took);
        let entries = jobs.iter().map(Job::entry_count).sum();
        if entries > 0 {
            figures.commit_entries.note_size(entries);
        }
        figures.bytes.add(bytes as u64);
    }

    /// Ends writing for good. The first cause is kept.
    fn stop(&self, cause: String) {
        let is_first = self.health.send_if_modified(|health| {
            let is_first = *health == LogHealth::Healthy;
            if is_first {
                let cause = cause.clone();
                *health = LogHealth::Stopped { cause };
            }
            is_first
        });
        if is_first {
            tracing::error!(%cause, "the Raft log has stopped; {}", remedy(&cause));
            self.queue.fail(&cause);
        }
    }
}

/// What the thread owns.
struct Worker {
    shared: Arc<Shared>,
    /// Used again for each round, so that its buffer is allocated once.
    batch: Batch,
}

impl Worker {
    fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let _guard = EndOfWriting(&shared);
        let mut checked = Instant::now();
        loop {
            match shared.queue.take(BACKGROUND_CHECK_INTERVAL) {
                Taken::Jobs(jobs) => self.commit(jobs),
                Taken::Nothing => {}
                Taken::Closed => return,
            }
            if checked.elapsed() >= BACKGROUND_CHECK_INTERVAL {
                if let Some(cause) = shared.device.background_error() {
                    shared.stop(cause);
                }
                checked = Instant::now();
            }
        }
    }

    /// The same in a simulation.
    async fn run_as_task(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            simulation::disk().await;
            match shared.queue.take(Duration::ZERO) {
                Taken::Jobs(jobs) => self.commit(jobs),
                Taken::Nothing => {}
                Taken::Closed => return,
            }
        }
    }

    /// Writes jobs with one sync, and completes them. It also syncs truncations and purges, although nobody waits for them:
    /// after a power cut, RocksDB would take unsynced writes at the end of one log and synced ones in the next for damage.
    ///
    /// The last job is completed first. openraft takes completions as a high-water mark: the newest append of a group covers the older
    /// ones, which then wake nobody. Two completions within a microsecond would make openraft sleep for a tick of the clock.
    fn commit(&mut self, jobs: Vec<Job>) {
        let bytes = jobs.iter().map(Job::bytes).sum();
        let writing = Writing {
            queue: &self.shared.queue,
            bytes,
        };
        self.batch.clear();
        for job in &jobs {
            job.write(&mut self.batch);
        }
        let sync = !Mutant::AcknowledgeBeforeSync.is_on();
        let began = Instant::now();
        let written = self.shared.device.write(&self.batch, sync);
        let took = began.elapsed();
        let written = written.map_err(|error| error.to_string());
        drop(writing);
        match &written {
            Ok(()) => self.shared.note(&jobs, bytes, took),
            Err(cause) => self.shared.stop(cause.clone()),
        }
        for job in jobs.into_iter().rev() {
            job.complete(written.as_ref().copied().map_err(String::as_str));
        }
    }
}

/// Jobs of so many bytes that are being written. They are done also when the thread unwinds.
struct Writing<'a> {
    queue: &'a Queue,
    bytes: usize,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.queue.note_done(self.bytes);
    }
}

/// Ends writing when the thread unwinds. The jobs it had fail by being dropped.
struct EndOfWriting<'a>(&'a Shared);

impl Drop for EndOfWriting<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop("the writer thread panicked".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::Ordering;

    use futures::FutureExt;
    use openraft::LogState;
    use openraft::storage::{IOFlushed, RaftLogStorage};

    use super::*;
    use crate::log::held_device::{HeldDevice, append_too_much};
    use crate::types::{Content, Entry, LogId, Vote};

    #[tokio::test]
    async fn what_is_queued_of_a_log_that_is_destroyed_does_not_come_back() {
        let device = Arc::<HeldDevice>::default();
        let writer = LogWriter::start(Arc::clone(&device) as _).unwrap();
        let mut store = writer.open_group(1).unwrap();
        let entry = Entry {
            log_id: LogId::new_term_index(1, 0),
            payload: Content::Blank,
        };
        let vote = Vote::new(1, 1);
        let lock = device.lock.lock().unwrap();
        let appended = store.append([entry], IOFlushed::noop()).now_or_never();
        appended.unwrap().unwrap();
        while device.begun.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        // It waits for the append.
        let mut voting = pin!(store.save_vote(&vote));
        assert!(voting.as_mut().now_or_never().is_none());
        let mut destroying = pin!(writer.destroy_group(1));
        assert!(destroying.as_mut().now_or_never().is_none());
        drop(lock);
        destroying.await.unwrap();
        voting.await.unwrap();
        assert!(writer.groups().unwrap().is_empty());
        let mut store = writer.open_group(1).unwrap();
        assert_eq!(store.get_log_state().await.unwrap(), LogState::default());
    }

    #[tokio::test]
    async fn it_is_seen_for_how_long_a_write_has_not_ended() {
        let device = Arc::<HeldDevice>::default();
        let writer = LogWriter::start(Arc::clone(&device) as _).unwrap();
        let mut store = writer.open_group(1).unwrap();
        assert_eq!(writer.shared.queue.writes_for(), Duration::ZERO);
        let vote = Vote::new(1, 1);
        let lock = device.lock.lock().unwrap();
        let mut voting = pin!(store.save_vote(&vote));
        assert!(voting.as_mut().now_or_never().is_none());
        while writer.shared.queue.writes_for() < Duration::from_millis(20) {
            thread::yield_now();
        }
        drop(lock);
        voting.await.unwrap();
        assert_eq!(writer.shared.queue.writes_for(), Duration::ZERO);
    }

    #[tokio::test]
    async fn after_a_panic_nothing_is_being_written() {
        let device = Arc::<HeldDevice>::default();
        let writer = LogWriter::start(Arc::clone(&device) as _).unwrap();
        let mut store = writer.open_group(1).unwrap();
        let poisoned = Arc::clone(&device);
        let poisoning = thread::spawn(move || {
            let _lock = poisoned.lock.lock().unwrap();
            assert!(poisoned.is_broken.load(Ordering::SeqCst), "on purpose");
        });
        assert!(poisoning.join().is_err());
        store.save_vote(&Vote::new(1, 1)).await.unwrap_err();
        assert_eq!(writer.shared.queue.writes_for(), Duration::ZERO);
        writer.close();
        assert_eq!(writer.shared.queue.unwritten_bytes(), 0);
    }

    #[tokio::test]
    async fn much_unwritten_stops_its_own_group_and_the_others_only_at_a_standstill() {
        const DAY: Duration = Duration::from_secs(86_400);
        let device = Arc::<HeldDevice>::default();
        let writer = LogWriter::start(Arc::clone(&device) as _).unwrap();
        let quiet = writer.open_group(1).unwrap();
        let mut busy = writer.open_group(2).unwrap();
        let is_full = |log: &LogStore, patience| log.backlog(patience).is_full();
        let lock = device.lock.lock().unwrap();
        append_too_much(&mut busy);
        assert!(is_full(&busy, DAY));
        assert!(!is_full(&quiet, DAY));
        while writer.shared.queue.writes_for().is_zero() {
            thread::yield_now();
        }
        assert!(is_full(&quiet, Duration::ZERO));
        drop(lock);
        busy.save_vote(&Vote::new(1, 1)).await.unwrap();
        assert!(!is_full(&busy, Duration::ZERO));
    }

    #[tokio::test]
    async fn a_batch_that_is_not_written_is_not_counted() {
        let device = Arc::<HeldDevice>::default();
        let writer = LogWriter::start(Arc::clone(&device) as _).unwrap();
        let mut store = writer.open_group(1).unwrap();
        store.save_vote(&Vote::new(1, 1)).await.unwrap();
        let noted = || {
            let figures = writer.figures();
            let batches = figures.commit_durations.snapshot().count();
            (batches, figures.bytes.get())
        };
        let written = noted();
        assert_eq!(written.0, 1);
        device.is_broken.store(true, Ordering::SeqCst);
        store.save_vote(&Vote::new(2, 1)).await.unwrap_err();
        assert_eq!(noted(), written);
    }
}
