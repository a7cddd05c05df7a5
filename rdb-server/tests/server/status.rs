//! What the two servers show of themselves over HTTP.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use rdb_client::{Client, Error};
use rdb_proto::kvrpc::kv_cas_client::KvCasClient;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::kvrpc::{
    BatchGetRequest, CompareAndSwapRequest, GetRequest, KeyValue, RawBatchDeleteRequest,
    RawBatchGetRequest, RawBatchPutRequest, RawDeleteRangeRequest, RawDeleteRequest, RawGetRequest,
    RawPutRequest, RawScanRequest, ScanRequest,
};
use rdb_proto::transport::status::NEW_ROWS_BYTES_MAX;
use serde_json::Value;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::harness::{
    Cluster, HttpAnswer, Metrics, Node, connect, found, guarded, http_get, http_get_as, skipped,
};

/// What a scraper accepts that knows only the older text form.
const OLDER_FORM: &str = "text/plain;version=0.0.4";

/// A cluster whose processes have status pages, and where those are.
struct Shown {
    cluster: Cluster,
    pd: String,
    store: String,
}

impl Shown {
    async fn start() -> Self {
        let mut cluster = Cluster::prepare();
        cluster.pd = cluster.pd.with_status();
        cluster.store = cluster.store.with_status();
        cluster.pd.start_serving().await;
        cluster.store.start_serving().await;
        Self {
            pd: cluster.pd.status_address().await,
            store: cluster.store.status_address().await,
            cluster,
        }
    }
}

fn json(answer: &HttpAnswer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_str(&answer.body).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_command_of_a_client_is_counted_once_by_what_it_does_and_how_it_was_answered() {
    let shown = Shown::start().await;
    let client = shown.cluster.client().await;
    let before = Metrics::of(&shown.store).await;
    for number in 0..7 {
        let key = format!("{number}");
        client.raw_put(key, "v").await.expect("put");
    }
    for number in 0..5 {
        let found = client.raw_get(format!("{number}")).await.expect("read");
        assert!(found.is_some());
    }
    client.raw_delete("0").await.expect("deleted");
    client.cas_put("swapped", 0, "v").await.expect("swapped");
    for _ in 0..3 {
        let refused = client.cas_put("swapped", 7, "v").await;
        assert!(
            matches!(refused, Err(Error::Conflict { .. })),
            "{refused:?}"
        );
    }
    client.get("swapped").await.expect("read");
    let after = Metrics::of(&shown.store).await;
    let counted = |kind: &str, outcome: &str| {
        let sample = format!("flaredb_commands_total{{kind=\"{kind}\",outcome=\"{outcome}\"}}");
        after.get(&sample) - before.get(&sample)
    };
    assert_eq!(counted("raw_put", "ok"), 7.0);
    assert_eq!(counted("raw_get", "ok"), 5.0);
    assert_eq!(counted("raw_delete", "ok"), 1.0);
    assert_eq!(counted("compare_and_swap", "ok"), 1.0);
    assert_eq!(counted("compare_and_swap", "conflict"), 3.0);
    assert_eq!(counted("get", "ok"), 1.0);
    let all = after.sum("flaredb_commands_total") - before.sum("flaredb_commands_total");
    assert_eq!(all, 18.0, "{}", after.text);

    let grown = |sample: &str| after.get(sample) - before.get(sample);
    let durations = "flaredb_command_duration_seconds_count";
    assert_eq!(grown(&format!("{durations}{{access=\"read\"}}")), 6.0);
    assert_eq!(grown(&format!("{durations}{{access=\"write\"}}")), 12.0);
    // Each waited for the one before, so none shared an entry.
    assert_eq!(grown("flaredb_proposals_total{outcome=\"applied\"}"), 12.0);
    assert_eq!(grown("flaredb_proposal_commands_count"), 12.0);
    assert_eq!(grown("flaredb_proposal_commands_sum"), 12.0);
    assert_eq!(grown("flaredb_write_queue_duration_seconds_count"), 12.0);
    assert_eq!(grown("flaredb_commit_duration_seconds_count"), 12.0);
    assert_eq!(grown("flaredb_apply_duration_seconds_count"), 12.0);
    assert!(grown("flaredb_raft_log_sync_duration_seconds_count") >= 12.0);
    assert!(grown("flaredb_raft_log_sync_entries_count") >= 12.0);
    assert!(grown("flaredb_raft_log_written_bytes_total") > 0.0);
    assert!(grown("flaredb_rocksdb_wal_syncs_total{database=\"raft_log\"}") >= 12.0);
    assert!(grown("flaredb_rocksdb_wal_bytes_total{database=\"raft_log\"}") > 0.0);
    for sample in [
        "flaredb_command_duration_seconds_sum{access=\"write\"}",
        "flaredb_raft_log_sync_duration_seconds_sum",
        "flaredb_commit_duration_seconds_sum",
        "flaredb_apply_duration_seconds_sum",
    ] {
        assert!(grown(sample) > 0.0, "{sample}");
    }
}

/// What a page shows in a column of its only store.
fn of_store(page: &Value, column: &str) -> Option<Value> {
    let columns = page["stores"]["columns"].as_array()?;
    let at = columns.iter().position(|name| name == column)?;
    Some(page["stores"]["rows"][0][at].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_store_does_is_on_its_page_and_through_its_heartbeats_on_that_of_the_cluster() {
    const KEY: &str = "nobody-but-clients-knows-this";
    let shown = Shown::start().await;
    let client = shown.cluster.client().await;
    client.raw_put(KEY, KEY).await.expect("put");
    let of_itself = json(&http_get(&shown.store, "/page.json").await);
    assert_eq!(of_itself["store_id"], "1");
    assert_eq!(of_itself["since_start"]["writes"], 1);
    assert_eq!(of_itself["since_start"]["reads"], 0);
    assert_eq!(of_itself["not_serving"], Value::Null);
    let of_cluster = found("its heartbeat tells of writes", async || {
        client.raw_put(KEY, KEY).await.expect("put");
        let page = json(&http_get(&shown.pd, "/page.json").await);
        let rate = of_store(&page, "writes")?.as_f64()?;
        (rate > 0.0).then_some(page)
    })
    .await;
    assert_eq!(of_store(&of_cluster, "state"), Some("up".into()));
    assert_eq!(of_store(&of_cluster, "leads"), Some(1.into()));
    assert_eq!(of_cluster["regions"]["count"], 1);
    // One replica is worth a notice.
    let told = of_cluster["findings"].to_string();
    assert!(told.contains("there is one replica only"), "{told}");
    // Each heartbeat tells of the time since the one before.
    found("the list of stores tells of writes", async || {
        client.raw_put(KEY, KEY).await.expect("put");
        let load = client.stores().await.expect("known")[0].load?;
        (load.writes > 0 && load.write_p99.is_some()).then_some(())
    })
    .await;
    for page in [of_itself, of_cluster] {
        assert!(!page.to_string().contains(KEY), "{page}");
    }
}

/// The process reads its figures whether anybody looks or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_is_opened_has_the_past_and_then_asks_for_the_rest() {
    let shown = Shown::start().await;
    for address in [&shown.pd, &shown.store] {
        let first = found("there is a row", async || {
            let page = json(&http_get(address, "/page.json").await);
            let is_there = !page["history"]["rows"].as_array()?.is_empty();
            is_there.then_some(page)
        })
        .await;
        let history = &first["history"];
        let columns = history["columns"].as_array().expect("a list").len();
        assert_eq!(
            history["rows"][0].as_array().map(Vec::len),
            Some(columns + 1)
        );
        assert_eq!(history["now"].as_array().map(Vec::len), Some(columns));
        let next = history["next"].as_u64().expect("a number");
        let rest = http_get(address, &format!("/page.json?since={next}")).await;
        // An update has 10 KiB. The other half is left for what is wrong, and for causes, which are cut to less.
        let bytes = rest.head.len() + rest.body.len() + NEW_ROWS_BYTES_MAX;
        let rest = json(&rest);
        let rows = rest["history"]["rows"].as_array().expect("a list");
        // Those that are there already are counted once.
        let bytes = bytes - rest["history"]["rows"].to_string().len();
        println!("{address}: {bytes} bytes with rows");
        assert!(bytes <= 5 << 10, "{address}: {bytes} bytes");
        assert_eq!(rest["history"]["next"], next + rows.len() as u64);
        assert_eq!(rest["start"], first["start"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_unary_call_is_counted_as_a_call_and_as_a_command() {
    let shown = Shown::start().await;
    let channel = connect(&shown.cluster.store.address()).await;
    let channel = channel.expect("it listens");
    let mut raw = KvRawClient::new(channel.clone());
    let mut cas = KvCasClient::new(channel);
    let entry = |key: &'static str| KeyValue {
        key: key.into(),
        value: "v".into(),
    };
    let put = |key: &'static str| RawPutRequest {
        key: key.into(),
        value: "v".into(),
        ..RawPutRequest::default()
    };
    raw.raw_put(put("k")).await.expect("served");
    raw.raw_put(put("k")).await.expect("served");
    raw.raw_put(put("")).await.expect_err("a key has a byte");
    let mut misrouted = put("k");
    misrouted.context.get_or_insert_default().store_id = 77;
    let answer = raw.raw_put(misrouted).await.expect("a routing answer");
    assert!(answer.into_inner().region_error.is_some());
    let get = RawGetRequest {
        key: "k".into(),
        ..RawGetRequest::default()
    };
    raw.raw_get(get).await.expect("served");
    let delete = RawDeleteRequest {
        key: "k".into(),
        ..RawDeleteRequest::default()
    };
    raw.raw_delete(delete).await.expect("served");
    let batch = RawBatchPutRequest {
        entries: vec![entry("a"), entry("b")],
        ..RawBatchPutRequest::default()
    };
    raw.raw_batch_put(batch).await.expect("served");
    let batch = RawBatchGetRequest {
        keys: vec!["a".into(), "b".into()],
        ..RawBatchGetRequest::default()
    };
    raw.raw_batch_get(batch).await.expect("served");
    let batch = RawBatchDeleteRequest {
        keys: vec!["a".into()],
        ..RawBatchDeleteRequest::default()
    };
    raw.raw_batch_delete(batch).await.expect("served");
    raw.raw_scan(RawScanRequest::default())
        .await
        .expect("served");
    let range = RawDeleteRangeRequest {
        start_key: "a".into(),
        end_key: "c".into(),
        ..RawDeleteRangeRequest::default()
    };
    raw.raw_delete_range(range).await.expect("served");
    let swap = |expected_version| CompareAndSwapRequest {
        key: "k".into(),
        expected_version,
        ..CompareAndSwapRequest::default()
    };
    cas.compare_and_swap(swap(0)).await.expect("served");
    cas.compare_and_swap(swap(7))
        .await
        .expect("a conflict is an answer");
    let get = GetRequest {
        key: "k".into(),
        ..GetRequest::default()
    };
    cas.get(get).await.expect("served");
    let batch = BatchGetRequest {
        keys: vec!["k".into()],
        ..BatchGetRequest::default()
    };
    cas.batch_get(batch).await.expect("served");
    cas.scan(ScanRequest::default()).await.expect("served");

    let metrics = Metrics::of(&shown.store).await;
    for (kind, outcome, count) in [
        ("raw_put", "ok", 2.0),
        ("raw_put", "invalid", 1.0),
        ("raw_put", "misrouted", 1.0),
        ("raw_get", "ok", 1.0),
        ("raw_delete", "ok", 1.0),
        ("raw_batch_put", "ok", 1.0),
        ("raw_batch_get", "ok", 1.0),
        ("raw_batch_delete", "ok", 1.0),
        ("raw_scan", "ok", 1.0),
        ("raw_delete_range", "ok", 1.0),
        ("compare_and_swap", "ok", 1.0),
        ("compare_and_swap", "conflict", 1.0),
        ("get", "ok", 1.0),
        ("batch_get", "ok", 1.0),
        ("scan", "ok", 1.0),
    ] {
        let sample = format!("flaredb_commands_total{{kind=\"{kind}\",outcome=\"{outcome}\"}}");
        assert_eq!(metrics.get(&sample), count, "{sample}: {}", metrics.text);
    }
    assert_eq!(metrics.sum("flaredb_commands_total"), 16.0);
    for (service, method, code, count) in [
        ("kvrpc.KvRaw", "RawPut", "ok", 3.0),
        ("kvrpc.KvRaw", "RawPut", "invalid_argument", 1.0),
        ("kvrpc.KvRaw", "RawScan", "ok", 1.0),
        ("kvrpc.KvCas", "CompareAndSwap", "ok", 2.0),
    ] {
        let sample = format!(
            "flaredb_calls_total{{service=\"{service}\",method=\"{method}\",code=\"{code}\"}}"
        );
        assert_eq!(metrics.get(&sample), count, "{sample}: {}", metrics.text);
    }
    let in_flight = "flaredb_calls_in_flight{service=\"kvrpc.KvRaw\",method=\"RawPut\"}";
    assert_eq!(metrics.get(in_flight), 0.0);
    assert!(metrics.get("flaredb_connections") >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_connections_and_bytes_in_flight_come_and_go_with_their_client() {
    let shown = Shown::start().await;
    let batch = "flaredb_calls_in_flight{service=\"kvrpc.KvBatch\",method=\"Batch\"}";
    let client = shown.cluster.client().await;
    client.raw_put("k", "v").await.expect("put");
    let open = Metrics::of(&shown.store).await;
    assert!(open.get(batch) >= 1.0, "{}", open.text);
    assert!(open.get("flaredb_connections") >= 1.0);
    assert!(open.get("flaredb_in_flight_bytes{of=\"clients\"}") > 0.0);
    let limit = open.get("flaredb_in_flight_limit_bytes{of=\"clients\"}");
    assert_eq!(limit, f64::from(256 << 20));
    drop(client);
    found("the stream ends", async || {
        let metrics = Metrics::of(&shown.store).await;
        (metrics.get(batch) == 0.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sizes_follow_what_is_written() {
    const VALUE_BYTES: usize = 1 << 20;
    let shown = Shown::start().await;
    let client = shown.cluster.client().await;
    client
        .raw_put("k", vec![7; VALUE_BYTES])
        .await
        .expect("put");
    let memtables = "flaredb_rocksdb_memtable_bytes{database=\"data\"}";
    let metrics = found("the memtable has grown", async || {
        let metrics = Metrics::of(&shown.store).await;
        (metrics.get(memtables) >= VALUE_BYTES as f64).then_some(metrics)
    })
    .await;
    let capacity = metrics.get("flaredb_disk_capacity_bytes");
    let available = metrics.get("flaredb_disk_available_bytes");
    assert!(0.0 < available && available <= capacity, "{}", metrics.text);
    assert_eq!(metrics.get("flaredb_write_queue_bytes"), 0.0);
    let limit = metrics.get("flaredb_write_queue_limit_bytes");
    assert_eq!(limit, f64::from(64 << 20));
    let errors = metrics.sum("flaredb_rocksdb_background_errors_total");
    assert_eq!(errors, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_of_what_is_not_in_memory_are_counted() {
    let mut shown = Shown::start().await;
    let client = shown.cluster.client().await;
    for number in 0..20 {
        let key = number.to_string();
        let value = vec![7; 10_000];
        client
            .raw_put(key.as_str(), value.clone())
            .await
            .expect("put");
        client
            .cas_put(key.as_str(), 0, value)
            .await
            .expect("swapped");
    }
    let store = &mut shown.cluster.store;
    store.terminate();
    assert!(store.exited().await.success());
    store.start_serving().await;
    let store = store.status_address().await;
    let fresh = Metrics::of(&store).await;
    let of_data = |metric: &str| format!("flaredb_rocksdb_{metric}{{database=\"data\"}}");
    assert!(fresh.get(&of_data("table_bytes")) > 0.0, "{}", fresh.text);

    // Nothing is in memory yet.
    client.raw_get("3").await.expect("read");
    client.cas_put("4", 1, "w").await.expect("swapped");
    let cold = Metrics::of(&store).await;
    for name in ["flaredb_disk_reads_total", "flaredb_cold_writes_total"] {
        assert!(cold.get(name) > fresh.get(name), "{name}: {}", cold.text);
    }
    let misses = of_data("block_cache_misses_total");
    assert!(cold.get(&misses) > fresh.get(&misses));
    client.raw_get("3").await.expect("read");
    let warm = Metrics::of(&store).await;
    let hits = of_data("block_cache_hits_total");
    assert!(warm.get(&hits) > cold.get(&hits));
    let reads = "flaredb_disk_reads_total";
    assert_eq!(warm.get(reads), cold.get(reads), "it is in memory");

    found("the cache is noted", async || {
        let metrics = Metrics::of(&store).await;
        (metrics.get(&of_data("block_cache_bytes")) > 0.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_leaders_and_lost_stores_are_counted() {
    let mut shown = Shown::start().await;
    let client = shown.cluster.client().await;
    client.raw_put("k", "v").await.expect("put");
    let mut others = Vec::new();
    for name in ["second", "third"] {
        let data_dir = shown.cluster.directory.path().join(name);
        let mut store = Node::store(data_dir, &shown.cluster.pd.address()).with_status();
        store.start_serving().await;
        others.push((store.status_address().await, store));
    }
    found("all have a replica", async || {
        let sent = "flaredb_raft_snapshots_total{direction=\"sent\"}";
        if Metrics::of(&shown.store).await.get(sent) < 2.0 {
            return None;
        }
        for (store, _) in &others {
            let metrics = Metrics::of(store).await;
            let received = "flaredb_raft_snapshots_total{direction=\"received\"}";
            if metrics.get(received) < 1.0 || metrics.get("flaredb_regions") != 1.0 {
                return None;
            }
            if metrics.get("flaredb_apply_duration_seconds_count") < 1.0 {
                return None;
            }
        }
        // All three are voters: any two go on.
        let region = client.region("k").await.expect("it answers")?.region;
        let voters = region.peers.iter().filter(|peer| !peer.is_learner).count();
        (voters == 3).then_some(())
    })
    .await;
    let of_pd = Metrics::of(&shown.pd).await;
    assert_eq!(of_pd.get("flaredb_stores{state=\"up\"}"), 3.0);
    let mut changes = Vec::new();
    for (store, _) in &others {
        let metrics = Metrics::of(store).await;
        changes.push(metrics.get("flaredb_raft_leader_changes_total"));
    }

    shown.cluster.store.kill();
    found("another store leads", async || {
        let mut led = 0.0;
        for ((store, _), before) in others.iter().zip(&changes) {
            let metrics = Metrics::of(store).await;
            led += metrics.get("flaredb_regions_led");
            if metrics.get("flaredb_raft_leader_changes_total") <= *before {
                return None;
            }
        }
        (led == 1.0).then_some(())
    })
    .await;
    client.raw_put("k", "w").await.expect("put");
    found("the lost store is counted", async || {
        let of_pd = Metrics::of(&shown.pd).await;
        let is_lost = of_pd.get("flaredb_stores{state=\"disconnected\"}") == 1.0;
        is_lost.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_gets_no_place_is_counted() {
    let directory = tempfile::tempdir().expect("the temporary directory can be written");
    let pd = Node::placement_driver(directory.path().join("pd")).with_status();
    let mut pd = pd.with_flag("--connections-per-address-max", "1");
    pd.start();
    let status = pd.status_address().await;
    let first = connect(&pd.address()).await.expect("it has a place");
    let metrics = found("a connection is refused", async || {
        // Its first words meet a closed socket, or it is told when it opens.
        drop(connect(&pd.address()).await);
        let metrics = Metrics::of(&status).await;
        let refused = metrics.get("flaredb_connections_refused_total");
        (refused >= 1.0).then_some(metrics)
    })
    .await;
    assert_eq!(metrics.get("flaredb_connections_accepted_total"), 1.0);
    assert_eq!(metrics.get("flaredb_connections"), 1.0);
    drop(first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_says_what_it_is_and_which_regions_it_leads() {
    let shown = Shown::start().await;
    let metrics = Metrics::of(&shown.store).await;
    assert_eq!(metrics.get("flaredb_regions"), 1.0);
    assert_eq!(metrics.get("flaredb_regions_led"), 1.0);
    assert_eq!(metrics.get("flaredb_regions_without_leader"), 0.0);
    assert!(metrics.get("flaredb_raft_leader_changes_total") >= 1.0);
    let status = json(&http_get(&shown.store, "/status").await);
    assert_eq!(status["program"], "rdb-server");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["store_id"], 1);
    assert_eq!(status["addr"], shown.cluster.store.address());
    assert_eq!(status["regions"]["held"], 1);
    assert_eq!(status["regions"]["led"], 1);
    assert_eq!(status["serving"], true);
    let available = status["space"]["available_bytes"].as_u64();
    assert!(available.is_some_and(|bytes| bytes > 0), "{status}");
    let of_pd = json(&http_get(&shown.pd, "/status").await);
    assert_eq!(of_pd["cluster_id"], status["cluster_id"]);
    assert_eq!(of_pd["stores"]["up"], 1);
    assert_eq!(of_pd["regions"]["known"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_waits_for_its_placement_driver_is_neither_healthy_nor_ready() {
    let mut cluster = Cluster::prepare();
    cluster.store = cluster.store.with_status();
    cluster.store.start();
    let store = cluster.store.status_address().await;
    let cause = format!(
        "it has not registered with the placement driver: {}: Connection refused (os error 111)\n",
        cluster.pd.address()
    );
    found("it says why it has not registered", async || {
        let health = http_get(&store, "/health").await;
        assert_eq!(health.status, 503, "{health:?}");
        (health.body == format!("not serving: {cause}")).then_some(())
    })
    .await;
    let ready = http_get(&store, "/ready").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.body, format!("not ready: {cause}"));
    let metrics = Metrics::of(&store).await;
    assert_eq!(metrics.get("flaredb_regions"), 0.0);
    assert_eq!(metrics.get("flaredb_healthy"), 0.0);

    cluster.pd.start_serving().await;
    cluster.store.wait_for_health(ServingStatus::Serving).await;
    for (path, told) in [("/health", "serving\n"), ("/ready", "ready\n")] {
        let answer = http_get(&store, path).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, told));
    }
    let metrics = Metrics::of(&store).await;
    assert_eq!(metrics.get("flaredb_healthy"), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_a_page_is_refused_with_the_pages_that_there_are() {
    let shown = Shown::start().await;
    for address in [&shown.pd, &shown.store] {
        let missing = http_get(address, "/metrics/").await;
        assert_eq!(missing.status, 404);
        let index = http_get(address, "/").await;
        assert_eq!(index.status, 200);
        for answer in [missing, index] {
            for page in ["/metrics", "/health", "/ready", "/status"] {
                assert!(answer.body.contains(page), "{answer:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_can_be_turned_off_and_an_address_in_use_names_the_flag() {
    let shown = Shown::start().await;
    let status = &shown.store;
    let directory = shown.cluster.directory.path();
    let store = Node::store(directory.join("other-store"), &shown.cluster.pd.address());
    let pd = Node::placement_driver(directory.join("other-pd"));
    for node in [store, pd] {
        let mut refused = node.with_flag("--status-addr", status);
        refused.start();
        let ended = refused.exited().await;
        let told = refused.log();
        assert_eq!(ended.code(), Some(1), "{told}");
        assert!(told.contains("--status-addr none"), "{told}");
        assert!(told.contains(status), "{told}");
    }
    let mut silent = Node::placement_driver(directory.join("silent"));
    silent.start_serving().await;
    assert!(!silent.log().contains("status_addr"), "{}", silent.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_placement_driver_counts_timestamps_registrations_and_heartbeats() {
    let shown = Shown::start().await;
    let client = Client::connect([shown.cluster.pd.address()]).await;
    let client = client.expect("it serves");
    let before = Metrics::of(&shown.pd).await;
    for _ in 0..9 {
        client.tso().await.expect("a timestamp");
    }
    let after = Metrics::of(&shown.pd).await;
    let timestamps = "flaredb_tso_timestamps_total";
    assert_eq!(after.get(timestamps) - before.get(timestamps), 9.0);
    assert_eq!(after.get("flaredb_tso_failures_total"), 0.0);
    assert!(after.get("flaredb_tso_bound_move_duration_seconds_count") >= 1.0);
    let distance = after.get("flaredb_tso_bound_distance_seconds");
    assert!(0.0 < distance && distance <= 3.0, "{distance}");
    // One to be let in, one to say that it has kept its id.
    let registrations = "flaredb_registrations_total{outcome=\"ok\"}";
    assert_eq!(after.get(registrations), 2.0);
    assert_eq!(after.get("flaredb_stores{state=\"up\"}"), 1.0);
    assert_eq!(after.get("flaredb_cluster_regions"), 1.0);
    let heartbeats = "flaredb_heartbeats_total{outcome=\"ok\"}";
    found("a heartbeat comes", async || {
        let metrics = Metrics::of(&shown.pd).await;
        (metrics.get(heartbeats) > before.get(heartbeats)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_has_help_and_a_name_by_the_conventions_and_is_documented() {
    const KEY: &str = "a-key-that-nobody-else-has";
    let shown = Shown::start().await;
    let client = shown.cluster.client().await;
    client.raw_put(KEY, "v").await.expect("put");
    client.cas_put(KEY, 0, "v").await.expect("swapped");
    client.get(KEY).await.expect("read");
    let mut names = BTreeSet::new();
    for address in [&shown.pd, &shown.store] {
        let metrics = Metrics::of(address).await;
        check_conventions(&metrics);
        assert!(!metrics.text.contains(KEY), "a label is made of a key");
        names.extend(metrics.names().into_keys());
    }
    let documented = include_str!("../../../docs/monitoring.md");
    let documented: BTreeSet<_> = documented
        .split('`')
        .filter(|word| word.starts_with("flaredb_") || word.starts_with("process_"))
        // Those of clients are theirs.
        .filter(|word| !word.starts_with("flaredb_client_"))
        .map(|word| word.split('{').next().unwrap_or(word).to_owned())
        .collect();
    assert_eq!(names, documented, "docs/monitoring.md has them all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scraper_that_takes_the_older_form_only_gets_it() {
    let shown = Shown::start().await;
    for address in [&shown.pd, &shown.store] {
        let older = http_get_as(address, "/metrics", OLDER_FORM).await;
        assert_eq!(older.status, 200);
        let kind = "content-type: text/plain; version=0.0.4; charset=utf-8";
        assert!(older.head.contains(kind), "{}", older.head);
        let described = "# TYPE flaredb_connections_accepted_total counter\n";
        assert!(older.body.contains(described), "{}", older.body);
        for absent in ["# UNIT", "# EOF"] {
            assert!(!older.body.contains(absent), "{}", older.body);
        }
    }
}

/// A rate needs a first sample before the first event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_never_counted_is_shown_as_0() {
    let shown = Shown::start().await;
    let text = Metrics::of(&shown.store).await.text;
    for sample in [
        "flaredb_commands_total{kind=\"raw_put\",outcome=\"ok\"} 0",
        "flaredb_commands_total{kind=\"raw_get\",outcome=\"busy\"} 0",
        "flaredb_commands_total{kind=\"compare_and_swap\",outcome=\"conflict\"} 0",
        "flaredb_slow_commands_total 0",
    ] {
        assert!(text.lines().any(|line| line == sample), "{sample}: {text}");
    }
    let never = "kind=\"raw_get\",outcome=\"conflict\"";
    assert!(!text.contains(never), "a read has no conflict");
}

/// See <https://prometheus.io/docs/practices/naming/>.
fn check_conventions(metrics: &Metrics) {
    for (name, kind) in metrics.names() {
        let is_ours = name.starts_with("flaredb_") || name.starts_with("process_");
        assert!(is_ours, "{name}");
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(name.chars().all(is_plain), "{name}");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
        for unit in ["_ms", "_millis", "_kib", "_mib", "_us", "_count", "_sum"] {
            assert!(!name.ends_with(unit), "{name}");
        }
        if kind == "histogram" {
            let last = format!("{name}_bucket{{le=\"+Inf\"");
            let mut lines = metrics.text.lines();
            assert!(lines.any(|line| line.starts_with(&last)), "{name}");
        }
        let family = name.strip_suffix("_total").unwrap_or(&name);
        let family = family.strip_suffix("_info").unwrap_or(family);
        let help = metrics.text.lines().find_map(|line| {
            let rest = line.strip_prefix("# HELP ")?;
            rest.strip_prefix(family)?.strip_prefix(' ')
        });
        let help = help.unwrap_or_default();
        assert!(help.len() > 10 && help.ends_with('.'), "{name}: {help:?}");
        for unit in ["seconds", "bytes"] {
            let told = format!("# UNIT {family} {unit}");
            let has_unit = family.ends_with(&format!("_{unit}"));
            let is_told = metrics.text.lines().any(|line| line == told);
            assert_eq!(has_unit, is_told, "{name}");
        }
    }
}

/// The same judged by Prometheus's own tool, which reads the older text form.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtool_has_nothing_to_object_to() {
    let found = Command::new("promtool").arg("--version").output();
    if found.is_err() {
        skipped("promtool, of the package prometheus, is not installed");
        return;
    }
    let shown = Shown::start().await;
    let client = shown.cluster.client().await;
    client.raw_put("k", "v").await.expect("put");
    for address in [&shown.pd, &shown.store] {
        let text = http_get_as(address, "/metrics", OLDER_FORM).await.body;
        let judged = guarded("promtool judges", async {
            tokio::task::spawn_blocking(move || promtool(&text)).await
        });
        judged.await.expect("no panic");
    }
}

fn promtool(text: &str) {
    let mut tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it can be started");
    let mut stdin = tool.stdin.take().expect("it is piped");
    stdin.write_all(text.as_bytes()).expect("it reads");
    drop(stdin);
    let judged = tool.wait_with_output().expect("it ends");
    let told = [judged.stdout, judged.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(judged.status.success(), "{told}\n{text}");
}
