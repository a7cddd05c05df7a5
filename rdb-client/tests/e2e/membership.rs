//! Stores that come and go while clients write: replicas move by themselves, and nothing acknowledged is lost.

use std::collections::BTreeSet;
use std::fs;
use std::process::Output;

use rdb_client::{Client, RegionRoute, ReplicaOutcome};
use serde_json::Value;
use tempfile::TempDir;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::harness::{HANG_GUARD, Node, damage_largest_table, found};
use crate::load::Load;
use crate::rdbctl::Rdbctl;

const WRITERS: usize = 4;

const DESTROYED: &str = "a replica was destroyed";

/// More than an entry of the log holds, so that a new replica gets it by a snapshot, too.
const VALUE_BYTES: usize = 1024;

/// A placement driver, and stores that were started one after the other: each has its number as its id.
struct Stores {
    pd: Node,
    stores: Vec<Node>,
    directory: TempDir,
}

impl Stores {
    async fn start() -> Self {
        let directory = TempDir::new().expect("the temporary directory can be written");
        let mut pd = Node::placement_driver(directory.path().join("pd"));
        pd.start_serving().await;
        let mut stores = Self {
            pd,
            stores: Vec::new(),
            directory,
        };
        stores.add().await;
        stores
    }

    /// One more store, with the next id.
    async fn add(&mut self) -> u64 {
        let id = self.stores.len() as u64 + 1;
        let data_dir = self.directory.path().join(format!("store-{id}"));
        let store = Node::store(data_dir, &self.pd.address());
        // By default openraft's lines about calls that it refuses are left out.
        let mut store = store.with_flag("--log-level", "info,openraft=error");
        store.start();
        self.stores.push(store);
        self.has_registered(id).await;
        id
    }

    async fn has_registered(&self, id: u64) {
        let client = self.client().await;
        let is_known = async || {
            let stores = client.stores().await.expect("it answers");
            stores.iter().any(|store| store.id == id).then_some(())
        };
        found("the store registers", is_known).await;
    }

    fn store(&mut self, id: u64) -> &mut Node {
        &mut self.stores[id as usize - 1]
    }

    async fn client(&self) -> Client {
        let connected = Client::connect([self.pd.address()]).await;
        let client = connected.expect("the placement driver serves");
        client.with_timeout(HANG_GUARD)
    }

    /// Waits until the only region has voters on exactly these stores, one of which leads, and they hold the same data.
    async fn hold_the_region(&self, ids: impl IntoIterator<Item = u64>) {
        let ids: BTreeSet<u64> = ids.into_iter().collect();
        let client = self.client().await;
        let hold = async || {
            let route = client.region("").await.expect("it answers")?;
            (voters(&route).as_ref() == Some(&ids)).then_some(route)
        };
        let what = format!("the replicas are on {ids:?}");
        let agree = async || {
            let route = found(&what, hold).await;
            // The leader may change, or a replica may be on its way to another store: then it is asked again.
            let check = client.check_region(&route).await.ok()?;
            let digests = check
                .replicas
                .into_iter()
                .map(|replica| match replica.outcome {
                    ReplicaOutcome::Checksum { digest, .. } => Some(digest),
                    _ => None,
                });
            let digests = digests.collect::<Option<BTreeSet<_>>>()?;
            assert_eq!(digests.len(), 1, "the replicas differ");
            Some(())
        };
        found("the replicas hold the same data", agree).await;
    }

    /// Has the replica of one store move to another one, and waits until it has.
    async fn move_replica(&self, from_store: u64, to_store: u64) {
        let (from_store, to_store) = (from_store.to_string(), to_store.to_string());
        self.accepts(&["operator", "move-peer", "1", &from_store, &to_store])
            .await;
        let is_done = async || {
            let listed = self.try_rdbctl(&["operator", "list", "-o", "json"]).await;
            let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
            let newest: Value = serde_json::from_str(listed.lines().last()?).expect("JSON");
            (newest["state"] == "done").then_some(())
        };
        found("the operator is done", is_done).await;
    }

    /// Asks until it is accepted: there is one operator for a region at a time, and stores may just have been silent.
    async fn accepts(&self, arguments: &[&str]) {
        let is_accepted = async || {
            let output = self.try_rdbctl(arguments).await;
            output.status.success().then_some(())
        };
        found(&format!("{arguments:?} is accepted"), is_accepted).await;
    }

    async fn load(&self) -> Load {
        Load::begin(self.client().await, WRITERS, value).await
    }

    async fn try_rdbctl(&self, arguments: &[&str]) -> Output {
        Rdbctl::at(self.pd.address()).run(arguments).await
    }

    async fn health_tells(&self, texts: &[&str]) {
        let tells = async || {
            let output = self.try_rdbctl(&["health", "-o", "json"]).await;
            let told = String::from_utf8_lossy(&output.stdout);
            texts.iter().all(|text| told.contains(text)).then_some(())
        };
        found(&format!("health tells {texts:?}"), tells).await;
    }

    async fn rdbctl(&self, arguments: &[&str]) {
        let output = self.try_rdbctl(arguments).await;
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {told}");
    }
}

/// The stores of the voters, if there are no learners and somebody leads.
fn voters(route: &RegionRoute) -> Option<BTreeSet<u64>> {
    route.leader.as_ref()?;
    let peers = route.region.peers.iter();
    let voters = peers.map(|peer| (!peer.is_learner).then_some(peer.store_id));
    voters.collect()
}

fn value(number: u64) -> Vec<u8> {
    let mut value = number.to_string().into_bytes();
    value.resize(VALUE_BYTES, b'.');
    value
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_becomes_three_replicas_and_one_of_four_can_be_taken_away() {
    let mut stores = Stores::start().await;
    stores.hold_the_region([1]).await;
    let load = stores.load().await;
    stores.add().await;
    stores.add().await;
    stores.hold_the_region([1, 2, 3]).await;
    load.goes_on().await;

    stores.add().await;
    stores.rdbctl(&["store", "remove", "1"]).await;
    stores.hold_the_region([2, 3, 4]).await;
    load.goes_on().await;
    let ended = stores.store(1).exited().await;
    assert_eq!(ended.code(), Some(3), "{}", stores.store(1).log());
    load.goes_on().await;

    // The others are one database without it.
    stores.store(2).kill();
    load.goes_on().await;
    stores.store(2).start_serving().await;
    stores.hold_the_region([2, 3, 4]).await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_disk_was_lost_is_replaced_by_a_new_one_at_its_address() {
    let mut stores = Stores::start().await;
    let load = stores.load().await;
    stores.add().await;
    stores.add().await;
    stores.hold_the_region([1, 2, 3]).await;
    let lost = stores.store(2);
    lost.kill();
    fs::remove_dir_all(lost.data_dir()).expect("it is there");
    // The address is that of the lost store until it has been silent for a while.
    let client = stores.client().await;
    let is_another = async || {
        let lost = stores.store(2);
        if lost.has_ended() {
            lost.start();
        }
        let known = client.stores().await.expect("it answers");
        known.iter().any(|store| store.id == 4).then_some(())
    };
    found("the store registers as another", is_another).await;
    stores.rdbctl(&["store", "remove", "2"]).await;
    stores.hold_the_region([1, 3, 4]).await;
    load.goes_on().await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_moved_away_is_destroyed_and_comes_back_as_another_one() {
    let mut stores = Stores::start().await;
    let load = stores.load().await;
    stores.add().await;
    stores.add().await;
    stores.hold_the_region([1, 2, 3]).await;
    stores.add().await;
    stores.move_replica(1, 4).await;
    stores.hold_the_region([2, 3, 4]).await;
    load.goes_on().await;
    stores.store(1).wait_for_log(DESTROYED).await;
    stores.store(1).kill();
    stores.store(1).start_serving().await;

    stores.move_replica(4, 1).await;
    stores.hold_the_region([1, 2, 3]).await;
    load.goes_on().await;
    for leader in [1, 2, 3] {
        let to_store = leader.to_string();
        stores
            .accepts(&["operator", "transfer-leader", "1", &to_store])
            .await;
        load.goes_on().await;
    }
    stores.store(4).wait_for_log(DESTROYED).await;
    load.end().await;
}

/// A start after a kill applies the end of the log again, and a swap reads what it replaces.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_damaged_data_is_named_done_without_and_replaced() {
    let mut stores = Stores::start().await;
    stores.add().await;
    stores.add().await;
    stores.hold_the_region([1, 2, 3]).await;
    let client = stores.client().await;
    let mut large = vec![0; 256 << 10];
    fastrand::Rng::with_seed(1).fill(&mut large);
    let least_bytes = large.len();
    let version = client.cas_put("key", 0, large).await.expect("swapped");
    // Two stores are enough for an acknowledgement. All have it once their data is the same.
    stores.hold_the_region([1, 2, 3]).await;
    let damaged = stores.store(2);
    damaged.terminate();
    assert!(damaged.exited().await.success(), "it has flushed");
    damaged.start_serving().await;
    client
        .cas_put("key", version, "small")
        .await
        .expect("swapped");
    damaged.kill();
    damage_largest_table(&damaged.data_dir().join("db"), least_bytes);

    damaged.start();
    damaged
        .wait_for_log("the data of a region is damaged")
        .await;
    stores
        .health_tells(&[
            "region 1: its log cannot be applied",
            ".sst",
            "The other stores hold the region",
        ])
        .await;
    let swapped = client.get("key").await.expect("read");
    assert_eq!(swapped.expect("it is there").value, "small");
    let load = stores.load().await;
    load.goes_on().await;

    stores.add().await;
    stores.move_replica(2, 4).await;
    stores.hold_the_region([1, 3, 4]).await;
    load.goes_on().await;
    load.end().await;
    let damaged = stores.store(2);
    damaged.wait_for_log(DESTROYED).await;
    damaged.wait_for_health(ServingStatus::Serving).await;
    let log = damaged.log();
    let unheard = log.matches("failed to send RaftMsg").count();
    // What may be on its way when the group ends.
    assert!(
        unheard < 40,
        "{unheard} lines of requests to a group that has ended"
    );
}
