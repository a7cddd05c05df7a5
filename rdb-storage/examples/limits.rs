//! The local limits that a server on this engine is measured against: what the disk syncs, and what the one writer does
//! without any network. Prints one JSON object on one line per measurement.
//!
//! ```text
//! limits fdatasync DIR SECONDS
//! limits storage DIR SECONDS WRITERS
//! ```
//!
//! `fdatasync` appends 160 bytes (a key, a value of 128 bytes, and what a log adds) to a growing file and syncs, again and
//! again. `storage` has WRITERS threads that each put a value of 128 bytes under one of 100,000 keys of 16 bytes, wait
//! until it is durable, and go on. Files are made in DIR, which must exist, and removed in the end.

#![forbid(unsafe_code)]

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastrand::Rng;
use rdb_storage::limits::EMBEDDED_REGION_ID;
use rdb_storage::{Command, Role, Storage, StorageOptions, Submission};
use tempfile::TempDir;

const APPEND_BYTES: usize = 160;
const VALUE_BYTES: usize = 128;
const KEYS: u64 = 100_000;
const WRITERS_MAX: usize = 4096;
const SECONDS_MAX: f64 = 3600.0;

const USAGE: &str = "usage: limits fdatasync DIR SECONDS | limits storage DIR SECONDS WRITERS";

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
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

fn run(arguments: &[&str]) -> Result<String, Failure> {
    match *arguments {
        ["fdatasync", directory, seconds] => {
            let latencies = syncs(Path::new(directory), duration(seconds)?)?;
            Ok(line("fdatasync", 1, &latencies))
        }
        ["storage", directory, seconds, writers] => {
            let duration = duration(seconds)?;
            let writers: usize = writers.parse()?;
            if !(1..=WRITERS_MAX).contains(&writers) {
                return Err(format!("WRITERS has to be from 1 to {WRITERS_MAX}").into());
            }
            let latencies = writes(Path::new(directory), duration, writers)?;
            Ok(line("storage-put", writers, &latencies))
        }
        _ => Err(USAGE.into()),
    }
}

fn duration(seconds: &str) -> Result<Duration, Failure> {
    let seconds: f64 = seconds.parse()?;
    if !(0.1..=SECONDS_MAX).contains(&seconds) {
        return Err(format!("SECONDS has to be from 0.1 to {SECONDS_MAX}").into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// How long each operation took, and all of them together.
struct Latencies {
    sorted: Vec<Duration>,
    elapsed: Duration,
}

fn syncs(directory: &Path, duration: Duration) -> Result<Latencies, Failure> {
    let directory = TempDir::new_in(directory)?;
    let mut file = File::create(directory.path().join("log"))?;
    let record = [7; APPEND_BYTES];
    let mut latencies = Vec::new();
    let began = Instant::now();
    while began.elapsed() < duration {
        let begun = Instant::now();
        file.write_all(&record)?;
        file.sync_data()?;
        latencies.push(begun.elapsed());
    }
    Ok(Latencies::new(latencies, began.elapsed()))
}

fn writes(directory: &Path, duration: Duration, writers: usize) -> Result<Latencies, Failure> {
    let directory = TempDir::new_in(directory)?;
    let data = directory.path().join("data");
    let storage = Storage::open(&data, StorageOptions::new(Role::Embedded))?;
    let began = Instant::now();
    let write = |writer: usize| -> Result<Vec<Duration>, Failure> {
        let mut rng = Rng::with_seed(writer as u64);
        let mut latencies = Vec::new();
        while began.elapsed() < duration {
            let key = Bytes::from(format!("{:016x}", rng.u64(..KEYS)));
            let value: Bytes = std::iter::repeat_with(|| rng.u8(..))
                .take(VALUE_BYTES)
                .collect();
            let commands = vec![Command::PutRaw { key, value }];
            let begun = Instant::now();
            storage
                .submit(Submission::new(EMBEDDED_REGION_ID, commands))?
                .wait()?;
            latencies.push(begun.elapsed());
        }
        Ok(latencies)
    };
    let written: Result<Vec<Vec<Duration>>, Failure> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|writer| scope.spawn(move || write(writer)))
            .collect();
        let joined = threads.into_iter().map(|thread| {
            let ended = thread.join();
            ended.unwrap_or_else(|_| Err("a writer panicked".into()))
        });
        joined.collect()
    });
    let elapsed = began.elapsed();
    storage.close()?;
    Ok(Latencies::new(written?.concat(), elapsed))
}

impl Latencies {
    fn new(mut latencies: Vec<Duration>, elapsed: Duration) -> Self {
        latencies.sort_unstable();
        Self {
            sorted: latencies,
            elapsed,
        }
    }

    fn quantile_us(&self, quantile: f64) -> f64 {
        let last = self.sorted.len().saturating_sub(1);
        let position = (last as f64 * quantile).round() as usize;
        let latency = self.sorted.get(position).copied().unwrap_or_default();
        latency.as_nanos() as f64 / 1e3
    }
}

/// A line of JSON with the names that `rdbctl bench` uses.
fn line(workload: &str, concurrency: usize, latencies: &Latencies) -> String {
    let operations = latencies.sorted.len();
    let seconds = latencies.elapsed.as_secs_f64();
    let per_second = operations as f64 / seconds;
    let [p50, p90, p99, max] =
        [0.5, 0.9, 0.99, 1.0].map(|quantile| latencies.quantile_us(quantile));
    format!(
        "{{\"workload\":\"{workload}\",\"target\":\"local\",\"concurrency\":{concurrency},\"duration_s\":{seconds:.3},\
         \"operations\":{operations},\"operations_per_second\":{per_second:.1},\
         \"latency_us\":{{\"p50\":{p50},\"p90\":{p90},\"p99\":{p99},\"max\":{max}}}}}"
    )
}
