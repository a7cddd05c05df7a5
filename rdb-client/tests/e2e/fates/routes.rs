//! How the client learns where things are.

use futures::future::join_all;
use rdb_client::{Client, Error};
use rdb_proto::errorpb::region_error::Kind;
use rdb_proto::errorpb::{ClusterMismatch, NotLeader, NotReady, StoreMismatch};
use rdb_proto::metapb::Limits;
use tonic::Status;

use crate::fates::cluster::{CLUSTER_ID, Cluster, SHORT, StoreNode, region};
use crate::fates::placement_driver::LIMITS;
use crate::fates::store::Step;
use crate::harness::{CallPath, over_both_paths};

over_both_paths! {
    a_split_is_learned_from_the_answer_without_the_placement_driver,
    the_placement_driver_does_not_bring_back_an_older_region,
    a_placement_driver_that_knows_less_is_not_asked_by_every_call,
    a_region_is_followed_to_its_new_leader,
    stores_that_each_name_the_other_are_asked_no_more_than_a_backoff_allows,
    a_region_without_a_leader_is_waited_for,
    a_store_that_is_behind_is_given_time_and_the_placement_driver_asked,
    a_call_that_got_nowhere_has_the_placement_driver_asked,
    a_call_that_was_cut_off_has_the_placement_driver_asked,
    a_call_that_ran_out_of_time_has_the_placement_driver_asked_by_the_next,
    a_store_of_another_cluster_at_the_old_address_is_left_when_the_placement_driver_knows_better,
}

async fn a_split_is_learned_from_the_answer_without_the_placement_driver(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    client.raw_put("a", "1").await.unwrap();
    assert_eq!(cluster.pd.pd.region_lookups(), 1);

    cluster
        .node
        .store
        .set_regions(vec![region(1, 2, "", "m"), region(2, 2, "m", "")]);
    client.raw_put("z", "2").await.unwrap();
    client.raw_put("a", "3").await.unwrap();
    assert_eq!(cluster.pd.pd.region_lookups(), 1);
    assert_eq!(cluster.node.store.requests(), 4, "one of them was refused");
    assert_eq!(
        (
            cluster.node.store.applied("a"),
            cluster.node.store.applied("z")
        ),
        (2, 1)
    );
}

async fn the_placement_driver_does_not_bring_back_an_older_region(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    client.raw_put("a", "1").await.unwrap();
    cluster
        .node
        .store
        .set_regions(vec![region(1, 2, "", "m"), region(2, 2, "m", "")]);
    client.raw_put("z", "2").await.unwrap();

    // A store that does not answer makes the client ask; what it hears is the region before the split.
    cluster.node.proxy.refuse().await;
    let (lookups, requests) = (
        cluster.pd.pd.region_lookups(),
        cluster.node.store.requests(),
    );
    let reading = tokio::spawn(async move { client.raw_get("z").await });
    cluster.pd.pd.wait_region_lookups(lookups + 2).await;
    cluster.node.proxy.listen();
    assert_eq!(reading.await.unwrap(), Ok(Some("2".into())));
    assert_eq!(
        cluster.node.store.requests(),
        requests + 1,
        "asked for the right region at once"
    );
}

async fn a_placement_driver_that_knows_less_is_not_asked_by_every_call(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    client.raw_put("k", "1").await.unwrap();
    let store = &cluster.node.store;
    store.set_regions(vec![region(1, 2, "", "")]);
    let refused = || Step::Refuse(Some(Kind::NotReady(NotReady::default())));
    // The first one tells the new epoch.
    client.raw_get("k").await.unwrap();
    store.script(1, [refused()]);
    for _ in 0..10 {
        client.raw_get("k").await.unwrap();
    }
    assert_eq!(cluster.pd.pd.region_lookups(), 2, "after the refusal");
}

async fn a_region_is_followed_to_its_new_leader(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    client.raw_put("k", "1").await.unwrap();

    let other = StoreNode::start(2, vec![region(1, 1, "", "")]).await;
    let moved = NotLeader {
        region_id: 1,
        leader: Some(other.description().into()),
        ..NotLeader::default()
    };
    cluster.node.store.refuse_always(Kind::NotLeader(moved));
    client.raw_put("k", "2").await.unwrap();
    client.raw_put("k", "3").await.unwrap();
    assert_eq!(other.store.applied("k"), 2);
    assert_eq!(cluster.node.store.requests(), 2, "asked in vain only once");
}

async fn stores_that_each_name_the_other_are_asked_no_more_than_a_backoff_allows(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    let other = StoreNode::start(2, vec![region(1, 1, "", "")]).await;
    let leads = |node: &StoreNode| {
        Kind::NotLeader(NotLeader {
            region_id: 1,
            leader: Some(node.description().into()),
            ..NotLeader::default()
        })
    };
    cluster.node.store.refuse_always(leads(&other));
    other.store.refuse_always(leads(&cluster.node));
    let result = client.with_timeout(SHORT).raw_put("k", "v").await;
    assert!(result.is_err());
    let requests = cluster.node.store.requests() + other.store.requests();
    assert!(requests < 100, "{requests} requests");
}

async fn a_region_without_a_leader_is_waited_for(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    let mut leaderless = cluster.node.route(region(1, 1, "", ""));
    leaderless.leader = None;
    cluster.pd.pd.set_routes(vec![leaderless]);
    let write = tokio::spawn(async move { client.raw_put("k", "v").await });
    cluster.pd.pd.wait_region_lookups(2).await;
    cluster
        .pd
        .pd
        .set_routes(vec![cluster.node.route(region(1, 1, "", ""))]);
    assert_eq!(write.await.unwrap(), Ok(()));
}

async fn a_store_that_is_behind_is_given_time_and_the_placement_driver_asked(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    let behind = || Step::Refuse(Some(Kind::EpochNotMatch(Default::default())));
    cluster.node.store.script(1, [behind(), behind()]);
    client.raw_put("k", "v").await.unwrap();
    assert_eq!(cluster.pd.pd.region_lookups(), 3, "after each of the two");
}

/// The region has moved to another store. The old one does not say so, and would serve a second attempt.
async fn a_call_that_got_nowhere_has_the_placement_driver_asked(path: CallPath) {
    let not_ready = NotReady {
        reason: "draining".to_owned(),
    };
    let mut steps = vec![
        Step::Refuse(Some(Kind::EpochNotMatch(Default::default()))),
        Step::Refuse(Some(Kind::StoreMismatch(StoreMismatch { store_id: 9 }))),
        Step::Refuse(Some(Kind::NotReady(not_ready))),
        Step::Refuse(None),
    ];
    if path == CallPath::Unary {
        steps.push(Step::Fail(Status::unimplemented("no such method")));
    }
    for step in steps {
        let name = format!("{step:?}");
        let (cluster, other, client) = moved(path).await;
        cluster.node.store.script(1, [step]);
        assert_eq!(client.raw_get("k").await, Ok(None), "{name}");
        assert_eq!(other.store.requests(), 1, "{name}");
    }
}

async fn a_call_that_was_cut_off_has_the_placement_driver_asked(path: CallPath) {
    let (cluster, other, client) = moved(path).await;
    cluster.node.store.script(1, [Step::Hang]);
    let reading = tokio::spawn(async move { client.raw_get("k").await });
    cluster.node.store.wait_arrived(2).await;
    cluster.node.proxy.cut().await;
    assert_eq!(reading.await.unwrap(), Ok(None));
    assert_eq!(other.store.requests(), 1);
}

async fn a_call_that_ran_out_of_time_has_the_placement_driver_asked_by_the_next(path: CallPath) {
    let (cluster, other, client) = moved(path).await;
    cluster.node.store.script(1, [Step::Hang]);
    let hurried = client.with_timeout(SHORT).raw_get("k").await;
    assert!(hurried.is_err(), "{hurried:?}");
    assert_eq!(client.raw_get("k").await, Ok(None));
    assert_eq!(other.store.requests(), 1);
}

/// A client that knows a store, and another store that leads the region by now, as the placement driver knows.
async fn moved(path: CallPath) -> (Cluster, StoreNode, Client) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    client.raw_put("other key", "v").await.unwrap();
    let other = StoreNode::start(2, vec![region(1, 1, "", "")]).await;
    let route = other.route(region(1, 1, "", ""));
    cluster.pd.pd.set_routes(vec![route]);
    (cluster, other, client)
}

async fn a_store_of_another_cluster_at_the_old_address_is_left_when_the_placement_driver_knows_better(
    path: CallPath,
) {
    let mut cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    client.raw_put("k", "1").await.unwrap();
    let mismatch = Kind::ClusterMismatch(ClusterMismatch { cluster_id: 8 });
    let foreign = StoreNode::start(1, Vec::new()).await;
    foreign.store.refuse_always(mismatch);
    let old_address = cluster.node.move_away().await;
    old_address.listen();
    old_address.lead_to(foreign.hidden_address()).await;

    // The placement driver has not heard of the move: it confirms the old address.
    let lookups = cluster.pd.pd.region_lookups();
    let result = client.raw_put("k", "2").await;
    let expected = Error::ClusterMismatch {
        expected: CLUSTER_ID,
        found: 8,
    };
    assert_eq!(result, Err(expected));
    assert!(cluster.pd.pd.region_lookups() > lookups, "it was asked");

    let route = cluster.node.route(region(1, 1, "", ""));
    cluster.pd.pd.set_routes(vec![route]);
    client.raw_put("k", "3").await.unwrap();
    assert_eq!(cluster.node.store.applied("k"), 2);
}

#[tokio::test]
async fn a_store_without_streams_gets_calls_of_their_own_until_it_knows_streams() {
    let mut cluster = Cluster::start().await;
    let regions = vec![region(1, 1, "", "")];
    let old_release = StoreNode::start_without_streams(1, regions).await;
    let new_release = std::mem::replace(&mut cluster.node, old_release);
    let route = cluster.node.route(region(1, 1, "", ""));
    cluster.pd.pd.set_routes(vec![route]);
    let client = cluster.client().await;
    let keys: Vec<String> = (0..100).map(|number| format!("key {number}")).collect();
    let puts = keys.iter().map(|key| client.raw_put(key, "v"));
    for put in join_all(puts).await {
        assert_eq!(put, Ok(()), "its fate is certain");
    }
    for key in &keys {
        assert_eq!(cluster.node.store.applied(key), 1, "{key}");
    }
    let commands = client.stats().commands;
    client.raw_put("k", "v").await.unwrap();
    assert_eq!(client.stats().commands, commands, "no stream is tried");

    let address = new_release.hidden_address();
    cluster.node.proxy.lead_to(address).await;
    client.raw_get("k").await.unwrap();
    client.raw_put("k", "v").await.unwrap();
    assert_eq!(new_release.store.applied("k"), 1);
    assert_eq!(
        new_release.store.message_commands(),
        1,
        "it came on a stream"
    );
}

#[tokio::test]
async fn messages_have_no_more_commands_than_the_cluster_accepts() {
    let cluster = Cluster::start().await;
    cluster.pd.pd.set_limits(Limits {
        batch_commands_max: 3,
        ..LIMITS
    });
    let client = cluster.client().await;
    let puts = (0..50).map(|number| client.raw_put(format!("{number}"), "v"));
    for put in join_all(puts).await {
        assert_eq!(put, Ok(()));
    }
    assert_eq!(cluster.node.store.message_commands(), 3);
}
