//! Three stores that hold every region together: they go on without any one of them, and nothing acknowledged is lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use rdb_client::{Client, Error};
use rdb_proto::metapb::RegionRoute;
use rdb_proto::pdpb::GetRegionRequest;
use rdb_proto::pdpb::pd_client::PdClient;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::harness::{HANG_GUARD, Node, connect, connect_when_listening, found, guarded};

const STORES: usize = 3;

const WRITERS: u64 = 8;

struct Stores {
    pd: Node,
    /// By their addresses.
    stores: BTreeMap<String, Node>,
    _directory: TempDir,
}

impl Stores {
    /// Stores whose region has a leader.
    async fn start() -> Self {
        let directory = TempDir::new().expect("the temporary directory can be written");
        let path = directory.path();
        let pd = Node::placement_driver(path.join("pd"));
        let mut pd = pd.with_flag("--initial-replicas", &STORES.to_string());
        pd.start_serving().await;
        let stores = (1..=STORES).map(|number| {
            let mut store = Node::store(path.join(format!("store-{number}")), &pd.address());
            store.start();
            (store.address(), store)
        });
        let stores = stores.collect();
        let mut stores = Self {
            pd,
            stores,
            _directory: directory,
        };
        for store in stores.stores.values_mut() {
            store.wait_for_health(ServingStatus::Serving).await;
        }
        stores.leader().await;
        stores
    }

    /// A client that waits for a leader for as long as a busy machine needs to elect one.
    async fn client(&self) -> Client {
        let connected = Client::connect([self.pd.address()]).await;
        let client = connected.expect("the placement driver serves");
        client.with_timeout(HANG_GUARD)
    }

    async fn route(&self) -> Option<RegionRoute> {
        let channel = connect(&self.pd.address()).await.expect("it listens");
        let mut pd = PdClient::new(channel);
        let asked = pd.get_region(GetRegionRequest::default()).await;
        asked.expect("it answers").into_inner().route
    }

    /// Waits until the region has a leader in a term above `term`.
    async fn leader_after(&self, term: u64) -> (String, u64) {
        let told = async || {
            let route = self.route().await?;
            let leader = route.leader.filter(|_| route.term > term)?;
            Some((leader.address, route.term))
        };
        found("a store leads", told).await
    }

    async fn leader(&self) -> (String, u64) {
        self.leader_after(0).await
    }

    fn store(&mut self, address: &str) -> &mut Node {
        self.stores.get_mut(address).expect("one of them")
    }
}

/// What a writer was told of the keys that it put, one after the other.
#[derive(Default)]
struct Written {
    acknowledged: Vec<u64>,
    undetermined: u64,
}

fn key(writer: u64, number: u64) -> String {
    format!("key-{writer}-{number}")
}

/// Puts keys until it is stopped. Each put has to succeed, unless it was under way when a leader was lost.
async fn write(client: Client, writer: u64, progress: Arc<Progress>) -> Written {
    let mut written = Written::default();
    for number in 0.. {
        if progress.stop.load(Ordering::Relaxed) {
            break;
        }
        match client
            .raw_put(key(writer, number), number.to_string())
            .await
        {
            Ok(()) => written.acknowledged.push(number),
            Err(Error::Undetermined { .. }) => written.undetermined += 1,
            Err(error) => panic!("put {number} of writer {writer}: {error}"),
        }
        let acknowledged = written.acknowledged.len() as u64;
        progress.acknowledged[writer as usize].store(acknowledged, Ordering::Relaxed);
    }
    written
}

#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    acknowledged: [AtomicU64; WRITERS as usize],
}

/// Writers that go on whatever becomes of the stores.
struct Load {
    client: Client,
    /// The term when it began.
    term: u64,
    progress: Arc<Progress>,
    writers: Vec<JoinHandle<Written>>,
}

impl Load {
    async fn begin(stores: &Stores) -> Self {
        let client = stores.client().await;
        let (_, term) = stores.leader().await;
        let progress = Arc::<Progress>::default();
        let writers = (0..WRITERS).map(|writer| {
            let progress = Arc::clone(&progress);
            tokio::spawn(write(client.clone(), writer, progress))
        });
        let load = Self {
            writers: writers.collect(),
            client,
            term,
            progress,
        };
        load.goes_on().await;
        load
    }

    /// Waits until each writer has some more puts acknowledged than it has now.
    async fn goes_on(&self) {
        let counts = || {
            let counts = self.progress.acknowledged.iter();
            let counts = counts.map(|count| count.load(Ordering::Relaxed));
            counts.collect::<Vec<_>>()
        };
        let before = counts();
        let have_more = async || {
            let mut pairs = counts().into_iter().zip(&before);
            pairs.all(|(now, before)| now >= before + 20).then_some(())
        };
        found("all writers go on", have_more).await;
    }

    /// Ends it, and checks that all that was acknowledged is there. A writer has one put under way, so each end of a store and of
    /// a term leaves it at most one whose fate is open.
    async fn end(self, stores: &Stores, store_ends: u64) {
        self.progress.stop.store(true, Ordering::Relaxed);
        let written = guarded("the writers end", join_all(self.writers)).await;
        for (writer, written) in (0..).zip(written) {
            let written = written.expect("a writer does not fail");
            let undetermined = written.undetermined;
            let are_explained = async || {
                let (_, term) = stores.leader().await;
                (undetermined <= store_ends + (term - self.term)).then_some(())
            };
            let what = format!("{undetermined} lost answers of writer {writer} are explained");
            found(&what, are_explained).await;
            for number in written.acknowledged {
                let value = self.client.raw_get(key(writer, number)).await;
                let value = value.expect("read");
                assert_eq!(value, Some(number.to_string().into()));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_leaders_are_killed_under_load() {
    let mut stores = Stores::start().await;
    let load = Load::begin(&stores).await;
    for _ in 0..2 {
        let (leader, term) = stores.leader().await;
        stores.store(&leader).kill();
        load.goes_on().await;
        let (next, _) = stores.leader_after(term).await;
        assert_ne!(next, leader);
        stores.store(&leader).start_serving().await;
        load.goes_on().await;
    }
    load.end(&stores, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_are_restarted_one_after_the_other_under_load() {
    let mut stores = Stores::start().await;
    let load = Load::begin(&stores).await;
    let addresses: Vec<_> = stores.stores.keys().cloned().collect();
    for address in addresses {
        let store = stores.store(&address);
        store.terminate();
        assert!(store.exited().await.success());
        load.goes_on().await;
        stores.store(&address).start_serving().await;
        load.goes_on().await;
    }
    load.end(&stores, STORES as u64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_acknowledged_and_all_is_there_when_it_is_back() {
    let mut stores = Stores::start().await;
    let load = Load::begin(&stores).await;
    load.end(&stores, 0).await;
    let client = stores.client().await;
    client.raw_put("before", "value").await.expect("put");
    let (_, term) = stores.leader().await;
    for store in stores.stores.values_mut() {
        store.kill();
    }
    let mut addresses = stores
        .stores
        .keys()
        .cloned()
        .collect::<Vec<_>>()
        .into_iter();
    let first = addresses.next().expect("one of three");
    stores.store(&first).start();
    drop(connect_when_listening(&first).await);
    let hasty = client.with_timeout(Duration::from_secs(2));
    hasty
        .raw_put("alone", "value")
        .await
        .expect_err("one of three");
    hasty.raw_get("before").await.expect_err("one of three");
    for address in addresses {
        stores.store(&address).start();
    }
    for store in stores.stores.values_mut() {
        store.wait_for_health(ServingStatus::Serving).await;
    }
    stores.leader_after(term).await;
    let value = client.raw_get("before").await.expect("read");
    assert_eq!(value.as_deref(), Some(&b"value"[..]));
    client.raw_put("after", "value").await.expect("put");
}
