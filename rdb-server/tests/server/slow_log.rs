//! Commands and calls that take long for a known reason: what the log and the figures tell of them.

use std::fs;
use std::time::{Duration, Instant};

use futures::channel::mpsc;
use rdb_proto::kvrpc::batch_command::Request;
use rdb_proto::kvrpc::kv_batch_client::KvBatchClient;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::kvrpc::{BatchCommand, BatchRequest, RawGetRequest, RawPutRequest};
use rdb_proto::pdpb::GetTsoRequest;
use rdb_proto::pdpb::pd_client::PdClient;
use rdb_proto::transport::endpoint;
use tempfile::TempDir;

use crate::harness::{
    CallPath, Cluster, HANG_GUARD, Metrics, Node, connect, found, over_both_paths, skipped,
};
use crate::shim::{Shim, ShimLibrary};

over_both_paths! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    a_slow_read_is_told_of_with_all_parts_of_its_time,
}

const SECRET: &str = "a key that is nobody's business";

/// Longer than the threshold, which is the default, and shorter than a call waits for room.
const PATIENCE: Duration = Duration::from_millis(800);

/// A cluster that serves, with a store that was set up so.
async fn start_with(set_up: impl FnOnce(Node) -> Node) -> Cluster {
    let mut cluster = Cluster::prepare();
    cluster.store = set_up(cluster.store);
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;
    cluster
}

fn put(value_bytes: usize) -> RawPutRequest {
    RawPutRequest {
        context: None,
        key: SECRET.into(),
        value: vec![b'v'; value_bytes].into(),
    }
}

/// The lines about slow commands of a kind with an outcome.
pub(crate) fn slow_lines(node: &Node, kind: &str, outcome: &str) -> Vec<String> {
    let log = node.log();
    assert!(!log.contains(SECRET), "{log}");
    let told = format!(" slow kind=\"{kind}\" outcome=\"{outcome}\" ");
    let lines = log.lines().filter(|line| line.contains(&told));
    lines.map(str::to_owned).collect()
}

/// The number that a line has under a name.
fn number(line: &str, name: &str) -> Option<u64> {
    let mut fields = line.split(' ');
    let value = fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.parse().expect("a number"))
}

/// Stops all stores but the first, which leads, once all are voters.
pub(crate) async fn lose_the_majority(cluster: &Cluster) -> Vec<Node> {
    let client = cluster.client().await;
    let mut others = Vec::new();
    for name in ["second", "third"] {
        let data_dir = cluster.directory.path().join(name);
        let mut store = Node::store(data_dir, &cluster.pd.address());
        store.start_serving().await;
        others.push(store);
    }
    found("all are voters", async || {
        let region = client.region("k").await.expect("it answers")?.region;
        let voters = region.peers.iter().filter(|peer| !peer.is_learner).count();
        (voters == 3).then_some(())
    })
    .await;
    client.raw_put("k", "v").await.expect("they agree");
    for store in &others {
        store.pause();
    }
    others
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_wait_for_a_lost_majority_are_told_of_as_given_up_while_they_are_synced() {
    const VALUE_BYTES: usize = 1 << 20;
    let set_up = |store: Node| store.with_status().with_flag("--slow-log-ms", "50");
    let cluster = start_with(set_up).await;
    let status = cluster.store.status_address().await;
    let others = lose_the_majority(&cluster).await;
    let before = Metrics::of(&status).await;
    let channel = connect(&cluster.store.address()).await.expect("it listens");

    let command = |id| BatchCommand {
        id,
        request: Some(Request::RawPut(put(VALUE_BYTES))),
        ..BatchCommand::default()
    };
    let message = BatchRequest {
        commands: vec![command(0), command(1)],
        ..BatchRequest::default()
    };
    let (messages, sent) = mpsc::unbounded();
    messages.unbounded_send(message.into()).expect("it is open");
    let opened = KvBatchClient::new(channel.clone()).batch(sent).await;
    let opened = opened.expect("it is open");
    found("the store has the message", async || {
        let metrics = Metrics::of(&status).await;
        let waiting = metrics.get("flaredb_write_queue_bytes");
        (waiting >= 2.0 * VALUE_BYTES as f64).then_some(())
    })
    .await;

    let mut given_up = tonic::Request::new(put(1));
    given_up.set_timeout(Duration::from_secs(3));
    let given_up = KvRawClient::new(channel).raw_put(given_up).await;
    given_up.expect_err("nobody agrees");
    let line = found("it is told of", async || {
        slow_lines(&cluster.store, "raw_put", "given_up").pop()
    })
    .await;
    assert_eq!(number(&line, "commands"), Some(1), "{line}");
    let key_bytes = SECRET.len() as u64;
    assert_eq!(number(&line, "key_bytes"), Some(key_bytes), "{line}");
    assert_eq!(number(&line, "region_id"), Some(1), "{line}");
    assert!(line.contains(" peer=127.0.0.1:"), "{line}");
    assert!(line.contains(" key_hash="), "{line}");
    let total = number(&line, "total_ms").expect("it has one");
    let parts = ["admission_ms", "decode_ms", "queue_ms", "sync_ms"];
    let parts = parts.map(|part| number(&line, part).expect("it came to it"));
    // Each is rounded down.
    let told = parts.iter().sum::<u64>();
    assert!(told <= total && total - told < 4, "{line}");
    assert_eq!(number(&line, "apply_ms"), None, "it never came to it");

    // Now the stream goes, too, while its commands wait.
    drop((opened, messages));
    let given_up = "flaredb_commands_total{kind=\"raw_put\",outcome=\"given_up\"}";
    let after = found("all are counted", async || {
        let metrics = Metrics::of(&status).await;
        let grown = metrics.get(given_up) - before.get(given_up);
        assert!(grown <= 3.0, "{}", metrics.text);
        (grown == 3.0).then_some(metrics)
    })
    .await;
    let grown = |sample: &str| after.get(sample) - before.get(sample);
    let durations = "flaredb_command_duration_seconds_count{access=\"write\"}";
    assert_eq!(grown(durations), 3.0);
    assert!(grown("flaredb_slow_commands_total") >= 3.0);
    for store in &others {
        store.resume();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wait_for_a_majority_is_in_the_time_of_a_commit_and_not_in_that_of_a_sync() {
    found("a write gets its majority late", hold_a_majority_back).await;
}

/// `None`: the others were stopped for so long that one of them has campaigned, or that the leader has given up, and the write was lost.
async fn hold_a_majority_back() -> Option<()> {
    const HELD: Duration = Duration::from_millis(300);
    let cluster = start_with(Node::with_status).await;
    let status = cluster.store.status_address().await;
    let others = lose_the_majority(&cluster).await;
    let before = Metrics::of(&status).await;
    let channel = connect(&cluster.store.address()).await.expect("it listens");
    let write = tokio::spawn(async move { KvRawClient::new(channel).raw_put(put(1)).await });
    let synced = found("it is on the disk of its store, or lost", async || {
        let metrics = Metrics::of(&status).await;
        let has_grown = |sample: &str| metrics.get(sample) > before.get(sample);
        let is_there = has_grown("flaredb_proposal_commands_count")
            && has_grown("flaredb_raft_log_sync_entries_count");
        (is_there || write.is_finished()).then_some(metrics)
    })
    .await;
    let commits = "flaredb_commit_duration_seconds_count";
    assert_eq!(synced.get(commits), before.get(commits), "nobody agrees");
    let began = Instant::now();
    tokio::time::sleep(HELD).await;
    let held = began.elapsed();
    for store in &others {
        store.resume();
    }
    let written = write.await.expect("no panic");
    if !matches!(&written, Ok(written) if written.get_ref().region_error.is_none()) {
        println!("lost: {written:?}");
        return None;
    }
    let after = Metrics::of(&status).await;
    assert_eq!(after.get(commits) - before.get(commits), 1.0);
    let sum = "flaredb_commit_duration_seconds_sum";
    let committing = after.get(sum) - before.get(sum);
    assert!(committing >= held.as_secs_f64(), "{}", after.text);
    Some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_write_that_succeeds_is_told_of_with_all_parts_of_its_time() {
    let cluster = start_with(|store| store.with_flag("--slow-log-ms", "1")).await;
    let channel = connect(&cluster.store.address()).await.expect("it listens");
    let raw = KvRawClient::new(channel);
    let line = found("it is told of", async || {
        // A machine may write it in less than a millisecond.
        raw.clone().raw_put(put(4 << 20)).await.expect("answered");
        slow_lines(&cluster.store, "raw_put", "ok").pop()
    })
    .await;
    assert_eq!(number(&line, "commands"), Some(1), "{line}");
    let key_bytes = SECRET.len() as u64;
    assert_eq!(number(&line, "key_bytes"), Some(key_bytes), "{line}");
    assert_eq!(number(&line, "region_id"), Some(1), "{line}");
    let total = number(&line, "total_ms").expect("it has one");
    let parts = [
        "admission_ms",
        "decode_ms",
        "queue_ms",
        "sync_ms",
        "apply_ms",
        "answer_ms",
    ];
    let parts = parts.map(|part| number(&line, part).expect("it came to it"));
    // Each is rounded down.
    let told = parts.iter().sum::<u64>();
    assert!(told <= total && total - told < 6, "{line}");
    assert_eq!(number(&line, "read_ms"), None, "it reads nothing");
}

async fn a_slow_read_is_told_of_with_all_parts_of_its_time(path: CallPath) {
    let cluster = start_with(|store| store.with_flag("--slow-log-ms", "1")).await;
    let client = cluster.client_over(path).await;
    // A stream has no room for it in a response, and leaves it to a thread like what is not in memory.
    let put = client.raw_put(SECRET, vec![b'v'; 4 << 20]).await;
    put.expect("put");
    let line = found("it is told of", async || {
        // A machine may read it in less than a millisecond.
        client.raw_get(SECRET).await.expect("read");
        slow_lines(&cluster.store, "raw_get", "ok").pop()
    })
    .await;
    let parts: &[&str] = match path {
        CallPath::Unary => &["admission_ms", "read_ms", "answer_ms"],
        CallPath::Batched => &["admission_ms", "queue_ms", "read_ms", "answer_ms"],
    };
    let total = number(&line, "total_ms").expect("it has one");
    let told = parts.iter().map(|part| number(&line, part).expect(part));
    let told = told.sum::<u64>();
    // Each is rounded down.
    assert!(told <= total && total - told < parts.len() as u64, "{line}");
    assert_eq!(number(&line, "sync_ms"), None, "it writes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_for_room_are_counted_and_told_of_though_no_handler_sees_them() {
    const LARGE_BYTES: usize = 4 << 20;
    const READS: usize = 3;
    let set_up = |store: Node| store.with_status().with_flag("--bytes-in-flight-mib", "16");
    let cluster = start_with(set_up).await;
    let status = cluster.store.status_address().await;
    let channel = connect(&cluster.store.address()).await.expect("it listens");
    let mut raw = KvRawClient::new(channel);
    raw.raw_put(put(LARGE_BYTES)).await.expect("there is room");

    let deaf = endpoint(&cluster.store.address(), HANG_GUARD).expect("an address");
    let deaf = deaf.initial_stream_window_size(0).connect().await;
    let deaf = KvRawClient::new(deaf.expect("it listens"));
    let mut unread = Vec::new();
    let in_flight = "flaredb_in_flight_bytes{of=\"clients\"}";
    for (outcome, deadline) in [("busy", None), ("given_up", Some(PATIENCE))] {
        let line = found(outcome, async || {
            // The store lets go of answers that nobody takes. So they are asked for again each time.
            for _ in 0..READS {
                let mut deaf = deaf.clone();
                let get = RawGetRequest {
                    context: None,
                    key: SECRET.into(),
                };
                unread.push(tokio::spawn(async move { deaf.raw_get(get).await }));
            }
            found("answers hold most of the bytes", async || {
                let taken = Metrics::of(&status).await.get(in_flight);
                (taken >= (READS * LARGE_BYTES) as f64).then_some(())
            })
            .await;
            let mut request = tonic::Request::new(put(LARGE_BYTES));
            if let Some(deadline) = deadline {
                request.set_timeout(deadline);
            }
            drop(raw.raw_put(request).await);
            let mut lines = slow_lines(&cluster.store, "raw_put", outcome).into_iter();
            lines.find(|line| number(line, "decode_ms").is_none())
        })
        .await;
        let total = number(&line, "total_ms").expect("it has one");
        assert_eq!(number(&line, "admission_ms"), Some(total), "{line}");
        let metrics = Metrics::of(&status).await;
        let counted = format!("flaredb_commands_total{{kind=\"raw_put\",outcome=\"{outcome}\"}}");
        assert!(metrics.get(&counted) >= 1.0, "{}", metrics.text);
        let waited = metrics.get("flaredb_command_duration_seconds_sum{access=\"write\"}");
        assert!(waited >= 0.5, "{}", metrics.text);
    }
    for read in unread {
        read.abort();
    }
}

/// The disk does not work, so there are no timestamps once the durable bound is reached, and a request waits three seconds for some.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_call_of_the_placement_driver_is_told_of_with_its_caller_trace_and_times() {
    const THRESHOLD_MS: u64 = 1000;
    const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let directory = TempDir::new().expect("the temporary directory can be written");
    let Some(library) = ShimLibrary::compile(directory.path()) else {
        return skipped("there is no C compiler");
    };
    // The shim sees paths without links.
    let place = fs::canonicalize(directory.path()).expect("it is there");
    let pd = Node::placement_driver(place.join("pd"));
    let pd = pd.with_flag("--slow-log-ms", &THRESHOLD_MS.to_string());
    let mut pd = pd.with_status();
    let shim = Shim::of(pd.data_dir());
    for (name, value) in shim.environment(&library, 1.0) {
        pd.set_environment(name, value);
    }
    pd.start_serving().await;
    shim.fail_syncs(true);
    let channel = connect(&pd.address()).await.expect("it listens");
    let told = " slow method=\"GetTso\" outcome=\"refused\" ";
    let line = found("it is told of", async || {
        let mut request = tonic::Request::new(GetTsoRequest::default());
        let traceparent = format!("00-{TRACE_ID}-00f067aa0ba902b7-00");
        let traceparent = traceparent.parse().expect("text");
        request.metadata_mut().insert("traceparent", traceparent);
        // Timestamps below the bound are handed out.
        let _ = PdClient::new(channel.clone()).get_tso(request).await;
        let log = pd.log();
        let mut lines = log.lines();
        lines.find(|line| line.contains(told)).map(str::to_owned)
    })
    .await;
    assert_eq!(number(&line, "requests"), Some(1), "{line}");
    assert!(line.contains(" peer=127.0.0.1:"), "{line}");
    assert!(line.contains(&format!(" trace_id={TRACE_ID} ")), "{line}");
    let total = number(&line, "total_ms").expect("it has one");
    let parts = ["admission_ms", "answer_ms"];
    let parts = parts.map(|part| number(&line, part).expect("it has one"));
    assert!(total >= THRESHOLD_MS, "{line}");
    assert!(parts.iter().sum::<u64>() <= total, "{line}");
    assert_eq!(number(&line, "left_out"), Some(0), "{line}");
    let status = pd.status_address().await;
    found("its figures tell of it", async || {
        let metrics = Metrics::of(&status).await;
        let is_told = metrics.get("flaredb_healthy") == 0.0
            && metrics.get("flaredb_tso_bound_distance_seconds") == 0.0;
        is_told.then_some(())
    })
    .await;
}
