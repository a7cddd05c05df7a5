//! An upgrade from format 2 that is killed at each of its steps: the next start goes on, and nothing is lost.
//!
//! The steps are those of the shim: whatever is synced, made, renamed or removed in the directory. The start after a kill is killed at
//! some step, too, so what was half done is found half done twice.

use std::fs;
use std::path::{Path, PathBuf};

use futures::stream::{self, StreamExt};
use rdb_proto::metapb::Peer;
use tempfile::TempDir;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::format_2::{GONE_SWAPS, Store, copy, fixture};
use crate::harness::{Node, connect, found, skipped};
use crate::scripted_pd::{REGION_ID, ScriptedPd};
use crate::shim::ShimLibrary;

/// Directories that are upgraded at a time.
const TOGETHER: usize = 4;

/// The store of the directory.
const STORE_ID: u64 = 1;

/// What a kill has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    NoLog,
    /// One that the identity file does not know.
    UnknownLog,
    Log,
}

struct Upgrade<'a> {
    library: &'a ShimLibrary,
    pd: ScriptedPd,
    node: Node,
    steps: PathBuf,
    _directory: TempDir,
}

impl<'a> Upgrade<'a> {
    async fn prepare(library: &'a ShimLibrary) -> Self {
        let directory = TempDir::new().expect("the temporary directory can be written");
        // The shim sees paths without links.
        let place = fs::canonicalize(directory.path()).expect("it is there");
        let data = place.join("store");
        copy(&fixture(), &data);
        let pd = ScriptedPd::start("", "").await;
        Self {
            library,
            node: Node::store(data, &pd.address()),
            pd,
            steps: place.join("steps"),
            _directory: directory,
        }
    }

    /// Starts the store, which is killed before a step of this number; 0: before none. Returns the steps that it has taken when it
    /// serves. `None`: it was killed.
    async fn start(&mut self, kill_at: usize) -> Option<Vec<String>> {
        fs::write(&self.steps, "").expect("it can be written");
        let environment = self
            .library
            .killing_at(kill_at, self.node.data_dir(), &self.steps);
        for (name, value) in environment {
            self.node.set_environment(name, value);
        }
        self.node.start();
        found("the store serves, or is killed", async || {
            if self.node.has_ended() {
                let taken = lines(&self.steps).len();
                let log = self.node.log();
                assert!(kill_at != 0 && taken >= kill_at, "it has ended: {log}");
                return Some(None);
            }
            let serves = serves(&self.node).await;
            serves.then(|| Some(lines(&self.steps)))
        })
        .await
    }

    fn left(&self) -> Left {
        let data = self.node.data_dir();
        let identity = fs::read_to_string(data.join("flaredb.identity"));
        let identity = identity.expect("it is replaced as a whole");
        if identity.contains("format = 3\n") {
            return Left::Log;
        }
        assert!(identity.contains("format = 2\n"), "{identity}");
        if data.join("raft").exists() {
            Left::UnknownLog
        } else {
            Left::NoLog
        }
    }

    /// The store has just been started, after which `heartbeats` and more have come.
    async fn assert_nothing_is_lost(&self, heartbeats: u64) {
        let mut store = Store::of(&self.node).await;
        store.assert_holds_what_was_written().await;
        assert!(store.swap("gone", 0).await > GONE_SWAPS, "no version twice");
        store.put("new", "later").await;
        assert_eq!(self.left(), Left::Log);
        let peers = found("it reports its region", async || {
            let (heartbeat, count) = self.pd.heartbeat_of(STORE_ID)?;
            let mut leads = heartbeat.leads.into_iter();
            let led = leads.find(|led| led.region_id == REGION_ID)?;
            (count > heartbeats).then_some(led.peers)
        })
        .await;
        let sole = Peer {
            id: 1,
            store_id: STORE_ID,
            learner: false,
        };
        assert_eq!(peers, [sole]);
    }

    fn heartbeats(&self) -> u64 {
        let heartbeat = self.pd.heartbeat_of(STORE_ID);
        heartbeat.map_or(0, |(_, count)| count)
    }
}

/// What was killed at one step, and at another one in its second start, serves in its third. Returns what the first kill has left;
/// `None`: it has served before that step.
async fn kill_at(library: &ShimLibrary, step: usize, count: usize) -> Option<Left> {
    let mut upgrade = Upgrade::prepare(library).await;
    let left = match upgrade.start(step).await {
        None => upgrade.left(),
        Some(_) => return None,
    };
    let another_step = step * 7 % count + 1;
    if upgrade.start(another_step).await.is_some() {
        upgrade.node.kill();
    }
    let heartbeats = upgrade.heartbeats();
    let served = upgrade.start(0).await;
    served.expect("nobody kills it");
    upgrade.assert_nothing_is_lost(heartbeats).await;
    Some(left)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_that_is_killed_at_any_step_goes_on_with_the_next_start() {
    let directory = TempDir::new().expect("the temporary directory can be written");
    let Some(library) = ShimLibrary::compile(directory.path()) else {
        return skipped("there is no C compiler");
    };
    let mut whole = Upgrade::prepare(&library).await;
    let steps = whole.start(0).await.expect("nobody kills it");
    whole.assert_nothing_is_lost(0).await;
    drop(whole);
    let count = steps.len();
    println!("{count} steps: {}", steps.join(", "));

    let kills = stream::iter(1..=count).map(|step| kill_at(&library, step, count));
    let killed = kills.buffer_unordered(TOGETHER);
    let left: Vec<_> = killed.filter_map(std::future::ready).collect().await;
    let after = |what| left.iter().filter(|left| **left == what).count();
    let counts = [Left::NoLog, Left::UnknownLog, Left::Log].map(after);
    println!(
        "{} kills: {counts:?} before, in and after the making of the log",
        left.len()
    );
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    // Threads of the store take turns in any order, so that the last steps may come when it serves.
    assert!(left.len() + 5 >= count, "{} kills", left.len());
}

fn lines(file: &Path) -> Vec<String> {
    let steps = fs::read_to_string(file).expect("it is there");
    steps.lines().map(str::to_owned).collect()
}

async fn serves(node: &Node) -> bool {
    let Ok(channel) = connect(&node.address()).await else {
        return false;
    };
    let mut health = HealthClient::new(channel);
    let asked = health.check(HealthCheckRequest::default()).await;
    asked.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving)
}
