//! Runs callers for a while and reports what they did.
//!
//! **Closed loop**: a caller begins its next operation when the one before is answered. **Open loop**: operation i is due at
//! start + i / rate. A free caller takes it then, or as soon as there is one, and its latency counts from when it was due.
//! So a server that stalls for a second shows in all operations of that second, not only in those it had in hand (the
//! correction for what Gil Tene calls coordinated omission). Due times are kept to about 0.1 ms.
//!
//! An operation counts if it began (was due) after the warm-up and before the end; the run waits for its answer.
//! Throughput is the number of counted operations divided by the time from the end of the warm-up to the last answer.
//! Operations that were due and could not begin before the end are reported, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::progress::Progress;
use super::recorder::{OperationError, Recorder};
use super::report::Measured;
use super::workload::{Caller, Done};

/// Pause of a caller after a failure, so that what fails at once does not keep the processors busy.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);

/// Shortest pause between two looks at the clock for operations that are due.
const PACE_PAUSE_MIN: Duration = Duration::from_micros(50);

/// Beyond the time that a call may take: what the runtime and the machine may need.
const GRACE: Duration = Duration::from_secs(5);

/// When operations begin, and which of them count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    /// The workload's name, for showing progress.
    pub(crate) workload: &'static str,
    /// The span before operations are counted.
    pub(crate) warmup: Duration,
    /// The span in which an operation has to begin to be counted.
    pub(crate) duration: Duration,
    /// Operations due per second; `None`: closed loop.
    pub(crate) rate: Option<f64>,
    /// How long an operation may take.
    pub(crate) timeout: Duration,
    /// Threads that run callers.
    pub(crate) threads: usize,
}

/// The time that is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) begin: Instant,
    pub(crate) end: Instant,
}

impl Window {
    pub(crate) fn starting_now(schedule: &Schedule) -> Self {
        let begin = Instant::now() + schedule.warmup;
        let end = begin + schedule.duration;
        Self { begin, end }
    }

    pub(crate) fn counts(&self, begun: Instant) -> bool {
        self.begin <= begun && begun < self.end
    }
}

/// The operations of one caller that count.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    operations: u64,
    conflicts: u64,
    last_end: Option<Instant>,
}

/// Runs `callers` by `schedule`.
pub(crate) async fn run<C: Caller>(callers: Vec<C>, schedule: Schedule) -> Measured {
    let window = Window::starting_now(&schedule);
    let recorder = Arc::new(Recorder::new(schedule.threads, window.begin));
    let start = window.begin - schedule.warmup;
    let tickets = schedule
        .rate
        .map(|rate| Tickets::issue(rate, start, window.end));
    let mut tasks = JoinSet::new();
    for caller in callers {
        let tickets = tickets.clone();
        tasks.spawn(operate(caller, window, tickets, Arc::clone(&recorder)));
    }
    let tallies = gather(tasks, window, &schedule, &recorder).await;
    let not_started = tickets.map(|tickets| tickets.not_started(window));
    measured(tallies, window, &recorder, not_started)
}

/// Waits for `tasks`, showing their progress, until they are overdue.
pub(crate) async fn gather(
    mut tasks: JoinSet<Tally>,
    window: Window,
    schedule: &Schedule,
    recorder: &Recorder,
) -> Vec<Tally> {
    let progress = Progress::new(schedule.workload);
    let overdue = tokio::time::Instant::from_std(window.end + schedule.timeout + GRACE);
    let mut tallies = Vec::with_capacity(tasks.len());
    let mut looks = tokio::time::interval(Progress::INTERVAL);
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(Ok(tally)) => tallies.push(tally),
                Some(Err(panicked)) => recorder.record_error(OperationError {
                    kind: "panic".to_owned(),
                    message: panicked.to_string(),
                }),
                None => return tallies,
            },
            _ = looks.tick() => progress.show(recorder.progress(), window),
            () = tokio::time::sleep_until(overdue) => break,
        }
    }
    for _ in 0..tasks.len() {
        recorder.record_error(OperationError {
            kind: "unanswered".to_owned(),
            message: "neither an answer nor a failure came in time".to_owned(),
        });
    }
    tasks.shutdown().await;
    tallies
}

pub(crate) fn measured(
    tallies: Vec<Tally>,
    window: Window,
    recorder: &Recorder,
    not_started: Option<u64>,
) -> Measured {
    let last_end = tallies.iter().filter_map(|tally| tally.last_end).max();
    let end = last_end.unwrap_or(window.end).max(window.end);
    Measured {
        elapsed: end - window.begin,
        operations_by_caller: tallies.iter().map(|tally| tally.operations).collect(),
        conflicts: tallies.iter().map(|tally| tally.conflicts).sum(),
        not_started,
        latencies: recorder.latencies(),
        longest_gap: recorder.longest_gap(end),
        errors: recorder.errors(),
    }
}

impl Tally {
    /// Notes an operation that began, or was due, at `begun`.
    pub(crate) fn note(
        &mut self,
        done: Done,
        begun: Instant,
        ended: Instant,
        window: Window,
        recorder: &Recorder,
    ) {
        let counts = window.counts(begun);
        recorder.record(counts.then(|| ended - begun), ended);
        if counts {
            self.operations += 1;
            self.conflicts += done.conflicts;
            self.last_end = Some(ended);
        }
    }

    async fn note_result(
        &mut self,
        result: Result<Done, OperationError>,
        begun: Instant,
        window: Window,
        recorder: &Recorder,
    ) -> Instant {
        let ended = Instant::now();
        match result {
            Ok(done) => {
                self.note(done, begun, ended, window, recorder);
                ended
            }
            // Also before the measuring begins: a run that fails then is none.
            Err(error) => {
                recorder.record_error(error);
                tokio::time::sleep(FAILURE_PAUSE).await;
                Instant::now()
            }
        }
    }
}

/// An open loop with tickets, else a closed one.
async fn operate(
    mut caller: impl Caller,
    window: Window,
    tickets: Option<Arc<Tickets>>,
    recorder: Arc<Recorder>,
) -> Tally {
    let mut tally = Tally::default();
    let mut free_at = Instant::now();
    loop {
        let begun = match &tickets {
            Some(tickets) => tickets.next().await,
            None => Some(free_at).filter(|now| *now < window.end),
        };
        let Some(begun) = begun else {
            return tally;
        };
        let result = caller.operate().await;
        free_at = tally.note_result(result, begun, window, &recorder).await;
    }
}

/// The operations that are due. A separate thread issues them, since the runtime's timers are no finer than a millisecond.
/// It ends with the run.
struct Tickets {
    start: Instant,
    rate: f64,
    taken: AtomicU64,
    due: Semaphore,
}

impl Tickets {
    fn issue(rate: f64, start: Instant, end: Instant) -> Arc<Self> {
        let tickets = Arc::new(Self {
            start,
            rate,
            taken: AtomicU64::new(0),
            due: Semaphore::new(0),
        });
        let issuing = Arc::clone(&tickets);
        thread::spawn(move || issuing.issue_until(end));
        tickets
    }

    /// How many were due within `window` and could not begin before its end.
    fn not_started(&self, window: Window) -> u64 {
        let taken = self.taken.load(Ordering::Relaxed);
        let due_at = (taken..).map(|number| self.due_at(number));
        let left = due_at.take_while(|due_at| *due_at < window.end);
        left.filter(|due_at| window.counts(*due_at)).count() as u64
    }

    /// Waits until the next operation is due, and returns that time. `None`: there are no more.
    async fn next(&self) -> Option<Instant> {
        self.due.acquire().await.ok()?.forget();
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        Some(self.due_at(number))
    }

    fn due_at(&self, number: u64) -> Instant {
        self.start + Duration::from_secs_f64(number as f64 / self.rate)
    }

    fn issue_until(&self, end: Instant) {
        let mut issued = 0;
        loop {
            let now = Instant::now();
            if now >= end || self.due.is_closed() {
                self.due.close();
                return;
            }
            let mut due = 0;
            while self.due_at(issued) <= now && due < Semaphore::MAX_PERMITS {
                issued += 1;
                due += 1;
            }
            self.due.add_permits(due);
            let next = self.due_at(issued).min(end);
            thread::sleep(
                next.saturating_duration_since(Instant::now())
                    .max(PACE_PAUSE_MIN),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE_TIME: Duration = Duration::from_millis(50);

    /// One whose server is slow.
    struct SlowCaller;

    impl Caller for SlowCaller {
        async fn operate(&mut self) -> Result<Done, OperationError> {
            tokio::time::sleep(SERVICE_TIME).await;
            Ok(Done::default())
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_open_loop_counts_what_is_due_and_the_time_that_it_waits_for_its_turn() {
        let schedule = Schedule {
            workload: "slow",
            warmup: Duration::ZERO,
            duration: Duration::from_millis(300),
            rate: Some(1_000.0),
            timeout: Duration::from_secs(60),
            threads: 1,
        };
        let measured = run(vec![SlowCaller], schedule).await;
        let operations = measured.latencies.len();
        assert_eq!(operations, measured.operations_by_caller[0]);
        let not_started = measured.not_started.expect("an open loop");
        assert!((299..=301).contains(&(operations + not_started)));
        // The last was due a millisecond after the one before, and waited for all of them.
        let service_ms = SERVICE_TIME.as_millis() as u64;
        let waited_ms = operations * service_ms - operations.saturating_sub(1);
        let slowest_ms = measured.latencies.max() / 1_000_000;
        assert!(slowest_ms + 1 >= waited_ms, "{slowest_ms} of {waited_ms}");
    }
}
