//! Requests that exceed a limit, make no sense, or are meant for somewhere else.

use bytes::Bytes;
use rdb_proto::error::details;
use rdb_proto::errorpb::{self, Fate, region_error::Kind};
use rdb_proto::kvrpc::{
    BatchGetRequest, CompareAndDeleteRequest, CompareAndSwapRequest, GetRequest, KeyValue,
    RawBatchDeleteRequest, RawBatchGetRequest, RawDeleteRangeRequest, RawScanRequest, ScanRequest,
};
use rdb_proto::metapb::{Context, RegionEpoch};
use rdb_proto::pdpb::{GetClusterInfoRequest, GetRegionRequest, GetTsoRequest};
use tonic::{Code, Status};

use crate::bad_input::wire::{VALUE_BYTES_MAX, Wire, bytes};
use crate::harness::{AsIs, connect};

const KEY_BYTES_MAX: usize = 8_192;
const BATCH_ENTRIES_MAX: usize = 4_096;
const BATCH_BYTES_MAX: u64 = 6 << 20;

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
    for (keys, field, limit) in [
        (Vec::new(), "keys", None),
        (vec![bytes(1); BATCH_ENTRIES_MAX + 1], "keys", count_limit),
        (vec![bytes(1), Bytes::new()], "key", None),
        (vec![bytes(1), bytes(KEY_BYTES_MAX + 1)], "key", key_limit),
    ] {
        let request = RawBatchDeleteRequest {
            context: None,
            keys,
        };
        let deleted = wire.raw.raw_batch_delete(request).await;
        assert_refused(&deleted.expect_err("refused"), field, limit);
    }
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
        .get_cluster_info(GetClusterInfoRequest::default())
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
