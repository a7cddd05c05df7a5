//! The placement driver over gRPC, in this process: what it keeps over a restart, and how it ends.

#![allow(clippy::unwrap_used)] // helpers of tests are tests, too

use std::path::Path;
use std::time::Duration;

use rdb_pd::{Config, Pd, PdError};
use rdb_proto::metapb::StoreStats;
use rdb_proto::pdpb::pd_client::PdClient;
use rdb_proto::pdpb::{
    GetClusterInfoRequest, GetRegionRequest, GetStoresRequest, GetTsoRequest, RegisterStoreRequest,
    RegisterStoreResponse, ScanRegionsRequest, StoreHeartbeatRequest,
};
use rdb_proto::transport::endpoint;
use rdb_proto::transport::process::ServerProcess;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// A hang guard: far longer than anything here takes.
const GUARD: Duration = Duration::from_secs(60);

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

    async fn register(
        &mut self,
        address: &str,
        store_id: u64,
        cluster_id: u64,
    ) -> Result<RegisterStoreResponse, Status> {
        let request = RegisterStoreRequest {
            address: address.to_owned(),
            store_id,
            cluster_id,
            incarnation: incarnation_at(address),
            previous_incarnation: incarnation_at(address),
        };
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
        };
        Ok(self
            .client
            .store_heartbeat(request)
            .await?
            .into_inner()
            .interval_ms)
    }

    async fn cluster_id(&mut self) -> u64 {
        let info = self
            .client
            .get_cluster_info(GetClusterInfoRequest {})
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
    let none = ScanRegionsRequest {
        limit: Some(0),
        ..ScanRegionsRequest::default()
    };
    assert_eq!(
        pd.client.scan_regions(none).await.unwrap_err().code(),
        Code::InvalidArgument
    );
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
    pd.stop().await;
}
