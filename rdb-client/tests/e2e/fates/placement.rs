//! The client and its placement drivers.

use std::fs;
use std::time::Duration;

use rdb_client::{Client, Config, Error, Health, Role};
use rdb_proto::error::Fault;
use rdb_proto::errorpb::Fate;
use tempfile::NamedTempFile;
use tonic::{Code, Status};

use crate::fates::cluster::{CLUSTER_ID, Cluster, PATIENT, PdNode, SHORT, connect, region};
use crate::fates::proxy::Mode;
use crate::harness::{CallPath, guarded, over_both_paths};

over_both_paths! {
    without_the_placement_driver_what_is_known_is_used_and_the_rest_waited_for,
}

#[tokio::test]
async fn a_second_address_is_used_when_the_first_is_dead() {
    let cluster = Cluster::start().await;
    let dead = PdNode::start(CLUSTER_ID).await;
    dead.proxy.refuse().await;
    let client = connect([dead.proxy.address, cluster.pd.proxy.address]).await;
    assert_eq!(client.cluster_id(), CLUSTER_ID);
    client.raw_put("k", "v").await.unwrap();

    // And the first again, when the second dies.
    let first = dead;
    first.pd.set_stores(vec![cluster.node.description()]);
    first.proxy.listen();
    cluster.pd.proxy.refuse().await;
    assert_eq!(client.stores().await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_address_of_another_cluster_is_passed_over_with_a_warning_and_never_believed() {
    // While there is only one subscriber, tracing forgets a line for good that another test comes to first, on a thread without any.
    let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    // The client logs on this thread, as it runs here.
    let log = NamedTempFile::new().unwrap();
    let logging = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(log.reopen().unwrap());
    let _logging = tracing::subscriber::set_default(logging.finish());
    let cluster = Cluster::start().await;
    let foreign = PdNode::start(CLUSTER_ID + 1).await;
    let third = PdNode::start(CLUSTER_ID).await;
    third.pd.set_next_timestamp(1_000);
    let ours = cluster.pd.proxy.address;
    let (foreign, third) = (&foreign.proxy, &third.proxy);
    let client = connect([ours, foreign.address, third.address]).await;
    let before = client.tso().await.unwrap();
    cluster.pd.proxy.refuse().await;
    assert!(client.tso().await.unwrap() > before, "the third answers");

    third.refuse().await;
    for result in [
        client.with_timeout(SHORT).tso().await.map(drop),
        client.with_timeout(SHORT).stores().await.map(drop),
    ] {
        let text = result.expect_err("nobody may answer").to_string();
        for address in [ours, foreign.address, third.address] {
            assert!(text.contains(&address.to_string()), "{address}: {text}");
        }
    }
    third.listen();
    assert!(client.tso().await.is_ok());
    let log = fs::read_to_string(log.path()).unwrap();
    let warning = format!(
        "a placement driver is passed over address={}",
        foreign.address
    );
    assert!(log.contains(&warning), "{log}");
}

#[tokio::test]
async fn where_every_address_belongs_to_another_cluster_calls_end_with_that() {
    let cluster = Cluster::start().await;
    let foreign = PdNode::start(CLUSTER_ID + 1).await;
    let client = cluster.client().await;
    cluster.pd.proxy.lead_to(foreign.hidden_address()).await;
    let mismatch = Error::ClusterMismatch {
        expected: CLUSTER_ID,
        found: CLUSTER_ID + 1,
    };
    assert_eq!(client.tso().await, Err(mismatch.clone()));
    assert_eq!(client.stores().await, Err(mismatch));
}

#[tokio::test]
async fn a_silent_address_leaves_the_others_their_share_of_the_time() {
    let cluster = Cluster::start().await;
    let silent = PdNode::start(CLUSTER_ID).await;
    silent.proxy.set_mode(Mode::HoldAnswers);
    let config = Config::default()
        .with_timeout(8 * SHORT)
        // The silent one could use up everything.
        .with_connect_timeout(PATIENT);
    let addresses = [silent.proxy.address, cluster.pd.proxy.address];
    let addresses = addresses.map(|address| address.to_string());
    let client = Client::connect_with(addresses, config).await.unwrap();
    assert_eq!(client.raw_get("k").await, Ok(None));
}

#[tokio::test]
async fn an_address_that_falls_silent_leaves_the_others_their_share_of_the_time() {
    let cluster = Cluster::start().await;
    let other = PdNode::start(CLUSTER_ID).await;
    let config = Config::default().with_connect_timeout(PATIENT);
    let addresses = [cluster.pd.proxy.address, other.proxy.address];
    let addresses = addresses.map(|address| address.to_string());
    let client = Client::connect_with(addresses, config).await.unwrap();
    cluster.pd.proxy.set_mode(Mode::HoldAnswers);
    let hurried = client.with_timeout(4 * SHORT);
    assert_eq!(hurried.stores().await, Ok(Vec::new()), "the other's answer");
}

#[tokio::test]
async fn a_change_of_members_whose_answer_got_lost_is_undetermined() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let hurried = client.with_timeout(SHORT);
    cluster.pd.proxy.set_mode(Mode::HoldAnswers);
    for change in [
        hurried.remove_store(1).await.map(drop),
        hurried.add_peer(1, 2).await.map(drop),
        hurried.cancel_operator(1).await.map(drop),
    ] {
        let lost = matches!(&change, Err(Error::Undetermined { .. }));
        assert!(lost, "{change:?}");
    }
    let read = hurried.operators().await.expect_err("no answer");
    assert!(read.is_retryable(), "{read}");
}

#[tokio::test]
async fn a_refusal_is_certain_only_if_no_earlier_try_may_have_been_taken() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let fault = |code, fate| Status::from(Fault::new(code, "because").with_fate(fate));
    let refused = fault(Code::FailedPrecondition, Fate::NotApplied);
    let not_taken = fault(Code::Unavailable, Fate::NotApplied);
    let lost = fault(Code::Unavailable, Fate::Unknown);
    for (faults, is_certain) in [
        (vec![refused.clone()], true),
        (vec![not_taken.clone(), refused.clone()], true),
        (vec![lost, not_taken, refused], false),
    ] {
        cluster.pd.pd.fail_operators(faults);
        let error = client.remove_peer(1, 2).await.expect_err("refused");
        assert_eq!(error.is_certain(), is_certain, "{error:?}");
        let is_refusal = matches!(&error, Error::Refused { .. });
        assert_eq!(is_refusal, is_certain, "{error:?}");
    }
}

#[tokio::test]
async fn calls_that_wait_for_a_region_share_one_lookup_and_not_the_stream_of_timestamps() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    client.tso().await.unwrap();
    cluster.pd.pd.hold_lookups(true);
    let calls: Vec<_> = (0..100)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move { client.raw_get(format!("key {number}")).await })
        })
        .collect();
    cluster.pd.pd.wait_region_lookups(1).await;
    assert!(client.tso().await.is_ok(), "timestamps go on");
    cluster.pd.pd.hold_lookups(false);
    for call in calls {
        assert_eq!(call.await.unwrap(), Ok(None));
    }
    assert_eq!(cluster.pd.pd.region_lookups(), 1);
    assert_eq!(cluster.pd.proxy.connections(), 2, "one for the stream");
}

async fn without_the_placement_driver_what_is_known_is_used_and_the_rest_waited_for(
    path: CallPath,
) {
    let regions = vec![region(1, 1, "", "m"), region(2, 1, "m", "")];
    let cluster = Cluster::with_regions(regions).await;
    let client = cluster.client_over(path).await;
    client.raw_put("a", "1").await.unwrap();
    cluster.pd.proxy.refuse().await;
    client.raw_put("a", "2").await.unwrap();

    let hurried = client.with_timeout(SHORT).raw_put("z", "3").await;
    assert!(
        matches!(
            hurried,
            Err(Error::Unavailable { .. } | Error::DeadlineExceeded { .. })
        ),
        "{hurried:?}"
    );
    let waiting = tokio::spawn(async move { client.raw_put("z", "3").await });
    cluster.pd.proxy.listen();
    assert_eq!(waiting.await.unwrap(), Ok(()));
    assert_eq!(cluster.node.store.applied("z"), 1);
}

#[tokio::test]
async fn connecting_waits_for_the_placement_driver() {
    let pd = PdNode::start(CLUSTER_ID).await;
    pd.proxy.refuse().await;
    let address = pd.proxy.address;
    let connecting = tokio::spawn(async move { connect([address]).await });
    tokio::task::yield_now().await;
    pd.proxy.listen();
    assert_eq!(connecting.await.unwrap().cluster_id(), CLUSTER_ID);
}

#[tokio::test]
async fn connecting_ends_at_its_deadline_with_the_cause() {
    let pd = PdNode::start(CLUSTER_ID).await;
    pd.proxy.refuse().await;
    let address = pd.proxy.address.to_string();
    let config = Config::default().with_timeout(SHORT);
    let connecting = Client::connect_with([address.clone()], config);
    let connected = guarded("the deadline", connecting).await;
    let error = connected.expect_err("refused");
    assert!(
        matches!(
            error,
            Error::Unavailable { .. } | Error::DeadlineExceeded { .. }
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains(&address), "{error}");
}

#[tokio::test]
async fn addresses_are_checked_before_anything_is_connected() {
    for addresses in [
        vec![],
        vec!["localhost"],
        vec!["127.0.0.1:2379", "http://h:1"],
    ] {
        let error = Client::connect(addresses).await.expect_err("refused");
        assert!(
            matches!(&error, Error::InvalidArgument { field, .. } if field == "pd_addresses"),
            "{error:?}"
        );
    }
    let config = Config::default().with_timeout(Duration::ZERO);
    let error = Client::connect_with(["127.0.0.1:2379"], config)
        .await
        .expect_err("refused");
    assert!(matches!(&error, Error::InvalidArgument { field, .. } if field == "timeout"));
}

#[tokio::test]
async fn timestamps_are_consecutive_in_a_batch_and_increase_between_calls() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let taken = client.tso_batch(5).await.unwrap();
    let all: Vec<_> = taken.into_iter().collect();
    assert_eq!((taken.len(), all.len()), (5, 5));
    assert!(
        all.windows(2)
            .all(|pair| pair[1].as_u64() == pair[0].as_u64() + 1)
    );

    cluster.pd.proxy.cut().await;
    assert!(client.tso().await.unwrap() > all[4]);
    for count in [0, 65_537] {
        let result = client.tso_batch(count).await;
        assert!(
            matches!(result, Err(Error::InvalidArgument { .. })),
            "{result:?}"
        );
    }
}

#[tokio::test]
async fn all_regions_are_listed_and_each_is_found_by_its_keys() {
    let cluster = Cluster::with_three_regions().await;
    let client = cluster.client().await;
    let listed = client.regions().await.unwrap();
    let ids: Vec<_> = listed.iter().map(|route| route.region.id).collect();
    assert_eq!(ids, [1, 2, 3]);
    assert_eq!(client.region("m").await.unwrap().as_ref(), Some(&listed[1]));
    assert_eq!(listed[1].leader.as_ref().map(|store| store.id), Some(1));

    cluster.pd.pd.set_routes(Vec::new());
    assert_eq!(client.region("m").await, Ok(None));
    assert_eq!(client.regions().await, Ok(Vec::new()));
}

#[tokio::test]
async fn health_tells_serving_from_not_serving_from_unreachable() {
    let cluster = Cluster::start().await;
    let dead = PdNode::start(CLUSTER_ID).await;
    let client = connect([cluster.pd.proxy.address, dead.proxy.address]).await;
    dead.proxy.refuse().await;
    cluster.node.set_serving(false);
    let found = client.health().await;
    let health = |address: std::net::SocketAddr| {
        let process = found
            .iter()
            .find(|process| process.address == address.to_string());
        process
            .map(|process| (process.role, &process.health))
            .expect("listed")
    };
    assert_eq!(found.len(), 3);
    assert_eq!(
        health(cluster.pd.proxy.address),
        (Role::PlacementDriver, &Health::Serving)
    );
    assert_eq!(
        health(cluster.node.proxy.address),
        (
            Role::Store { store_id: 1 },
            &Health::NotServing {
                cause: "it takes no writes; its log says why".to_owned()
            }
        )
    );
    assert!(matches!(
        health(dead.proxy.address),
        (_, Health::Unreachable { .. })
    ));
}
