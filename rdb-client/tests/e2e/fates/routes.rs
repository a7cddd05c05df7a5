//! How the client learns where things are.

use rdb_proto::errorpb::NotLeader;
use rdb_proto::errorpb::region_error::Kind;

use crate::fates::cluster::{Cluster, SHORT, StoreNode, region};
use crate::fates::store::Step;
use crate::harness::{CallPath, over_both_paths};

over_both_paths! {
    a_split_is_learned_from_the_answer_without_the_placement_driver,
    the_placement_driver_does_not_bring_back_an_older_region,
    a_region_is_followed_to_its_new_leader,
    stores_that_each_name_the_other_are_asked_no_more_than_a_backoff_allows,
    a_region_without_a_leader_is_waited_for,
    a_store_that_is_behind_is_given_time,
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

async fn a_region_is_followed_to_its_new_leader(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    client.raw_put("k", "1").await.unwrap();

    let other = StoreNode::start(2, vec![region(1, 1, "", "")]).await;
    let moved = NotLeader {
        region_id: 1,
        leader: Some(other.description()),
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
            leader: Some(node.description()),
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

async fn a_store_that_is_behind_is_given_time(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = cluster.client_over(path).await;
    let behind = || Step::Refuse(Some(Kind::EpochNotMatch(Default::default())));
    cluster.node.store.script(1, [behind(), behind()]);
    client.raw_put("k", "v").await.unwrap();
    assert_eq!(
        cluster.pd.pd.region_lookups(),
        1,
        "what the client knows is newer"
    );
}
