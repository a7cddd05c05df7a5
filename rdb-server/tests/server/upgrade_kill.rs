//! An upgrade from format 2 that is killed at each of its steps: the next start goes on, and nothing is lost.
//!
//! The steps are those of the shim: whatever is synced, made, renamed or removed in the directory. The start after a kill is killed at
//! some step, too, so what was half done is found half done twice.

use std::fs;
use std::path::{Path, PathBuf};

use futures::FutureExt;
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

/// What two kills have left.
struct Killed {
    first: Left,
    /// `None`: the second start has served before its step.
    second: Option<Left>,
}

/// What was killed at one step, and at another one in its second start, serves in its third. `None`: it has served before the first.
async fn kill_at(library: &ShimLibrary, first_step: usize, second_step: usize) -> Option<Killed> {
    let mut upgrade = Upgrade::prepare(library).await;
    let first = match upgrade.start(first_step).await {
        None => upgrade.left(),
        Some(_) => return None,
    };
    let second = match upgrade.start(second_step).await {
        None => Some(upgrade.left()),
        Some(_) => {
            upgrade.node.kill();
            None
        }
    };
    let heartbeats = upgrade.heartbeats();
    let served = upgrade.start(0).await;
    served.expect("nobody kills it");
    upgrade.assert_nothing_is_lost(heartbeats).await;
    Some(Killed { first, second })
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
    let certain = certain_steps(&steps);
    println!(
        "{count} steps, {certain} before the log is known: {}",
        steps.join(", ")
    );

    let kills = stream::iter(1..=count).map(|step| {
        let second_step = step * 7 % certain + 1;
        kill_at(&library, step, second_step).map(move |killed| (step, killed))
    });
    let kills: Vec<_> = kills.buffer_unordered(TOGETHER).collect().await;
    // A store that serves goes on with its threads, so that the last steps may come later or not at all.
    let missed = kills.iter().filter(|(_, killed)| killed.is_none());
    let missed: Vec<_> = missed.map(|(step, _)| *step).collect();
    assert!(missed.iter().all(|step| *step > certain), "{missed:?}");
    let killed: Vec<_> = kills.into_iter().filter_map(|(_, killed)| killed).collect();
    for left in [Left::NoLog, Left::UnknownLog, Left::Log] {
        let first = killed.iter().filter(|killed| killed.first == left);
        let second: Vec<_> = first.map(|killed| killed.second).collect();
        println!("{} kills leave {left:?}, then {second:?}", second.len());
        assert!(!second.is_empty(), "no kill leaves {left:?}");
        if left == Left::UnknownLog {
            assert!(second.contains(&Some(left)), "half made once only");
        }
    }
}

/// How many steps come before the identity file knows the log. The store does not serve before it has written to the log after that.
fn certain_steps(steps: &[String]) -> usize {
    let made = steps.iter().position(|step| step == "make raft");
    let made = made.expect("the log is made");
    let known = steps[made..]
        .iter()
        .position(|step| step == "rename flaredb.identity");
    made + known.expect("the identity file is replaced") + 1
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
