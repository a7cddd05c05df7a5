mod damaged;
mod own_peer;
mod scraped;

use std::pin::pin;
use std::time::Duration;

use futures::FutureExt;
use rdb_proto::errorpb::region_error::Kind;
use rdb_proto::metapb::{Peer, Region, RegionEpoch};
use rdb_proto::pdpb::HeldPeer;
use rdb_raft::MissingPeer;
use rdb_storage::{Command, LogBatch};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::Config;
use crate::error::Rejection;
use crate::region::from_wire;

const REGION: u64 = 1;
const STORE: u64 = 2;

struct Fixture {
    regions: Regions,
    router: Router,
    _directory: TempDir,
}

fn config(directory: &TempDir, durability: Durability) -> Config {
    Config {
        data_dir: directory.path().join("store"),
        durability,
        ..Config::default()
    }
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("the temporary directory can be written")
}

/// A store that has registered, and has no regions.
async fn fixture(durability: Durability) -> Fixture {
    fixture_in(directory(), durability).await
}

async fn fixture_in(directory: TempDir, durability: Durability) -> Fixture {
    let storage = storage_in(&directory, durability).await;
    let (regions, router) = regions_of(storage, durability, Timing::default()).await;
    assert!(!regions.restore().await.expect("nothing is stored"));
    Fixture {
        regions,
        router,
        _directory: directory,
    }
}

async fn storage_in(directory: &TempDir, durability: Durability) -> Storage {
    let config = config(directory, durability);
    let opened = spawn_blocking(move || {
        let storage = Storage::open(&config.data_dir, config.storage_options());
        let storage = storage.expect("a new directory");
        let assigned = storage.assign(7, Some(STORE), Some(1));
        assigned.expect("it belongs to nobody");
        storage
    });
    opened.await.expect("no panic")
}

async fn regions_of(storage: Storage, durability: Durability, timing: Timing) -> (Regions, Router) {
    let router = Router::new(CancellationToken::new());
    let opened = Regions::open(
        storage,
        router.clone(),
        durability,
        timing,
        1 << 30,
        Dialing::default(),
    );
    (opened.await.expect("a new log"), router)
}

fn region(peers: &[(u64, u64)]) -> Region {
    let peers = peers.iter().map(|&(id, store_id)| Peer {
        id,
        store_id,
        learner: false,
    });
    Region {
        id: REGION,
        epoch: Some(RegionEpoch {
            conf_version: 1,
            version: 1,
        }),
        peers: peers.collect(),
        ..Region::default()
    }
}

fn held(peer_id: u64) -> HeldPeer {
    HeldPeer {
        region_id: REGION,
        peer_id,
        conf_version: 1,
    }
}

impl Fixture {
    async fn is_asked_for(&self, peer_id: u64) -> u64 {
        let group_id = REGION;
        let missing = MissingPeer { group_id, peer_id };
        let made = self.regions.make_peer(missing).await;
        made.expect("it is made or not");
        self.regions.report().count
    }

    async fn adopts(&self, peers: &[(u64, u64)]) -> u64 {
        let adopted = self.regions.adopt(vec![region(peers)]).await;
        adopted.expect("it is begun or not");
        self.regions.report().count
    }

    async fn is_stored(&self) -> bool {
        let stored = self.regions.stored().await;
        !stored.expect("it can be read").is_empty()
    }

    /// As far as the regions go.
    async fn starts_again(&self) {
        self.ends().await;
        self.regions.restore().await.expect("it starts");
    }

    async fn ends(&self) {
        self.regions.node.end(REGION).await;
        *self.regions.replicas() = Replicas::default();
    }

    async fn crashes_behind_the_tombstone(&self) {
        self.ends().await;
        self.destroys_what_is_stored().await;
    }

    async fn destroys_what_is_stored(&self) {
        let storage = self.regions.storage.clone();
        let destroyed = spawn_blocking(move || storage.destroy_region(REGION, 5)).await;
        destroyed.expect("no panic").expect("written");
    }

    /// Puts a record of the region into the database of the logs. The tag says which: 2 is its vote, and 4 whose log it is.
    async fn puts(&self, tag: u8, record: &'static [u8]) {
        let key = [&[tag][..], &REGION.to_be_bytes()].concat();
        self.writes(move |batch| batch.put(&key, record)).await;
    }

    /// Changes the database of the logs.
    async fn writes(&self, change: impl FnOnce(&mut LogBatch) + Send + 'static) {
        let log = Arc::clone(&self.regions.log);
        let written = spawn_blocking(move || {
            let mut batch = LogBatch::default();
            change(&mut batch);
            log.write(batch, true)
        });
        written.await.expect("no panic").expect("written");
    }

    /// As a release leaves it that knows of no notes, and that has destroyed peer 5.
    async fn has_the_note_of_peer_5(&self) {
        self.puts(4, b"\x01\0\0\0\0\0\0\0\x05").await;
    }

    /// The regions that have logs, each with its noted peer.
    async fn logs(&self) -> BTreeMap<u64, Option<u64>> {
        let logs = self.regions.node.logs().await;
        logs.expect("they can be read")
    }

    async fn noted_peer(&self) -> Option<u64> {
        let noted = self.regions.node.noted_peer(REGION).await;
        noted.expect("it can be read")
    }

    /// Gives the region a first state, without opening it.
    async fn stores(&self, peers: &[(u64, u64)]) {
        let described = vec![from_wire(region(peers))];
        let bootstrapped = self.regions.bootstrap(described).await;
        bootstrapped.expect("written");
    }

    fn tombstone(&self) -> Option<u64> {
        let tombstone = self.regions.storage.tombstone(REGION);
        tombstone.expect("it can be read")
    }
}

#[tokio::test]
async fn a_region_whose_group_tells_nothing_is_led_by_nobody() {
    let fixture = fixture(Durability::Sync).await;
    fixture.adopts(&[(5, STORE)]).await;
    let mut states = fixture.regions.states();
    let known = states.wait_for(|states| states.contains_key(&REGION)).await;
    drop(known.expect("it is told"));
    assert_eq!(
        fixture.regions.led_by_anybody(),
        BTreeMap::from([(REGION, true)])
    );
    // As it is before the first state.
    fixture.regions.node.end(REGION).await;
    assert_eq!(
        fixture.regions.led_by_anybody(),
        BTreeMap::from([(REGION, false)])
    );
}

#[tokio::test]
async fn what_was_promised_by_a_longer_timeout_is_kept_until_it_is_over() {
    let directory = directory();
    let storage = storage_in(&directory, Durability::Sync).await;
    let data_directory = storage.directory();
    let promised_ms = |own_ms| promised_timeout_ms(&data_directory, own_ms).expect("written");
    let timing = Timing {
        heartbeat_ms: 10,
        election_timeout_min_ms: 30,
        election_timeout_max_ms: 200,
    };
    assert_eq!(promised_ms(400), 400, "by an earlier start");
    let (regions, _router) = regions_of(storage, Durability::Sync, timing).await;
    assert_eq!(regions.node.promises_last(), Duration::from_millis(440));
    assert_eq!(promised_ms(100), 400);
    regions.forget_promises().await;
    assert_eq!(promised_ms(100), 200);
}

#[tokio::test]
async fn damage_of_a_store_with_one_region_is_that_of_the_region() {
    let fixture = fixture(Durability::Sync).await;
    assert_eq!(fixture.regions.only_region(), None);
    fixture.adopts(&[(5, STORE)]).await;
    assert_eq!(fixture.regions.only_region(), Some((REGION, false)));
}

#[tokio::test]
async fn a_peer_that_another_store_asks_for_waits_for_its_data_and_nothing_is_begun_beside_it() {
    let fixture = fixture(Durability::Sync).await;
    assert_eq!(fixture.is_asked_for(5).await, 1);
    assert_eq!(fixture.is_asked_for(5).await, 1);
    let report = fixture.regions.report();
    assert!(report.leads.is_empty() && report.holds.is_empty());
    assert!(fixture.regions.served().borrow().is_empty());
    let counts = fixture.regions.counts();
    assert_eq!((counts.held, counts.led, counts.without_leader), (1, 0, 0));
    assert_eq!(fixture.adopts(&[(5, STORE)]).await, 1);
    assert!(!fixture.is_stored().await);

    let regions = &fixture.regions;
    regions
        .end_those_silent_for(Duration::from_secs(3600))
        .await;
    assert_eq!(regions.report().count, 1);
    regions.end_those_silent_for(Duration::ZERO).await;
    assert_eq!(regions.report().count, 0);
    assert!(regions.node.group(REGION).is_none());
    assert_eq!(fixture.is_asked_for(5).await, 1);
}

#[tokio::test]
async fn what_was_destroyed_is_neither_made_nor_begun_again() {
    let fixture = fixture(Durability::Sync).await;
    for peer_id in [5, 3] {
        let storage = fixture.regions.storage.clone();
        let destroyed = spawn_blocking(move || storage.destroy_region(REGION, peer_id)).await;
        destroyed.expect("no panic").expect("written");
    }
    assert_eq!(fixture.tombstone(), Some(5), "it never goes back");
    assert_eq!(fixture.is_asked_for(4).await, 0);
    assert_eq!(fixture.is_asked_for(5).await, 0);
    assert_eq!(fixture.adopts(&[(5, STORE)]).await, 0);
    assert!(!fixture.is_stored().await);
    assert_eq!(fixture.is_asked_for(6).await, 1);
}

#[tokio::test]
async fn a_store_that_does_not_keep_what_it_promises_makes_no_peer() {
    let fixture = fixture(Durability::Os).await;
    assert!(fixture.regions.report().takes_no_replicas);
    assert_eq!(fixture.is_asked_for(5).await, 0);
    assert_eq!(fixture.adopts(&[(5, STORE)]).await, 1, "alone");
}

#[tokio::test]
async fn a_region_is_not_destroyed_while_a_peer_of_it_is_being_opened() {
    let fixture = fixture(Durability::Sync).await;
    let regions = &fixture.regions;
    fixture.stores(&[(1, 1)]).await;
    assert!(regions.restore().await.expect("it starts"));
    let opening = regions.opening.lock().await;
    let mut destroying = pin!(regions.destroy(held(0)));
    assert!(destroying.as_mut().now_or_never().is_none());
    assert!(regions.replicas().unopened.contains_key(&REGION));
    let identity = *regions.identity.get().expect("it has registered");
    let opened = regions.open_peer(identity, REGION, 9).await;
    opened.expect("it is opened");
    drop(opening);
    destroying.await;
    assert!(fixture.is_stored().await);
    assert_eq!(regions.report().holds, [held(9)]);
}

/// A late message of a leader that was cut off means an earlier learner.
#[tokio::test]
async fn the_log_of_a_peer_that_has_waited_is_not_that_of_an_earlier_one() {
    let fixture = fixture(Durability::Sync).await;
    let regions = &fixture.regions;
    assert_eq!(fixture.is_asked_for(9).await, 1);
    regions.end_those_silent_for(Duration::ZERO).await;
    assert_eq!(fixture.is_asked_for(5).await, 0);
    assert_eq!(fixture.is_asked_for(10).await, 1);
    assert_eq!(fixture.noted_peer().await, Some(10));
}

#[tokio::test]
async fn requests_that_are_under_way_at_a_replica_that_is_destroyed_get_routing_answers() {
    let fixture = fixture(Durability::Sync).await;
    let regions = &fixture.regions;
    assert_eq!(fixture.adopts(&[(5, STORE), (6, 3)]).await, 1);
    let routed = fixture.router.for_key(None, b"k");
    let routed = routed.expect("it is here");
    regions.destroy(held(6)).await;
    assert_eq!(regions.report().count, 1, "that is another peer");
    regions.destroy(held(5)).await;
    assert_eq!(regions.report().count, 0);
    assert_eq!(fixture.tombstone(), Some(5));
    assert!(!fixture.is_stored().await);
    assert!(regions.node.group(REGION).is_none());
    assert!(regions.node.states().borrow().is_empty());

    let found = fixture.router.for_key(None, b"k");
    let not_found = |found: Result<_, _>| {
        matches!(
            found.map(drop),
            Err(Rejection::Routing(Kind::RegionNotFound(_)))
        )
    };
    assert!(not_found(found));
    let read = routed.permit_read().await;
    assert!(matches!(read.map(drop), Err(Rejection::Routing(_))));
    let put = Command::PutRaw {
        key: "k".into(),
        value: "v".into(),
    };
    let written = routed.submit(vec![put], 0);
    assert!(matches!(written.map(drop), Err(Rejection::Routing(_))));
}

#[tokio::test]
async fn a_replica_that_leads_is_not_destroyed() {
    let fixture = fixture(Durability::Sync).await;
    assert_eq!(fixture.adopts(&[(5, STORE)]).await, 1);
    let regions = &fixture.regions;
    let mut states = regions.states();
    let leads = |states: &BTreeMap<_, _>| !regions.replicas().leads(states).is_empty();
    drop(states.wait_for(leads).await.expect("it leads alone"));
    regions.destroy(held(5)).await;
    assert!(fixture.is_stored().await);
    assert_eq!(regions.report().count, 1);
}

#[tokio::test]
async fn a_start_finishes_the_end_of_a_replica() {
    let fixture = fixture(Durability::Sync).await;
    let regions = &fixture.regions;
    assert_eq!(fixture.adopts(&[(5, STORE)]).await, 1);
    fixture.crashes_behind_the_tombstone().await;
    regions.restore().await.expect("it starts");
    assert_eq!(regions.report().count, 0);
    assert!(fixture.logs().await.is_empty());
    // A peer without a state cannot be opened on the log of another one.
    assert_eq!(fixture.is_asked_for(6).await, 1);
    // It may have voted.
    fixture.starts_again().await;
    assert_eq!(fixture.logs().await, [(REGION, Some(6))].into());
}

#[tokio::test]
async fn a_damaged_log_of_a_replica_that_was_destroyed_is_removed_at_the_start() {
    let fixture = fixture(Durability::Sync).await;
    let regions = &fixture.regions;
    assert_eq!(fixture.adopts(&[(5, STORE)]).await, 1);
    fixture.crashes_behind_the_tombstone().await;
    fixture.puts(2, b"damaged").await;
    regions.restore().await.expect("it starts");
    assert!(fixture.logs().await.is_empty());
    assert_eq!(fixture.is_asked_for(6).await, 1);
}
