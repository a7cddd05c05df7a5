//! What callers with and without rights get from unary calls. Tests of streams are with `batch`.

use bytes::Bytes;
use rdb_proto::error::details;
use rdb_proto::errorpb::Fate;
use rdb_proto::kvrpc::kv_cas_client::KvCasClient;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::kvrpc::{
    BatchGetRequest, CompareAndDeleteRequest, CompareAndSwapRequest, GetRequest, KeyValue,
    RawBatchDeleteRequest, RawBatchGetRequest, RawBatchPutRequest, RawDeleteRangeRequest,
    RawDeleteRequest, RawGetRequest, RawPutRequest, RawScanRequest, ScanRequest,
};
use tonic::{Code, Status};

use super::fixture::{Served, User, guarded};

/// Calls that only read. All others write.
const READS: [&str; 8] = [
    "raw_get",
    "raw_batch_get",
    "raw_scan",
    "raw_scan_reverse",
    "get",
    "batch_get",
    "scan",
    "scan_reverse",
];

/// What the user gets from each call: about the first of `keys`, about all of them, and about a range.
async fn outcomes(
    server: &Served,
    user: &User,
    keys: &[&'static str],
    (start_key, end_key): (&'static str, &'static str),
) -> Vec<(&'static str, Result<(), Status>)> {
    let channel = server.connect().await;
    let mut raw = KvRawClient::new(channel.clone());
    let mut cas = KvCasClient::new(channel);
    let key = || Bytes::from(keys[0]);
    let several = || keys.iter().copied().map(Bytes::from);
    let (start_key, end_key) = (|| Bytes::from(start_key), || Bytes::from(end_key));
    let mut outcomes = Vec::new();
    macro_rules! call {
        ($name:expr, $client:ident.$method:ident, $message:ident { $($parts:tt)* }) => {{
            let message = $message { $($parts)*, ..$message::default() };
            let called = $client.$method(user.request(message));
            let called = guarded("an answer", called).await;
            let served = called.map(|answer| {
                assert_eq!(answer.into_inner().region_error, None, "{}", $name);
            });
            outcomes.push(($name, served));
        }};
    }
    call!(
        "raw_put",
        raw.raw_put,
        RawPutRequest {
            key: key(),
            value: "v".into()
        }
    );
    call!("raw_get", raw.raw_get, RawGetRequest { key: key() });
    call!(
        "raw_delete",
        raw.raw_delete,
        RawDeleteRequest { key: key() }
    );
    let entry = |key| KeyValue {
        key,
        value: "v".into(),
    };
    let entries = several().map(entry).collect();
    call!(
        "raw_batch_put",
        raw.raw_batch_put,
        RawBatchPutRequest { entries }
    );
    let keys = several().collect();
    call!(
        "raw_batch_get",
        raw.raw_batch_get,
        RawBatchGetRequest { keys }
    );
    let keys = several().collect();
    call!(
        "raw_batch_delete",
        raw.raw_batch_delete,
        RawBatchDeleteRequest { keys }
    );
    for (name, reverse) in [("raw_scan", false), ("raw_scan_reverse", true)] {
        let (start_key, end_key) = (start_key(), end_key());
        call!(
            name,
            raw.raw_scan,
            RawScanRequest {
                start_key,
                end_key,
                reverse
            }
        );
    }
    let (first, last) = (start_key(), end_key());
    call!(
        "raw_delete_range",
        raw.raw_delete_range,
        RawDeleteRangeRequest {
            start_key: first,
            end_key: last
        }
    );
    call!(
        "compare_and_swap",
        cas.compare_and_swap,
        CompareAndSwapRequest {
            key: key(),
            value: "v".into()
        }
    );
    call!("get", cas.get, GetRequest { key: key() });
    call!(
        "compare_and_delete",
        cas.compare_and_delete,
        CompareAndDeleteRequest {
            key: key(),
            expected_version: 7
        }
    );
    let keys = several().collect();
    call!("batch_get", cas.batch_get, BatchGetRequest { keys });
    for (name, reverse) in [("scan", false), ("scan_reverse", true)] {
        let (start_key, end_key) = (start_key(), end_key());
        call!(
            name,
            cas.scan,
            ScanRequest {
                start_key,
                end_key,
                reverse
            }
        );
    }
    outcomes
}

/// The names of the calls that were denied. The others were served.
fn denied(outcomes: Vec<(&'static str, Result<(), Status>)>) -> Vec<&'static str> {
    let denied = outcomes.into_iter().filter_map(|(name, outcome)| {
        let status = outcome.err()?;
        assert_eq!(status.code(), Code::PermissionDenied, "{name}: {status:?}");
        assert!(status.message().contains("ada lacks the right"), "{name}");
        let error = details(&status).expect("it has details");
        assert_eq!(error.fate(), Fate::NotApplied, "{name}");
        Some(name)
    });
    denied.collect()
}

fn names(outcomes: &[(&'static str, Result<(), Status>)]) -> Vec<&'static str> {
    outcomes.iter().map(|(name, _)| *name).collect()
}

#[tokio::test]
async fn each_call_is_served_inside_of_what_was_granted_and_denied_outside() {
    let user = User::writer("own/");
    let server = Served::start_with(Some(user.guard.clone())).await;
    let inside = outcomes(&server, &user, &["own/a", "own/b"], ("own/", "own0")).await;
    let all = names(&inside);
    assert_eq!(denied(inside), [""; 0]);
    // What was put last, and not deleted since.
    let kept = server.storage.get_versioned(b"own/a").expect("read");
    assert_eq!(kept.expect("it was put").value, "v");
    let outside = outcomes(&server, &user, &["other", "own"], ("other", "own")).await;
    assert_eq!(denied(outside), all);
}

#[tokio::test]
async fn one_key_outside_refuses_a_batch_and_a_part_outside_a_range() {
    let user = User::writer("own/");
    let server = Served::start_with(Some(user.guard.clone())).await;
    let half = outcomes(&server, &user, &["own/a", "other"], ("own/", "z")).await;
    let expected = [
        "raw_batch_put",
        "raw_batch_get",
        "raw_batch_delete",
        "raw_scan",
        "raw_scan_reverse",
        "raw_delete_range",
        "batch_get",
        "scan",
        "scan_reverse",
    ];
    assert_eq!(denied(half), expected);
    let key_of_batch = server.storage.get_raw(b"other").expect("read");
    assert!(key_of_batch.is_none(), "nothing was applied");
    for range in [("", "own0"), ("own/", ""), ("", "")] {
        let open = outcomes(&server, &user, &["own/a"], range).await;
        let of_ranges = [
            "raw_scan",
            "raw_scan_reverse",
            "raw_delete_range",
            "scan",
            "scan_reverse",
        ];
        assert_eq!(denied(open), of_ranges, "{range:?}");
    }
}

#[tokio::test]
async fn a_reader_may_read_and_nothing_else() {
    let user = User::reader("own/");
    let server = Served::start_with(Some(user.guard.clone())).await;
    let called = outcomes(&server, &user, &["own/a", "own/b"], ("own/", "own0")).await;
    let mut writes = names(&called);
    writes.retain(|name| !READS.contains(name));
    assert_eq!(denied(called), writes);
    assert_eq!(server.storage.get_raw(b"own/a").expect("read"), None);
}
