//! `rdbctl bench`: how much the cluster does, and how fast.
//!
//! - `arguments`: what can be typed
//! - `runs`: sets up what a subcommand needs, runs it, and says what it was
//! - `workload`: what one operation of each workload does, on `keys` and `values`; `load` writes what it expects to find
//! - `target`: what is called: FlareDB, etcd, and the bare transport as their limit
//! - `runner`: when operations begin and which count (`stream` for messages of one stream); `recorder`: what they took
//! - `progress`: what is shown meanwhile; `report`: what is printed in the end
//!
//! Callers are tasks on a runtime of this command's own, with a thread per core, and share one client.

mod arguments;
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
use crate::failure::Failure;
use crate::output::Output;

pub(crate) use arguments::BenchCommand;
use arguments::{Choice, DataArguments, PresetArguments};
use keys::Distribution;
use runs::Session;

/// What YCSB's workloads A, B and C read; the rest they update.
const YCSB_A_READS: f64 = 0.5;
const YCSB_B_READS: f64 = 0.95;
const YCSB_C_READS: f64 = 1.0;

/// Runs a workload and prints what it found.
pub(crate) fn run(
    command: BenchCommand,
    global: &GlobalArguments,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    use BenchCommand as Bench;
    let threads = command.threads().unwrap_or_else(cores);
    let bench = Session { global, threads };
    let report = match command {
        Bench::RawPut(run) => bench.points("raw-put", 0.0, run),
        Bench::RawGet(run) => bench.points("raw-get", 1.0, run),
        Bench::Mixed(mixed) => bench.points("mixed", mixed.read_ratio, mixed.run),
        Bench::YcsbA(preset) => bench.points("ycsb-a", YCSB_A_READS, preset.zipfian()),
        Bench::YcsbB(preset) => bench.points("ycsb-b", YCSB_B_READS, preset.zipfian()),
        Bench::YcsbC(preset) => bench.points("ycsb-c", YCSB_C_READS, preset.zipfian()),
        Bench::Scan(scan) => bench.on_threads(bench.scan(&scan)),
        Bench::Cas(cas) => bench.on_threads(bench.cas(&cas)),
        Bench::CasHot(cas) => bench.on_threads(bench.cas_hot(&cas)),
        Bench::Tso(tso) => bench.on_threads(bench.tso(&tso)),
        Bench::TsoStream(stream) => bench.on_threads(bench.tso_stream(&stream)),
        Bench::Load(load) => bench.load(&load),
        Bench::EmptyCall(calls) => bench.on_threads(bench.empty_call(&calls)),
        Bench::EchoStream(stream) => bench.on_threads(bench.echo_stream(&stream)),
        Bench::ServeEcho(serve) => {
            return bench.on_threads(target::serve_echo(serve.addr, output));
        }
    }?;
    report.print(global.output, output)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

impl PresetArguments {
    fn zipfian(self) -> DataArguments {
        DataArguments {
            pace: self.pace,
            open_loop: self.open_loop,
            data: self.data,
            choice: Choice {
                distribution: Distribution::Zipfian,
            },
            preparation: self.preparation,
            target: self.target,
        }
    }
}

impl BenchCommand {
    /// How many threads were asked for.
    fn threads(&self) -> Option<usize> {
        let pace = match self {
            Self::RawPut(run) | Self::RawGet(run) => &run.pace,
            Self::Mixed(mixed) => &mixed.run.pace,
            Self::YcsbA(run) | Self::YcsbB(run) | Self::YcsbC(run) => &run.pace,
            Self::Scan(run) => &run.pace,
            Self::Cas(run) => &run.pace,
            Self::CasHot(run) => &run.pace,
            Self::Tso(run) => &run.pace,
            Self::TsoStream(run) => &run.pace,
            Self::EmptyCall(run) => &run.pace,
            Self::EchoStream(run) => &run.pace,
            Self::Load(_) | Self::ServeEcho(_) => return None,
        };
        pace.threads.map(|threads| threads as usize)
    }
}
