//! What the placement driver counts of what it is asked for.

use std::time::Duration;

use rdb_proto::metapb::StoreLoad;
use rdb_proto::pdpb::{
    GetClusterInfoRequest, GetRegionRequest, GetStoresRequest, GetTsoRequest, StoreHeartbeatRequest,
};
use rdb_proto::transport::process::ServerProcess;
use tokio::time::timeout;

use super::http::{Metrics, http_get};
use super::{GUARD, Running, incarnation_at, start, start_with};

const HANG_GUARD: Duration = Duration::from_secs(300);

pub(super) async fn metrics(pd: &Running) -> Metrics {
    let address = pd.pd.status_addr().expect("it has status pages");
    Metrics::of(&address.to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_to_stores_are_counted_by_whether_they_were_let_in() {
    let directory = tempfile::tempdir().unwrap();
    let mut pd = start(directory.path()).await;
    let cluster_id = pd.cluster_id().await;
    pd.register("127.0.0.1:1001", 0, 0).await.unwrap();
    pd.register("127.0.0.1:1002", 0, 77).await.unwrap_err();
    for _ in 0..3 {
        pd.heartbeat("127.0.0.1:1001", 1, cluster_id).await.unwrap();
    }
    pd.heartbeat("127.0.0.1:1001", 9, cluster_id)
        .await
        .unwrap_err();
    let metrics = metrics(&pd).await;
    for (what, outcome, count) in [
        ("registrations", "ok", 2.0),
        ("registrations", "refused", 1.0),
        ("registrations", "failed", 0.0),
        ("heartbeats", "ok", 3.0),
        ("heartbeats", "refused", 1.0),
        ("heartbeats", "failed", 0.0),
    ] {
        let sample = format!("flaredb_{what}_total{{outcome=\"{outcome}\"}}");
        assert_eq!(metrics.get(&sample), count, "{sample}");
    }
    assert_eq!(metrics.get("flaredb_stores{state=\"up\"}"), 1.0);
    let calls = |kind| {
        let sample = format!("flaredb_call_duration_seconds_count{{kind=\"{kind}\"}}");
        metrics.get(&sample)
    };
    assert_eq!((calls("heartbeat"), calls("lookup")), (4.0, 0.0));
    // The first registration is two calls.
    assert!(calls("other") >= 3.0, "{}", metrics.text);
    pd.stop().await;
}

/// What the placement driver says has to be done something about.
pub(super) async fn alarms(pd: &mut Running) -> Vec<String> {
    let asked = pd.client.get_cluster_info(GetClusterInfoRequest::default());
    let findings = asked.await.unwrap().into_inner().findings.into_iter();
    let alarms = findings.filter(|finding| finding.is_alarm);
    alarms.map(|finding| finding.what).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_of_another_cluster_are_told_of_to_who_asks_and_on_the_page() {
    let directory = tempfile::tempdir().unwrap();
    let mut pd = start(directory.path()).await;
    let cluster_id = pd.cluster_id().await;
    let no_store = "no store has registered with the placement driver yet";
    assert_eq!(alarms(&mut pd).await, [no_store]);
    pd.heartbeat("127.0.0.1:1001", 3, 77).await.unwrap_err();
    pd.register("127.0.0.1:1002", 4, 77).await.unwrap_err();
    let told = format!(
        "stores of another cluster report here and are refused: store 3 at 127.0.0.1:1001 of cluster 77, store 4 at 127.0.0.1:1002 \
         of cluster 77; this is cluster {cluster_id}"
    );
    assert_eq!(alarms(&mut pd).await, [told.as_str()]);
    let without_findings = true;
    let asked = GetClusterInfoRequest { without_findings };
    let spared = pd.client.get_cluster_info(asked).await.unwrap();
    assert_eq!(spared.into_inner().findings, []);
    let address = pd.pd.status_addr().unwrap().to_string();
    let page = http_get(&address, "/page.json").await.body;
    assert!(page.contains(&told), "{page}");
    assert!(!page.contains(no_store), "{page}");
    pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_first_region_waits_for_is_told_to_who_asks_and_to_clients() {
    let directory = tempfile::tempdir().unwrap();
    let three = |config: &mut rdb_pd::Config| config.initial_replicas = 3;
    let mut pd = start_with(directory.path(), three).await.unwrap();
    let ports = [1001, 1002, 1003];
    let waits = [
        "the first region waits for 2 more stores (--initial-replicas 3)",
        "the first region waits for 1 more store (--initial-replicas 3)",
        "",
    ];
    for (port, waits) in ports.into_iter().zip(waits) {
        let address = format!("127.0.0.1:{port}");
        pd.register(&address, 0, 0).await.unwrap();
        let asked = pd.client.get_region(GetRegionRequest { key: "k".into() });
        let answer = asked.await.unwrap().into_inner();
        assert_eq!(answer.cause, waits);
        assert_eq!(answer.route.is_some(), waits.is_empty());
        let alarms = alarms(&mut pd).await;
        assert_eq!(alarms.len(), usize::from(!waits.is_empty()), "{alarms:?}");
        assert!(
            alarms.iter().all(|alarm| alarm.starts_with(waits)),
            "{alarms:?}"
        );
    }
    pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_report_every_second_while_somebody_looks_at_the_page() {
    const ADDRESS: &str = "127.0.0.1:1001";
    let directory = tempfile::tempdir().unwrap();
    let mut pd = start(directory.path()).await;
    let address = pd.pd.status_addr().unwrap().to_string();
    let cluster_id = pd.cluster_id().await;
    pd.register(ADDRESS, 0, 0).await.unwrap();
    let interval_ms = pd.heartbeat(ADDRESS, 1, cluster_id).await.unwrap();
    assert_eq!(interval_ms, 5000, "nobody looks");
    assert_eq!(http_get(&address, "/status").await.status, 200);
    let interval_ms = pd.heartbeat(ADDRESS, 1, cluster_id).await.unwrap();
    assert_eq!(interval_ms, 5000, "that is no page");
    // A busy machine may take longer than a look counts for.
    let asked = timeout(HANG_GUARD, async {
        loop {
            assert_eq!(http_get(&address, "/page.json").await.status, 200);
            let interval_ms = pd.heartbeat(ADDRESS, 1, cluster_id).await.unwrap();
            if interval_ms == 1000 {
                break;
            }
        }
    });
    asked
        .await
        .expect("stores are asked to report every second");
    pd.stop().await;
}

/// A store of an older release tells no load, and one that is wrong is as if it were not told.
#[tokio::test(flavor = "multi_thread")]
async fn the_load_of_a_store_is_listed_if_its_last_heartbeat_told_it() {
    const ADDRESS: &str = "127.0.0.1:1001";
    let directory = tempfile::tempdir().unwrap();
    let mut pd = start(directory.path()).await;
    let cluster_id = pd.cluster_id().await;
    pd.register(ADDRESS, 0, 0).await.unwrap();
    let load = |window_ms| {
        Some(StoreLoad {
            window_ms,
            reads: 7,
            ..StoreLoad::default()
        })
    };
    for (told, listed) in [
        (None, None),
        (load(5000), load(5000)),
        (load(0), None),
        (load(99), None),
        (load(1000), load(1000)),
        (load(u64::MAX), None),
        (None, None),
    ] {
        let heartbeat = StoreHeartbeatRequest {
            cluster_id,
            store_id: 1,
            address: ADDRESS.to_owned(),
            incarnation: incarnation_at(ADDRESS),
            load: told,
            ..StoreHeartbeatRequest::default()
        };
        pd.client.store_heartbeat(heartbeat).await.unwrap();
        let stores = pd.client.get_stores(GetStoresRequest {}).await.unwrap();
        assert_eq!(stores.into_inner().stores[0].load, listed);
        let route = pd.client.get_region(GetRegionRequest { key: "k".into() });
        let route = route.await.unwrap().into_inner().route.unwrap();
        assert_eq!(route.leader.unwrap().load, None, "routes stay short");
    }
    pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timestamps_are_counted_one_by_one_however_they_are_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let mut pd = start(directory.path()).await;
    pd.tso(Some(65_536)).await.unwrap();
    pd.tso(Some(0)).await.unwrap_err();
    let requests = (0..5).map(|_| GetTsoRequest { count: Some(3) });
    let requests = futures::stream::iter(requests.collect::<Vec<_>>());
    let mut answers = pd.client.tso(requests).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    let metrics = metrics(&pd).await;
    assert_eq!(metrics.get("flaredb_tso_timestamps_total"), 65_551.0);
    // Beside these two, requests of the stream that had to wait.
    let timed = metrics.get("flaredb_call_duration_seconds_count{kind=\"timestamp\"}");
    assert!((2.0..=7.0).contains(&timed), "{timed}");
    let streams = "flaredb_calls_total{service=\"pdpb.Pd\",method=\"Tso\",code=\"ok\"}";
    assert_eq!(metrics.get(streams), 1.0, "{}", metrics.text);
    let refused =
        "flaredb_calls_total{service=\"pdpb.Pd\",method=\"GetTso\",code=\"invalid_argument\"}";
    assert_eq!(metrics.get(refused), 1.0, "{}", metrics.text);
    assert!(metrics.get("flaredb_rocksdb_wal_syncs_total{database=\"data\"}") >= 1.0);
    assert!(metrics.get("flaredb_rocksdb_wal_bytes_total{database=\"data\"}") > 0.0);
    pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placement_driver_that_stops_says_so_until_it_has() {
    let directory = tempfile::tempdir().unwrap();
    let pd = start(directory.path()).await;
    let address = pd.pd.status_addr().unwrap().to_string();
    for path in ["/health", "/ready"] {
        // It answers before it has looked at itself.
        let is_well = async { while http_get(&address, path).await.status != 200 {} };
        timeout(GUARD, is_well).await.expect(path);
    }
    assert_eq!(metrics(&pd).await.get("flaredb_healthy"), 1.0);
    pd.pd.drain_token().cancel();
    assert_eq!(metrics(&pd).await.get("flaredb_healthy"), 0.0);
    let health = http_get(&address, "/health").await;
    assert_eq!(health.body, "not serving: it is stopping\n");
    assert_eq!(http_get(&address, "/ready").await.status, 503);
    pd.stop().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}
