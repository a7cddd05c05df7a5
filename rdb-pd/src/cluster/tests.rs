use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use bytes::Bytes;
use prost::Message;
use rdb_proto::metapb::{Peer, Region, RegionEpoch, StoreLoad, StoreStats};
use rdb_proto::pdpb::{GetStoresResponse, ScanRegionsResponse};
use rdb_proto::transport::status::PAGE_INTERVAL;
use rdb_storage::{Role, StorageOptions};
use tempfile::TempDir;
use tokio::task::yield_now;

use super::*;
use crate::keys::{AwayVoter, AwayVoters, Counters, StoreRecord};

async fn open() -> (TempDir, Cluster, Registrar) {
    let opened = tokio::task::spawn_blocking(|| {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::open(directory.path(), StorageOptions::new(Role::Pd)).unwrap();
        let (cluster, registrar) = Cluster::open(storage, false, Settings::default()).unwrap();
        (directory, cluster, registrar)
    });
    opened.await.unwrap()
}

fn fresh(port: u32) -> Registration {
    let start = Start {
        address: format!("a:{port}"),
        store_id: 0,
        cluster_id: 0,
        incarnation: u64::from(port),
    };
    Registration {
        start,
        kept_incarnation: None,
    }
}

/// Hangs up after a few steps, unless it is done before.
async fn hang_up(call: impl Future, steps: u32) {
    let mut call = pin!(call);
    for _ in 0..steps {
        let step = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if step.is_ready() {
            return;
        }
        yield_now().await;
    }
}

fn addresses(state: &State) -> BTreeSet<String> {
    let records = state.stores.values().map(|store| &store.record);
    records.map(|record| record.address.clone()).collect()
}

#[tokio::test]
async fn a_caller_that_hangs_up_does_not_cut_a_registration_in_two() {
    let (_directory, cluster, registrar) = open().await;
    let running = tokio::spawn(registrar.run());
    let shared = &cluster.shared;
    let first = fresh(1_000);
    cluster.register(first.clone()).await.unwrap();
    for port in 1..=20 {
        // With the change on its way to the disk, or queued, or done.
        hang_up(cluster.register(fresh(port)), port % 4).await;
        // The same start again changes nothing. It is answered, and the storage writes, after what was begun.
        cluster.register(first.clone()).await.unwrap();
        let storage = shared.storage.clone();
        let written = tokio::task::spawn_blocking(move || storage.put_raw("after", ""));
        written.await.unwrap().unwrap();
        let durable = State::load_or_create(&shared.storage, Instant::now()).unwrap();
        assert_eq!(shared.read(addresses), addresses(&durable), "{port}");
    }
    running.abort();
}

#[tokio::test]
async fn a_heartbeat_whose_changes_cannot_be_stored_is_heard_and_says_who_leads() {
    let (_directory, cluster, registrar) = open().await;
    let running = tokio::spawn(registrar.run());
    let first = cluster.register(fresh(1)).await.unwrap();
    let mut kept = fresh(1);
    kept.kept_incarnation = Some(1);
    kept.start.store_id = first.store_id;
    kept.start.cluster_id = first.cluster_id;
    let first = cluster.register(kept.clone()).await.unwrap();
    running.abort();
    let ended = running.await;
    assert!(ended.is_err_and(|error| error.is_cancelled()));

    let report = Report {
        region_id: 1,
        peer_id: 1,
        term: 5,
        epoch: first.regions[0].epoch_or_default(),
        peers: first.regions[0].peers.clone(),
        live: None,
        bytes: None,
    };
    let mut changed = report.clone();
    changed.epoch.conf_version += 1;
    let heartbeat = |report| Heartbeat {
        start: kept.start.clone(),
        stats: None,
        reports: vec![report],
        region_count: None,
        holds: Vec::new(),
        takes_no_replicas: false,
        load: None,
    };
    let taken = cluster.heartbeat(heartbeat(report)).await;
    taken.expect("it changes nothing durable");
    changed.term += 1;
    let refused = cluster.heartbeat(heartbeat(changed)).await;
    assert!(
        matches!(refused, Err(ClusterError::Stopping)),
        "{refused:?}"
    );
    let route = cluster.region(b"k").unwrap();
    assert_eq!((route.leader.unwrap().id, route.term), (1, 6));
    assert_eq!(route.region.unwrap(), first.regions[0]);
}

#[tokio::test]
async fn no_list_is_longer_than_the_room_that_is_asked_for_it() {
    let (_directory, cluster, _registrar) = open().await;
    let stats = StoreStats {
        capacity_bytes: u64::MAX,
        available_bytes: u64::MAX,
        key_count: u64::MAX,
        data_bytes: u64::MAX,
        start_time_ms: u64::MAX,
        uptime_ms: None,
    };
    let load = StoreLoad {
        window_ms: u64::MAX,
        reads: u64::MAX,
        writes: u64::MAX,
        read_p99_us: Some(u64::MAX),
        write_p99_us: Some(u64::MAX),
        write_queue_bytes: u64::MAX,
        write_queue_bytes_max: u64::MAX,
    };
    let longest = Store {
        id: u64::MAX,
        address: "a".repeat(255),
        state: i32::MAX,
        last_heartbeat_age_ms: Some(u64::MAX),
        stats: Some(stats),
        load: Some(load),
    };
    let key = Bytes::from(vec![b'k'; KEY_BYTES_MAX]);
    let region = Region {
        id: u64::MAX,
        start_key: key.clone(),
        end_key: key,
        epoch: Some(RegionEpoch {
            conf_version: u64::MAX,
            version: u64::MAX,
        }),
        peers: vec![
            Peer {
                id: u64::MAX,
                store_id: u64::MAX,
                learner: true,
            };
            PEERS_MAX
        ],
    };
    assert_eq!(cluster.stores_bytes_max(), 0);
    cluster.shared.write(|state| {
        state.apply(Change::Region(region.clone()));
        for id in 1..=2 {
            state.apply(Change::Store(StoreRecord {
                id,
                ..StoreRecord::default()
            }));
        }
    });
    // Routes do not say what stores do.
    let of_route = Store {
        load: None,
        ..longest.clone()
    };
    let route = RegionRoute {
        region: Some(region),
        leader: Some(of_route.clone()),
        peers: vec![of_route; PEERS_MAX],
        term: u64::MAX,
        absent_peers: vec![u64::MAX; PEERS_MAX],
        bytes: Some(u64::MAX),
    };
    let stores = vec![longest; 2];
    let stores = GetStoresResponse { stores };
    assert!(stores.encoded_len() <= cluster.stores_bytes_max());
    let routes = vec![route];
    let routes = ScanRegionsResponse { routes };
    assert!(routes.encoded_len() <= cluster.regions_bytes_max(1));
    assert_eq!(cluster.regions_bytes_max(1), cluster.regions_bytes_max(256));
    assert!(REGIONS_MAX as usize * REGION_BYTES_MAX <= 6 << 20);
}

#[tokio::test]
async fn stores_that_never_confirm_leave_the_disk_too() {
    let (_directory, cluster, registrar) = open().await;
    let running = tokio::spawn(registrar.run());
    for port in 1..=UNCONFIRMED_STORES_MAX as u32 + 10 {
        let answer = cluster.register(fresh(port)).await.unwrap();
        assert_eq!(answer.store_id, u64::from(port));
    }
    let shared = &cluster.shared;
    let durable = State::load_or_create(&shared.storage, Instant::now()).unwrap();
    assert_eq!(durable.stores.len(), UNCONFIRMED_STORES_MAX);
    assert_eq!(shared.read(addresses), addresses(&durable));
    assert_eq!(durable.counters.store_id, 266);
    running.abort();
}

#[tokio::test]
async fn what_voters_were_away_for_is_found_by_the_next_process() {
    let (_directory, cluster, _registrar) = open().await;
    let shared = &cluster.shared;
    let away = |voters: &[AwayVoter]| {
        Change::Away(AwayVoters {
            region_id: 1,
            voters: voters.to_vec(),
        })
    };
    let found = || {
        let durable = State::load_or_create(&shared.storage, Instant::now()).unwrap();
        durable.region_by_id(1).unwrap().lagging.stored().to_vec()
    };
    let region = Region {
        id: 1,
        ..Region::default()
    };
    let voters = [AwayVoter {
        peer_id: 3,
        away_eighths: 1,
    }];
    let changes = vec![Change::Region(region), away(&voters)];
    shared.persist_and_apply(changes).await.unwrap();
    assert_eq!(found(), voters);
    let changes = vec![away(&[])];
    shared.persist_and_apply(changes).await.unwrap();
    assert!(found().is_empty());

    // In an older copy it may be long over.
    let changes = vec![away(&voters)];
    shared.persist_and_apply(changes).await.unwrap();
    let storage = shared.storage.clone();
    let restored = tokio::task::spawn_blocking(|| {
        let (cluster, _registrar) = Cluster::open(storage, true, Settings::default()).unwrap();
        cluster
    });
    let restored = restored.await.unwrap();
    assert!(found().is_empty());
    restored.shared.read(|state| {
        let lagging = &state.region_by_id(1).unwrap().lagging;
        assert_eq!(lagging.unstored(), None);
    });
}

#[tokio::test]
async fn a_heartbeat_is_answered_also_if_what_voters_were_away_for_cannot_be_stored() {
    let (_directory, cluster, _registrar) = open().await;
    let shared = &cluster.shared;
    let peers = [1, 2, 3].map(|id| Peer {
        id,
        store_id: id,
        learner: false,
    });
    let epoch = RegionEpoch {
        conf_version: 1,
        version: 1,
    };
    let address = |id: u64| format!("store-{id}:1");
    shared.write(|state| {
        state.settings.store_down_after = Duration::from_nanos(1);
        state.apply(Change::Counters(Counters {
            store_id: 3,
            region_id: 1,
            peer_id: 3,
        }));
        for id in [1, 2, 3] {
            state.apply(Change::Store(StoreRecord {
                id,
                address: address(id),
                incarnation: id,
                kept_incarnation: id,
                ..StoreRecord::default()
            }));
        }
        state.apply(Change::Region(Region {
            id: 1,
            epoch: Some(epoch),
            peers: peers.to_vec(),
            ..Region::default()
        }));
    });
    // Nobody answers these.
    for port in 1..=QUESTIONS_MAX as u32 {
        hang_up(cluster.register(fresh(port)), 1).await;
    }
    let report = Report {
        region_id: 1,
        peer_id: 1,
        term: 5,
        epoch,
        peers: peers.to_vec(),
        live: Some(vec![1, 2]),
        bytes: None,
    };
    let heartbeat = |store_id: u64, reports: &[&Report]| Heartbeat {
        start: Start {
            address: address(store_id),
            store_id,
            cluster_id: cluster.id(),
            incarnation: store_id,
        },
        stats: None,
        load: None,
        reports: reports.iter().copied().cloned().collect(),
        region_count: None,
        holds: Vec::new(),
        takes_no_replicas: false,
    };
    let is_unstored = |state: &State| state.region_by_id(1).unwrap().lagging.unstored().is_some();
    while !shared.read(is_unstored) {
        shared.write(|state| state.listening.note_awake(Instant::now()));
        cluster.heartbeat(heartbeat(2, &[])).await.unwrap();
        cluster.heartbeat(heartbeat(1, &[&report])).await.unwrap();
    }
}

#[tokio::test]
async fn registrations_queue_up_to_a_bound_and_those_given_up_are_not_decided() {
    let (_directory, cluster, registrar) = open().await;
    for port in 1..=QUESTIONS_MAX as u32 {
        hang_up(cluster.register(fresh(port)), 1).await;
    }
    let refused = cluster.register(fresh(1_000)).await;
    assert!(matches!(refused, Err(ClusterError::Busy)), "{refused:?}");

    let running = tokio::spawn(registrar.run());
    while cluster.questions.capacity() < QUESTIONS_MAX {
        yield_now().await;
    }
    assert_eq!(cluster.register(fresh(1_000)).await.unwrap().store_id, 1);
    running.abort();
    let ended = running.await;
    assert!(ended.is_err_and(|error| error.is_cancelled()));
    let refused = cluster.register(fresh(1_001)).await;
    assert!(
        matches!(refused, Err(ClusterError::Stopping)),
        "{refused:?}"
    );
}

#[tokio::test]
async fn what_the_page_shows_is_put_together_once_for_all_that_look() {
    let (_directory, cluster, _registrar) = open().await;
    let now = Instant::now();
    let shown = cluster.overview_at(now);
    let soon = cluster.overview_at(now + OVERVIEW_AGE_MAX / 2);
    assert!(Arc::ptr_eq(&shown, &soon));
    let later = cluster.overview_at(now + OVERVIEW_AGE_MAX);
    assert!(!Arc::ptr_eq(&shown, &later));
}

#[tokio::test]
async fn heartbeats_come_more_often_while_somebody_looks_at_a_cluster_that_is_small() {
    let (_directory, cluster, _registrar) = open().await;
    let shared = &cluster.shared;
    let now = Instant::now();
    assert!(!shared.is_watched(now), "nobody looks");
    cluster.overview_at(now);
    assert!(shared.is_watched(now + WATCHED_FOR - Duration::from_millis(1)));
    assert!(
        !shared.is_watched(now + WATCHED_FOR),
        "nobody looks any more"
    );
    let add_store = |id: u64| {
        let store = StoreRecord {
            id,
            address: format!("a:{id}"),
            incarnation: id,
            kept_incarnation: id,
            ..StoreRecord::default()
        };
        shared.write(|state| state.apply(Change::Store(store)));
    };
    let most = WATCHED_STORES_MAX as u64;
    (1..=most).for_each(add_store);
    // One that never kept its id sends no heartbeats.
    let unconfirmed = StoreRecord::unconfirmed(most + 1, &fresh(1).start);
    shared.write(|state| state.apply(Change::Store(unconfirmed)));
    assert!(shared.is_watched(now));
    add_store(most + 2);
    assert!(!shared.is_watched(now), "each heartbeat has its cost");
}

/// Who has just opened the page may wait for one of the usual heartbeats first.
#[tokio::test]
async fn the_next_heartbeat_hears_that_somebody_looks_and_then_writes_are_shown_within_3_s() {
    let (_directory, cluster, _registrar) = open().await;
    let start = Start {
        address: "a:1".to_owned(),
        store_id: 1,
        cluster_id: cluster.id(),
        incarnation: 1,
    };
    cluster.shared.write(|state| {
        state.apply(Change::Store(StoreRecord {
            id: 1,
            address: start.address.clone(),
            incarnation: 1,
            kept_incarnation: 1,
            ..StoreRecord::default()
        }));
    });
    let interval = async || {
        let heartbeat = Heartbeat {
            start: start.clone(),
            stats: None,
            load: None,
            reports: Vec::new(),
            region_count: None,
            holds: Vec::new(),
            takes_no_replicas: false,
        };
        let answer = cluster.heartbeat(heartbeat).await.unwrap();
        Duration::from_millis(answer.interval_ms)
    };
    assert_eq!(interval().await, HEARTBEAT_INTERVAL);
    cluster.overview();
    let looked_at = locked(&cluster.shared.watched_at).expect("somebody has looked");
    // However slow this test is.
    *locked(&cluster.shared.watched_at) = Some(looked_at + Duration::from_secs(3600));
    assert_eq!(interval().await, WATCHED_INTERVAL);
    let shown_within = WATCHED_INTERVAL + OVERVIEW_AGE_MAX + PAGE_INTERVAL;
    assert!(shown_within < Duration::from_secs(3), "{shown_within:?}");
    assert!(WATCHED_FOR > 2 * PAGE_INTERVAL, "a look may be late");
}
