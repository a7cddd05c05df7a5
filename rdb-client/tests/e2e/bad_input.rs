//! What does not belong on the wire: each gets the right answer, the process lives, and other clients notice nothing.
//!
//! Spoken with the generated stubs and bare sockets, past the client library, which would refuse most of it itself.

use std::io::ErrorKind;

use bytes::Bytes;
use rdb_proto::error::details;
use rdb_proto::errorpb::{self, Fate, RegionError, region_error::Kind};
use rdb_proto::kvrpc::kv_cas_client::KvCasClient;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::kvrpc::{
    BatchGetRequest, CompareAndDeleteRequest, CompareAndSwapRequest, GetRequest, KeyValue,
    RawBatchGetRequest, RawBatchPutRequest, RawDeleteRangeRequest, RawGetRequest, RawPutRequest,
    RawScanRequest, ScanRequest,
};
use rdb_proto::metapb::{Context, RegionEpoch};
use rdb_proto::pdpb::pd_client::PdClient;
use rdb_proto::pdpb::{GetClusterInfoRequest, GetRegionRequest, GetTsoRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{AsIs, Cluster, connect, found, guarded};

const KEY_BYTES_MAX: usize = 8_192;
const VALUE_BYTES_MAX: usize = 4 << 20;
const BATCH_ENTRIES_MAX: usize = 4_096;
const BATCH_BYTES_MAX: u64 = 6 << 20;

/// A cluster and stubs for its store and its placement driver.
struct Wire {
    cluster: Cluster,
    raw: KvRawClient<Channel>,
    cas: KvCasClient<Channel>,
    pd: PdClient<Channel>,
}

impl Wire {
    async fn to(cluster: Cluster) -> Self {
        let store = connect(&cluster.store.address())
            .await
            .expect("the store listens");
        let pd = connect(&cluster.pd.address())
            .await
            .expect("the placement driver listens");
        let unlimited = usize::MAX;
        Self {
            raw: KvRawClient::new(store.clone()).max_encoding_message_size(unlimited),
            cas: KvCasClient::new(store).max_encoding_message_size(unlimited),
            pd: PdClient::new(pd),
            cluster,
        }
    }

    async fn start() -> Self {
        Self::to(Cluster::start().await).await
    }

    async fn put(&mut self, key: Bytes, value: Bytes) -> Status {
        let request = RawPutRequest {
            context: None,
            key,
            value,
        };
        self.raw.raw_put(request).await.expect_err("refused")
    }

    async fn put_batch(&mut self, entries: Vec<KeyValue>) -> Status {
        let request = RawBatchPutRequest {
            context: None,
            entries,
        };
        self.raw.raw_batch_put(request).await.expect_err("refused")
    }

    /// What the store says to a read with this context.
    async fn with_context(&mut self, context: Context) -> Option<Kind> {
        let request = RawGetRequest {
            context: Some(context),
            key: "k".into(),
        };
        let answer = self
            .raw
            .raw_get(request)
            .await
            .expect("a routing answer is a response");
        answer
            .into_inner()
            .region_error
            .and_then(|error: Box<RegionError>| error.kind)
    }

    /// Everyone else is still served.
    async fn assert_unaffected(&self) {
        let client = self.cluster.client().await;
        client
            .raw_put("unaffected", "yes")
            .await
            .expect("the store serves");
        assert_eq!(client.raw_get("unaffected").await, Ok(Some("yes".into())));
        client.tso().await.expect("the placement driver serves");
    }
}

fn bytes(length: usize) -> Bytes {
    vec![b'x'; length].into()
}

/// The details of a refused request: it names the field and the limit, and says that nothing was applied.
fn assert_refused(status: &Status, field: &str, limit: Option<u64>) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let error: errorpb::Error = details(status).expect("details");
    assert_eq!(
        (error.field.as_str(), error.limit),
        (field, limit),
        "{error:?}"
    );
    assert_eq!(error.fate(), Fate::NotApplied);
    assert!(
        !error.cause.contains("xxx"),
        "the details hold no keys or values: {error:?}"
    );
    assert!(status.details().len() < 4096);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_exceeds_a_limit_is_refused_by_name_and_not_applied() {
    let mut wire = Wire::start().await;
    let key_limit = Some(KEY_BYTES_MAX as u64);
    assert_refused(&wire.put(Bytes::new(), bytes(1)).await, "key", None);
    assert_refused(
        &wire.put(bytes(KEY_BYTES_MAX + 1), bytes(1)).await,
        "key",
        key_limit,
    );
    let value_limit = Some(VALUE_BYTES_MAX as u64);
    assert_refused(
        &wire.put(bytes(1), bytes(VALUE_BYTES_MAX + 1)).await,
        "value",
        value_limit,
    );

    let entries = |count, value_bytes| {
        let entry = KeyValue {
            key: bytes(1),
            value: bytes(value_bytes),
        };
        vec![entry; count]
    };
    assert_refused(&wire.put_batch(Vec::new()).await, "entries", None);
    let count_limit = Some(BATCH_ENTRIES_MAX as u64);
    assert_refused(
        &wire.put_batch(entries(BATCH_ENTRIES_MAX + 1, 0)).await,
        "entries",
        count_limit,
    );
    assert_refused(
        &wire.put_batch(entries(2, 3 << 20)).await,
        "entries",
        Some(BATCH_BYTES_MAX),
    );

    let keys = vec![bytes(1); BATCH_ENTRIES_MAX + 1];
    let read = wire
        .raw
        .raw_batch_get(RawBatchGetRequest {
            context: None,
            keys,
        })
        .await;
    assert_refused(&read.expect_err("refused"), "keys", count_limit);
    let delete = CompareAndDeleteRequest {
        key: "k".into(),
        ..CompareAndDeleteRequest::default()
    };
    let delete = wire.cas.compare_and_delete(delete).await;
    assert_refused(&delete.expect_err("refused"), "expected_version", None);

    let everything = RawScanRequest::default();
    let found = wire
        .raw
        .raw_scan(everything)
        .await
        .expect("served")
        .into_inner();
    assert_eq!(found.entries, [], "nothing that was refused was applied");
    wire.assert_unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_versioned_keyspace_has_the_same_limits() {
    let mut wire = Wire::start().await;
    let swap = |key_bytes, value_bytes| CompareAndSwapRequest {
        key: bytes(key_bytes),
        value: bytes(value_bytes),
        ..CompareAndSwapRequest::default()
    };
    let key_limit = Some(KEY_BYTES_MAX as u64);
    let value_limit = Some(VALUE_BYTES_MAX as u64);
    for (request, field, limit) in [
        (swap(0, 1), "key", None),
        (swap(KEY_BYTES_MAX + 1, 1), "key", key_limit),
        (swap(1, VALUE_BYTES_MAX + 1), "value", value_limit),
    ] {
        let swapped = wire.cas.compare_and_swap(request).await;
        assert_refused(&swapped.expect_err("refused"), field, limit);
    }
    let read = wire.cas.get(GetRequest::default()).await;
    assert_refused(&read.expect_err("refused"), "key", None);
    let read = wire.cas.batch_get(BatchGetRequest::default()).await;
    assert_refused(&read.expect_err("refused"), "keys", None);
    let nothing = ScanRequest {
        limit: Some(0),
        ..ScanRequest::default()
    };
    let scanned = wire.cas.scan(nothing).await;
    assert_refused(&scanned.expect_err("refused"), "limit", None);

    let found = wire.cas.scan(ScanRequest::default()).await;
    let entries = found.expect("served").into_inner().entries;
    assert_eq!(entries, [], "nothing that was refused was applied");
    let largest = wire
        .cas
        .compare_and_swap(swap(KEY_BYTES_MAX, VALUE_BYTES_MAX))
        .await;
    largest.expect("the limits themselves are legal");
    wire.assert_unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_and_limits_that_make_no_sense_are_refused() {
    let mut wire = Wire::start().await;
    for (start_key, end_key) in [("b", "a"), ("a", "a")] {
        let range = RawDeleteRangeRequest {
            context: None,
            start_key: start_key.into(),
            end_key: end_key.into(),
        };
        let deleted = wire.raw.raw_delete_range(range).await;
        assert_refused(&deleted.expect_err("refused"), "end_key", None);
    }
    let scan = |start_key: Bytes, end_key: Bytes, limit| RawScanRequest {
        start_key,
        end_key,
        limit,
        ..RawScanRequest::default()
    };
    let refused = [
        (scan("b".into(), "a".into(), None), "end_key", None),
        (scan("a".into(), "b".into(), Some(0)), "limit", None),
        (
            scan(bytes(KEY_BYTES_MAX + 2), Bytes::new(), None),
            "start_key",
            Some(8_193),
        ),
    ];
    for (request, field, limit) in refused {
        let scanned = wire.raw.raw_scan(request).await;
        assert_refused(&scanned.expect_err("refused"), field, limit);
    }
    let absurd = scan(Bytes::new(), Bytes::new(), Some(u32::MAX));
    wire.raw
        .raw_scan(absurd)
        .await
        .expect("a page ends by itself");
    wire.assert_unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_of_timestamps_are_checked_and_an_absent_one_is_1() {
    let mut wire = Wire::start().await;
    let one = wire
        .pd
        .get_tso(GetTsoRequest { count: None })
        .await
        .expect("served");
    assert_eq!(one.into_inner().count, 1);
    for count in [0, 65_537, u32::MAX] {
        let refused = wire.pd.get_tso(GetTsoRequest { count: Some(count) }).await;
        let status = refused.expect_err("refused");
        assert_refused(&status, "count", Some(65_536));
    }
    wire.assert_unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_for_somewhere_else_is_told_where_it_is() {
    let mut wire = Wire::start().await;
    let info = wire
        .pd
        .get_cluster_info(GetClusterInfoRequest {})
        .await
        .expect("served");
    let cluster_id = info.into_inner().cluster_id;
    let right = Context {
        cluster_id,
        store_id: 1,
        region_id: 1,
        region_epoch: Some(RegionEpoch {
            conf_version: 1,
            version: 1,
        }),
    };
    assert_eq!(wire.with_context(right).await, None);
    let epoch = |version| {
        Some(RegionEpoch {
            conf_version: 1,
            version,
        })
    };

    let foreign = Context {
        cluster_id: cluster_id ^ 1,
        ..right
    };
    let answer = wire.with_context(foreign).await;
    assert!(matches!(answer, Some(Kind::ClusterMismatch(found)) if found.cluster_id == cluster_id));
    let answer = wire
        .with_context(Context {
            store_id: 9,
            ..right
        })
        .await;
    assert!(matches!(answer, Some(Kind::StoreMismatch(found)) if found.store_id == 1));
    let answer = wire
        .with_context(Context {
            region_id: 9,
            ..right
        })
        .await;
    assert!(matches!(answer, Some(Kind::RegionNotFound(found)) if found.region_id == 9));
    let answer = wire
        .with_context(Context {
            region_epoch: epoch(0),
            ..right
        })
        .await;
    assert!(matches!(answer, Some(Kind::EpochNotMatch(found)) if found.current_regions.len() == 1));
    let answer = wire
        .with_context(Context {
            region_epoch: epoch(2),
            ..right
        })
        .await;
    assert!(matches!(answer, Some(Kind::EpochNotMatch(found)) if found.current_regions.is_empty()));
    wire.assert_unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_over_the_limit_is_refused_by_the_transport() {
    let mut wire = Wire::start().await;
    let status = wire.put(bytes(1), bytes((8 << 20) + 1)).await;
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    let key = bytes((8 << 20) + 1);
    let found = wire.pd.get_region(GetRegionRequest { key }).await;
    let status = found.expect_err("refused");
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    wire.assert_unaffected().await;
}

/// One unary call with a body of our own making.
async fn call_with_body(address: &str, path: &'static str, body: &'static [u8]) -> Status {
    let channel = connect(address).await.expect("the process listens");
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.expect("connected");
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
    let request = tonic::Request::new(Bytes::from_static(body));
    let answer = grpc.unary(request, path, AsIs).await;
    answer
        .map(|_: tonic::Response<Bytes>| ())
        .expect_err("refused")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_messages_and_unknown_methods_are_answered() {
    let wire = Wire::start().await;
    let store = wire.cluster.store.address();
    let pd = wire.cluster.pd.address();
    for (address, path) in [(&store, "/kvrpc.KvRaw/RawPut"), (&pd, "/pdpb.Pd/GetTso")] {
        let status = call_with_body(address, path, b"\xff\xff\xff\xff\xff\xff").await;
        assert_eq!(status.code(), Code::Internal, "{path}: {status:?}");
    }
    for (address, path) in [
        (&store, "/kvrpc.KvRaw/RawNothing"),
        (&pd, "/pdpb.Nobody/GetTso"),
    ] {
        let status = call_with_body(address, path, b"").await;
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
    }
    wire.assert_unaffected().await;
}

/// Sends `opening` and reads until the process closes the connection.
async fn closed_after(address: &str, opening: &[u8]) {
    let mut stream = TcpStream::connect(address)
        .await
        .expect("the process listens");
    stream
        .write_all(opening)
        .await
        .expect("a new connection takes bytes");
    let mut answer = Vec::new();
    match guarded("the connection is closed", stream.read_to_end(&mut answer)).await {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_do_not_speak_http_2_are_closed() {
    let wire = Wire::start().await;
    for address in [wire.cluster.store.address(), wire.cluster.pd.address()] {
        let garbage: Vec<u8> = (0..2_000).map(|_| fastrand::u8(..)).collect();
        closed_after(&address, &garbage).await;
        closed_after(&address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let silent = closed_after(&address, b"");
        let halting = closed_after(&address, b"PRI * HTTP/2.0");
        tokio::join!(silent, halting);
    }
    wire.assert_unaffected().await;
}

/// Whether a process speaks HTTP/2 on one more connection. One that has no place for it closes it without a word.
async fn is_admitted(address: &str) -> bool {
    let mut stream = TcpStream::connect(address)
        .await
        .expect("the backlog takes it");
    // An HTTP/2 client's preface and its empty SETTINGS frame; whoever is admitted gets the peer's SETTINGS.
    let opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    if stream.write_all(opening).await.is_err() {
        return false;
    }
    let answer = guarded("an answer or the end", stream.read(&mut [0; 9])).await;
    matches!(answer, Ok(1..))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_above_the_cap_is_closed_until_a_place_is_free() {
    const CONNECTIONS_MAX: usize = 4;
    let mut cluster = Cluster::prepare();
    cluster.pd.start_serving().await;
    let cap = CONNECTIONS_MAX.to_string();
    cluster.store = cluster.store.with_flag("--connections-max", &cap);
    cluster.store.start_serving().await;
    let address = cluster.store.address();

    // The watch that saw the store become healthy may give its place back a moment later.
    let mut held = Vec::new();
    while held.len() < CONNECTIONS_MAX {
        let place = found("a free place", async || {
            let mut health = HealthClient::new(connect(&address).await.ok()?);
            health.check(HealthCheckRequest::default()).await.ok()?;
            Some(health)
        })
        .await;
        held.push(place);
    }
    for _ in 0..3 * CONNECTIONS_MAX {
        assert!(!is_admitted(&address).await, "every place is taken");
    }
    for health in &mut held {
        let served = health.check(HealthCheckRequest::default()).await;
        served.expect("those who have a place keep it");
    }

    drop(held.pop());
    found("the place is given back", async || {
        is_admitted(&address).await.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_holds_up_only_itself() {
    let mut wire = Wire::start().await;
    let value = bytes(VALUE_BYTES_MAX);
    wire.cluster
        .client()
        .await
        .raw_put("large", value)
        .await
        .expect("served");

    // Answers to these are far more than every window together; none is ever read.
    let requests = futures::stream::repeat(GetTsoRequest { count: None });
    let unread_timestamps = wire.pd.tso(requests).await.expect("served");
    let deaf = connect(&wire.cluster.store.address())
        .await
        .expect("the store listens");
    let mut unread = Vec::new();
    for _ in 0..64 {
        let mut raw = KvRawClient::new(deaf.clone()).max_decoding_message_size(usize::MAX);
        let request = RawGetRequest {
            context: None,
            key: "large".into(),
        };
        let mut call = Box::pin(async move { raw.raw_get(request).await });
        // Polled once, so that the request is sent; never again, so that its answer is not read.
        assert!(futures::poll!(&mut call).is_pending());
        unread.push(call);
    }
    wire.assert_unaffected().await;
    drop((unread, unread_timestamps));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generic_tools_find_health_and_reflection() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let cluster = Cluster::start().await;
    for (address, service) in [
        (cluster.store.address(), "kvrpc.KvCas"),
        (cluster.pd.address(), "pdpb.Pd"),
    ] {
        let channel = connect(&address).await.expect("the process listens");
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut client = ServerReflectionClient::new(channel);
        let answers = client
            .server_reflection_info(futures::stream::iter([request]))
            .await;
        let answer = answers
            .expect("served")
            .into_inner()
            .message()
            .await
            .expect("an answer");
        let services = match answer.and_then(|answer| answer.message_response) {
            Some(MessageResponse::ListServicesResponse(list)) => list.service,
            other => panic!("{other:?}"),
        };
        let names: Vec<&str> = services
            .iter()
            .map(|service| service.name.as_str())
            .collect();
        assert!(names.contains(&service), "{names:?}");
        assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
    }
}
