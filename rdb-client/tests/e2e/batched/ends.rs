//! A store that ends while many calls are in flight, in good order or not.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rdb_client::{Client, Error};
use tokio::task::JoinSet;

use crate::harness::{CallPath, Cluster, HANG_GUARD, found, guarded, over_both_paths};

/// Calls in flight.
const CALLERS: usize = 256;

/// How often a store ends in a test. It is started again each time.
const ROUNDS: u64 = 4;

/// Calls that must have succeeded before a store ends, and after the last time.
const CALLS_BETWEEN: u64 = 2_000;

/// What callers and their test share.
#[derive(Default)]
struct Load {
    succeeded: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn count_success(&self) {
        self.succeeded.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until so many calls have succeeded from now on.
    async fn more(&self, calls: u64) {
        let before = self.succeeded.load(Ordering::Relaxed);
        found("calls succeed", async || {
            (self.succeeded.load(Ordering::Relaxed) >= before + calls).then_some(())
        })
        .await;
    }
}

over_both_paths! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    a_drain_with_many_calls_in_flight_leaves_the_fate_of_none_open,
}

async fn a_drain_with_many_calls_in_flight_leaves_the_fate_of_none_open(path: CallPath) {
    let mut cluster = Cluster::start().await;
    let client = cluster.client_over(path).await.with_timeout(HANG_GUARD);
    let load = Arc::new(Load::default());
    let mut callers: JoinSet<_> = (0..CALLERS)
        .map(|number| swap_on(client.clone(), Arc::clone(&load), format!("key {number}")))
        .collect();
    for _ in 0..ROUNDS {
        load.more(CALLS_BETWEEN).await;
        cluster.store.terminate();
        let status = cluster.store.exited().await;
        let log = cluster.store.log();
        assert!(status.success(), "{status}: {log}");
        assert!(!log.contains("still in flight"), "cut off: {log}");
        cluster.store.start_serving().await;
    }
    load.more(CALLS_BETWEEN).await;
    load.stop.store(true, Ordering::Relaxed);
    while let Some(finished) = guarded("callers end", callers.join_next()).await {
        let (key, version) = finished.expect("every call succeeds");
        let entry = client.get(&key).await.expect("get").expect("swapped");
        assert_eq!(entry.version, version, "{key}");
    }
}

/// Swaps one key, of which nobody else knows, as long as the load goes on. No call may fail, even for a reason that is
/// certain, and none may be applied twice. Returns the last version.
async fn swap_on(client: Client, load: Arc<Load>, key: String) -> (String, u64) {
    let mut version = 0;
    while load.goes_on() {
        let swapped = client.cas_put(&key, version, "v").await;
        assert_eq!(swapped, Ok(version + 1), "{key}");
        version += 1;
        load.count_success();
    }
    (key, version)
}

/// Short enough that calls end while there is no store.
const IMPATIENT: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_kill_in_mid_stream_the_data_agrees_with_every_calls_fate() {
    let mut cluster = Cluster::start().await;
    let (patient, impatient) = {
        let client = cluster.client().await;
        (
            client.with_timeout(HANG_GUARD),
            client.with_timeout(IMPATIENT),
        )
    };
    let load = Arc::new(Load::default());
    let mut writers: JoinSet<_> = (0..CALLERS)
        .map(|number| {
            let client = [&patient, &impatient][number % 2].clone();
            put_on(client, Arc::clone(&load), number)
        })
        .collect();
    let mut readers: JoinSet<_> = (0..CALLERS / 4)
        .map(|number| {
            let client = [&patient, &impatient][number % 2].clone();
            read_on(client, Arc::clone(&load), number)
        })
        .collect();
    for _ in 0..ROUNDS {
        load.more(CALLS_BETWEEN).await;
        cluster.store.kill();
        cluster.store.start_serving().await;
    }
    load.more(CALLS_BETWEEN).await;
    load.stop.store(true, Ordering::Relaxed);

    while let Some(finished) = guarded("readers end", readers.join_next()).await {
        finished.expect("reads end well");
    }
    let newcomer = cluster.client().await;
    let (mut total, mut open) = (Fates::default(), 0);
    while let Some(finished) = guarded("writers end", writers.join_next()).await {
        let fates = finished.expect("writes end well");
        for range in fates.ranges() {
            open += check(&newcomer, &fates, range).await;
        }
        total.acknowledged += fates.acknowledged;
        total.not_applied += fates.not_applied;
        total.undetermined += fates.undetermined;
    }
    let Fates {
        acknowledged,
        not_applied,
        undetermined,
        ..
    } = total;
    println!(
        "{acknowledged} acknowledged, {not_applied} certainly not applied, {undetermined} undetermined, of which {open} were applied"
    );
    assert!(undetermined > 0, "no call was in flight at a kill");
}

/// What one writer was told of its keys.
#[derive(Default)]
struct Fates {
    writer: usize,
    /// The fates, by the key's number.
    fates: Vec<Fate>,
    acknowledged: usize,
    not_applied: usize,
    undetermined: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Acknowledged,
    NotApplied,
    Undetermined,
}

impl Fates {
    fn key(&self, number: usize) -> String {
        format!("{}/{number:08}", self.writer)
    }

    fn note(&mut self, fate: Fate) {
        let count = match fate {
            Fate::Acknowledged => &mut self.acknowledged,
            Fate::NotApplied => &mut self.not_applied,
            Fate::Undetermined => &mut self.undetermined,
        };
        *count += 1;
        self.fates.push(fate);
    }

    /// The keys in portions that fit into one read.
    fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        let end = self.fates.len();
        (0..end)
            .step_by(1000)
            .map(move |start| start..end.min(start + 1000))
    }
}

/// Puts keys that nobody else writes, each once, as long as the load goes on.
async fn put_on(client: Client, load: Arc<Load>, writer: usize) -> Fates {
    let mut fates = Fates {
        writer,
        ..Fates::default()
    };
    while load.goes_on() {
        let key = fates.key(fates.fates.len());
        let fate = match client.raw_put(&key, key.clone()).await {
            Ok(()) => {
                load.count_success();
                Fate::Acknowledged
            }
            Err(Error::Undetermined { .. }) => Fate::Undetermined,
            Err(Error::Unavailable { .. } | Error::DeadlineExceeded { .. }) => Fate::NotApplied,
            Err(error) => panic!("{key}: {error:?}"),
        };
        fates.note(fate);
    }
    fates
}

/// Compares the data with the fates of these keys, and returns how many undetermined writes were applied.
async fn check(client: &Client, fates: &Fates, range: Range<usize>) -> usize {
    let keys = range.clone().map(|number| fates.key(number));
    let found = client.raw_batch_get(keys).await.expect("read");
    let mut open_applied = 0;
    for (number, value) in range.zip(found) {
        let key = fates.key(number);
        let applied = value
            .inspect(|value| assert_eq!(value, key.as_bytes()))
            .is_some();
        match fates.fates[number] {
            Fate::Acknowledged => assert!(applied, "{key} was acknowledged and is lost"),
            Fate::NotApplied => assert!(!applied, "{key} was not applied and is there"),
            Fate::Undetermined => open_applied += usize::from(applied),
        }
    }
    open_applied
}

/// Reads as long as the load goes on. The fate of a read is never open.
async fn read_on(client: Client, load: Arc<Load>, writer: usize) {
    let key = format!("{writer}/00000000");
    while load.goes_on() {
        match client.raw_get(&key).await {
            Ok(Some(value)) => assert_eq!(value, key.as_bytes()),
            Ok(None) | Err(Error::Unavailable { .. } | Error::DeadlineExceeded { .. }) => {}
            Err(error) => panic!("{key}: {error:?}"),
        }
    }
}
