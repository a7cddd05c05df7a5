//! Regions of several peers: when the first one is made, and what its leaders report.

use rdb_proto::metapb::{Peer, RegionEpoch, RegionRoute};
use rdb_proto::pdpb::{RegionReport, StoreHeartbeatResponse};

use super::status::alarms;
use super::*;

const ADDRESSES: [&str; 3] = ["127.0.0.1:1001", "127.0.0.1:1002", "127.0.0.1:1003"];

async fn start_with_three_replicas(directory: &Path) -> Running {
    start_with(directory, |config| config.initial_replicas = 3)
        .await
        .unwrap()
}

/// A placement driver whose first region has a peer on each of three stores.
async fn start_with_three_stores(directory: &Path) -> Running {
    let mut pd = start_with_three_replicas(directory).await;
    for address in ADDRESSES {
        pd.register(address, 0, 0).await.unwrap();
    }
    pd
}

/// What the peer of region 1 on the store with the same id reports.
fn report(peer_id: u64, term: u64) -> RegionReport {
    RegionReport {
        region_id: 1,
        peer_id,
        term,
        epoch: Some(RegionEpoch {
            conf_version: 1,
            version: 1,
        }),
        peers: (1..=3).map(peer).collect(),
        live: None,
        bytes: None,
    }
}

fn peer(id: u64) -> Peer {
    Peer {
        id,
        store_id: id,
        learner: false,
    }
}

impl Running {
    /// A heartbeat of the store with this id, which names its regions.
    async fn beat(
        &mut self,
        store_id: u64,
        leads: Vec<RegionReport>,
        region_count: Option<u64>,
    ) -> Result<StoreHeartbeatResponse, Status> {
        let address = ADDRESSES[store_id as usize - 1];
        let request = StoreHeartbeatRequest {
            cluster_id: self.cluster_id().await,
            store_id,
            address: address.to_owned(),
            incarnation: incarnation_at(address),
            leads,
            region_count,
            ..StoreHeartbeatRequest::default()
        };
        let answer = self.client.store_heartbeat(request).await?;
        Ok(answer.into_inner())
    }

    /// A heartbeat of a store that has no region while the cluster has none: it asks more often than others.
    async fn beat_in_vain(&mut self, store_id: u64) {
        let answer = self.beat(store_id, vec![], Some(0)).await.unwrap();
        assert_eq!((answer.interval_ms, answer.regions.len()), (500, 0));
    }

    async fn lead(&mut self, report: RegionReport) {
        self.beat(report.peer_id, vec![report], Some(1))
            .await
            .unwrap();
    }

    /// The route of every key, which a lookup and a list answer alike.
    async fn route(&mut self) -> Option<RegionRoute> {
        let key = GetRegionRequest { key: "k".into() };
        let route = self.client.get_region(key).await.unwrap();
        let route = route.into_inner().route.map(timeless);
        let all = ScanRegionsRequest::default();
        let all = ScanRegionsRequest {
            limit: Some(1),
            ..all
        };
        let routes = self.client.scan_regions(all).await.unwrap();
        let routes = routes.into_inner().routes.into_iter().map(timeless);
        assert_eq!(routes.collect::<Vec<_>>(), Vec::from_iter(route.clone()));
        route
    }

    /// The id of the leader's store, and its term.
    async fn leader(&mut self) -> Option<(u64, u64)> {
        let route = self.route().await?;
        route.leader.map(|store| (store.id, route.term))
    }
}

/// Without what changes from one answer to the next.
fn timeless(mut route: RegionRoute) -> RegionRoute {
    for store in route.peers.iter_mut().chain(&mut route.leader) {
        store.last_heartbeat_age_ms = None;
    }
    route
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_region_is_made_once_all_its_stores_have_registered() {
    let directory = tempfile::tempdir().unwrap();
    let mut pd = start_with_three_replicas(directory.path()).await;
    for (store_id, address) in [1, 2].into_iter().zip(ADDRESSES) {
        let registered = pd.register(address, 0, 0).await.unwrap();
        assert_eq!(
            (registered.store_id, registered.regions.len()),
            (store_id, 0)
        );
        pd.beat_in_vain(store_id).await;
    }
    assert!(pd.route().await.is_none());
    pd.stop().await;

    let mut pd = start_with_three_replicas(directory.path()).await;
    pd.beat_in_vain(1).await;
    pd.beat_in_vain(2).await;
    let third = pd.register(ADDRESSES[2], 0, 0).await.unwrap();
    let [region] = &third.regions[..] else {
        panic!("{third:?}");
    };
    assert_eq!(
        (region.id, &region.peers[..]),
        (1, &[1, 2, 3].map(peer)[..])
    );
    let fourth = pd.register("127.0.0.1:1004", 0, 0).await.unwrap();
    assert!(fourth.regions.is_empty());
    for said in [Some(1), None] {
        let answer = pd.beat(1, vec![], said).await.unwrap();
        assert_eq!((answer.interval_ms, answer.regions.len()), (5_000, 0));
    }
    pd.stop().await;

    // What it begins with has been decided.
    let mut pd = start(directory.path()).await;
    for store_id in [1, 2, 3] {
        let answer = pd.beat(store_id, vec![], Some(0)).await.unwrap();
        assert_eq!(answer.regions, third.regions);
    }
    let cluster_id = third.cluster_id;
    let again = pd.register(ADDRESSES[0], 1, cluster_id).await.unwrap();
    assert_eq!(again.regions, third.regions);
    let route = pd.route().await.unwrap();
    let addresses = route.peers.iter().map(|store| store.address.as_str());
    assert_eq!(addresses.collect::<Vec<_>>(), ADDRESSES);
    assert_eq!((route.leader, route.term), (None, 0));
    pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_that_wait_get_a_region_when_fewer_replicas_are_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let mut pd = start_with_three_replicas(directory.path()).await;
    pd.register(ADDRESSES[0], 0, 0).await.unwrap();
    pd.stop().await;
    let mut pd = start(directory.path()).await;
    let unasked = pd.beat(1, vec![], None).await.unwrap();
    assert!(unasked.regions.is_empty());
    let answer = pd.beat(1, vec![], Some(0)).await.unwrap();
    assert_eq!(answer.regions[0].peers, [peer(1)]);
    pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_the_one_of_the_highest_term_and_reports_again_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut pd = start_with_three_stores(directory.path()).await;
    assert_eq!(pd.leader().await, None);
    pd.lead(report(1, 3)).await;
    pd.lead(report(2, 5)).await;
    assert_eq!(pd.leader().await, Some((2, 5)));
    pd.lead(report(1, 3)).await;
    assert_eq!(pd.leader().await, Some((2, 5)), "an older term came late");
    pd.beat(3, vec![report(2, 9)], Some(1)).await.unwrap();
    pd.beat(3, vec![report(9, 9)], Some(1)).await.unwrap();
    pd.beat(2, vec![], Some(1)).await.unwrap();
    assert_eq!(pd.leader().await, Some((2, 5)), "no peer of that store");
    pd.stop().await;

    let mut pd = start(directory.path()).await;
    assert_eq!(pd.leader().await, None);
    pd.lead(report(2, 5)).await;
    assert_eq!(pd.leader().await, Some((2, 5)));
    pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_peers_are_stored_before_the_heartbeat_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let mut pd = start_with_three_stores(directory.path()).await;
    let epoch = RegionEpoch {
        conf_version: 2,
        version: 1,
    };
    pd.lead(RegionReport {
        epoch: Some(epoch),
        peers: vec![peer(3), peer(2)],
        ..report(3, 4)
    })
    .await;
    let ids = |route: RegionRoute| {
        let region = route.region.unwrap();
        assert_eq!(region.epoch, Some(epoch));
        let stores = route.peers.iter().map(|store| store.id).collect::<Vec<_>>();
        assert!(
            region
                .peers
                .iter()
                .map(|peer| peer.store_id)
                .eq(stores.clone())
        );
        stores
    };
    assert_eq!(ids(pd.route().await.unwrap()), [3, 2]);
    assert_eq!(pd.leader().await, Some((3, 4)));
    let removed = pd.beat(1, vec![], Some(0)).await.unwrap();
    assert_eq!((removed.interval_ms, removed.regions.len()), (5_000, 0));
    pd.stop().await;

    let mut pd = start(directory.path()).await;
    assert_eq!(ids(pd.route().await.unwrap()), [3, 2]);
    pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_have_limits_and_what_breaks_one_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut pd = start_with_three_stores(directory.path()).await;
    let many = |count: u64| {
        let unknown = (1..=count).map(|region_id| RegionReport {
            region_id: 1 + region_id,
            ..report(1, 3)
        });
        unknown.collect::<Vec<_>>()
    };
    pd.beat(1, many(4_096), Some(1)).await.unwrap();
    let with = |change: fn(&mut RegionReport)| {
        let mut report = report(1, 3);
        change(&mut report);
        vec![report]
    };
    for hostile in [
        many(4_097),
        vec![report(1, 3), report(1, 3)],
        with(|report| report.region_id = 0),
        with(|report| report.peer_id = 0),
        with(|report| report.term = 0),
        with(|report| report.epoch = None),
        with(|report| report.peers.clear()),
        with(|report| report.peers = (1..=17).map(peer).collect()),
        with(|report| report.peers = vec![peer(1); 2]),
        with(|report| report.peers[2].id = 0),
        with(|report| report.peers[2].store_id = 0),
        with(|report| report.peers = vec![Peer::default(); 1_000_000]),
    ] {
        let refused = pd.beat(1, hostile, Some(1)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert_eq!(details(&refused).unwrap().field, "leads");
    }
    assert_eq!(pd.leader().await, None);
    pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_about_replicas_that_were_never_named_says_that_the_directory_is_older() {
    let directory = tempfile::tempdir().unwrap();
    let mut pd = start_with_three_stores(directory.path()).await;
    pd.lead(report(1, 4)).await;
    assert_eq!(alarms(&mut pd).await, Vec::<String>::new());
    let later = RegionReport {
        epoch: Some(RegionEpoch {
            conf_version: 2,
            version: 1,
        }),
        peers: [1, 2, 9].map(peer).to_vec(),
        ..report(1, 5)
    };
    pd.lead(later).await;
    let told = alarms(&mut pd).await;
    let older = "the data directory of the placement driver looks older than the cluster: it has never named all replicas of region \
                 1, and knows no store with the id 9";
    assert_eq!(told, [older]);
    assert_eq!(pd.leader().await, Some((1, 4)), "it is ignored");
    pd.stop().await;
}
