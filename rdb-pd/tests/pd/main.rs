//! The placement driver over gRPC, in this process: what it keeps over a restart, and how it ends.

#![allow(clippy::unwrap_used)] // helpers of tests are tests, too

mod auth;
#[allow(dead_code, reason = "a part of it is used here")]
#[path = "../../../rdb-client/tests/e2e/harness/http.rs"]
mod http;
mod membership;
mod replicas;
#[path = "../../../rdb-storage/tests/storage/skipped.rs"]
mod skipped;
mod status;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::channel::mpsc;
use rdb_pd::{Config, Pd, PdError, keys};
use rdb_proto::error::details;
use rdb_proto::errorpb::Fate;
use rdb_proto::metapb::StoreStats;
use rdb_proto::pdpb::pd_client::PdClient;
use rdb_proto::pdpb::{
    GetClusterInfoRequest, GetRegionRequest, GetStoresRequest, GetTsoRequest, RegisterStoreRequest,
    RegisterStoreResponse, ScanRegionsRequest, StoreHeartbeatRequest,
};
use rdb_proto::transport::endpoint;
use rdb_proto::transport::limits::TSO_STREAMS_MAX;
use rdb_proto::transport::process::ServerProcess;
use rdb_storage::{Role, Storage, StorageOptions};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// A hang guard: far longer than anything here takes.
const GUARD: Duration = Duration::from_secs(300);

struct Running {
    pd: Pd,
    client: PdClient<Channel>,
}

async fn start_with(
    directory: &Path,
    change: impl FnOnce(&mut Config),
) -> Result<Running, PdError> {
    let mut config = Config {
        addr: "127.0.0.1:0".parse().unwrap(),
        data_dir: directory.to_owned(),
        ..Config::default()
    };
    change(&mut config);
    let pd = Pd::start(config).await?;
    let address = pd.local_addr().to_string();
    let channel = endpoint(&address, GUARD).unwrap().connect().await.unwrap();
    let client = PdClient::new(channel);
    Ok(Running { pd, client })
}

/// Each address has one store process, which is never restarted.
fn incarnation_at(address: &str) -> u64 {
    address.bytes().map(u64::from).sum()
}

async fn start(directory: &Path) -> Running {
    start_with(directory, |_| {}).await.unwrap()
}

impl Running {
    async fn stop(self) {
        self.pd.drain_token().cancel();
        drop(self.client);
        tokio::time::timeout(GUARD, self.pd.wait())
            .await
            .expect("drains")
            .unwrap();
    }

    async fn tso(&mut self, count: Option<u32>) -> Result<u64, Status> {
        let answer = self.client.get_tso(GetTsoRequest { count }).await?;
        let answer = answer.into_inner();
        assert_eq!(answer.cluster_id, self.cluster_id().await);
        Ok(answer.first)
    }

    /// Registers as the present start of the store; a new one keeps the id that it gets and says so.
    async fn register(
        &mut self,
        address: &str,
        store_id: u64,
        cluster_id: u64,
    ) -> Result<RegisterStoreResponse, Status> {
        let incarnation = incarnation_at(address);
        let mut request = RegisterStoreRequest {
            address: address.to_owned(),
            store_id,
            cluster_id,
            incarnation,
            kept_incarnation: 0,
        };
        if store_id == 0 {
            let accepted = self
                .client
                .register_store(request.clone())
                .await?
                .into_inner();
            assert!(accepted.regions.is_empty(), "the id is not kept yet");
            request.store_id = accepted.store_id;
            request.cluster_id = accepted.cluster_id;
        }
        request.kept_incarnation = incarnation;
        Ok(self.client.register_store(request).await?.into_inner())
    }

    async fn heartbeat(
        &mut self,
        address: &str,
        store_id: u64,
        cluster_id: u64,
    ) -> Result<u64, Status> {
        let request = StoreHeartbeatRequest {
            cluster_id,
            store_id,
            address: address.to_owned(),
            stats: Some(StoreStats {
                key_count: 7,
                ..StoreStats::default()
            }),
            incarnation: incarnation_at(address),
            ..StoreHeartbeatRequest::default()
        };
        let answer = self.client.store_heartbeat(request).await?.into_inner();
        assert!(
            answer.regions.is_empty(),
            "it does not say that it has none"
        );
        Ok(answer.interval_ms)
    }

    async fn cluster_id(&mut self) -> u64 {
        let info = self
            .client
            .get_cluster_info(GetClusterInfoRequest::default())
            .await
            .unwrap();
        info.into_inner().cluster_id
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_regions_and_timestamps_outlive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut pd = start(directory.path()).await;
    let cluster_id = pd.cluster_id().await;
    let first = pd.register("127.0.0.1:1001", 0, 0).await.unwrap();
    assert_eq!(
        (first.cluster_id, first.store_id, first.regions.len()),
        (cluster_id, 1, 1)
    );
    let second = pd.register("127.0.0.1:1002", 0, 0).await.unwrap();
    assert_eq!((second.store_id, second.regions.len()), (2, 0));
    pd.heartbeat("127.0.0.1:1001", 1, cluster_id).await.unwrap();
    let before = pd.tso(Some(65_536)).await.unwrap() + 65_535;
    pd.stop().await;

    let mut pd = start(directory.path()).await;
    assert_eq!(pd.cluster_id().await, cluster_id);
    assert!(pd.tso(None).await.unwrap() > before);
    let again = pd.register("127.0.0.1:1001", 1, cluster_id).await.unwrap();
    assert_eq!(again.regions, first.regions);
    let third = pd.register("127.0.0.1:1003", 0, 0).await.unwrap();
    assert_eq!(third.store_id, 3, "ids are never reused");
    let route = pd
        .client
        .get_region(GetRegionRequest { key: "k".into() })
        .await
        .unwrap();
    let route = route.into_inner().route.unwrap();
    assert_eq!(route.leader.unwrap().address, "127.0.0.1:1001");
    pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_audit_log_is_refused_before_a_cluster_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let (data_dir, notes) = (
        directory.path().join("data"),
        directory.path().join("notes"),
    );
    std::fs::write(&notes, "bread and milk\n").unwrap();
    let started = start_with(&data_dir, |config| config.serve.audit_log = Some(notes)).await;
    assert!(matches!(started, Err(PdError::Audit(_))));
    assert!(!data_dir.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_log_can_be_in_a_directory_that_is_made_with_the_data_directory() {
    let directory = tempfile::tempdir().unwrap();
    let made = directory.path().join("made");
    let (data_dir, audit_log) = (made.join("data"), made.join("audit.log"));
    let elsewhere = directory.path().join("missing").join("audit.log");
    let refused = start_with(&data_dir, |config| config.serve.audit_log = Some(elsewhere)).await;
    assert!(matches!(refused, Err(PdError::Audit(_))));
    assert!(!made.exists());

    let set = |config: &mut Config| config.serve.audit_log = Some(audit_log.clone());
    let pd = start_with(&data_dir, set).await.unwrap();
    pd.stop().await;
    assert!(audit_log.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_is_taken_only_from_the_store_that_registered() {
    let directory = tempfile::tempdir().unwrap();
    let mut pd = start(directory.path()).await;
    let cluster_id = pd.cluster_id().await;
    pd.register("127.0.0.1:1001", 0, 0).await.unwrap();
    assert!(pd.heartbeat("127.0.0.1:1001", 1, cluster_id).await.unwrap() > 0);
    let code = |result: Result<u64, Status>| result.unwrap_err().code();
    assert_eq!(
        code(pd.heartbeat("127.0.0.1:1009", 1, cluster_id).await),
        Code::AlreadyExists
    );
    assert_eq!(
        code(pd.heartbeat("127.0.0.1:1001", 9, cluster_id).await),
        Code::FailedPrecondition
    );
    assert_eq!(
        code(pd.heartbeat("127.0.0.1:1001", 1, 5).await),
        Code::FailedPrecondition
    );
    assert_eq!(
        code(pd.heartbeat("nowhere", 1, cluster_id).await),
        Code::InvalidArgument
    );
    let mut without_incarnation = StoreHeartbeatRequest {
        cluster_id,
        store_id: 1,
        address: "127.0.0.1:1001".to_owned(),
        ..StoreHeartbeatRequest::default()
    };
    let refused = pd.client.store_heartbeat(without_incarnation.clone()).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    without_incarnation.incarnation = 5;
    let refused = pd.client.store_heartbeat(without_incarnation).await;
    assert_eq!(refused.unwrap_err().code(), Code::AlreadyExists);
    let stores = pd
        .client
        .get_stores(GetStoresRequest {})
        .await
        .unwrap()
        .into_inner()
        .stores;
    assert_eq!(stores[0].stats.unwrap().key_count, 7);
    pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_have_a_default_and_limits() {
    let directory = tempfile::tempdir().unwrap();
    let mut pd = start(directory.path()).await;
    let one = pd.tso(None).await.unwrap();
    assert!(pd.tso(Some(1)).await.unwrap() > one);
    for count in [0, 65_537, u32::MAX] {
        assert_eq!(
            pd.tso(Some(count)).await.unwrap_err().code(),
            Code::InvalidArgument,
            "{count}"
        );
    }
    pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_on_a_stream_is_answered_one_by_one_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let mut pd = start(directory.path()).await;
    // Some together are more than one allocation may be, and all of them more than one pass.
    let counts = [
        None,
        Some(65_536),
        Some(1),
        Some(40_000),
        Some(7),
        Some(65_536),
    ];
    let counts: Vec<_> = counts.into_iter().cycle().take(3_000).collect();
    let requests = counts.iter().map(|&count| GetTsoRequest { count });
    let requests = futures::stream::iter(requests.collect::<Vec<_>>());
    let mut answers = pd.client.tso(requests).await.unwrap().into_inner();
    let cluster_id = pd.cluster_id().await;
    let mut next = 0;
    for count in counts {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.count, count.unwrap_or(1));
        assert_eq!(answer.cluster_id, cluster_id);
        assert!(answer.first >= next, "{} after {next}", answer.first);
        next = answer.first + u64::from(answer.count);
    }
    assert!(answers.message().await.unwrap().is_none());
    pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_a_bounded_number_of_streams_and_one_that_ends_makes_room() {
    let directory = tempfile::tempdir().unwrap();
    let mut pd = start(directory.path()).await;
    let mut streams = Vec::new();
    for _ in 0..TSO_STREAMS_MAX {
        let (requests, receiver) = mpsc::unbounded();
        streams.push((requests, pd.client.tso(receiver).await.unwrap()));
    }
    let refused = pd.client.tso(futures::stream::empty()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(details(&refused).unwrap().fate(), Fate::NotApplied);

    let (requests, ending) = streams.pop().unwrap();
    drop(requests);
    assert!(ending.into_inner().message().await.unwrap().is_none());
    // The place is free a moment after the end has arrived.
    let next = async { while pd.client.tso(futures::stream::empty()).await.is_err() {} };
    timeout(Duration::from_secs(60), next).await.unwrap();
    drop(streams);
    pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_ends_its_stream_after_those_before_it_were_answered() {
    let directory = tempfile::tempdir().unwrap();
    let mut pd = start(directory.path()).await;
    let counts = [1, 65_536, 3, 0, 5];
    let requests = counts.map(|count| GetTsoRequest { count: Some(count) });
    let requests = futures::stream::iter(requests);
    let mut answers = pd.client.tso(requests).await.unwrap().into_inner();
    for count in &counts[..3] {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.count, *count);
    }
    let refused = answers.message().await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_of_timestamps_is_ended_by_the_drain() {
    let directory = tempfile::tempdir().unwrap();
    let mut pd = start(directory.path()).await;
    let (requests, receiver) = tokio::sync::mpsc::channel(1);
    let receiver = futures::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|request| (request, receiver))
    });
    let mut answers = pd.client.tso(receiver).await.unwrap().into_inner();
    requests
        .send(GetTsoRequest { count: Some(3) })
        .await
        .unwrap();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!(answer.count, 3);

    pd.pd.drain_token().cancel();
    let ended = tokio::time::timeout(GUARD, answers.message())
        .await
        .expect("the stream ends");
    assert!(ended.unwrap().is_none());
    pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bound_can_be_moved_ahead_for_a_restored_directory() {
    let directory = tempfile::tempdir().unwrap();
    let mut pd = start(directory.path()).await;
    let before = pd.tso(None).await.unwrap();
    pd.stop().await;
    let mut pd = start_with(directory.path(), |config| config.tso_advance_ms = 3_600_000)
        .await
        .unwrap();
    let moved_ms = (pd.tso(None).await.unwrap() >> 18) - (before >> 18);
    assert!(moved_ms >= 3_600_000, "{moved_ms}");
    let metrics = status::metrics(&pd).await;
    let ahead_s = metrics.get("flaredb_tso_clock_distance_seconds");
    // The bound was ahead by some seconds before, and the clock catches up at half speed.
    assert!((1_800.0..3_610.0).contains(&ahead_s), "{ahead_s}");
    pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn regions_are_looked_up_by_any_key_and_hostile_arguments_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut pd = start(directory.path()).await;
    let scan = |start_key: Vec<u8>, end_key: Vec<u8>, limit| ScanRegionsRequest {
        start_key: start_key.into(),
        end_key: end_key.into(),
        limit,
    };
    let all = scan(vec![], vec![], None);
    let none = pd.client.scan_regions(all.clone()).await.unwrap();
    assert!(none.into_inner().routes.is_empty(), "no store yet");
    pd.register("127.0.0.1:1001", 0, 0).await.unwrap();
    for fine in [all, scan(vec![0xff; 8_193], vec![], Some(256))] {
        let routes = pd.client.scan_regions(fine).await.unwrap();
        assert_eq!(routes.into_inner().routes.len(), 1);
    }
    for hostile in [
        scan(vec![0; 8_194], vec![], None),
        scan(vec![], vec![0; 1 << 20], None),
        scan(b"b".to_vec(), b"a".to_vec(), None),
        scan(vec![], vec![], Some(0)),
        scan(vec![], vec![], Some(u32::MAX)),
    ] {
        let refused = pd.client.scan_regions(hostile).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let long = GetRegionRequest {
        key: vec![0; 8_194].into(),
    };
    let refused = pd.client.get_region(long).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    pd.stop().await;
}

/// Writes the bound of timestamps as a process would have left it so many days ago.
async fn leave_bound_of(directory: &Path, days_ago: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let bound = now - Duration::from_secs(days_ago * 86_400);
    let bound_ms = u64::try_from(bound.as_millis()).unwrap();
    let directory = directory.to_owned();
    let written = tokio::task::spawn_blocking(move || {
        let storage = Storage::open(directory, StorageOptions::new(Role::Pd)).unwrap();
        let value = keys::encode_u64(bound_ms);
        storage
            .put_raw(Bytes::from_static(keys::TSO_BOUND), value)
            .unwrap();
        storage.close().unwrap();
    });
    written.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_after_a_pause_of_up_to_400_days_needs_no_flag() {
    let directory = tempfile::tempdir().unwrap();
    leave_bound_of(directory.path(), 399).await;
    start(directory.path()).await.stop().await;

    leave_bound_of(directory.path(), 401).await;
    let refused = start_with(directory.path(), |_| {}).await.err().unwrap();
    assert!(matches!(refused, PdError::Clock(_)), "{refused}");
    assert!(
        refused.to_string().contains("--accept-clock-jump"),
        "{refused}"
    );
    let accepting = |config: &mut Config| config.accept_clock_jump = true;
    let accepted = start_with(directory.path(), accepting).await.unwrap();
    accepted.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_restored_from_an_older_copy_gives_out_no_id_twice() {
    let directory = tempfile::tempdir().unwrap();
    let mut pd = start(directory.path()).await;
    let first = pd.register("127.0.0.1:1001", 0, 0).await.unwrap();
    pd.stop().await;
    let restored = |config: &mut Config| config.tso_advance_ms = 1;
    let mut pd = start_with(directory.path(), restored).await.unwrap();
    let second = pd.register("127.0.0.1:1002", 0, 0).await.unwrap();
    assert!(second.store_id > 1_000_000, "{second:?}");
    let again = pd
        .register("127.0.0.1:1001", 1, first.cluster_id)
        .await
        .unwrap_err();
    assert_eq!(again.code(), Code::Unavailable, "told to ask again");
    pd.heartbeat("127.0.0.1:1001", 1, first.cluster_id)
        .await
        .expect("whichever start lives is believed");
    pd.stop().await;
}
