//! Processes that come late, go away and come back, and what their clients notice of it.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use rdb_client::{Client, Error, StoreState};
use rdb_proto::errorpb::region_error::Kind;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::kvrpc::{RawGetRequest, RawPutRequest, RawPutResponse};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::harness::{
    CallPath, Cluster, HANG_GUARD, Node, connect, copy_directory, found, guarded, over_both_paths,
};

over_both_paths! {
    a_registered_store_restarts_and_serves_without_the_placement_driver,
    clients_go_on_when_the_placement_driver_is_away_and_when_it_is_back,
    a_store_that_moved_is_found_at_its_new_address,
}

#[tokio::test]
async fn a_new_store_waits_for_the_placement_driver_and_serves_once_it_appears() {
    let mut cluster = Cluster::prepare();
    cluster.store.start();
    cluster
        .store
        .wait_for_health(ServingStatus::NotServing)
        .await;
    cluster
        .store
        .wait_for_log("waiting for the placement driver")
        .await;
    // It does not know yet whether it may serve everybody.
    let channel = connect(&cluster.store.address()).await;
    let mut store = KvRawClient::new(channel.expect("the store listens"));
    let refused = store.raw_get(RawGetRequest::default()).await;
    assert_eq!(refused.expect_err("it is new").code(), Code::Unavailable);

    cluster.pd.start_serving().await;
    cluster.store.wait_for_health(ServingStatus::Serving).await;
    let client = cluster.client().await;
    client.raw_put("k", "v").await.expect("put");
    assert_eq!(client.raw_get("k").await, Ok(Some("v".into())));
}

async fn a_registered_store_restarts_and_serves_without_the_placement_driver(path: CallPath) {
    let mut cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    client.raw_put("k", "v").await.expect("put");
    let version = client.cas_put("k", 0, "v").await.expect("created");
    cluster.pd.kill();
    cluster.store.kill();

    cluster.store.start_serving().await;
    let answer = get_directly(&cluster.store, "k").await;
    assert_eq!(answer, Some(Bytes::from("v")), "without any client library");
    assert_eq!(
        client.raw_get("k").await,
        Ok(Some("v".into())),
        "with a client from before"
    );
    assert_eq!(client.cas_put("k", version, "w").await, Ok(version + 1));
}

async fn clients_go_on_when_the_placement_driver_is_away_and_when_it_is_back(path: CallPath) {
    let mut cluster = Cluster::start().await;
    let client = cluster.client_over(path).await.with_timeout(HANG_GUARD);
    client.raw_put("k", "before").await.expect("put");
    let before = client.tso().await.expect("timestamp");
    cluster.pd.kill();

    client
        .raw_put("k", "meanwhile")
        .await
        .expect("a known region needs no placement driver");
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.tso().await }
    });
    cluster.pd.start_serving().await;
    let after = guarded("a call from before the restart", waiting).await;
    assert!(after.expect("no panic").expect("timestamp") > before);
    assert_eq!(client.raw_get("k").await, Ok(Some("meanwhile".into())));
    assert_eq!(client.stores().await.expect("stores").len(), 1);
    // The store's heartbeats find the way back, too.
    let newcomer = cluster.client().await;
    found("the store is up again", async || {
        let stores = newcomer.stores().await.expect("stores");
        (stores[0].state == StoreState::Up).then_some(())
    })
    .await;
}

/// Kills of a server under load. Each is followed by a restart on the same port.
const SERVER_KILLS: u64 = 4;

/// Writes that must be acknowledged before a server is killed, and after the last kill.
const WRITES_BETWEEN_KILLS: u64 = 150;

over_both_paths! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    a_killed_server_keeps_what_it_acknowledged_and_its_clients_go_on,
}

async fn a_killed_server_keeps_what_it_acknowledged_and_its_clients_go_on(path: CallPath) {
    let mut cluster = Cluster::start().await;
    let client = cluster.client_over(path).await.with_timeout(HANG_GUARD);
    let load = Arc::new(Load::default());
    let counters: Vec<_> = (0..4)
        .map(|number| tokio::spawn(count_up(client.clone(), Arc::clone(&load), number)))
        .collect();
    let writers: Vec<_> = (0..4)
        .map(|number| tokio::spawn(write_keys(client.clone(), Arc::clone(&load), number)))
        .collect();
    let reader = tokio::spawn(read_on(client.clone(), Arc::clone(&load)));

    for kill in 1..=SERVER_KILLS + 1 {
        let enough = kill * WRITES_BETWEEN_KILLS;
        let acknowledged = || load.acknowledged.load(Ordering::Relaxed);
        found("writes go on", async || {
            (acknowledged() >= enough).then_some(())
        })
        .await;
        if kill <= SERVER_KILLS {
            cluster.store.kill();
            cluster.store.start_serving().await;
        }
    }
    load.stop.store(true, Ordering::Relaxed);

    let reads = guarded("the reader ends", reader)
        .await
        .expect("reads succeed in the end");
    for tally in guarded("the counters end", join_all(counters)).await {
        let Tally {
            key,
            acknowledged,
            undetermined,
        } = tally.expect("a counter ends well");
        let version = client
            .get(&key)
            .await
            .expect("get")
            .map_or(0, |entry| entry.version);
        println!(
            "{key}: version {version}, {acknowledged} acknowledged, {undetermined} undetermined"
        );
        assert!(
            (acknowledged..=acknowledged + undetermined).contains(&version),
            "{key}"
        );
    }
    let mut acknowledged = 0;
    for written in guarded("the writers end", join_all(writers)).await {
        let written = written.expect("a writer ends well");
        acknowledged += written.len();
        for (key, value) in written {
            assert_eq!(
                client.raw_get(&key).await,
                Ok(Some(value)),
                "{key} was acknowledged"
            );
        }
    }
    println!("{acknowledged} acknowledged keys are there; {reads} reads succeeded meanwhile");
}

/// What the tasks of a load share.
#[derive(Debug, Default)]
struct Load {
    acknowledged: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn acknowledge(&self) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a counter's only writer knows of it.
struct Tally {
    key: String,
    acknowledged: u64,
    undetermined: u64,
}

/// Counts a key up with compare-and-swaps; whoever does not know the version reads it.
async fn count_up(client: Client, load: Arc<Load>, number: u32) -> Tally {
    let mut tally = Tally {
        key: format!("counter/{number}"),
        acknowledged: 0,
        undetermined: 0,
    };
    let mut version = 0;
    while load.goes_on() {
        match client.cas_put(&tally.key, version, "v").await {
            Ok(new_version) => {
                version = new_version;
                tally.acknowledged += 1;
                load.acknowledge();
            }
            Err(Error::Undetermined { .. }) => {
                tally.undetermined += 1;
                let entry = client
                    .get(&tally.key)
                    .await
                    .expect("a read succeeds in the end");
                version = entry.map_or(0, |entry| entry.version);
            }
            Err(error) => panic!("{}: {error}", tally.key),
        }
    }
    tally
}

/// Writes one key after the other and returns those that were acknowledged.
async fn write_keys(client: Client, load: Arc<Load>, number: u32) -> BTreeMap<String, Bytes> {
    let mut acknowledged = BTreeMap::new();
    for count in 0_u64.. {
        if !load.goes_on() {
            break;
        }
        let (key, value) = (
            format!("writer/{number}/{count}"),
            Bytes::from(count.to_string()),
        );
        match client.raw_put(&key, value.clone()).await {
            Ok(()) => {
                acknowledged.insert(key, value);
                load.acknowledge();
            }
            Err(Error::Undetermined { .. }) => {}
            Err(error) => panic!("{key}: {error}"),
        }
    }
    acknowledged
}

/// Reads all the time and returns how often it did.
async fn read_on(client: Client, load: Arc<Load>) -> u64 {
    let mut reads = 0;
    while load.goes_on() {
        client
            .get("counter/0")
            .await
            .expect("a read succeeds in the end");
        reads += 1;
    }
    reads
}

#[tokio::test]
async fn a_second_store_registers_and_serves_nothing() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let mut second = Node::store(
        cluster.directory.path().join("second"),
        &cluster.pd.address(),
    );
    second.start_serving().await;

    let stores = client.stores().await.expect("stores");
    let addresses: Vec<_> = stores.iter().map(|store| store.address.clone()).collect();
    assert_eq!(addresses, [cluster.store.address(), second.address()]);
    assert_ne!(stores[0].id, stores[1].id);
    let regions = client.regions().await.expect("regions");
    let leaders: Vec<_> = regions
        .iter()
        .map(|route| route.leader.as_ref().map(|leader| leader.id))
        .collect();
    assert_eq!(leaders, [Some(stores[0].id)]);
    let answer = put_directly(&second, "k", "v").await;
    assert!(
        matches!(routing_answer(&answer), Some(Kind::RegionNotFound(_))),
        "{answer:?}"
    );

    let newcomer = cluster.client().await;
    newcomer.raw_put("k", "v").await.expect("put");
    assert_eq!(client.raw_get("k").await, Ok(Some("v".into())));
}

/// How often the placement driver is restarted beside an original and its copies.
const RESTARTS_BESIDE_COPIES: u32 = 20;

#[tokio::test]
async fn a_copied_data_directory_never_displaces_the_living_original() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await.with_timeout(HANG_GUARD);
    client.raw_put("k", "old").await.expect("put");
    registered(&client, &cluster.store).await;
    // Copied from under the living original, so that they have everything that it has. It stands still meanwhile: a running one
    // removes files that were just listed.
    let copy = |name: &str| {
        let copied = cluster.directory.path().join(name);
        cluster.store.pause();
        copy_directory(cluster.store.data_dir(), &copied);
        cluster.store.resume();
        Node::store(copied, &cluster.pd.address())
    };
    let own_address = copy("own-address");
    // With the original's settings but for the port that it listens on.
    let same_address = copy("same-address").with_flag("--advertise-addr", &cluster.store.address());
    let mut copies = [own_address, same_address];
    client.raw_put("k", "new").await.expect("put");

    // In most rounds the placement driver hears the copies first, and is gone before it hears the original.
    for _ in 0..RESTARTS_BESIDE_COPIES {
        cluster.pd.kill();
        cluster.pd.start_serving().await;
        for copy in &mut copies {
            copy.start();
        }
        for copy in &mut copies {
            found("the copy is answered", async || {
                let log = copy.log();
                assert!(!log.contains("registered with"), "{log}");
                let answers = ["may be alive", "refuses this store"];
                answers
                    .iter()
                    .any(|answer| log.contains(answer))
                    .then_some(())
            })
            .await;
            copy.kill();
        }
    }
    found("the original is heard of", async || {
        let stores = client.stores().await.expect("stores");
        (stores[0].state == StoreState::Up).then_some(())
    })
    .await;
    for copy in &mut copies {
        copy.start();
    }
    for copy in &mut copies {
        assert_eq!(copy.exited().await.code(), Some(3), "{}", copy.log());
        for part in ["refuses this store", &cluster.store.address(), "a copy"] {
            let log = copy.log();
            assert!(log.contains(part), "{part:?} is missing in: {log}");
        }
    }
    let newcomer = cluster.client().await;
    let stores = newcomer.stores().await.expect("stores");
    let addresses: Vec<_> = stores.iter().map(|store| &store.address).collect();
    assert_eq!(addresses, [&cluster.store.address()]);
    assert_eq!(newcomer.raw_get("k").await, Ok(Some("new".into())));
    cluster.store.terminate();
    assert!(cluster.store.exited().await.success());
}

#[tokio::test]
async fn a_copy_from_before_the_originals_last_start_is_refused_even_when_the_original_is_down() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await.with_timeout(HANG_GUARD);
    client.raw_put("k", "v").await.expect("put");
    cluster.store.terminate();
    assert!(cluster.store.exited().await.success());
    let copied = cluster.directory.path().join("copy");
    copy_directory(cluster.store.data_dir(), &copied);
    cluster.store.start_serving().await;
    assert_eq!(client.raw_get("k").await, Ok(Some("v".into())), "at once");
    // Not at once: its last process could still be alive.
    registered(&client, &cluster.store).await;
    cluster.store.kill();
    cluster.pd.kill();

    cluster.pd.start_serving().await;
    let mut copy = Node::store(&copied, &cluster.pd.address());
    copy.start();
    assert_eq!(copy.exited().await.code(), Some(3), "{}", copy.log());
    assert!(copy.log().contains("old copy"), "{}", copy.log());
    cluster.store.start_serving().await;
    assert_eq!(client.raw_get("k").await, Ok(Some("v".into())));
}

#[tokio::test]
async fn a_new_store_that_cannot_keep_its_id_is_not_routed_to_until_it_can() {
    let mut cluster = Cluster::of_a_waiting_store().await;
    // A directory where the identity file is to be written fails it for every user.
    let in_the_way = cluster.store.data_dir().join("flaredb.identity.new");
    fs::create_dir(&in_the_way).expect("the data directory can be written");
    cluster.pd.start_serving().await;
    cluster.store.wait_for_log("identity file").await;
    let client = cluster.client().await.with_timeout(HANG_GUARD);
    assert_eq!(client.stores().await, Ok(Vec::new()));
    assert_eq!(client.regions().await, Ok(Vec::new()));

    fs::remove_dir(&in_the_way).expect("it is empty");
    cluster.store.wait_for_health(ServingStatus::Serving).await;
    client.raw_put("k", "v").await.expect("put");
    let stores = client.stores().await.expect("stores");
    assert_eq!(stores.iter().map(|store| store.id).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn a_foreign_placement_driver_among_several_is_passed_over() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await.with_timeout(HANG_GUARD);
    client.raw_put("k", "v").await.expect("put");
    let mut foreign = Node::placement_driver(cluster.directory.path().join("foreign"));
    foreign.start_serving().await;
    cluster.store.kill();
    cluster.store = cluster.store.with_flag("--pd", &foreign.address());
    cluster.store.start();
    registered(&client, &cluster.store).await;
    assert_eq!(client.raw_get("k").await, Ok(Some("v".into())));
}

/// How long a placement driver has to listen before it says of a store that it is silent.
const LISTENING: Duration = Duration::from_secs(20);

async fn a_store_that_moved_is_found_at_its_new_address(path: CallPath) {
    let mut cluster = Cluster::start().await;
    let client = cluster.client_over(path).await.with_timeout(HANG_GUARD);
    client.raw_put("k", "v").await.expect("put");
    cluster.store.kill();
    // A running placement driver refuses it for as long as it believes in the old address. A restarted one, which has
    // heard of nobody, asks it to come again.
    cluster.pd.kill();
    let before_the_start = Instant::now();
    cluster.pd.start_serving().await;

    let mut moved = Node::store(cluster.store.data_dir(), &cluster.pd.address());
    moved.start_serving().await;
    assert_eq!(client.raw_get("k").await, Ok(Some("v".into())));
    client.raw_put("k", "w").await.expect("put");
    moved
        .wait_for_log("registered with the placement driver")
        .await;
    assert!(before_the_start.elapsed() >= LISTENING);
    let stores = client.stores().await.expect("stores");
    let addresses: Vec<_> = stores.iter().map(|store| store.address.clone()).collect();
    assert_eq!(addresses, [moved.address()]);
}

/// Returns once the placement driver has accepted the store's present process.
async fn registered(client: &Client, node: &Node) {
    node.wait_for_log("registered with the placement driver")
        .await;
    let stores = client.stores().await.expect("stores");
    assert_eq!(stores[0].address, node.address());
    assert_eq!(stores[0].state, StoreState::Up);
}

/// A put past the client library, to whatever region the store has.
async fn put_directly(node: &Node, key: &'static str, value: &'static str) -> RawPutResponse {
    let channel = connect(&node.address()).await.expect("the store listens");
    let request = RawPutRequest {
        context: None,
        key: key.into(),
        value: value.into(),
    };
    let answer = KvRawClient::new(channel).raw_put(request).await;
    answer.expect("an answer").into_inner()
}

async fn get_directly(node: &Node, key: &'static str) -> Option<Bytes> {
    let channel = connect(&node.address()).await.expect("the store listens");
    let request = RawGetRequest {
        context: None,
        key: key.into(),
    };
    let answer = KvRawClient::new(channel).raw_get(request).await;
    answer.expect("an answer").into_inner().value
}

fn routing_answer(answer: &RawPutResponse) -> Option<&Kind> {
    answer.region_error.as_ref()?.kind.as_ref()
}
