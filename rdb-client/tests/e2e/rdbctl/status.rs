//! The state of a cluster on one screen, and what to do about what is wrong.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{DONE, FAILED, Rdbctl, assert_exit, command, errors, objects};
use crate::harness::{Cluster, Node, found, guarded, start_replicated};

/// Time enough for a busy machine where everything that is asked answers, or refuses at once.
const PATIENT: [&str; 4] = ["--wait", "5m", "--timeout", "5m"];

const STORES: usize = 3;

/// Within this time the first screen is promised.
const FIRST_SCREEN: Duration = Duration::from_secs(2);

/// Three stores with a replica each.
struct Three {
    pd: Node,
    stores: Vec<Node>,
    _directory: TempDir,
}

impl Three {
    async fn start() -> Self {
        let directory = TempDir::new().expect("the temporary directory can be written");
        let (pd, stores) = start_replicated(directory.path(), STORES, |store| store).await;
        Self {
            pd,
            stores,
            _directory: directory,
        }
    }

    fn rdbctl(&self) -> Rdbctl {
        Rdbctl::at(self.pd.address())
    }

    /// The id of a store, which may have registered in any order.
    async fn id_of(&self, store: usize) -> u64 {
        let address = self.stores[store].address();
        found("the store has registered", async || {
            let screen = look(&self.rdbctl(), &PATIENT).await;
            let stores = screen["stores"].as_array()?.iter();
            let mut stores = stores.filter(|store| store["address"] == address);
            stores.next()?["id"].as_u64()
        })
        .await
    }

    /// Waits until all is well.
    async fn are_well(&self) -> Value {
        found("all is well", async || {
            let screen = look(&self.rdbctl(), &PATIENT).await;
            let is_well = screen["alarms"] == 0 && screen["regions"]["count"] == 1;
            is_well.then_some(screen)
        })
        .await
    }
}

async fn look(rdbctl: &Rdbctl, options: &[&str]) -> Value {
    let line = [&["status", "-o", "json"], options].concat();
    objects(&rdbctl.run(line).await).swap_remove(0)
}

#[tokio::test]
async fn a_dead_store_is_named_with_the_command_that_replaces_it() {
    let mut three = Three::start().await;
    let rdbctl = three.rdbctl();
    let screen = three.are_well().await;
    assert_eq!(screen["stores"].as_array().expect("a list").len(), 3);
    let id = three.id_of(2).await;

    three.stores[2].kill();
    // The store itself, and the region that lacks its replica. In between the region may lack a leader, and so may another store.
    let screen = found("the region goes on", async || {
        let screen = look(&rdbctl, &PATIENT).await;
        let goes_on = screen["regions"]["with_replicas_missing"][0] == 1;
        (goes_on && screen["alarms"] == 2).then_some(screen)
    })
    .await;
    assert_eq!(screen["findings"][0]["store_id"], id, "{screen}");
    let told = rdbctl.run(["status"].iter().chain(&PATIENT)).await;
    assert_exit(&told, FAILED, "a store is dead");
    assert_eq!(errors(&told), "error: there are 2 alarms\n");
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    for part in [
        format!("ALARM: store {id} does not answer"),
        format!("start rdb-server at {} again", three.stores[2].address()),
        format!("rdbctl store remove {id}"),
        "ALARM: region 1: reads and writes go on".to_owned(),
    ] {
        assert!(text.contains(&part), "{part}: {text}");
    }

    three.stores[2].start_serving().await;
    three.are_well().await;
    let well = rdbctl.run(["status"].iter().chain(&PATIENT)).await;
    assert_exit(&well, DONE, "it is back");
}

#[tokio::test]
async fn what_stores_do_is_on_the_screen_and_in_their_list() {
    let cluster = Cluster::start().await;
    let (client, rdbctl) = (cluster.client().await, Rdbctl::of(&cluster));
    let screen = found("a heartbeat tells of writes", async || {
        client.raw_put("k", "v").await.expect("written");
        let screen = look(&rdbctl, &PATIENT).await;
        let rate = screen["load"]["writes_per_s"].as_f64()?;
        (rate > 0.0).then_some(screen)
    })
    .await;
    let load = &screen["stores"][0]["load"];
    assert!(load["writes_per_s"].as_f64() > Some(0.0), "{screen}");
    assert!(load["write_p99_us"].as_u64() > Some(0), "{screen}");
    let told = rdbctl.run(["store", "list", "-o", "json"]).await;
    assert_exit(&told, DONE, "store list");
    let listed = &objects(&told)[0]["load"];
    assert!(listed["window_ms"].as_u64() > Some(0), "{listed}");
    let told = rdbctl.run(["status"].iter().chain(&PATIENT)).await;
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    for part in ["WRITES/S", "P99", "\nCommands: "] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn a_store_that_stands_still_or_is_dead_is_on_a_screen_within_two_seconds() {
    let mut three = Three::start().await;
    let rdbctl = three.rdbctl();
    three.are_well().await;
    let (id, address) = (three.id_of(0).await, three.stores[0].address());
    three.stores[0].pause();
    assert_is_told_of_in_time(&rdbctl, id, &address).await;
    three.stores[0].kill();
    assert_is_told_of_in_time(&rdbctl, id, &address).await;
}

/// On a busy machine others may be late as well, and so may the screen: then it looks again.
async fn assert_is_told_of_in_time(rdbctl: &Rdbctl, id: u64, address: &str) {
    let alarm = found("it is told of in time", async || {
        let began = Instant::now();
        let screen = look(rdbctl, &[]).await;
        let is_in_time = began.elapsed() < FIRST_SCREEN;
        let mut alarms = screen["findings"].as_array()?.iter();
        let alarm = alarms.find(|alarm| alarm["store_id"] == id)?;
        is_in_time.then(|| alarm.clone())
    })
    .await;
    let told = |member: &str| alarm[member].as_str().expect("text");
    let (what, to_do) = (told("what"), told("to_do"));
    assert!(what.contains("does not answer"), "{what}");
    assert!(to_do.contains(address), "{to_do}");
}

#[tokio::test]
async fn without_a_placement_driver_it_says_what_it_found() {
    let mut cluster = Cluster::start().await;
    cluster.pd.kill();
    let rdbctl = Rdbctl::of(&cluster);
    let status = rdbctl.run(["status", "-o", "json"]).await;
    assert_exit(&status, FAILED, "status");
    let objects = objects(&status);
    let screen = &objects[0];
    assert_eq!(screen["stores"], Value::Null);
    assert_eq!(screen["placement_drivers"][0]["status"], "unreachable");
    assert_eq!(objects.len(), 1, "{objects:?}");
    assert_eq!(errors(&status), "error: there is 1 alarm\n");
    let told = rdbctl.run(["status"]).await;
    assert_exit(&told, FAILED, "status");
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    let address = cluster.pd.address();
    for part in [
        "ALARM: no placement driver serves",
        &address,
        "start rdb-pd again",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn a_placement_driver_with_a_new_directory_says_that_stores_of_another_cluster_report_to_it()
{
    let mut cluster = Cluster::start().await;
    let rdbctl = Rdbctl::of(&cluster);
    cluster.pd.kill();
    let kept = cluster.directory.path().join("kept");
    std::fs::rename(cluster.pd.data_dir(), kept).expect("it can be moved");
    cluster.pd.start_serving().await;
    let screen = found("the store is refused", async || {
        let screen = look(&rdbctl, &PATIENT).await;
        let what = screen["findings"][0]["what"].as_str()?;
        let is_told = what.starts_with("stores of another cluster report here");
        is_told.then_some(screen)
    })
    .await;
    assert_eq!(screen["alarms"], 1, "{screen}");
    let finding = &screen["findings"][0];
    let what = finding["what"].as_str().expect("text");
    assert!(what.contains(&cluster.store.address()), "{what}");
    let to_do = finding["to_do"].as_str().expect("text");
    assert!(to_do.contains("wrong --data-dir"), "{to_do}");
    let logged = "refused the heartbeat of a store";
    cluster.pd.wait_for_log(logged).await;
}

#[tokio::test]
async fn a_cluster_whose_first_region_waits_for_stores_says_so_to_who_asks_and_to_who_writes() {
    let mut cluster = Cluster::prepare();
    cluster.pd = cluster.pd.with_flag("--initial-replicas", "2");
    cluster.pd.start_serving().await;
    cluster.store.start();
    let rdbctl = Rdbctl::of(&cluster);
    let waits = "the first region waits for 1 more store (--initial-replicas 2)";
    found("the store has registered", async || {
        let told = rdbctl.run(["status"].iter().chain(&PATIENT)).await;
        assert_exit(&told, FAILED, "nothing can be written");
        let text = String::from_utf8_lossy(&told.stdout);
        text.contains(waits).then_some(())
    })
    .await;
    let told = rdbctl.run(["--timeout", "5s", "raw", "put", "k", "v"]);
    let told = errors(&told.await);
    assert!(told.contains(waits), "{told}");
}

#[tokio::test]
async fn it_is_shown_again_and_again_in_plain_blocks_until_ctrl_c() {
    let cluster = Cluster::start().await;
    let mut process = command()
        .args(["status", "--watch", "--interval", "10ms"])
        .args(PATIENT)
        .env("RDBCTL_PD", cluster.pd.address())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary can be started");
    let stdout = process.stdout.take().expect("it is piped");
    let watched = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(stdout).lines();
        let mut blocks = 0;
        while blocks < 3 {
            let line = lines.next().expect("it goes on").expect("text");
            assert!(!line.contains('\x1b'), "{line}");
            blocks += usize::from(line.starts_with("PLACEMENT DRIVER"));
        }
        interrupt(&process);
        // It does not wait for a reader.
        lines.for_each(drop);
        process.wait().expect("a child can be waited for")
    });
    let ended = guarded("it ends", watched).await.expect("no panic");
    assert_eq!(ended.code(), Some(DONE));
}

fn interrupt(process: &Child) {
    kill_process(Pid::from_child(process), Signal::INT).expect("it runs");
}
