//! Spans of commands and calls, as a collector gets them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use futures::stream;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use rdb_client::{ScanOptions, TraceContext};
use rdb_proto::kvrpc::RawPutRequest;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::transport::{ServeOptions, Services, serve};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status};

use crate::harness::{CallPath, Cluster, Metrics, Port, connect, found, over_both_paths};

const KEY: &str = "a key that is nobody's business";

/// A collector that keeps what it gets, with the names of the processes. Dropping it ends it.
struct Collector {
    endpoint: String,
    kept: Kept,
    _drain: DropGuard,
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<(String, Span)>>>);

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut kept = self.0.lock().expect("no panic");
        for of_process in request.into_inner().resource_spans {
            let resource = of_process.resource.expect("a process says who it is");
            let program = string(&resource.attributes, "service.name");
            let spans = of_process.scope_spans.into_iter();
            let spans = spans.flat_map(|of_scope| of_scope.spans);
            kept.extend(spans.map(|span| (program.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let kept = Kept::default();
        let services = Services::default().add_service(TraceServiceServer::new(kept.clone()));
        let drain = CancellationToken::new();
        let served = serve(listener, services, ServeOptions::default(), drain.clone());
        tokio::spawn(served);
        Self {
            endpoint: format!("http://{address}"),
            kept,
            _drain: drain.drop_guard(),
        }
    }

    /// The spans of a program, in the order in which it has sent them.
    fn spans(&self, program: &str) -> Vec<Span> {
        let kept = self.kept.0.lock().expect("no panic");
        let of_program = kept.iter().filter(|(of, _)| of == program);
        of_program.map(|(_, span)| span.clone()).collect()
    }
}

fn value<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    let mut attributes = attributes.iter();
    let found = attributes.find(|attribute| attribute.key == key)?;
    found.value.as_ref()?.value.as_ref()
}

fn string(attributes: &[KeyValue], key: &str) -> String {
    match value(attributes, key) {
        Some(Value::StringValue(text)) => text.clone(),
        other => panic!("{key} is {other:?}"),
    }
}

fn trace(number: u8, is_sampled: bool) -> TraceContext {
    TraceContext::new([number; 16], [number; 8], is_sampled).expect("no zeros")
}

/// The names of spans, each with the number of its trace. How often each is there says nothing: a call may take more than one attempt,
/// and what a busy machine was late to answer is sent again.
fn named(spans: &[Span]) -> BTreeSet<(&str, u8)> {
    let named = spans.iter().map(|span| {
        assert_eq!(span.trace_id.len(), 16);
        (span.name.as_str(), span.trace_id[0])
    });
    named.collect()
}

over_both_paths! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    a_collector_gets_the_spans_of_sampled_traces_and_no_others
}

async fn a_collector_gets_the_spans_of_sampled_traces_and_no_others(path: CallPath) {
    let collector = Collector::start().await;
    let mut cluster = Cluster::prepare();
    let endpoint = collector.endpoint.as_str();
    cluster.pd = cluster.pd.with_flag("--otlp-endpoint", endpoint);
    cluster.store = cluster
        .store
        .with_status()
        .with_flag("--otlp-endpoint", endpoint);
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;
    let client = cluster.client_over(path).await;

    // It asks where the key is, too.
    let sampled = client.with_trace(trace(1, true));
    sampled.raw_put(KEY, "v").await.expect("put");
    let unsampled = client.with_trace(trace(2, false));
    unsampled.raw_put(KEY, "v").await.expect("put");
    client.raw_put(KEY, "v").await.expect("put");
    let mut invalid = Request::new(RawPutRequest {
        key: KEY.into(),
        ..RawPutRequest::default()
    });
    let traceparent = trace(0xab, true).to_string().to_uppercase();
    let traceparent = traceparent.parse().expect("text");
    invalid.metadata_mut().insert("traceparent", traceparent);
    let channel = connect(&cluster.store.address()).await.expect("it listens");
    let ignored = KvRawClient::new(channel).raw_put(invalid).await;
    ignored.expect("an invalid context is none");
    let sampled = client.with_trace(trace(3, true));
    sampled.raw_get(KEY).await.expect("read");
    let sampled = client.with_trace(trace(4, true));
    let mut scan = sampled.raw_scan(.., ScanOptions::default());
    while let Some(entry) = scan.next().await {
        entry.expect("read");
    }

    let spans = found("the last one has come", async || {
        let spans = collector.spans("rdb-server");
        spans
            .iter()
            .any(|span| span.trace_id[0] == 4)
            .then_some(spans)
    })
    .await;
    let expected = [("raw_put", 1), ("raw_get", 3), ("raw_scan", 4)];
    assert_eq!(named(&spans), BTreeSet::from(expected));
    let put = spans
        .iter()
        .find(|span| span.trace_id[0] == 1 && string(&span.attributes, "flaredb.outcome") == "ok");
    let put = put.expect("it was answered");
    assert_eq!(put.parent_span_id, [1; 8]);
    assert!(put.start_time_unix_nano < put.end_time_unix_nano);
    let region_id = value(&put.attributes, "flaredb.region_id");
    assert_eq!(region_id, Some(&Value::IntValue(1)));
    for part in ["admission", "decode", "queue", "sync", "apply", "answer"] {
        let took = value(&put.attributes, &format!("flaredb.{part}_ms"));
        assert!(
            matches!(took, Some(Value::DoubleValue(_))),
            "{part}: {put:?}"
        );
    }
    assert!(!format!("{spans:?}").contains(KEY));
    let asked = found("the placement driver was asked", async || {
        let spans = collector.spans("rdb-pd");
        named(&spans).contains(&("GetRegion", 1)).then_some(spans)
    })
    .await;
    // A region may have to be looked up again.
    let is_sampled = |(name, trace): &(&str, u8)| *name == "GetRegion" && [1, 3, 4].contains(trace);
    assert!(named(&asked).iter().all(is_sampled), "{asked:?}");

    let status = cluster.store.status_address().await;
    let metrics = found("they are counted", async || {
        let metrics = Metrics::of(&status).await;
        let exported = metrics.get("flaredb_spans_exported_total");
        (exported >= expected.len() as f64).then_some(metrics)
    })
    .await;
    assert_eq!(metrics.get("flaredb_spans_dropped_total"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_costs_a_line_of_the_log() {
    let nobody = Port::reserve();
    let endpoint = format!("http://127.0.0.1:{}", nobody.number());
    let mut cluster = Cluster::prepare();
    cluster.pd = cluster.pd.with_flag("--otlp-endpoint", &endpoint);
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;
    let client = cluster.client().await.with_trace(trace(1, true));
    client.raw_put("k", "v").await.expect("put");
    let told = "the collector did not take spans; they are dropped";
    cluster.pd.wait_for_log(told).await;
    let log = cluster.pd.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(told)).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains(&format!("endpoint={endpoint} ")), "{log}");
    assert!(lines[0].contains(" spans="), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_hangs_costs_spans_and_neither_commands_nor_the_end() {
    /// More than wait, and are sent in one message.
    const READS: usize = 6000;
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = silent.local_addr().expect("bound");
    let accepting = tokio::spawn(async move {
        let mut connections = Vec::new();
        loop {
            connections.push(silent.accept().await.expect("it listens"));
        }
    });
    let mut cluster = Cluster::prepare();
    cluster.store = cluster
        .store
        .with_status()
        .with_flag("--otlp-endpoint", &format!("http://{address}"));
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;
    let client = cluster.client().await.with_trace(trace(1, true));
    client.raw_put("k", "v").await.expect("put");
    let reads = (0..READS).map(|_| client.raw_get("k"));
    let mut reads = stream::iter(reads).buffer_unordered(256);
    while let Some(read) = reads.next().await {
        assert!(read.expect("it is served").is_some());
    }
    let status = cluster.store.status_address().await;
    found("what did not fit is dropped", async || {
        let metrics = Metrics::of(&status).await;
        assert_eq!(metrics.get("flaredb_spans_exported_total"), 0.0);
        (metrics.get("flaredb_spans_dropped_total") > 0.0).then_some(())
    })
    .await;
    cluster.store.terminate();
    assert!(cluster.store.exited().await.success());
    // It did not send all that waited, one attempt after the other.
    let log = cluster.store.log();
    assert!(log.contains("did not take the last spans in time"), "{log}");
    accepting.abort();
}
