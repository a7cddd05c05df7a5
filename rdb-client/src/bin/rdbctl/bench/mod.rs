//! `rdbctl bench`: measures throughput and latency of the cluster.
//!
//! - `arguments`: what can be typed
//! - `runs`: sets up what a subcommand needs, runs it, and reports the result
//! - `workload`: what one operation of each workload does, on `keys` and `values`; `load` writes what it expects to find
//! - `target`: what is called: FlareDB, etcd, and the bare transport as their limit
//! - `runner`: when operations begin and which count (`stream` for messages of one stream); `recorder`: how long they took, and the
//!   longest `gap` between them
//! - `progress`: what is shown meanwhile; `report`: what is printed in the end
//!
//! Callers are tasks on this command's own runtime, with a thread per core, and share one client.

mod arguments;
mod gap;
mod keys;
mod load;
mod progress;
mod recorder;
mod report;
mod runner;
mod runs;
mod stream;
mod target;
mod values;
mod workload;

use std::num::NonZero;

use crate::arguments::GlobalArguments;
use crate::executor::{Interrupt, on_threads};
use crate::failure::Failure;
use crate::output::Output;

pub(crate) use arguments::BenchCommand;
use arguments::{Choice, MixedArguments, PointArguments};
use keys::Distribution;
use runs::Runner;
use target::serve_echo;

/// What YCSB's workloads A, B and C read; the rest they update.
const YCSB_A_READS: f64 = 0.5;
const YCSB_B_READS: f64 = 0.95;
const YCSB_C_READS: f64 = 1.0;

/// How YCSB chooses keys.
const YCSB_CHOICE: Choice = Choice {
    distribution: Distribution::Zipfian,
};

/// Runs a workload and prints what it found.
pub(crate) fn run(
    command: BenchCommand,
    global: &GlobalArguments,
    interrupt: Interrupt,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    use BenchCommand as Bench;
    let threads = command.threads().unwrap_or_else(cores);
    let runner = Runner { global, threads };
    let measured = async {
        let report = match &command {
            Bench::RawPut(PointArguments { choice, run }) => {
                runner.points("raw-put", 0.0, *choice, run).await
            }
            Bench::RawGet(PointArguments { choice, run }) => {
                runner.points("raw-get", 1.0, *choice, run).await
            }
            Bench::Mixed(MixedArguments { read_ratio, points }) => {
                let PointArguments { choice, run } = points;
                runner.points("mixed", *read_ratio, *choice, run).await
            }
            Bench::YcsbA(run) => {
                runner
                    .points("ycsb-a", YCSB_A_READS, YCSB_CHOICE, run)
                    .await
            }
            Bench::YcsbB(run) => {
                runner
                    .points("ycsb-b", YCSB_B_READS, YCSB_CHOICE, run)
                    .await
            }
            Bench::YcsbC(run) => {
                runner
                    .points("ycsb-c", YCSB_C_READS, YCSB_CHOICE, run)
                    .await
            }
            Bench::Scan(scan) => runner.scan(scan).await,
            Bench::Cas(cas) => runner.cas(cas).await,
            Bench::CasHot(cas) => runner.cas_hot(cas).await,
            Bench::Tso(tso) => runner.tso(tso).await,
            Bench::TsoStream(pace) => runner.tso_stream(pace).await,
            Bench::Load(load) => runner.load(load).await,
            Bench::EmptyCall(calls) => runner.empty_call(calls).await,
            Bench::EchoStream(stream) => runner.echo_stream(stream).await,
            Bench::ServeEcho(serve) => return serve_echo(serve.addr, output).await,
        };
        report?.print(global.output, output)
    };
    on_threads(threads, interrupt.limit(measured))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

impl BenchCommand {
    /// How many threads were asked for.
    fn threads(&self) -> Option<usize> {
        let pace = match self {
            Self::RawPut(points) | Self::RawGet(points) => &points.run.open.pace,
            Self::Mixed(mixed) => &mixed.points.run.open.pace,
            Self::YcsbA(run) | Self::YcsbB(run) | Self::YcsbC(run) => &run.open.pace,
            Self::Scan(run) => &run.open.pace,
            Self::Cas(run) => &run.open.pace,
            Self::CasHot(run) => &run.pace,
            Self::Tso(run) => &run.open.pace,
            Self::TsoStream(pace) => pace,
            Self::EmptyCall(run) => &run.open.pace,
            Self::EchoStream(run) => &run.pace,
            Self::Load(_) | Self::ServeEcho(_) => return None,
        };
        pace.threads.map(|threads| threads as usize)
    }
}
