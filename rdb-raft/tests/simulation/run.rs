//! One run of a world, in a process to itself.

use std::env;
use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use crate::entropy;
use crate::world::World;

const SEED: &str = "RDB_SIMULATION_SEED";
const STORES: &str = "RDB_SIMULATION_STORES";
const TRACE: &str = "RDB_SIMULATION_TRACE";
const MUTANT: &str = "RDB_MUTANT";

/// What a run says that has found something, with what that is.
pub(crate) const VIOLATION: &str = "VIOLATION";

/// Lines of a trace that are shown when a run fails.
const SHOWN: usize = 40;

/// Tasks without optimisation take much of a stack.
const STACK_BYTES: usize = 64 << 20;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) stores: u64,
}

/// In the other process: which run, and where its trace goes if it is not to be printed. `None`: there is nothing to do.
pub(crate) fn told() -> Option<(Run, Option<PathBuf>)> {
    let number = |name| Some(env::var(name).ok()?.parse().expect("a number"));
    let run = Run {
        seed: number(SEED)?,
        stores: number(STORES).unwrap_or(3),
    };
    Some((run, env::var_os(TRACE).map(PathBuf::from)))
}

impl Run {
    /// Returns the trace. The process breaks a promise, if a mutant is named.
    ///
    /// # Errors
    ///
    /// What went wrong, and how to repeat it. The trace stays.
    pub(crate) fn in_a_process(self, mutant: Option<&str>) -> Result<String, String> {
        let Self { seed, stores } = self;
        let directory = tempfile::tempdir().unwrap();
        let trace = directory.path().join(format!("simulation-{seed}"));
        let ran = Command::new(env::current_exe().unwrap())
            .args(["--exact", "one_run", "--ignored", "--nocapture"])
            .env(SEED, seed.to_string())
            .env(STORES, stores.to_string())
            .env(TRACE, &trace)
            .envs(mutant.map(|mutant| (MUTANT, mutant)))
            .output()
            .unwrap();
        let lines = fs::read_to_string(&trace).unwrap_or_default();
        if ran.status.success() {
            return Ok(lines);
        }
        // Nobody has to look at what a mutant has done.
        let kept = match mutant {
            Some(_) => trace,
            None => directory.keep().join(format!("simulation-{seed}")),
        };
        let shown = lines.lines().count().saturating_sub(SHOWN);
        let shown: Vec<_> = lines.lines().skip(shown).collect();
        Err(format!(
            "seed {seed} with {stores} stores:\n{}{}\n{}\nThe trace is in {}. To run it again, \
             and print it:\n{SEED}={seed} {STORES}={stores} cargo test --workspace --all-features --locked --test simulation \
             -- --exact one_run --ignored --nocapture",
            String::from_utf8_lossy(&ran.stdout),
            String::from_utf8_lossy(&ran.stderr),
            shown.join("\n"),
            kept.display(),
        ))
    }

    /// Runs it in this process, which must not have run anything before.
    pub(crate) fn here(self, trace: Option<&Path>) {
        let world = World::new(self.stores, trace.is_none());
        let of_panics = Arc::clone(&world);
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |panicked| {
            print(panicked);
            of_panics.violated(panicked);
        }));
        entropy::seed(self.seed);
        let of_run = Arc::clone(&world);
        // What a thread has of random numbers begins with it.
        let running = thread::Builder::new().stack_size(STACK_BYTES);
        let running = running.spawn(move || of_run.run(self.seed)).unwrap();
        let ran = running.join();
        if let Some(trace) = trace {
            fs::write(trace, world.trace().join("\n") + "\n").unwrap();
        }
        match ran {
            Ok(Ok(())) => {}
            Ok(Err(violation)) => panic!("{VIOLATION}: {violation}"),
            Err(_) => panic!("{VIOLATION}: the world has panicked"),
        }
    }
}
