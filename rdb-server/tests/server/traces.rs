//! Commands that are parts of traces, as the log of slow commands names them.

use std::time::Duration;

use rdb_client::TraceContext;

use crate::harness::{CallPath, Cluster, found, over_both_paths};
use crate::slow_log::{lose_the_majority, slow_lines};

/// Longer than the threshold, and shorter than a client waits for a leader.
const PATIENCE: Duration = Duration::from_millis(800);

over_both_paths! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    a_slow_command_is_told_of_with_its_trace
}

async fn a_slow_command_is_told_of_with_its_trace(path: CallPath) {
    let mut cluster = Cluster::prepare();
    cluster.store = cluster.store.with_flag("--slow-log-ms", "50");
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;
    let others = lose_the_majority(&cluster).await;
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let trace: TraceContext = traceparent.parse().expect("valid");
    let told = format!(" trace_id={} ", trace.trace_id());
    // There is at most one line a second, and another command may have it.
    let line = found("it is told of", async || {
        let client = cluster.client_over(path).await;
        let traced = client.with_timeout(PATIENCE).with_trace(trace);
        let put = traced.raw_put("k", "v").await;
        put.expect_err("nobody agrees");
        // A stream ends with its client, and so do the commands that wait on it.
        drop((traced, client));
        let mut lines = slow_lines(&cluster.store, "raw_put", "given_up").into_iter();
        lines.find(|line| line.contains(&told))
    })
    .await;
    assert!(line.contains(" region_id=1 "), "{line}");
    for store in &others {
        store.resume();
    }
}
