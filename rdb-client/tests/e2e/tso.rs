//! Timestamps while the placement driver is killed again and again: none twice, and each greater than all that were
//! answered before it was asked for.
//!
//! When a kill falls between making the bound durable and answering is seen from the outside: in the write-ahead log, where
//! the bound stands in the clear as soon as it is written, which is just before it is synced and before anything that waits
//! for it is answered. The process is stopped at that moment and killed. What this hits:
//!
//! - In a start, certainly the window: the bound is durable before the process listens, and something else listens at its
//!   address until it has been killed.
//! - In a process that was paused until its clock had passed the bound, so that all requests in flight wait for the move:
//!   nearly always the window; how many answers slipped out is printed.
//! - Under plain load the bound moves in the background, and answers do not wait for it: there the kill falls between the
//!   persisting of a bound and its first use.

use std::collections::VecDeque;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::channel::mpsc;
use futures::future::join_all;
use rdb_client::Client;
use rdb_proto::pdpb::GetTsoRequest;
use rdb_proto::pdpb::pd_client::PdClient;
use tempfile::TempDir;

use crate::harness::{HANG_GUARD, Node, connect_when_listening, found, guarded};

/// Half of them take by single calls of a client, half by streams.
const TASKS: usize = 8;

/// Timestamps that all tasks take together, at least.
const TIMESTAMPS_MIN: u64 = 800_000;

/// Timestamps before each kill, at least, so that it falls into full load.
const TIMESTAMPS_BETWEEN_KILLS: u64 = 60_000;

/// How many timestamps one request asks for, in turn.
const COUNTS: [u32; 9] = [1, 300, 1, 7, 1000, 2, 50, 1, 65];

/// Requests in flight on one stream.
const STREAM_REQUESTS_MAX: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timestamps_are_distinct_and_ordered_through_kills_of_the_placement_driver() {
    let directory = TempDir::new().expect("the temporary directory can be written");
    let mut pd = Node::placement_driver(directory.path().join("pd"));
    pd.start_serving().await;
    let load = Arc::new(Load::default());
    let mut tasks = Vec::new();
    for task in 0..TASKS {
        let load = Arc::clone(&load);
        if task % 2 == 0 {
            let client = Client::connect([pd.address()]).await.expect("connected");
            let client = client.with_timeout(HANG_GUARD);
            tasks.push(tokio::spawn(take_by_calls(task, client, load)));
        } else {
            tasks.push(tokio::spawn(take_by_streams(task, pd.address(), load)));
        }
    }

    let mut killer = Killer {
        pd,
        load: Arc::clone(&load),
        restarts: Vec::new(),
        highest_bound_ms: 0,
    };
    killer.kill_under_load().await;
    killer.kill_while_the_bound_moves_in_the_background().await;
    killer.kill_in_a_start_before_the_first_answer().await;
    killer.kill_while_requests_wait_for_the_bound().await;
    killer.kill_under_load().await;
    load.goes_on_for(TIMESTAMPS_MIN.saturating_sub(load.taken()))
        .await;
    load.stop.store(true, Ordering::Relaxed);
    for task in guarded("the tasks end", join_all(tasks)).await {
        task.expect("a task takes timestamps to the end");
    }

    let grants = load.grants();
    for task in 0..TASKS {
        let own = grants.iter().filter(|grant| grant.task == task);
        assert!(
            own.is_sorted_by(|one, next| one.end() <= next.first),
            "task {task}"
        );
    }
    assert_distinct(&grants);
    assert_later_is_greater(&grants);
    for restart in &killer.restarts {
        let mut after = grants.iter().filter(|grant| grant.asked > restart.serving);
        assert!(
            after.all(|grant| grant.physical_ms() >= restart.bound_ms),
            "{restart:?}"
        );
    }
    let (taken, answers, restarts) = (load.taken(), grants.len(), killer.restarts.len());
    println!("{taken} timestamps in {answers} answers through {restarts} kills");
}

/// One answer: `count` timestamps from `first` on.
#[derive(Debug, Clone, Copy)]
struct Grant {
    task: usize,
    asked: Instant,
    answered: Instant,
    first: u64,
    count: u32,
}

impl Grant {
    fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    fn physical_ms(&self) -> u64 {
        self.first >> 18
    }
}

/// What the tasks share.
#[derive(Debug, Default)]
struct Load {
    grants: Mutex<Vec<Grant>>,
    taken: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    fn grants(&self) -> Vec<Grant> {
        self.grants.lock().expect("no task panics in here").clone()
    }

    fn answered(&self, task: usize, asked: Instant, first: u64, count: u32) {
        let answered = Instant::now();
        let mut grants = self.grants.lock().expect("no task panics in here");
        grants.push(Grant {
            task,
            asked,
            answered,
            first,
            count,
        });
        self.taken.fetch_add(count.into(), Ordering::Relaxed);
    }

    /// Waits until so many more timestamps have been taken.
    async fn goes_on_for(&self, timestamps: u64) {
        let enough = self.taken() + timestamps;
        found("timestamps are taken", async || {
            (self.taken() >= enough).then_some(())
        })
        .await;
    }
}

/// Takes timestamps by the client's calls, none of which may fail: the client goes on by itself.
async fn take_by_calls(task: usize, client: Client, load: Arc<Load>) {
    let mut counts = COUNTS.into_iter().cycle();
    while let Some(count) = counts.next().filter(|_| load.goes_on()) {
        let asked = Instant::now();
        let taken = client
            .tso_batch(count)
            .await
            .expect("the client goes on by itself");
        assert_eq!(taken.len(), count as usize);
        load.answered(task, asked, taken.first().as_u64(), count);
    }
}

/// Takes timestamps by one stream after the other, each with a few requests in flight.
async fn take_by_streams(task: usize, address: String, load: Arc<Load>) {
    let mut counts = COUNTS.into_iter().cycle();
    while load.goes_on() {
        let channel = connect_when_listening(&address).await;
        let (mut requests, receiver) = mpsc::channel(STREAM_REQUESTS_MAX);
        let mut in_flight = VecDeque::new();
        let mut ask = |in_flight: &mut VecDeque<_>| {
            let count = counts.next();
            in_flight.push_back((Instant::now(), count));
            // Fails when the stream has broken, which its answers show.
            let _ = requests.try_send(GetTsoRequest { count });
        };
        while in_flight.len() < STREAM_REQUESTS_MAX {
            ask(&mut in_flight);
        }
        let Ok(answers) = PdClient::new(channel).tso(receiver).await else {
            continue;
        };
        let mut answers = answers.into_inner();
        while let Some((asked, count)) = in_flight.pop_front().filter(|_| load.goes_on()) {
            let Ok(Some(answer)) = answers.message().await else {
                break;
            };
            assert_eq!(Some(answer.count), count);
            load.answered(task, asked, answer.first, answer.count);
            ask(&mut in_flight);
        }
    }
}

/// Kills the placement driver in chosen moments, and remembers what each restart has to be above.
struct Killer {
    pd: Node,
    load: Arc<Load>,
    restarts: Vec<Restart>,
    /// Of those that were seen. A start drops old logs.
    highest_bound_ms: u64,
}

/// A start after a kill.
#[derive(Debug, Clone, Copy)]
struct Restart {
    /// When the new process served.
    serving: Instant,
    /// The last bound of the killed one.
    bound_ms: u64,
}

impl Killer {
    async fn kill_under_load(&mut self) {
        self.load.goes_on_for(TIMESTAMPS_BETWEEN_KILLS).await;
        self.pd.kill();
        self.restart().await;
    }

    async fn kill_while_the_bound_moves_in_the_background(&mut self) {
        self.load.goes_on_for(TIMESTAMPS_BETWEEN_KILLS).await;
        self.kill_when_the_bound_moves();
        self.restart().await;
    }

    async fn kill_in_a_start_before_the_first_answer(&mut self) {
        self.load.goes_on_for(TIMESTAMPS_BETWEEN_KILLS).await;
        self.pd.kill();
        let old_bound_ms = self.bound_ms();
        let in_its_place = TcpListener::bind(self.pd.address()).expect("nobody listens there");
        self.pd.start();
        self.wait_until_the_bound_moves();
        self.pd.kill();
        drop(in_its_place);
        let answers = self.restart_and_count_answers_above(old_bound_ms).await;
        assert_eq!(answers, 0, "it had no address to give them from");
    }

    async fn kill_while_requests_wait_for_the_bound(&mut self) {
        self.load.goes_on_for(TIMESTAMPS_BETWEEN_KILLS).await;
        self.pd.pause();
        let old_bound_ms = self.bound_ms();
        let bound_at = UNIX_EPOCH + Duration::from_millis(old_bound_ms);
        found("the clock passes the bound", async || {
            (SystemTime::now() > bound_at).then_some(())
        })
        .await;
        self.pd.resume();
        self.kill_when_the_bound_moves();
        let answers = self.restart_and_count_answers_above(old_bound_ms).await;
        println!("kill while all requests waited for the bound: {answers} answers got out");
    }

    /// The process is gone soon after its log has a higher bound than before this call.
    fn kill_when_the_bound_moves(&mut self) {
        self.wait_until_the_bound_moves();
        self.pd.pause();
        self.pd.kill();
    }

    fn wait_until_the_bound_moves(&mut self) {
        let old_bound_ms = self.bound_ms();
        let hung_at = Instant::now() + HANG_GUARD;
        tokio::task::block_in_place(|| {
            while self.bound_ms() <= old_bound_ms {
                assert!(Instant::now() < hung_at, "the bound does not move");
            }
        });
    }

    async fn restart(&mut self) {
        let bound_ms = self.bound_ms();
        self.pd.start_serving().await;
        let serving = Instant::now();
        self.restarts.push(Restart { serving, bound_ms });
    }

    /// How many answers the killed process gave that it could not give before it moved its bound: a restarted one begins
    /// at the new bound.
    async fn restart_and_count_answers_above(&mut self, old_bound_ms: u64) -> usize {
        let unused = old_bound_ms..self.bound_ms();
        self.restart().await;
        self.load.goes_on_for(TIMESTAMPS_BETWEEN_KILLS).await;
        let grants = self.load.grants();
        grants
            .iter()
            .filter(|grant| unused.contains(&grant.physical_ms()))
            .count()
    }

    fn bound_ms(&mut self) -> u64 {
        let logged_ms = highest_logged_bound_ms(&self.pd.data_dir().join("db"));
        self.highest_bound_ms = self.highest_bound_ms.max(logged_ms);
        self.highest_bound_ms
    }
}

/// The highest bound in RocksDB's write-ahead log: an entry is the key, the value's length and the value.
fn highest_logged_bound_ms(database: &Path) -> u64 {
    const KEY_AND_LENGTH: &[u8] = b"tso/bound\x08";
    let files = fs::read_dir(database).into_iter().flatten().flatten();
    let logs = files
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    // A file may vanish between being listed and being read.
    let contents = logs.filter_map(|path| fs::read(path).ok());
    let bounds = contents.flat_map(|content| {
        let windows = content.windows(KEY_AND_LENGTH.len() + size_of::<u64>());
        let bounds =
            windows.filter_map(|entry| entry.strip_prefix(KEY_AND_LENGTH)?.try_into().ok());
        bounds.map(u64::from_be_bytes).collect::<Vec<_>>()
    });
    bounds.max().unwrap_or_default()
}

fn assert_distinct(grants: &[Grant]) {
    let mut grants = grants.to_vec();
    grants.sort_unstable_by_key(|grant| grant.first);
    for pair in grants.windows(2) {
        assert!(pair[0].end() <= pair[1].first, "handed out twice: {pair:?}");
    }
}

/// Whatever was answered before a request was made is below the request's answer, whoever made either.
fn assert_later_is_greater(grants: &[Grant]) {
    let (mut by_asked, mut by_answered) = (grants.to_vec(), grants.to_vec());
    by_asked.sort_unstable_by_key(|grant| grant.asked);
    by_answered.sort_unstable_by_key(|grant| grant.answered);
    let mut earlier = by_answered.iter().peekable();
    let mut highest_end = 0;
    for grant in &by_asked {
        while let Some(before) = earlier.next_if(|before| before.answered < grant.asked) {
            highest_end = highest_end.max(before.end());
        }
        assert!(
            highest_end <= grant.first,
            "{grant:?} is below an earlier {highest_end}"
        );
    }
}
