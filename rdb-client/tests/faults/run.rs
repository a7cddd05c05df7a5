//! One run: stores, clients, and faults; at its end everything is checked.

use std::ops::Range;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::sleep;

use crate::harness::skipped;
use crate::history::Record;
use crate::load::{CALL_TIMEOUT, Load};
use crate::replicas;
use crate::stores::{Leader, Setup, Stores};

/// How often each run repeats its faults. By default once.
const ROUNDS: &str = "RDB_FAULTS_ROUNDS";

/// What the clients do and what is hit is chosen by it. By default another one each time.
const SEED: &str = "RDB_FAULTS_SEED";

/// Has a run fail whose clients were without an answer for too long. For a machine with nothing else to do.
const TIMED: &str = "RDB_FAULTS_TIMED";

/// Runs at a time: each has four processes, or five with a spare store. One that is timed has the machine to itself.
static PLACES: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(if is_timed() { 1 } else { 3 }));

/// Fewer calls than this show nothing: in a run, and for each of its rounds, which waits for most of them anyway.
const CALLS_MIN: u64 = 300;
const CALLS_OF_ROUND_MIN: u64 = 100;

/// How long faults last that end by themselves: for several heartbeats, and sometimes for longer than a lease.
const FAULTS_MS: Range<u64> = 900..3000;

pub(crate) struct Run {
    name: &'static str,
    seed: u64,
    setup: Setup,
    pub(crate) random: fastrand::Rng,
    began: Instant,
    pub(crate) load: Load,
    pub(crate) stores: Stores,
    leaders_hit: u64,
    record: WrittenIfFailed,
    _place: SemaphorePermit<'static>,
}

/// A record that is written down when the run fails.
struct WrittenIfFailed(Arc<Record>);

impl Drop for WrittenIfFailed {
    fn drop(&mut self) {
        self.0.write_if_failed();
    }
}

impl Run {
    /// Stores under load. `None`: the run cannot be made on this machine.
    pub(crate) async fn begin(name: &'static str, setup: Setup) -> Option<Self> {
        let place = PLACES.acquire().await.expect("it is never closed");
        let seed = number(SEED).unwrap_or_else(|| fastrand::u64(..));
        println!("{name}: {SEED}={seed}");
        let stores = match Stores::start(setup).await {
            Ok(stores) => stores,
            Err(lack) => {
                skipped(lack);
                return None;
            }
        };
        println!("{name}: links: {}", stores.link_name());
        let record = Arc::new(Record::of(name, seed));
        Some(Self {
            name,
            seed,
            setup,
            random: fastrand::Rng::with_seed(seed),
            began: Instant::now(),
            load: Load::begin(&stores.pd.address(), seed, Arc::clone(&record)).await,
            stores,
            leaders_hit: 0,
            record: WrittenIfFailed(record),
            _place: place,
        })
    }

    pub(crate) fn rounds() -> u64 {
        number(ROUNDS).unwrap_or(1)
    }

    /// Notes that a fault of this leader has just begun. It counts if the store leads still: leadership may have moved before.
    pub(crate) fn note_hit(&mut self, leader: Leader) {
        if self.stores.leads(leader) {
            self.leaders_hit += 1;
        } else {
            println!("{}: {leader:?} did not lead any more", self.name);
        }
    }

    /// How many faults have hit a store while it led.
    pub(crate) fn leaders_hit(&self) -> u64 {
        self.leaders_hit
    }

    /// Lets the load go on for a while that differs from time to time, so that faults meet it at any moment.
    pub(crate) async fn dwell(&mut self) {
        self.load.goes_on().await;
        sleep(Duration::from_millis(self.random.u64(0..1000))).await;
    }

    /// Lets faults last for a while.
    pub(crate) async fn faults_last(&mut self) {
        sleep(Duration::from_millis(self.random.u64(FAULTS_MS))).await;
    }

    /// Lets a fault of a leader last until the others campaign, and for a while that differs from time to time.
    pub(crate) async fn leader_is_missed(&mut self) {
        let longer = Duration::from_millis(self.random.u64(0..1000));
        sleep(self.patience() + longer).await;
    }

    /// How long a store waits for its leader at most: the lease, and the longest election timeout.
    pub(crate) fn patience(&self) -> Duration {
        2 * self.setup.election_timeout_max()
    }

    /// All faults are over: service goes on, and what the clients saw is checked.
    pub(crate) async fn end(self) {
        let Self {
            name,
            seed,
            setup,
            load,
            mut stores,
            began,
            record,
            ..
        } = self;
        stores.all_serve().await;
        load.goes_on().await;
        let (reads, writes) = record.0.history().longest_waits();
        let unknown = load.end().await;
        let (calls, mut findings) = {
            let history = record.0.history();
            (history.len() as u64, history.check())
        };
        let seconds = began.elapsed().as_secs();
        println!(
            "{name}: {calls} calls in {seconds} s, of {unknown} the fate is not known; no read was answered for up to {reads:.1?}, \
             and no write for {writes:.1?}"
        );
        let wanted = CALLS_MIN.max(CALLS_OF_ROUND_MIN * Self::rounds());
        assert!(calls >= wanted, "the clients made {calls} calls only");
        if findings.verdict().is_none() {
            findings.violations = replicas::problems(&stores.pd.address()).await;
            let mut history = record.0.history();
            history.problems.push_str(&findings.violations);
        }
        if let Some(verdict) = findings.verdict() {
            panic!("{verdict} in {name}, {SEED}={seed}:\n{findings}");
        }
        if is_timed() && !setup.loses_majority {
            let failover = 3 * setup.election_timeout_max();
            assert!(reads <= failover, "no read was answered for {reads:?}");
            // All who write may wait for what a silent store has of them.
            let failover = failover + CALL_TIMEOUT;
            assert!(writes <= failover, "no write was answered for {writes:?}");
        }
    }
}

fn is_timed() -> bool {
    std::env::var_os(TIMED).is_some()
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is {value:?}, not a number")),
    )
}
