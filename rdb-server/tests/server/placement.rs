//! What a store makes of what the placement driver tells it.

use bytes::Bytes;
use futures::stream;
use rdb_proto::error::Fault;
use rdb_proto::errorpb::RegionError;
use rdb_proto::errorpb::region_error::Kind;
use rdb_proto::kvrpc::batch_answer::Response;
use rdb_proto::kvrpc::batch_command::Request;
use rdb_proto::kvrpc::kv_batch_client::KvBatchClient;
use rdb_proto::kvrpc::kv_cas_client::KvCasClient;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::kvrpc::{
    BatchCommand, BatchRequest, CompareAndSwapRequest, GetRequest, KeyValue, RawBatchGetRequest,
    RawBatchPutRequest, RawDeleteRangeRequest, RawGetRequest, RawPutRequest,
};
use rdb_proto::metapb::Context;
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::{Node, connect, found, guarded, http_get};
use crate::scripted_pd::{INTERVAL_MS, REGION_ID, ScriptedPd};

/// A store that registers with `pd`, not started yet.
fn store_of(pd: &ScriptedPd) -> (TempDir, Node) {
    let directory = TempDir::new().expect("the temporary directory can be written");
    let store = Node::store(directory.path().join("store"), &pd.address());
    (directory, store)
}

/// As a client says that found the region by another key.
fn in_region() -> Option<Context> {
    Some(Context {
        region_id: REGION_ID,
        ..Context::default()
    })
}

async fn raw(store: &Node) -> KvRawClient<Channel> {
    let channel = connect(&store.address()).await;
    KvRawClient::new(channel.expect("the store listens"))
}

fn is_elsewhere(error: Option<Box<RegionError>>) -> bool {
    matches!(
        error.and_then(|error| error.kind),
        Some(Kind::KeyNotInRegion(_))
    )
}

async fn put(store: &Node, key: &'static str) -> Option<Box<RegionError>> {
    let request = RawPutRequest {
        context: in_region(),
        key: key.into(),
        value: "v".into(),
    };
    let answer = raw(store).await.raw_put(request).await;
    answer.expect("an answer").into_inner().region_error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_keeps_the_regions_on_its_disk_whatever_it_is_told_later() {
    let pd = ScriptedPd::start("", "m").await;
    let (_directory, mut store) = store_of(&pd);
    store.start_serving().await;
    assert_eq!(put(&store, "k").await, None);
    assert!(is_elsewhere(put(&store, "z").await));
    store.kill();

    pd.assign("m", "");
    store.start();
    store
        .wait_for_log("registered with the placement driver")
        .await;
    assert_eq!(put(&store, "k").await, None);
    assert!(is_elsewhere(put(&store, "z").await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_tells_about_how_much_its_region_holds() {
    const BYTES: usize = 1 << 20;
    let pd = ScriptedPd::start("", "").await;
    let (_directory, mut store) = store_of(&pd);
    store.start_serving().await;
    // It cannot be compressed.
    let value: Vec<_> = (0..BYTES).map(|_| fastrand::u8(..)).collect();
    let request = RawPutRequest {
        context: in_region(),
        key: "k".into(),
        value: value.into(),
    };
    let answer = raw(&store).await.raw_put(request).await;
    assert_eq!(answer.expect("an answer").into_inner().region_error, None);
    // The end flushes what is in memory.
    store.terminate();
    assert!(store.exited().await.success());
    store.start_serving().await;
    let told = found("the leader tells the size", async || {
        let (heartbeat, _) = pd.heartbeat_of(1)?;
        heartbeat.leads.first()?.bytes.filter(|bytes| *bytes > 0)
    });
    let bytes = told.await as usize;
    assert!((BYTES..BYTES * 5 / 4).contains(&bytes), "{bytes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_come_as_often_as_the_placement_driver_asks_for_them() {
    /// Longer than the pause that a store makes by itself.
    const SELDOM_MS: u64 = 3000;
    let pd = ScriptedPd::start("", "").await;
    let (_directory, mut store) = store_of(&pd);
    store.start_serving().await;
    for interval_ms in [INTERVAL_MS, SELDOM_MS, INTERVAL_MS] {
        pd.set_interval_ms(interval_ms);
        // The load is of the time since an earlier heartbeat. Single ones may come late on a busy machine, or early with news.
        found("a heartbeat comes after that time", async || {
            let load = pd.heartbeat_of(1)?.0.load?;
            let is_seldom = load.window_ms >= SELDOM_MS;
            (is_seldom == (interval_ms == SELDOM_MS)).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_tells_for_how_long_it_has_run() {
    let pd = ScriptedPd::start("", "").await;
    let (_directory, mut store) = store_of(&pd);
    store.start_serving().await;
    let told = || pd.heartbeat_of(1)?.0.stats?.uptime_ms;
    let first = found("it tells its uptime", async || told()).await;
    found("it runs on", async || told().filter(|later| *later > first)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_place_was_given_away_ends_and_says_why() {
    let pd = ScriptedPd::start("", "").await;
    let (_directory, mut store) = store_of(&pd);
    store.start_serving().await;
    pd.refuse_heartbeats(Status::unavailable("for a moment"));
    store.wait_for_log("did not take the heartbeat").await;
    assert_eq!(put(&store, "k").await, None, "serving goes on");
    pd.refuse_heartbeats(Status::already_exists("the store lives elsewhere"));
    assert_eq!(store.exited().await.code(), Some(3));
    assert!(store.log().contains("the store lives elsewhere"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_removed_ends_and_says_why() {
    let pd = ScriptedPd::start("", "").await;
    let (_directory, mut store) = store_of(&pd);
    store.start_serving().await;
    let removed = Fault {
        field: "store_id",
        ..Fault::new(Code::FailedPrecondition, "the store was removed")
    };
    pd.refuse_heartbeats(removed.into());
    assert_eq!(store.exited().await.code(), Some(3));
    assert!(store.log().contains("the store was removed"));
}

/// Waits until a store, which serves meanwhile, says this of its health.
async fn wait_for_told_health(status_address: &str, wanted: &str) {
    found(wanted, async || {
        let health = http_get(status_address, "/health").await;
        assert_eq!(health.status, 200, "{health:?}");
        (health.body == wanted).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_placement_driver_is_of_another_cluster_serves_and_warns_of_it() {
    let pd = ScriptedPd::start("", "").await;
    let (_directory, store) = store_of(&pd);
    let mut store = store.with_status();
    store.start_serving().await;
    let address = store.status_address().await;
    pd.refuse_heartbeats(Status::failed_precondition("the store is of cluster 7"));
    let warning = format!(
        "serving; it is not registered with the placement driver at the moment: {}: the store is of cluster 7\n",
        pd.address()
    );
    wait_for_told_health(&address, &warning).await;
    assert_eq!(put(&store, "k").await, None, "serving goes on");
    pd.take_heartbeats();
    wait_for_told_health(&address, "serving\n").await;
}

/// One that does not take the heartbeats may be of another cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_are_learned_from_a_placement_driver_that_takes_the_heartbeats() {
    let pd = ScriptedPd::start("", "").await;
    pd.name_store(2, "right:1");
    let (_directory, mut store) = store_of(&pd);
    store.start_serving().await;
    let file = store.data_dir().join("stores");
    let kept = || std::fs::read_to_string(&file).unwrap_or_default();
    found("the addresses are kept", async || {
        (kept() == "2 right:1\n").then_some(())
    })
    .await;
    store.kill();

    // At its start a store asks in any case.
    pd.refuse_heartbeats(Status::failed_precondition("another cluster"));
    pd.name_store(2, "wrong:1");
    store.start();
    found("heartbeats are refused", async || {
        (pd.refusals() > 2).then_some(())
    })
    .await;
    assert_eq!(kept(), "2 right:1\n");
    pd.name_store(2, "later:1");
    pd.take_heartbeats();
    found("the addresses are kept", async || {
        (kept() == "2 later:1\n").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_outside_of_the_region_is_refused_by_every_call() {
    let pd = ScriptedPd::start("", "m").await;
    let (_directory, mut store) = store_of(&pd);
    store.start_serving().await;
    let (inside, outside) = (Bytes::from("k"), Bytes::from("z"));
    let both = || vec![inside.clone(), outside.clone()];
    let mut raw = raw(&store).await;
    let get = RawGetRequest {
        context: in_region(),
        key: outside.clone(),
    };
    let got = raw.raw_get(get.clone()).await.expect("an answer");
    assert!(is_elsewhere(got.into_inner().region_error));
    let several = RawBatchGetRequest {
        context: in_region(),
        keys: both(),
    };
    let got = raw.raw_batch_get(several).await.expect("an answer");
    assert!(is_elsewhere(got.into_inner().region_error));
    let entry = |key| KeyValue {
        key,
        value: "v".into(),
    };
    let batch = RawBatchPutRequest {
        context: in_region(),
        entries: both().into_iter().map(entry).collect(),
    };
    let put = raw.raw_batch_put(batch).await.expect("an answer");
    assert!(is_elsewhere(put.into_inner().region_error));
    let range = RawDeleteRangeRequest {
        context: in_region(),
        start_key: inside.clone(),
        end_key: outside.clone(),
    };
    let deleted = raw.raw_delete_range(range).await.expect("an answer");
    assert!(is_elsewhere(deleted.into_inner().region_error));

    let channel = connect(&store.address()).await.expect("the store listens");
    let mut cas = KvCasClient::new(channel.clone());
    let versioned = GetRequest {
        context: in_region(),
        key: outside.clone(),
    };
    let got = cas.get(versioned.clone()).await.expect("an answer");
    assert!(is_elsewhere(got.into_inner().region_error));
    let swap = CompareAndSwapRequest {
        context: in_region(),
        key: outside.clone(),
        ..CompareAndSwapRequest::default()
    };
    let swapped = cas.compare_and_swap(swap.clone()).await.expect("an answer");
    assert!(is_elsewhere(swapped.into_inner().region_error));

    let requests = [
        Request::RawGet(get),
        Request::RawPut(RawPutRequest {
            context: in_region(),
            key: outside,
            value: "v".into(),
        }),
        Request::Get(versioned),
        Request::CompareAndSwap(swap),
    ];
    for (request, answer) in requests.iter().zip(answers(channel, &requests).await) {
        let Response::RegionError(error) = answer else {
            panic!("{request:?}: {answer:?}");
        };
        assert!(is_elsewhere(Some(error)), "{request:?}");
    }
    // None of it was applied, not even the part inside.
    let get = RawGetRequest {
        context: in_region(),
        key: inside,
    };
    let got = raw.raw_get(get).await.expect("an answer").into_inner();
    assert_eq!((got.region_error, got.value), (None, None));
}

/// The answers of a stream to one message, in the order of the requests.
async fn answers(channel: Channel, requests: &[Request]) -> Vec<Response> {
    let command = |(id, request): (usize, &Request)| BatchCommand {
        id: id as u64,
        region_id: REGION_ID,
        request: Some(request.clone()),
        ..BatchCommand::default()
    };
    let message = BatchRequest {
        commands: requests.iter().enumerate().map(command).collect(),
        ..BatchRequest::default()
    };
    let stream = KvBatchClient::new(channel)
        .batch(stream::iter([message.into()]))
        .await;
    let mut stream = stream.expect("served").into_inner();
    let mut answers = Vec::new();
    while let Some(response) = guarded("an answer", stream.message())
        .await
        .expect("the stream ends well")
    {
        answers.extend(response.message.answers);
    }
    answers.sort_by_key(|answer| answer.id);
    let responses = answers.into_iter().map(|answer| answer.response);
    responses
        .map(|response| response.expect("one each"))
        .collect()
}
