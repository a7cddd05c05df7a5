//! Plays hostile and careless peers against one `rdb-server` with default settings, and says whether it keeps its promise:
//! no peer takes memory or places from the others.
//!
//! Each peer has a file under [`peers`] and a fresh cluster ([`trial`]). While it is there, a well-behaved client
//! ([`bystander`]) puts and gets, and its worst latency counts. `scripts/hostile.sh` builds everything and runs this.

#![forbid(unsafe_code)]

mod bystander;
// Shared with the end-to-end tests; only a part of it is used here.
#[allow(dead_code, unused_imports, unused_macros)]
#[path = "../../../rdb-client/tests/e2e/harness/mod.rs"]
mod harness;
mod kernel;
mod peers;
mod siege;
mod trial;
mod verdict;
mod wire;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use rdb_proto::transport::{Termination, raise_open_files_limit};

use crate::peers::{PEERS, Peer};
use crate::trial::Trial;
use crate::verdict::print_header;

/// More than the connections of any peer.
const OPEN_FILES: usize = 8192;

/// Plays hostile peers against rdb-server and prints what each of them cost. Exit code 1 when a limit was missed, 2 when a
/// peer could not be played.
///
/// The binaries are those beside this program, or in the directory RDB_BIN_DIR.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only the peers of this name; can be repeated.
    #[arg(long, value_name = "PEER")]
    only: Vec<String>,

    /// Say which peers there are, and end.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("hostile: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether every peer stayed within its limits.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    if arguments.list {
        for peer in PEERS {
            println!("{:20} {}", peer.name, peer.does);
        }
        return Ok(true);
    }
    let peers = arguments.peers()?;
    raise_open_files_limit(OPEN_FILES);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let missed = runtime.block_on(async {
        let mut termination = Termination::install()?;
        tokio::select! {
            missed = play(&peers) => missed,
            // What is in flight is dropped, and with it the processes.
            () = termination.requested() => anyhow::bail!("interrupted"),
        }
    })?;
    if missed > 0 {
        let played = peers.len();
        println!("hostile: {missed} of {played} peers took more than they may");
    }
    Ok(missed == 0)
}

impl Arguments {
    fn peers(&self) -> anyhow::Result<Vec<&'static Peer>> {
        if self.only.is_empty() {
            return Ok(PEERS.iter().collect());
        }
        let named = |name: &String| {
            let found = PEERS.iter().find(|peer| peer.name == name);
            found.with_context(|| format!("no peer is named {name}; see --list"))
        };
        self.only.iter().map(named).collect()
    }
}

/// Plays one peer after the other; returns how many missed.
async fn play(peers: &[&Peer]) -> anyhow::Result<usize> {
    print_header();
    let mut missed = 0;
    for peer in peers {
        let mut trial = Trial::start(peer.limits).await;
        if let Err(error) = (peer.play)(&mut trial).await {
            trial.expect(false, format!("{error:#}"));
        }
        let verdict = trial.end().await?;
        missed += usize::from(!verdict.print(peer.name));
    }
    Ok(missed)
}
