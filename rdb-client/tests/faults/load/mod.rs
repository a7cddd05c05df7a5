//! Clients that go on whatever becomes of the stores, and what has to hold of all that they were told.
//!
//! Eight clients read and write registers of both keyspaces, and record each call for the check for linearizability. Two of
//! them only read: a client that writes leaves a leader that commits nothing, and a reader stays as long as it is answered.
//! Beside them some count and some move money. Every third client makes unary calls.

mod bank;
mod counter;
mod registers;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures::future::join_all;
use rdb_client::{Client, Error};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::harness::{CallPath, found, guarded};
use crate::history::{History, Record};
use bank::Transfers;
use counter::Counted;

/// Clients of the registers, and how many of them only read.
const REGISTER_CLIENTS: usize = 8;
const READERS: usize = 2;

const COUNTING_CLIENTS: usize = 2;
const BANK_CLIENTS: usize = 2;
const CLIENTS: usize = REGISTER_CLIENTS + COUNTING_CLIENTS + BANK_CLIENTS;

/// The deadline of a call: outlives an election, and keeps no client for long.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(6);

/// Longest pause of a client between two calls.
const PAUSE_MS_MAX: u64 = 8;

/// What each client has to get done for a load to count as going on.
const GOES_ON: u64 = 5;

/// All clients of a run.
pub(crate) struct Load {
    pd_address: String,
    began: Instant,
    record: Arc<Record>,
    progress: Arc<Progress>,
    registers: Vec<JoinHandle<usize>>,
    counters: Vec<JoinHandle<Counted>>,
    bank: Vec<JoinHandle<Transfers>>,
}

#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    /// Calls of each client that were answered, errors aside.
    done: [AtomicU64; CLIENTS],
}

impl Load {
    /// Clients that find the stores through this placement driver, and choose what they do by `seed`. What they see goes into the
    /// record.
    pub(crate) async fn begin(pd_address: &str, seed: u64, record: Arc<Record>) -> Self {
        let client = connect(pd_address, CallPath::Batched).await;
        counter::open(&client).await;
        bank::open(&client).await;
        let mut load = Self {
            pd_address: pd_address.to_owned(),
            began: Instant::now(),
            record,
            progress: Arc::default(),
            registers: Vec::new(),
            counters: Vec::new(),
            bank: Vec::new(),
        };
        for number in 0..CLIENTS {
            let worker = load.worker(number, seed).await;
            if number < REGISTER_CLIENTS {
                let registers = registers::run(worker, number < READERS);
                load.registers.push(tokio::spawn(registers));
            } else if number < REGISTER_CLIENTS + COUNTING_CLIENTS {
                load.counters.push(tokio::spawn(counter::run(worker)));
            } else {
                load.bank.push(tokio::spawn(bank::run(worker)));
            }
        }
        load.goes_on().await;
        load
    }

    async fn worker(&self, number: usize, seed: u64) -> Worker {
        // A client that only reads, two that write registers, and one of the bank.
        let path = if number % 3 == 1 {
            CallPath::Unary
        } else {
            CallPath::Batched
        };
        Worker {
            number,
            client: connect(&self.pd_address, path).await,
            random: Rng::with_seed(seed.wrapping_add(number as u64)),
            began: self.began,
            record: Arc::clone(&self.record),
            progress: Arc::clone(&self.progress),
        }
    }

    /// Waits until each client has got some more done than it has now.
    pub(crate) async fn goes_on(&self) {
        let counts = || {
            let counts = self.progress.done.iter();
            counts.map(|count| count.load(Ordering::Relaxed))
        };
        let before: Vec<_> = counts().collect();
        let have_more = async || {
            let has_ended = self.registers.iter().any(JoinHandle::is_finished)
                || self.counters.iter().any(JoinHandle::is_finished)
                || self.bank.iter().any(JoinHandle::is_finished);
            assert!(!has_ended, "a client has failed");
            let mut pairs = counts().zip(&before);
            pairs
                .all(|(now, before)| now >= before + GOES_ON)
                .then_some(())
        };
        found("all clients go on", have_more).await;
    }

    /// Ends the clients, reads everything once more, and looks at what they were told. Returns how many writes have no known fate.
    pub(crate) async fn end(mut self) -> usize {
        self.progress.stop.store(true, Ordering::Relaxed);
        let (registers, counters, bank) = (
            std::mem::take(&mut self.registers),
            std::mem::take(&mut self.counters),
            std::mem::take(&mut self.bank),
        );
        let ends = async {
            (
                join(registers).await,
                join(counters).await,
                join(bank).await,
            )
        };
        let (registers, counters, bank) = guarded("the clients end", ends).await;
        let client = connect(&self.pd_address, CallPath::Batched).await;
        let found = registers::read_all(&client, self.began).await;
        let of_counter = counter::problems(&client, &counters).await;
        let of_bank = bank::problems(&client, &bank).await;
        let mut history = self.record.history();
        history.append(found);
        history.problems = of_counter + &of_bank;
        let counted = counters.iter().map(|counted| counted.unknown);
        registers.into_iter().chain(counted).sum()
    }
}

async fn join<T>(clients: Vec<JoinHandle<T>>) -> Vec<T> {
    let ended = join_all(clients).await.into_iter();
    ended
        .map(|ended| ended.expect("a client does not fail"))
        .collect()
}

async fn connect(pd_address: &str, path: CallPath) -> Client {
    let config = path.config().with_timeout(CALL_TIMEOUT);
    let connected = Client::connect_with([pd_address], config).await;
    connected.expect("the placement driver serves")
}

/// One client.
struct Worker {
    number: usize,
    client: Client,
    random: Rng,
    began: Instant,
    record: Arc<Record>,
    progress: Arc<Progress>,
}

impl Worker {
    /// Waits a little, and returns whether to make another call.
    async fn goes_on(&mut self) -> bool {
        sleep(Duration::from_millis(self.random.u64(0..=PAUSE_MS_MAX))).await;
        !self.progress.stop.load(Ordering::Relaxed)
    }

    fn done(&self) {
        self.progress.done[self.number].fetch_add(1, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        nanoseconds_since(self.began)
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.record.history()
    }
}

fn nanoseconds_since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_nanos()).expect("a run lasts no centuries")
}

/// Whether a call that failed may have been applied. Fails as [`assert_is_of_a_fault`] does.
fn may_be_applied(error: &Error) -> bool {
    assert_is_of_a_fault(error);
    matches!(error, Error::Undetermined { .. })
}

/// Fails when an error is no part of any fault, i.e. when it is not that of a store that is away.
fn assert_is_of_a_fault(error: &Error) {
    let is_of_a_fault = matches!(
        error,
        Error::Undetermined { .. }
            | Error::Busy { .. }
            | Error::Unavailable { .. }
            | Error::DeadlineExceeded { .. }
    );
    assert!(is_of_a_fault, "a client was told: {error}");
}

/// Makes a call again until it is answered. For reads.
async fn answered<T>(mut call: impl AsyncFnMut() -> Result<T, Error>) -> T {
    let answer = async {
        loop {
            match call().await {
                Ok(answer) => return answer,
                Err(error) => assert!(!may_be_applied(&error), "it reads"),
            }
        }
    };
    guarded("a call is answered", answer).await
}
