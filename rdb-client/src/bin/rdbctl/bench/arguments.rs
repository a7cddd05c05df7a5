//! The command line of `rdbctl bench`: one subcommand per workload, and the groups of options that they share.
//!
//! clap checks each value on its own; the methods here check how they go together.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::keys::Distribution;
use crate::arguments::parse_timeout;
use crate::failure::Failure;

const AFTER_HELP: &str = "\
The workloads write keys that begin with `bench/` and leave them there. To be
rid of the raw ones: rdbctl raw delete-range --prefix bench/

Closed loop (the default): each of --concurrency callers begins its next
operation when the one before is answered. Open loop (--rate): operation i is
due at i / rate, and its latency counts from then, also when it could not begin
in time, so that a server that stalls cannot hide it.

Examples:
  rdbctl bench raw-put --concurrency 256
  rdbctl bench mixed --read-ratio 0.95 --distribution zipfian --output json
  rdbctl bench raw-put --rate 5000 --duration 30s
  rdbctl bench raw-put --target etcd --endpoint 127.0.0.1:2379";

/// A workload, or what belongs to measuring one.
#[derive(Debug, Subcommand)]
#[command(after_help = AFTER_HELP)]
pub(crate) enum BenchCommand {
    /// Write single raw values
    RawPut(PointArguments),
    /// Read single raw values
    RawGet(PointArguments),
    /// Read and write single raw values
    Mixed(MixedArguments),
    /// YCSB A: half reads, half updates, zipfian
    YcsbA(PresetArguments),
    /// YCSB B: 95 % reads, 5 % updates, zipfian
    YcsbB(PresetArguments),
    /// YCSB C: reads only, zipfian
    YcsbC(PresetArguments),
    /// Read pages of raw entries from random start keys
    Scan(ScanArguments),
    /// Compare-and-swap, each caller on separate keys
    Cas(CasArguments),
    /// Compare-and-swap, all callers on one key, with backoff after conflicts
    CasHot(CasHotArguments),
    /// Take timestamps, one per operation
    Tso(TsoArguments),
    /// Take timestamps through one bare stream: a message for each, --concurrency of them outstanding
    TsoStream(Pace),
    /// Write the keys that the raw workloads read, and nothing else
    Load(LoadArguments),
    /// A limit: empty unary calls on one connection, to `serve-echo`
    EmptyCall(EmptyCallArguments),
    /// A limit: one stream on which each message is echoed, to `serve-echo`; --concurrency messages outstanding
    EchoStream(EchoStreamArguments),
    /// Serve empty calls and echoes until SIGTERM or the end of standard input; prints the address
    ServeEcho(ServeEchoArguments),
}

/// Concurrency and duration of the run.
#[derive(Debug, Args)]
pub(crate) struct Pace {
    /// How many operations are outstanding at most: concurrent callers that share one client
    #[arg(short, long, value_name = "N", default_value = "64")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) concurrency: u32,

    /// How long to measure: 500ms, 10s, 2m
    #[arg(short, long, value_name = "TIME", value_parser = parse_timeout, default_value = "10s")]
    pub(crate) duration: Duration,

    /// How long to run before that without measuring; 0 is allowed
    #[arg(long, value_name = "TIME", value_parser = parse_pause, default_value = "2s")]
    pub(crate) warmup: Duration,

    /// Threads that run the callers [default: as many as there are cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: Option<u32>,
}

/// The pace, and when operations begin.
#[derive(Debug, Args)]
pub(crate) struct OpenPace {
    #[command(flatten)]
    pub(crate) pace: Pace,

    /// Open loop: operations per second that are due, whether earlier ones are answered or not
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate)]
    pub(crate) rate: Option<f64>,
}

/// The keys and values.
#[derive(Debug, Clone, Copy, Args, Serialize)]
pub(crate) struct Data {
    /// How many keys there are, of 16 bytes each
    #[arg(short, long, value_name = "N", default_value = "100000")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) keys: u64,

    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) value: ValueSize,
}

/// The length of values.
#[derive(Debug, Clone, Copy, Args, Serialize)]
pub(crate) struct ValueSize {
    /// Length of a value in bytes; values are random bytes
    #[arg(long = "value-size", value_name = "BYTES", default_value = "128")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=4_194_304))]
    pub(crate) value_bytes: u32,
}

/// The choice of keys.
#[derive(Debug, Clone, Copy, Args, Serialize)]
pub(crate) struct Choice {
    /// How keys are chosen
    #[arg(long, value_enum, default_value_t = Distribution::Uniform)]
    pub(crate) distribution: Distribution,
}

/// The data that exists before the run.
#[derive(Debug, Args)]
pub(crate) struct Preparation {
    /// Take the keys as they are instead of writing them first where the workload reads
    #[arg(long)]
    pub(crate) no_load: bool,
}

/// How FlareDB is called.
#[derive(Debug, Clone, Copy, Args, Serialize)]
pub(crate) struct ClientOptions {
    /// Make each call a unary gRPC call instead of sharing streams
    #[arg(long)]
    pub(crate) unary: bool,

    /// Open this many connections to a store that do nothing during the run
    #[arg(long, value_name = "N", default_value = "0")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=65_536))]
    pub(crate) idle_connections: u32,
}

/// The database that is measured.
#[derive(Debug, Args)]
pub(crate) struct TargetOptions {
    /// What is measured
    #[arg(long, value_enum, default_value_t = TargetName::Flaredb)]
    pub(crate) target: TargetName,

    /// Where etcd serves clients, as host:port; FlareDB is found through --pd
    #[arg(long, value_name = "ADDR")]
    pub(crate) endpoint: Option<String>,

    #[command(flatten)]
    pub(crate) client: ClientOptions,
}

/// A database that single values can be written to and read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TargetName {
    /// The cluster behind --pd
    Flaredb,
    /// etcd's key-value service at --endpoint
    Etcd,
}

/// `ycsb-a`, `ycsb-b`, `ycsb-c`: what they read and how they choose is part of their name.
#[derive(Debug, Args)]
pub(crate) struct PresetArguments {
    #[command(flatten)]
    pub(crate) open: OpenPace,
    #[command(flatten)]
    pub(crate) data: Data,
    #[command(flatten)]
    pub(crate) preparation: Preparation,
    #[command(flatten)]
    pub(crate) target: TargetOptions,
}

/// `raw-put`, `raw-get`.
#[derive(Debug, Args)]
pub(crate) struct PointArguments {
    #[command(flatten)]
    pub(crate) choice: Choice,
    #[command(flatten)]
    pub(crate) run: PresetArguments,
}

/// `mixed`.
#[derive(Debug, Args)]
pub(crate) struct MixedArguments {
    /// Share of operations that read, 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = parse_share, default_value = "0.5")]
    pub(crate) read_ratio: f64,
    #[command(flatten)]
    pub(crate) points: PointArguments,
}

/// `scan`.
#[derive(Debug, Args)]
pub(crate) struct ScanArguments {
    /// Most entries of one scan
    #[arg(long, value_name = "N", default_value = "100")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) scan_limit: u32,
    #[command(flatten)]
    pub(crate) open: OpenPace,
    #[command(flatten)]
    pub(crate) data: Data,
    #[command(flatten)]
    pub(crate) choice: Choice,
    #[command(flatten)]
    pub(crate) preparation: Preparation,
    #[command(flatten)]
    pub(crate) client: ClientOptions,
}

/// `cas`.
#[derive(Debug, Args)]
pub(crate) struct CasArguments {
    #[command(flatten)]
    pub(crate) open: OpenPace,
    #[command(flatten)]
    pub(crate) data: Data,
    #[command(flatten)]
    pub(crate) preparation: Preparation,
    #[command(flatten)]
    pub(crate) client: ClientOptions,
}

/// `cas-hot`.
#[derive(Debug, Args)]
pub(crate) struct CasHotArguments {
    #[command(flatten)]
    pub(crate) value: ValueSize,

    /// Longest pause of a caller that conflicts again and again; 0: none
    #[arg(long, value_name = "TIME", value_parser = parse_pause, default_value = "64ms")]
    pub(crate) backoff_max: Duration,

    #[command(flatten)]
    pub(crate) pace: Pace,
    #[command(flatten)]
    pub(crate) client: ClientOptions,
}

/// `tso`.
#[derive(Debug, Args)]
pub(crate) struct TsoArguments {
    #[command(flatten)]
    pub(crate) open: OpenPace,
    #[command(flatten)]
    pub(crate) client: ClientOptions,
}

/// `load`.
#[derive(Debug, Args)]
pub(crate) struct LoadArguments {
    #[command(flatten)]
    pub(crate) data: Data,
    #[command(flatten)]
    pub(crate) target: TargetOptions,
}

/// `empty-call`.
#[derive(Debug, Args)]
pub(crate) struct EmptyCallArguments {
    /// What `serve-echo` printed
    #[arg(long, value_name = "ADDR")]
    pub(crate) endpoint: String,
    #[command(flatten)]
    pub(crate) open: OpenPace,
}

/// `echo-stream`.
#[derive(Debug, Args)]
pub(crate) struct EchoStreamArguments {
    /// What `serve-echo` printed
    #[arg(long, value_name = "ADDR")]
    pub(crate) endpoint: String,
    #[command(flatten)]
    pub(crate) pace: Pace,
}

/// `serve-echo`.
#[derive(Debug, Args)]
pub(crate) struct ServeEchoArguments {
    /// Where to listen; port 0 takes any free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    pub(crate) addr: std::net::SocketAddr,
}

impl TargetOptions {
    /// The endpoint when the target has one.
    pub(crate) fn endpoint(&self) -> Result<Option<&str>, Failure> {
        match (self.target, &self.endpoint) {
            (TargetName::Flaredb, None) => Ok(None),
            (TargetName::Flaredb, Some(_)) => Err(Failure::usage(
                "--endpoint does not go with the target flaredb, which is found through --pd",
            )),
            (TargetName::Etcd, None) => Err(Failure::usage(
                "the target etcd needs --endpoint, e.g. --endpoint 127.0.0.1:2379",
            )),
            (TargetName::Etcd, Some(_)) if self.client.unary => Err(Failure::usage(
                "--unary does not go with the target etcd, which is always called so",
            )),
            (TargetName::Etcd, Some(_)) if self.client.idle_connections > 0 => Err(Failure::usage(
                "--idle-connections goes with the target flaredb only",
            )),
            (TargetName::Etcd, Some(endpoint)) => Ok(Some(endpoint)),
        }
    }
}

/// A time that may be 0.
fn parse_pause(text: &str) -> Result<Duration, String> {
    match text {
        "0" | "0s" | "0ms" => Ok(Duration::ZERO),
        _ => parse_timeout(text),
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a number from 0 to 1, such as 0.5".to_owned()),
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.1..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("expected a number from 0.1 to 10000000".to_owned()),
    }
}
