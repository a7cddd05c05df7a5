//! Three stores that hold every region together: they go on without any one of them, and nothing acknowledged is lost.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use futures::future::{join, join_all};
use rdb_client::{Client, Error};
use rdb_proto::metapb::RegionRoute;
use rdb_proto::pdpb::GetRegionRequest;
use rdb_proto::pdpb::pd_client::PdClient;
use tempfile::TempDir;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::harness::{
    HANG_GUARD, Metrics, Node, connect, connect_when_listening, copy_directory, found, guarded,
    http_get, start_replicated,
};
use crate::load;

const STORES: usize = 3;

const WRITERS: usize = 8;

struct Stores {
    pd: Node,
    /// By their addresses.
    stores: BTreeMap<String, Node>,
    _directory: TempDir,
}

impl Stores {
    /// Stores whose region has a leader.
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    async fn start_with(flags: &[(&str, &str)]) -> Self {
        let directory = TempDir::new().expect("the temporary directory can be written");
        let add = |store: Node, (flag, value): &(&str, &str)| store.with_flag(flag, value);
        let set_up = |store| flags.iter().fold(store, add);
        let (pd, stores) = start_replicated(directory.path(), STORES, set_up).await;
        let stores = stores.into_iter().map(|store| (store.address(), store));
        let mut stores = Self {
            pd,
            stores: stores.collect(),
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
            self.reported()
                .await
                .filter(|&(_, leads_in)| leads_in > term)
        };
        found("a store leads", told).await
    }

    /// The leader, and its term, of which no store knows a later one.
    async fn leader(&self) -> (String, u64) {
        let leads = async || {
            let (leader, term) = self.reported().await?;
            self.leads(term).then_some((leader, term))
        };
        found("a store leads", leads).await
    }

    /// Whether no store knows of a leader in a later term.
    fn leads(&self, term: u64) -> bool {
        let mut terms = self.stores.values().filter_map(Node::leader_term);
        terms.all(|known| known <= term)
    }

    /// Waits until another store leads, in a term above `term`.
    async fn another_leads(&self, than: &str, term: u64) {
        let leads = async || {
            let (leader, leads_in) = self.reported().await?;
            (leader != than && leads_in > term).then_some(())
        };
        found("another store leads", leads).await;
    }

    /// What the placement driver was told, which may be late.
    async fn reported(&self) -> Option<(String, u64)> {
        let route = self.route().await?;
        Some((route.leader?.address, route.term))
    }

    fn store(&mut self, address: &str) -> &mut Node {
        self.stores.get_mut(address).expect("one of them")
    }
}

/// Writers, and what may have lost them answers.
struct Load {
    load: load::Load,
    /// The term when it began.
    term: u64,
}

impl Load {
    async fn begin(stores: &Stores) -> Self {
        let client = stores.client().await;
        let (_, term) = stores.leader().await;
        let value = |number: u64| number.to_string().into_bytes();
        let load = load::Load::begin(client, WRITERS, value).await;
        Self { load, term }
    }

    async fn goes_on(&self) {
        self.load.goes_on().await;
    }

    /// Ends it, and checks that all that was acknowledged is there. A writer has one put under way, so each end of a store and of
    /// a term leaves it at most one whose fate is open.
    async fn end(self, stores: &Stores, store_ends: u64) {
        let undetermined = self.load.end().await;
        for (writer, undetermined) in undetermined.into_iter().enumerate() {
            let are_explained = async || {
                let (_, term) = stores.leader().await;
                (undetermined <= store_ends + (term - self.term)).then_some(())
            };
            let what = format!("{undetermined} lost answers of writer {writer} are explained");
            found(&what, are_explained).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_leaders_are_killed_under_load() {
    let mut stores = Stores::start().await;
    let load = Load::begin(&stores).await;
    let (mut hits, mut ends) = (0, 0);
    while hits < 2 {
        let (leader, term) = stores.leader().await;
        stores.store(&leader).kill();
        ends += 1;
        // Leadership may have moved just before.
        hits += u64::from(stores.leads(term));
        load.goes_on().await;
        stores.another_leads(&leader, term).await;
        stores.store(&leader).start_serving().await;
        load.goes_on().await;
    }
    load.end(&stores, ends).await;
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

/// The leader that is left over, or a follower.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_a_majority_says_why_it_is_not_healthy_and_stays_ready() {
    let mut stores = Stores::start_with(&[("--status-addr", "127.0.0.1:0")]).await;
    for survivor_led in [true, false] {
        let (leader, _) = stores.leader().await;
        let mut addresses: Vec<_> = stores.stores.keys().cloned().collect();
        addresses.sort_by_key(|address| (*address == leader) != survivor_led);
        let (survivor, others) = addresses.split_first().expect("three");
        for address in others {
            stores.store(address).kill();
        }
        let store = stores.store(survivor);
        store.wait_for_health(ServingStatus::NotServing).await;
        let pages = store.status_address().await;
        let health = http_get(&pages, "/health").await;
        assert_eq!(health.status, 503, "{health:?}");
        let cause = "region 1 has no leader: for 12 s";
        assert!(health.body.contains(cause), "{health:?}");
        assert_eq!(http_get(&pages, "/ready").await.status, 200);
        let metrics = Metrics::of(&pages).await;
        assert_eq!(metrics.get("flaredb_regions_without_leader"), 1.0);
        for address in others {
            stores.store(address).start_serving().await;
        }
        let store = stores.store(survivor);
        store.wait_for_health(ServingStatus::Serving).await;
    }
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
    are_unavailable(&client).await;
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

/// Calls that are made once the first one was refused.
const LATER_CALLS: usize = 10;

/// Waits until writes and reads fail as certainly not applied, within their deadlines. Until then the fate of a write may not be known.
/// From then on each call fails so that has more time than a leader waits for its followers.
async fn are_unavailable(client: &Client) {
    let hasty = client.with_timeout(Duration::from_secs(2));
    let refused = async || match hasty.raw_put("alone", "value").await {
        Err(Error::Unavailable { .. }) => Some(()),
        Err(Error::Undetermined { .. } | Error::DeadlineExceeded { .. }) => None,
        other => panic!("{other:?}"),
    };
    found("writes are refused", refused).await;
    let refused = async || match hasty.raw_get("before").await {
        Err(Error::Unavailable { .. }) => Some(()),
        Err(Error::DeadlineExceeded { .. }) => None,
        // A leader that counts on the others still.
        Ok(value) if value.as_deref() == Some(b"value") => None,
        other => panic!("{other:?}"),
    };
    found("reads are refused", refused).await;
    let patient = client.with_timeout(Duration::from_secs(5));
    let writes = join_all((0..LATER_CALLS).map(|_| patient.raw_put("alone", "value")));
    let reads = join_all((0..LATER_CALLS).map(|_| patient.raw_get("before")));
    let (writes, reads) = join(writes, reads).await;
    for write in writes {
        assert!(matches!(write, Err(Error::Unavailable { .. })), "{write:?}");
    }
    for read in reads {
        assert!(matches!(read, Err(Error::Unavailable { .. })), "{read:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_has_lost_all_others_acknowledges_nothing() {
    let mut stores = Stores::start().await;
    let client = stores.client().await;
    client.raw_put("before", "value").await.expect("put");
    let (leader, _) = stores.leader().await;
    let followers = stores.stores.iter_mut();
    for (_, follower) in followers.filter(|(address, _)| **address != leader) {
        follower.kill();
    }
    are_unavailable(&client).await;
    let followers = stores.stores.iter_mut();
    for (_, follower) in followers.filter(|(address, _)| **address != leader) {
        follower.start();
    }
    // Also if the one that led before leads again.
    client.raw_put("after", "value").await.expect("put");
    let value = client.raw_get("before").await.expect("read");
    assert_eq!(value.as_deref(), Some(&b"value"[..]));
}

/// What the identity file of a store says.
fn identity(data_dir: &Path, name: &str) -> u64 {
    let identity = fs::read_to_string(data_dir.join("flaredb.identity")).expect("it is there");
    let mut lines = identity.lines().filter_map(|line| line.split_once(" = "));
    let (_, value) = lines.find(|(found, _)| *found == name).expect("it says so");
    value.parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_comes_back_with_an_older_directory_ends_though_no_placement_driver_answers() {
    let mut stores = Stores::start().await;
    let (leader, _) = stores.leader().await;
    let mut followers = stores.stores.keys().filter(|address| **address != leader);
    let address = followers.next().cloned().expect("two of three");
    let store = stores.store(&address);
    store.terminate();
    assert!(store.exited().await.success());
    let data_dir = store.data_dir().to_owned();
    let older = TempDir::new().expect("the temporary directory can be written");
    copy_directory(&data_dir, older.path());

    store.start_serving().await;
    store
        .wait_for_log("registered with the placement driver")
        .await;
    let store_id = identity(&data_dir, "store_id");
    let start = identity(&data_dir, "incarnation") >> 32;
    assert!(start > identity(older.path(), "incarnation") >> 32);
    let met = format!("{store_id} {start}");
    for other in stores
        .stores
        .values()
        .filter(|node| node.address() != address)
    {
        let file = other.data_dir().join("starts");
        let has_met = async || {
            let met_starts = fs::read_to_string(&file).unwrap_or_default();
            met_starts.lines().any(|line| line == met).then_some(())
        };
        found("the others meet the new start", has_met).await;
    }
    stores.pd.kill();
    let store = stores.store(&address);
    store.kill();
    fs::remove_dir_all(&data_dir).expect("it is there");
    copy_directory(older.path(), &data_dir);
    store.start();
    let ended = store.exited().await;
    assert_eq!(ended.code(), Some(3), "an operator has to look");
    for told in ["has met a later start of this store", "an older copy"] {
        assert!(store.log().contains(told), "{}", store.log());
    }

    // It knows that, though nobody is there any more who does.
    let others = |stores: &mut Stores, work: &dyn Fn(&mut Node)| {
        let others = stores.stores.values_mut();
        others
            .filter(|node| node.address() != address)
            .for_each(work);
    };
    others(&mut stores, &|node| node.kill());
    let store = stores.store(&address);
    store.start();
    let ended = store.exited().await;
    assert_eq!(ended.code(), Some(3), "it is not served again");
    others(&mut stores, &|node| node.start());

    // The others go on.
    stores.pd.start_serving().await;
    let client = stores.client().await;
    client.raw_put("key", "value").await.expect("two of three");
}

/// A store that hands over votes for its successor, which has nobody else to ask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_stopped_hands_over_while_another_store_is_down() {
    let mut stores = Stores::start().await;
    let (leader, mut term) = stores.leader().await;
    let mut followers = stores.stores.keys().filter(|address| **address != leader);
    let down = followers.next().cloned().expect("two of three");
    stores.store(&down).kill();
    // It has a bounded time for it, which a busy machine may use up.
    let handed_over = async {
        loop {
            let (leader, led) = stores.leader_after(term - 1).await;
            let store = stores.store(&leader);
            store.terminate();
            assert!(store.exited().await.success());
            let log = store.log();
            if log.contains("handing over") && !log.contains("were not handed over") {
                break;
            }
            store.start();
            term = led + 1;
        }
    };
    guarded("a store hands over", handed_over).await;
}

/// More than leaders keep here of their logs.
const LARGE_PUTS: u64 = 120;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_away_while_the_others_cut_their_logs_comes_back_by_a_snapshot() {
    let mut stores =
        Stores::start_with(&[("--raft-log-mib-max", "16"), ("--log-level", "debug")]).await;
    let client = stores.client().await;
    client.cas_put("versioned", 0, "first").await.expect("put");
    let (leader, _) = stores.leader().await;
    let addresses = stores.stores.keys().cloned();
    let away = addresses.into_iter().find(|address| *address != leader);
    let away = away.expect("there are three");
    stores.store(&away).kill();
    let large = |number: u64| vec![number as u8; 1 << 20];
    for number in 0..LARGE_PUTS {
        // A leader may lose its term while the machine is busy. Once more does no harm.
        let put = async || {
            let put = client.raw_put(format!("large {number}"), large(number));
            match put.await {
                Ok(()) => Some(()),
                Err(Error::Undetermined { .. }) => None,
                Err(error) => panic!("put {number}: {error}"),
            }
        };
        found("a large value is put", put).await;
    }
    match client.cas_put("versioned", 1, "second").await {
        Ok(_) | Err(Error::Undetermined { .. }) => {}
        Err(error) => panic!("swap: {error}"),
    }
    let has_cut = "the log begins after this entry";
    stores.store(&leader).wait_for_log(has_cut).await;
    stores.store(&away).start_serving().await;
    let load = Load::begin(&stores).await;
    let received = "a snapshot was received";
    stores.store(&away).wait_for_log(received).await;
    load.goes_on().await;
    load.end(&stores, 0).await;

    // It is needed now, and has all.
    let before = client.get("versioned").await.expect("read");
    assert!(before.is_some());
    let (leader, term) = stores.leader().await;
    stores.store(&leader).kill();
    stores.another_leads(&leader, term).await;
    for number in 0..LARGE_PUTS {
        let value = client.raw_get(format!("large {number}")).await;
        assert_eq!(value.expect("read"), Some(large(number).into()));
    }
    let after = client.get("versioned").await.expect("read");
    assert_eq!(after, before);
}
