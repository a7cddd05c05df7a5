//! Commands that are parts of traces, as the log of slow commands names them.

use std::time::Duration;

use futures::channel::mpsc;
use futures::{StreamExt, future};
use rdb_client::TraceContext;
use rdb_proto::batch::push_trace;
use rdb_proto::kvrpc::batch_command::Request;
use rdb_proto::kvrpc::kv_batch_client::KvBatchClient;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::kvrpc::{BatchCommand, BatchRequest, RawGetRequest, RawPutRequest};
use tokio::time::timeout;

use crate::harness::{CallPath, Cluster, connect, found, over_both_paths};
use crate::slow_log::lose_the_majority;

/// Longer than the threshold.
const PATIENCE: Duration = Duration::from_millis(300);

over_both_paths! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    a_slow_command_is_told_of_with_its_trace_and_one_without_a_trace_with_none
}

async fn a_slow_command_is_told_of_with_its_trace_and_one_without_a_trace_with_none(
    path: CallPath,
) {
    let mut cluster = Cluster::prepare();
    cluster.store = cluster.store.with_flag("--slow-log-ms", "50");
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;
    let others = lose_the_majority(&cluster).await;
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let trace: TraceContext = traceparent.parse().expect("valid");
    for (key, trace) in [("traced", Some(trace)), ("of no trace", None)] {
        let told = format!(" key_bytes={} ", key.len());
        // There is at most one line a second, and another command may have it.
        let line = found("it is told of", async || {
            give_up(path, &cluster.store.address(), key, trace.as_ref()).await;
            let log = cluster.store.log();
            let mut lines = log
                .lines()
                .filter(|line| line.contains(" slow kind=\"raw_"));
            lines.find(|line| line.contains(&told)).map(str::to_owned)
        })
        .await;
        match trace {
            Some(trace) => {
                let told = format!(" trace_id={} ", trace.trace_id());
                assert!(line.contains(&told), "{line}");
            }
            None => assert!(!line.contains("trace_id="), "{line}"),
        }
    }
    for store in &others {
        store.resume();
    }
}

/// Writes and reads a key in vain. It says for itself what a client would, since a client asks stores on its own who leads, and those
/// commands are slow, too.
async fn give_up(path: CallPath, address: &str, key: &str, trace: Option<&TraceContext>) {
    let channel = connect(address).await.expect("it listens");
    let put = RawPutRequest {
        key: key.to_owned().into(),
        ..RawPutRequest::default()
    };
    let get = RawGetRequest {
        key: key.to_owned().into(),
        ..RawGetRequest::default()
    };
    if path == CallPath::Batched {
        let requests = [Request::RawPut(put), Request::RawGet(get)];
        let mut message = BatchRequest::default();
        let mut traces = Vec::new();
        for (position, request) in requests.into_iter().enumerate() {
            message.commands.push(BatchCommand {
                id: position as u64,
                request: Some(request),
                ..BatchCommand::default()
            });
            if let Some(trace) = trace {
                push_trace(&mut traces, position, trace);
            }
        }
        message.traces = traces.into();
        let (messages, sent) = mpsc::unbounded();
        messages.unbounded_send(message.into()).expect("it is open");
        let answers = KvBatchClient::new(channel).batch(sent).await;
        let answers = answers.expect("it is open").into_inner();
        // The stream is open as long as there may be more messages.
        let _ = timeout(PATIENCE, answers.count()).await;
    } else {
        let (mut put, mut get) = (tonic::Request::new(put), tonic::Request::new(get));
        if let Some(trace) = trace {
            for metadata in [put.metadata_mut(), get.metadata_mut()] {
                let value = trace.to_string().parse().expect("text");
                metadata.insert("traceparent", value);
            }
        }
        let (mut writer, mut reader) =
            (KvRawClient::new(channel.clone()), KvRawClient::new(channel));
        let answers = future::join(writer.raw_put(put), reader.raw_get(get));
        let _ = timeout(PATIENCE, answers).await;
    }
}
