//! Batches and range deletes over several regions.

use rdb_client::{Bytes, Error};
use rdb_proto::error::Fault;
use rdb_proto::errorpb::Fate;
use rdb_proto::errorpb::ServerBusy;
use rdb_proto::errorpb::region_error::Kind;
use tonic::{Code, Status};

use crate::fates::cluster::{Cluster, region};
use crate::fates::store::Step;

fn applied<const N: usize>(cluster: &Cluster, keys: [&str; N]) -> [u64; N] {
    keys.map(|key| cluster.node.store.applied(key))
}

fn certain(code: Code) -> Step {
    Step::Fail(
        Fault::new(code, "as the script says")
            .with_fate(Fate::NotApplied)
            .into(),
    )
}

#[tokio::test]
async fn a_batch_is_one_request_per_region_and_keeps_its_order() {
    let cluster = Cluster::with_three_regions().await;
    let client = cluster.client().await;
    let entries = [
        ("z", "1"),
        ("a", "2"),
        ("m", "3"),
        ("a", "4"),
        ("q", "5"),
        ("a", "6"),
    ];
    client.raw_batch_put(entries).await.unwrap();
    assert_eq!(cluster.node.store.requests(), 3);
    assert_eq!(
        cluster.node.store.raw("a"),
        Some("6".into()),
        "the later entry wins"
    );

    let keys = ["q", "a", "none", "z", "m", "a"];
    let found = client.raw_batch_get(keys).await.unwrap();
    let values = [Some("5"), Some("6"), None, Some("1"), Some("3"), Some("6")];
    assert_eq!(found, values.map(|value| value.map(Bytes::from)));
    assert_eq!(cluster.node.store.requests(), 6);
}

#[tokio::test]
async fn a_batch_read_of_versioned_keys_keeps_its_order() {
    let cluster = Cluster::with_three_regions().await;
    let client = cluster.client().await;
    for key in ["a", "m", "z"] {
        client.cas_put(key, 0, key).await.unwrap();
    }
    let found = client.batch_get(["z", "b", "m", "a"]).await.unwrap();
    let found = found.into_iter();
    let found: Vec<_> = found
        .map(|entry| entry.map(|entry| (entry.version, entry.value)))
        .collect();
    let values = [Some("z"), None, Some("m"), Some("a")];
    assert_eq!(
        found,
        values.map(|value| value.map(|value| (1, value.into())))
    );
}

#[tokio::test]
async fn a_batch_of_deletes_is_one_request_per_region_and_deletes_nothing_else() {
    let cluster = Cluster::with_three_regions().await;
    let client = cluster.client().await;
    let keys = ["a", "b", "m", "z"];
    let entries = keys.map(|key| (key, "v"));
    client.raw_batch_put(entries).await.unwrap();
    let requests = cluster.node.store.requests();
    client
        .raw_batch_delete(["z", "none", "a", "m", "a"])
        .await
        .unwrap();
    assert_eq!(cluster.node.store.requests(), requests + 3);
    let left = client.raw_batch_get(keys).await.unwrap();
    assert_eq!(left, [None, Some("v".into()), None, None]);

    cluster
        .node
        .store
        .script(3, [certain(Code::FailedPrecondition)]);
    let result = client.raw_batch_delete(["b", "z"]).await;
    assert!(
        matches!(result, Err(Error::Undetermined { .. })),
        "one region's part was applied: {result:?}"
    );
}

#[tokio::test]
async fn an_empty_batch_is_done_at_once() {
    let cluster = Cluster::with_three_regions().await;
    let client = cluster.client().await;
    assert_eq!(client.raw_batch_put([("", ""); 0]).await, Ok(()));
    assert_eq!(client.raw_batch_delete([""; 0]).await, Ok(()));
    assert_eq!(client.raw_batch_get([""; 0]).await, Ok(Vec::new()));
    assert_eq!(cluster.node.store.requests(), 0);
}

#[tokio::test]
async fn a_batch_is_split_anew_when_a_region_splits_under_it() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    client.raw_put("a", "0").await.unwrap();
    cluster
        .node
        .store
        .set_regions(vec![region(1, 2, "", "m"), region(2, 2, "m", "")]);
    client
        .raw_batch_put([("a", "1"), ("z", "2")])
        .await
        .unwrap();
    assert_eq!(applied(&cluster, ["a", "z"]), [2, 1]);
}

#[tokio::test]
async fn only_the_part_that_was_refused_is_sent_again() {
    let cluster = Cluster::with_three_regions().await;
    let client = cluster.client().await;
    let busy = Step::Refuse(Some(Kind::ServerBusy(ServerBusy { backoff_ms: 1 })));
    cluster
        .node
        .store
        .script(2, [busy, certain(Code::Unavailable)]);
    client
        .raw_batch_put([("a", "1"), ("m", "2"), ("z", "3")])
        .await
        .unwrap();
    for key in ["a", "m", "z"] {
        assert_eq!(cluster.node.store.applied(key), 1, "{key}");
    }
    assert_eq!(cluster.node.store.requests(), 5);
}

#[tokio::test]
async fn a_batch_of_which_a_part_was_applied_is_undetermined() {
    let cluster = Cluster::with_three_regions().await;
    let client = cluster.client().await;
    cluster
        .node
        .store
        .script(2, [certain(Code::FailedPrecondition)]);
    let result = client.raw_batch_put([("a", "1"), ("m", "2")]).await;
    assert!(
        matches!(result, Err(Error::Undetermined { .. })),
        "{result:?}"
    );
    assert_eq!(applied(&cluster, ["a", "m"]), [1, 0]);
}

#[tokio::test]
async fn a_batch_of_which_nothing_was_applied_says_so() {
    let cluster = Cluster::with_three_regions().await;
    let client = cluster.client().await;
    cluster
        .node
        .store
        .script(1, [certain(Code::FailedPrecondition)]);
    cluster.node.store.script(2, [certain(Code::Unavailable)]);
    let result = client.raw_batch_put([("a", "1"), ("m", "2")]).await;
    assert!(matches!(result, Err(Error::Refused { .. })), "{result:?}");

    cluster
        .node
        .store
        .script(1, [certain(Code::FailedPrecondition)]);
    cluster
        .node
        .store
        .script(2, [Step::ApplyAndFail(Status::unavailable("bare"))]);
    let result = client.raw_batch_put([("a", "1"), ("m", "2")]).await;
    assert!(
        matches!(result, Err(Error::Undetermined { .. })),
        "{result:?}"
    );
}

#[tokio::test]
async fn a_batch_read_that_does_not_fit_is_refused_and_not_repeated() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let too_large = Fault {
        field: "keys",
        limit: Some(6 << 20),
        ..Fault::new(
            Code::ResourceExhausted,
            "more than 6291456 bytes; ask for fewer keys",
        )
    };
    cluster.node.store.script(1, [Step::Fail(too_large.into())]);
    let error = client.raw_batch_get(["a", "b"]).await.expect_err("refused");
    assert!(
        matches!(&error, Error::InvalidArgument { field, limit: Some(_), cause } if field == "keys" && cause.contains("fewer")),
        "{error:?}"
    );
    assert_eq!(cluster.node.store.requests(), 1);
}

#[tokio::test]
async fn a_range_delete_goes_through_every_region() {
    let cluster = Cluster::with_three_regions().await;
    let client = cluster.client().await;
    let keys = ["a", "c", "h", "m", "p", "z"];
    client
        .raw_batch_put(keys.map(|key| (key, "v")))
        .await
        .unwrap();
    client.raw_delete_range("b"..="p").await.unwrap();
    let left = client.raw_batch_get(keys).await.unwrap();
    let left: Vec<_> = left.into_iter().map(|value| value.is_some()).collect();
    assert_eq!(left, [true, false, false, false, false, true]);
    client.raw_delete_range(..).await.unwrap();
    assert_eq!(client.raw_batch_get(keys).await, Ok(vec![None; keys.len()]));
}

#[tokio::test]
async fn a_range_delete_that_stops_between_regions_is_undetermined() {
    let cluster = Cluster::with_three_regions().await;
    let client = cluster.client().await;
    cluster
        .node
        .store
        .script(2, [certain(Code::FailedPrecondition)]);
    let result = client.raw_delete_range("a".."z").await;
    assert!(
        matches!(result, Err(Error::Undetermined { .. })),
        "{result:?}"
    );
    cluster
        .node
        .store
        .script(1, [certain(Code::FailedPrecondition)]);
    let result = client.raw_delete_range("a".."z").await;
    assert!(matches!(result, Err(Error::Refused { .. })), "{result:?}");
}

#[tokio::test]
async fn a_range_delete_without_a_key_in_it_is_refused() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    for (start, end) in [("b", "a"), ("a", "a")] {
        let result = client.raw_delete_range(start..end).await;
        assert!(
            matches!(result, Err(Error::InvalidArgument { .. })),
            "{result:?}"
        );
    }
    assert_eq!(cluster.node.store.requests(), 0);
}
