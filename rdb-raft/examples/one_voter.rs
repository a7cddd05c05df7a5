//! What replication costs a store that has no others: puts through a group of one voter against puts through the engine's
//! own writer, in one process without a network. Prints one JSON object on one line.
//!
//! ```text
//! one_voter storage DIR SECONDS CALLERS
//! one_voter raft DIR SECONDS CALLERS IN_FLIGHT
//! ```
//!
//! CALLERS tasks each put a value of 128 bytes under one of 100,000 keys of 16 bytes, wait until it is durable and can be
//! read, and go on. With `raft`, what waits is proposed as one entry, and at most IN_FLIGHT entries are on their way. Files are
//! made in DIR, which must exist, and removed in the end.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastrand::Rng;
use rdb_raft::group::{Alone, Group};
use rdb_raft::log::LogWriter;
use rdb_raft::machine::{
    Applied, ApplyError, Committed, SnapshotSink, SnapshotSource, StateMachine,
};
use rdb_raft::{Answer, Content, LogId, Membership, StoreNode, StoredMembership, Timing};
use rdb_storage::{
    ApplyOptions, Command, LogChange, LogEntry, Outcome, Proposal, Role, Storage, StorageOptions,
    Submission,
};
use tokio::sync::oneshot;

const VALUE_BYTES: usize = 128;
const KEYS: u64 = 100_000;
const CALLERS_MAX: usize = 4096;
const SECONDS_MAX: f64 = 3600.0;
const REGION_ID: u64 = 1;

const USAGE: &str =
    "usage: one_voter storage DIR SECONDS CALLERS | one_voter raft DIR SECONDS CALLERS IN_FLIGHT";

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments).await {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[&str]) -> Result<String, Failure> {
    let (target, directory, seconds, callers, in_flight_max) = match *arguments {
        ["storage", directory, seconds, callers] => ("storage", directory, seconds, callers, 0),
        ["raft", directory, seconds, callers, in_flight] => {
            let in_flight_max: usize = in_flight.parse()?;
            if in_flight_max == 0 {
                return Err("IN_FLIGHT has to be at least 1".into());
            }
            ("raft", directory, seconds, callers, in_flight_max)
        }
        _ => return Err(USAGE.into()),
    };
    let (seconds, callers) = (seconds.parse()?, callers.parse()?);
    if !(0.1..=SECONDS_MAX).contains(&seconds) || !(1..=CALLERS_MAX).contains(&callers) {
        return Err(USAGE.into());
    }
    let duration = Duration::from_secs_f64(seconds);
    let directory = tempfile::TempDir::new_in(Path::new(directory))?;
    let data = directory.path().join("data");
    let options = StorageOptions {
        replicated: true,
        ..StorageOptions::new(Role::Embedded)
    };
    let storage = Storage::open(&data, options)?;
    let latencies = if target == "storage" {
        through_storage(&storage, callers, duration).await?
    } else {
        through_raft(&storage, callers, duration, in_flight_max).await?
    };
    storage.close()?;
    Ok(latencies.line(target, callers, in_flight_max))
}

async fn through_storage(
    storage: &Storage,
    callers: usize,
    duration: Duration,
) -> Result<Latencies, Failure> {
    let storage = storage.clone();
    let put = move |command| {
        let submitted = storage.submit(Submission::new(REGION_ID, vec![command]));
        async move { Ok(submitted?.await.map(drop)?) }
    };
    measured(callers, duration, put).await
}

async fn through_raft(
    storage: &Storage,
    callers: usize,
    duration: Duration,
    in_flight_max: usize,
) -> Result<Latencies, Failure> {
    let log = Arc::new(storage.open_log()?);
    let writer = LogWriter::start(Arc::clone(&log) as _)?;
    let region = Arc::new(Region::new(storage.clone())?);
    let store = writer.open_group(REGION_ID)?;
    let group = Group::start(1, Timing::default(), 0, store, region, Alone).await?;
    group.lead_alone().await?;
    let proposer = Arc::new(Proposer {
        group: group.clone(),
        in_flight_max,
        state: Mutex::default(),
    });
    let put = move |command| {
        let done = proposer.submit(command);
        async move { done.await?.map_err(Failure::from) }
    };
    let latencies = measured(callers, duration, put).await;
    group.shut_down().await;
    writer.close();
    log.close()?;
    latencies
}

/// Calls `put` again and again from so many tasks.
async fn measured<Put, Done>(
    callers: usize,
    duration: Duration,
    put: Put,
) -> Result<Latencies, Failure>
where
    Put: Fn(Command) -> Done + Clone + Send + 'static,
    Done: Future<Output = Result<(), Failure>> + Send,
{
    let began = Instant::now();
    let callers = (0..callers as u64).map(|caller| {
        let put = put.clone();
        tokio::spawn(async move {
            let mut rng = Rng::with_seed(caller);
            let mut latencies = Vec::new();
            while began.elapsed() < duration {
                let key = Bytes::from(format!("{:016x}", rng.u64(..KEYS)));
                let mut value = vec![0; VALUE_BYTES];
                rng.fill(&mut value);
                let value = value.into();
                let begun = Instant::now();
                put(Command::PutRaw { key, value }).await?;
                latencies.push(begun.elapsed());
            }
            Ok::<_, Failure>(latencies)
        })
    });
    let mut latencies = Vec::new();
    for caller in callers.collect::<Vec<_>>() {
        latencies.extend(caller.await??);
    }
    latencies.sort_unstable();
    Ok(Latencies {
        sorted: latencies,
        elapsed: began.elapsed(),
    })
}

/// Proposes what waits as one entry, on the task of whoever finds a free place for it.
struct Proposer {
    group: Group,
    in_flight_max: usize,
    state: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    commands: Vec<Command>,
    callers: Vec<oneshot::Sender<Result<(), String>>>,
    in_flight: usize,
}

impl Proposer {
    fn submit(self: &Arc<Self>, command: Command) -> oneshot::Receiver<Result<(), String>> {
        let (caller, done) = oneshot::channel();
        let mut queue = self.lock();
        queue.commands.push(command);
        queue.callers.push(caller);
        drop(queue);
        self.propose();
        done
    }

    fn propose(self: &Arc<Self>) {
        let mut queue = self.lock();
        if queue.in_flight >= self.in_flight_max || queue.commands.is_empty() {
            return;
        }
        queue.in_flight += 1;
        let commands = std::mem::take(&mut queue.commands);
        let callers = std::mem::take(&mut queue.callers);
        drop(queue);
        let proposal = Proposal {
            epoch_version: 0,
            commands,
        };
        let proposer = Arc::clone(self);
        self.group.propose(proposal.encode(), move |answer| {
            let done = match answer.map(Answer::into_inner::<Vec<Outcome>>) {
                Ok(Some(outcomes)) if outcomes.len() == callers.len() => Ok(()),
                Ok(outcomes) => Err(format!("it was answered with {outcomes:?}")),
                Err(error) => Err(error.to_string()),
            };
            for caller in callers {
                // A caller that has failed does not wait.
                let _ = caller.send(done.clone());
            }
            proposer.lock().in_flight -= 1;
            proposer.propose();
        });
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Applies to the engine. What is flushed is only noted in memory, since this never starts again.
struct Region {
    storage: Storage,
    applied: Mutex<Applied>,
}

impl Region {
    /// One that begins as the first voter of a region does.
    fn new(storage: Storage) -> Result<Self, Failure> {
        let beginning = Some(LogId::new_term_index(0, 0));
        let nodes = BTreeMap::from([(1, StoreNode { store_id: 1 })]);
        let membership = Membership::new(vec![[1].into()], nodes)?;
        let applied = Applied {
            position: beginning,
            membership: StoredMembership::new(beginning, membership),
        };
        Ok(Self {
            storage,
            applied: Mutex::new(applied),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Applied> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateMachine for Region {
    /// Raw puts read nothing, so they never block.
    fn apply(&self, entries: &[Committed], _may_block: bool) -> Result<Vec<Answer>, ApplyError> {
        let mut log_entries = Vec::with_capacity(entries.len());
        for Committed { entry, .. } in entries {
            let change = match &entry.payload {
                Content::Normal(payload) => {
                    let proposal = Proposal::decode(payload.0.clone());
                    LogChange::Proposal(proposal.map_err(io::Error::from)?)
                }
                Content::Blank | Content::Membership(_) => LogChange::Blank,
            };
            let (term, index) = (entry.log_id.leader_id.term, entry.log_id.index);
            let position = [term.to_be_bytes(), index.to_be_bytes()].concat();
            log_entries.push(LogEntry {
                position: position.into(),
                change,
            });
        }
        let options = ApplyOptions::default();
        let outcomes = self.storage.apply(REGION_ID, &log_entries, options);
        let outcomes = outcomes.map_err(io::Error::other)?;
        if let Some(last) = entries.last() {
            self.lock().position = Some(last.entry.log_id);
        }
        Ok(outcomes.into_iter().map(Answer::new).collect())
    }

    fn flushed(&self) -> io::Result<Applied> {
        Ok(self.lock().clone())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn snapshot(&self) -> io::Result<(Applied, Box<dyn SnapshotSource>)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn receive(&self) -> io::Result<Box<dyn SnapshotSink>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// How long each put took, and all of them together.
struct Latencies {
    sorted: Vec<Duration>,
    elapsed: Duration,
}

impl Latencies {
    fn quantile_us(&self, quantile: f64) -> f64 {
        let last = self.sorted.len().saturating_sub(1);
        let position = (last as f64 * quantile).round() as usize;
        let latency = self.sorted.get(position).copied().unwrap_or_default();
        latency.as_nanos() as f64 / 1e3
    }

    /// A line of JSON with the names that `rdbctl bench` uses.
    fn line(&self, target: &str, callers: usize, in_flight: usize) -> String {
        let operations = self.sorted.len();
        let seconds = self.elapsed.as_secs_f64();
        let per_second = operations as f64 / seconds;
        let [p50, p90, p99, max] = [0.5, 0.9, 0.99, 1.0].map(|quantile| self.quantile_us(quantile));
        format!(
            "{{\"workload\":\"put\",\"target\":\"{target}\",\"concurrency\":{callers},\"in_flight\":{in_flight},\
             \"duration_s\":{seconds:.3},\"operations\":{operations},\"operations_per_second\":{per_second:.1},\
             \"latency_us\":{{\"p50\":{p50},\"p90\":{p90},\"p99\":{p99},\"max\":{max}}}}}"
        )
    }
}
