//! The writer's queue: all groups put jobs in, and one thread takes them out.
//!
//! It has no bound. Entries of other leaders are bounded by what their streams may have in flight. Those of a leader here are not bounded by
//! what it has in flight: the others may commit them while the device stands still. So a group may refuse proposals while the jobs have more
//! than [`UNWRITTEN_BYTES_MAX`](super::UNWRITTEN_BYTES_MAX). A group waits for its vote before it asks for anything else.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::health::stopped;
use super::job::Job;
use crate::figures::LogFigures;

/// Most that is taken at once, but at least one job.
const TAKE_BYTES_MAX: usize = 8 << 20;

/// What the thread gets.
pub(super) enum Taken {
    /// At least one job, in the order they came.
    Jobs(Vec<Job>),
    /// Nothing came for a while.
    Nothing,
    /// The queue is closed and empty.
    Closed,
}

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    /// What the jobs have is noted here.
    figures: Arc<LogFigures>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Whether the thread waits, so that a busy one need not be woken.
    waiting: bool,
    /// Why no more jobs are taken in.
    closed: Option<String>,
    /// When the jobs were taken that are being written. `None`: there are none.
    taken_at: Option<Instant>,
}

impl Queue {
    /// A queue whose size is noted in `figures`.
    pub(super) fn new(figures: Arc<LogFigures>) -> Self {
        Self {
            figures,
            ..Self::default()
        }
    }

    /// Adds a job.
    ///
    /// # Errors
    ///
    /// When the queue is closed. The job is dropped.
    pub(super) fn push(&self, job: Job) -> io::Result<()> {
        let bytes = job.bytes();
        let mut state = self.state();
        if let Some(cause) = &state.closed {
            return Err(stopped(cause));
        }
        self.figures.unwritten_bytes.fetch_add(bytes, Relaxed);
        state.jobs.push_back(job);
        if state.waiting {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Waits for a job, `idle` at most, and takes what else is there, up to the limit.
    pub(super) fn take(&self, idle: Duration) -> Taken {
        let mut state = self.state();
        let idles = |state: &State| state.jobs.is_empty() && state.closed.is_none();
        if idles(&state) {
            state.waiting = true;
            let waited = self
                .arrived
                .wait_timeout_while(state, idle, |state| idles(state));
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            state.waiting = false;
        }
        let mut bytes = 0;
        let mut jobs = Vec::new();
        while bytes < TAKE_BYTES_MAX
            && let Some(job) = state.jobs.pop_front()
        {
            bytes += job.bytes();
            jobs.push(job);
        }
        if !jobs.is_empty() {
            state.taken_at = Some(Instant::now());
            Taken::Jobs(jobs)
        } else if state.closed.is_some() {
            Taken::Closed
        } else {
            Taken::Nothing
        }
    }

    /// About how many bytes of jobs are not written yet.
    pub(super) fn unwritten_bytes(&self) -> usize {
        self.figures.unwritten_bytes.load(Relaxed)
    }

    /// For how long the jobs that were taken last have been written by now. Zero: they are done.
    pub(super) fn writes_for(&self) -> Duration {
        let taken_at = self.state().taken_at;
        taken_at.map_or(Duration::ZERO, |taken_at| taken_at.elapsed())
    }

    /// Whether the write of the jobs that were taken last takes longer than `patience` by now.
    pub(super) fn stands_still(&self, patience: Duration) -> bool {
        self.writes_for() > patience
    }

    /// Notes that the jobs that were taken last, of so many bytes, were written, or have failed.
    pub(super) fn note_done(&self, bytes: usize) {
        self.state().taken_at = None;
        self.note_gone(bytes);
    }

    fn note_gone(&self, bytes: usize) {
        self.figures.unwritten_bytes.fetch_sub(bytes, Relaxed);
    }

    /// Takes no more jobs in. Those that are queued can still be taken.
    pub(super) fn close(&self, cause: &str) {
        let mut state = self.state();
        state.closed.get_or_insert_with(|| cause.to_owned());
        self.arrived.notify_one();
    }

    /// Takes no more jobs in, and fails those that are queued.
    pub(super) fn fail(&self, cause: &str) {
        self.close(cause);
        let jobs = std::mem::take(&mut self.state().jobs);
        for job in jobs {
            self.note_gone(job.bytes());
            job.complete(Err(cause));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use openraft::storage::IOFlushed;

    use super::*;
    use crate::log::MemoryDevice;
    use crate::log::group_log::GroupLog;
    use crate::log::job::Flushed;
    use crate::types::{Content, Entry, LogId, Payload};

    fn append(payload_bytes: usize) -> Job {
        let log = GroupLog::open(&MemoryDevice::default(), 1, Arc::default()).unwrap();
        Job::Append {
            log: Arc::new(log),
            entries: vec![Entry {
                log_id: LogId::new_term_index(1, 1),
                payload: Content::Normal(Payload(vec![0; payload_bytes].into())),
            }],
            truncations: 0,
            flushed: Flushed::new(IOFlushed::noop()),
        }
    }

    fn take(queue: &Queue) -> usize {
        match queue.take(Duration::ZERO) {
            Taken::Jobs(jobs) => jobs.len(),
            Taken::Nothing => 0,
            Taken::Closed => usize::MAX,
        }
    }

    #[test]
    fn a_round_is_limited_in_bytes_and_has_at_least_one_job() {
        let queue = Queue::default();
        assert_eq!(take(&queue), 0);
        for payload_bytes in [TAKE_BYTES_MAX, 1, TAKE_BYTES_MAX, 1] {
            queue.push(append(payload_bytes)).unwrap();
        }
        assert_eq!([take(&queue), take(&queue), take(&queue)], [1, 2, 1]);
        let taken = queue.unwritten_bytes();
        assert!(taken >= 2 * TAKE_BYTES_MAX, "they are not written yet");
        queue.note_done(taken);
        assert_eq!(queue.unwritten_bytes(), 0);
    }

    #[test]
    fn a_closed_queue_is_emptied_and_a_failed_one_is_empty() {
        let queue = Queue::default();
        queue.push(append(1)).unwrap();
        queue.close("the test says so");
        let refused = queue.push(append(1)).unwrap_err();
        let message = "the Raft log has stopped: the test says so";
        assert_eq!(refused.to_string(), message);
        assert_eq!([take(&queue), take(&queue)], [1, usize::MAX]);

        let queue = Queue::default();
        queue.push(append(1)).unwrap();
        queue.fail("the test says so");
        assert_eq!(take(&queue), usize::MAX);
        assert_eq!(queue.unwritten_bytes(), 0);
    }
}
