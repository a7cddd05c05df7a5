//! What becomes of a write when the answer is not a result.

use rdb_client::Error;
use rdb_proto::error::Fault;
use rdb_proto::errorpb::region_error::Kind;
use rdb_proto::errorpb::{
    ClusterMismatch, EpochNotMatch, Fate, KeyNotInRegion, NotLeader, NotReady, RegionNotFound,
    ServerBusy, StoreMismatch,
};
use tonic::{Code, Status};

use crate::fates::cluster::{Cluster, SHORT, region};
use crate::fates::store::Step;
use crate::harness::{CallPath, guarded, over_both_paths};

over_both_paths! {
    after_every_routing_answer_a_write_is_sent_again_and_applied_once,
    a_fault_that_says_not_applied_is_tried_again_and_applied_once,
    a_fault_without_certainty_is_undetermined_and_nothing_is_sent_again,
    a_write_that_cannot_succeed_ends_at_once_and_certainly,
    a_deadline_after_sending_is_undetermined_for_a_write_and_exceeded_for_a_read,
    a_busy_store_is_not_asked_again_before_its_time,
    a_deadline_among_refusals_names_the_last_one,
    another_cluster_is_an_error_that_names_both_and_the_next_call_asks_again,
    retries_open_fates_and_calls_in_flight_are_counted,
    a_conflict_returns_current_version_and_value,
    what_exceeds_a_limit_is_refused_before_it_is_sent,
}

fn fault(code: Code, fate: Fate) -> Status {
    Fault::new(code, "as the script says")
        .with_fate(fate)
        .into()
}

async fn after_every_routing_answer_a_write_is_sent_again_and_applied_once(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    let current_regions = vec![region(1, 1, "", "")];
    let answers = [
        Some(Kind::NotLeader(NotLeader {
            region_id: 1,
            leader: Some(cluster.node.description().into()),
            ..NotLeader::default()
        })),
        Some(Kind::NotLeader(NotLeader {
            region_id: 1,
            ..NotLeader::default()
        })),
        Some(Kind::EpochNotMatch(EpochNotMatch::default())),
        Some(Kind::EpochNotMatch(EpochNotMatch {
            current_regions,
            ..EpochNotMatch::default()
        })),
        Some(Kind::RegionNotFound(RegionNotFound { region_id: 1 })),
        Some(Kind::KeyNotInRegion(KeyNotInRegion { region: None })),
        Some(Kind::StoreMismatch(StoreMismatch { store_id: 9 })),
        Some(Kind::ServerBusy(ServerBusy { backoff_ms: 3 })),
        Some(Kind::NotReady(NotReady {
            reason: "draining".to_owned(),
        })),
        None,
    ];
    for (version, answer) in answers.into_iter().enumerate() {
        let requests = cluster.node.store.requests();
        let name = format!("{answer:?}");
        cluster.node.store.script(1, [Step::Refuse(answer)]);
        let written = client.cas_put("k", version as u64, "v").await;
        assert_eq!(written, Ok(version as u64 + 1), "{name}");
        assert_eq!(cluster.node.store.requests(), requests + 2, "{name}");
    }
    assert_eq!(cluster.node.store.applied("k"), 10);
}

async fn a_fault_that_says_not_applied_is_tried_again_and_applied_once(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    let faults = [Code::Unavailable, Code::ResourceExhausted];
    cluster.node.store.script(
        1,
        faults.map(|code| Step::Fail(fault(code, Fate::NotApplied))),
    );
    assert_eq!(client.cas_put("k", 0, "v").await, Ok(1));
    assert_eq!(cluster.node.store.applied("k"), 1);
    assert_eq!(cluster.node.store.requests(), 3);
}

async fn a_fault_without_certainty_is_undetermined_and_nothing_is_sent_again(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    let faults = || {
        [
            fault(Code::Unavailable, Fate::Unknown),
            fault(Code::Unavailable, Fate::Unspecified),
            fault(Code::InvalidArgument, Fate::Unspecified),
            Status::unavailable("bare"),
            Status::internal("bare"),
            Status::cancelled("bare"),
            Status::unknown("bare"),
            Status::resource_exhausted("bare"),
            Status::out_of_range("bare"),
        ]
    };
    let steps = faults().into_iter().map(Step::Fail);
    let applied = faults().len() as u64;
    for (written, step) in steps
        .chain(faults().into_iter().map(Step::ApplyAndFail))
        .enumerate()
    {
        let name = format!("{step:?}");
        cluster.node.store.script(1, [step]);
        let result = client.raw_put("k", "v").await;
        assert!(
            matches!(result, Err(Error::Undetermined { .. })),
            "{name}: {result:?}"
        );
        assert_eq!(cluster.node.store.requests(), written + 1, "{name}");
    }
    assert_eq!(cluster.node.store.applied("k"), applied);
}

async fn a_write_that_cannot_succeed_ends_at_once_and_certainly(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    let codes = [
        Code::InvalidArgument,
        Code::DataLoss,
        Code::FailedPrecondition,
        Code::PermissionDenied,
        Code::Unauthenticated,
        Code::Internal,
    ];
    for (written, code) in codes.into_iter().enumerate() {
        cluster
            .node
            .store
            .script(1, [Step::Fail(fault(code, Fate::NotApplied))]);
        let error = client.raw_put("k", "v").await.expect_err("refused");
        let expected = match code {
            Code::InvalidArgument => matches!(error, Error::InvalidArgument { .. }),
            Code::DataLoss => matches!(error, Error::DataLoss { .. }),
            Code::FailedPrecondition => matches!(error, Error::Refused { .. }),
            Code::PermissionDenied => matches!(error, Error::PermissionDenied { .. }),
            Code::Unauthenticated => matches!(error, Error::Unauthenticated { .. }),
            _ => matches!(error, Error::Internal { .. }),
        };
        assert!(expected, "{code:?}: {error:?}");
        assert_eq!(cluster.node.store.requests(), written + 1, "{code:?}");
    }
    assert_eq!(cluster.node.store.applied("k"), 0);
}

async fn a_deadline_after_sending_is_undetermined_for_a_write_and_exceeded_for_a_read(
    path: CallPath,
) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    client.raw_get("k").await.unwrap();
    cluster.node.store.script(1, [Step::Hang, Step::Hang]);
    let hurried = client.with_timeout(SHORT);
    let result = hurried.raw_put("k", "v").await;
    assert!(
        matches!(result, Err(Error::Undetermined { .. })),
        "{result:?}"
    );
    let result = hurried.raw_get("k").await;
    assert!(
        matches!(result, Err(Error::DeadlineExceeded { timeout: SHORT, .. })),
        "{result:?}"
    );
    assert_eq!(cluster.node.store.requests(), 3);
}

async fn a_busy_store_is_not_asked_again_before_its_time(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    let busy = |backoff_ms| Step::Refuse(Some(Kind::ServerBusy(ServerBusy { backoff_ms })));
    cluster.node.store.script(1, [busy(1), busy(3_600_000)]);
    let result = client.raw_put("k", "v").await;
    assert!(matches!(result, Err(Error::Busy { .. })), "{result:?}");
    assert_eq!(cluster.node.store.requests(), 2);
    assert_eq!(cluster.node.store.applied("k"), 0);
}

async fn a_deadline_among_refusals_names_the_last_one(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    client.raw_get("k").await.unwrap();
    let reason = "draining".to_owned();
    cluster
        .node
        .store
        .refuse_always(Kind::NotReady(NotReady { reason }));
    let hurried = client.with_timeout(SHORT);
    let read = guarded("the deadline", hurried.raw_get("k")).await;
    let error = read.expect_err("refused");
    assert!(
        matches!(
            error,
            Error::Unavailable { .. } | Error::DeadlineExceeded { .. }
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains("draining"), "{error}");
}

async fn another_cluster_is_an_error_that_names_both_and_the_next_call_asks_again(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    let mismatch = || {
        let other = ClusterMismatch { cluster_id: 8 };
        Step::Refuse(Some(Kind::ClusterMismatch(other)))
    };
    for version in 0..3 {
        // Once the placement driver has confirmed the address, asking again would not help this call.
        cluster.node.store.script(1, [mismatch()]);
        let lookups = cluster.pd.pd.region_lookups();
        let result = client.cas_put("k", version, "v").await;
        let expected = Error::ClusterMismatch {
            expected: 7,
            found: 8,
        };
        assert_eq!(result, Err(expected));
        assert!(cluster.pd.pd.region_lookups() > lookups, "it was asked");
        assert_eq!(client.cas_put("k", version, "v").await, Ok(version + 1));
    }
}

async fn retries_open_fates_and_calls_in_flight_are_counted(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    let busy = Kind::ServerBusy(ServerBusy { backoff_ms: 1 });
    cluster.node.store.script(1, [Step::Refuse(Some(busy))]);
    client.raw_put("k", "v").await.unwrap();
    assert_eq!(client.stats().retries, 1);

    cluster.node.store.script(1, [Step::Hang]);
    let hurried = client.with_timeout(SHORT);
    let writing = tokio::spawn(async move { hurried.raw_put("k", "v").await });
    cluster.node.store.wait_arrived(3).await;
    assert_eq!(client.stats().calls_in_flight, 1);
    let result = writing.await.unwrap();
    assert!(
        matches!(result, Err(Error::Undetermined { .. })),
        "{result:?}"
    );
    let stats = client.stats();
    assert_eq!((stats.calls_in_flight, stats.undetermined_writes), (0, 1));
}

async fn a_conflict_returns_current_version_and_value(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    assert_eq!(client.cas_put("k", 0, "v1").await, Ok(1));
    let conflict = Error::Conflict {
        current_version: 1,
        current_value: Some("v1".into()),
    };
    assert_eq!(client.cas_put("k", 5, "v2").await, Err(conflict.clone()));
    assert_eq!(client.cas_delete("k", 2).await, Err(conflict));
    assert_eq!(client.cas_delete("k", 1).await, Ok(()));
    assert_eq!(client.get("k").await, Ok(None));
    let gone = Error::Conflict {
        current_version: 0,
        current_value: None,
    };
    assert_eq!(client.cas_delete("k", 1).await, Err(gone));
}

async fn what_exceeds_a_limit_is_refused_before_it_is_sent(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    let (long_key, long_value) = ([b'k'; 8193], vec![0; (4 << 20) + 1]);
    let refused = [
        client.raw_put("", "v").await,
        client.raw_put(long_key, "v").await,
        client.raw_put("k", long_value).await,
        client.cas_delete("k", 0).await,
        client
            .raw_batch_put((0..4097).map(|n| (format!("{n}"), "v")))
            .await,
        client
            .raw_batch_get((0..1024).map(|_| [b'k'; 8192]))
            .await
            .map(drop),
    ];
    for result in refused {
        assert!(
            matches!(result, Err(Error::InvalidArgument { .. })),
            "{result:?}"
        );
    }
    assert_eq!(cluster.node.store.requests(), 0);
}
