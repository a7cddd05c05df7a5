//! A region with three peers, whose leader moves, dies, falls silent or is slow.

use std::time::Instant;

use futures::StreamExt;
use futures::future::join_all;
use rdb_client::{Client, Error, ScanOptions};
use rdb_proto::errorpb::region_error::Kind;
use rdb_proto::errorpb::{NotLeader, NotReady};
use rdb_proto::metapb::RegionRoute;
use tokio::sync::watch;
use tonic::Status;

use crate::fates::cluster::{CLUSTER_ID, PATIENT, PdNode, SHORT, StoreNode, connect_over, region};
use crate::fates::proxy::Mode;
use crate::fates::store::Step;
use crate::harness::{CallPath, HANG_GUARD, guarded, over_both_paths};

over_both_paths! {
    a_leader_that_moved_is_found_by_its_hint_without_the_placement_driver,
    a_hint_of_an_earlier_term_is_not_followed,
    a_placement_driver_that_is_behind_does_not_bring_back_an_earlier_leader,
    a_leader_that_refuses_connections_is_left_without_the_placement_driver,
    the_next_leader_is_found_by_who_may_not_read_the_lowest_key,
    a_leader_that_fell_silent_is_left_by_reads_without_the_placement_driver,
    a_leader_that_fell_silent_is_left_by_who_may_not_read_the_lowest_key,
    a_peer_that_refuses_keeps_no_call_from_the_leader,
    a_peer_that_refuses_keeps_no_call_from_the_next_leader,
    a_leader_that_is_silent_from_the_start_is_left_by_a_write_that_is_applied_once,
    a_write_that_a_silent_leader_got_is_undetermined_and_sent_to_nobody_else,
    a_write_that_a_dying_leader_may_have_got_is_undetermined_and_sent_to_nobody_else,
    a_leader_that_is_cut_off_from_its_peers_is_left_by_the_call,
    a_slow_leader_that_leads_still_is_waited_for,
    an_election_is_waited_for,
    where_nobody_ever_leads_a_call_ends_at_its_deadline_as_unavailable,
    where_no_peer_leads_the_error_has_what_one_has_refused,
    peers_are_asked_when_the_placement_driver_knows_no_leader,
    peers_are_asked_where_a_sole_peer_has_got_others_and_nobody_knows_the_leader,
    who_may_not_do_it_is_told_so_where_nobody_knows_a_leader,
    who_may_not_do_it_is_told_so_when_the_leader_has_gone,
    calls_that_are_denied_one_after_the_other_share_a_search,
    a_new_address_of_the_leader_is_learned_from_the_placement_driver,
    a_thousand_calls_that_wait_for_a_leader_share_the_search,
}

/// Three stores with a peer each of one region, and a placement driver that knows.
pub(crate) struct Group {
    nodes: Vec<StoreNode>,
    pd: PdNode,
}

impl Group {
    /// Store 1 leads in term 1, as everybody knows.
    pub(crate) async fn start() -> Self {
        let mut nodes = Vec::new();
        for id in 1..=3 {
            nodes.push(StoreNode::start(id, vec![region(1, 1, "", "")]).await);
        }
        let pd = PdNode::start(CLUSTER_ID).await;
        let group = Self { nodes, pd };
        group.pd.pd.set_routes(vec![group.route(Some(1), 1)]);
        group.elect(1, 1);
        group
    }

    pub(crate) async fn client_over(&self, path: CallPath) -> Client {
        connect_over(path, [self.pd.proxy.address]).await
    }

    /// A client that gives no attempt to connect and no lookup up.
    async fn patient_client(&self, path: CallPath) -> Client {
        let config = path.config().with_timeout(PATIENT);
        let config = config.with_connect_timeout(2 * HANG_GUARD);
        let address = self.pd.proxy.address.to_string();
        Client::connect_with([address], config).await.unwrap()
    }

    fn node(&self, id: u64) -> &StoreNode {
        let found = self.nodes.iter().find(|node| node.store.id == id);
        found.expect("one of the three")
    }

    /// What the placement driver says if that is what it knows.
    fn route(&self, leader: Option<u64>, term: u64) -> RegionRoute {
        RegionRoute {
            region: Some(region(1, 1, "", "")),
            leader: leader.map(|id| self.node(id).description()),
            peers: self.nodes.iter().map(StoreNode::description).collect(),
            term,
            ..RegionRoute::default()
        }
    }

    fn not_leader(&self, leader: Option<u64>, term: u64) -> Kind {
        Kind::NotLeader(NotLeader {
            region_id: 1,
            leader: leader.map(|id| self.node(id).description().into()),
            term,
        })
    }

    /// The stores, not the placement driver, learn that this one leads.
    pub(crate) fn elect(&self, leader: u64, term: u64) {
        for node in &self.nodes {
            if node.store.id == leader {
                node.store.serve_always();
            } else {
                node.store
                    .refuse_always(self.not_leader(Some(leader), term));
            }
        }
    }

    /// No store knows a leader in this term.
    pub(crate) fn depose(&self, term: u64) {
        for node in &self.nodes {
            node.store.refuse_always(self.not_leader(None, term));
        }
    }

    /// How many writes of `key` the stores have applied.
    fn applied(&self, key: &str) -> [u64; 3] {
        [1, 2, 3].map(|id| self.node(id).store.applied(key))
    }

    /// How many requests for `key` have come to the stores.
    fn asked(&self, key: &str) -> [usize; 3] {
        [1, 2, 3].map(|id| self.node(id).store.asked(key))
    }
}

fn is_denied<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::PermissionDenied { .. }))
}

fn is_undetermined<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Undetermined { .. }))
}

async fn a_leader_that_moved_is_found_by_its_hint_without_the_placement_driver(path: CallPath) {
    let group = Group::start().await;
    let client = group.client_over(path).await;
    client.raw_put("k", "1").await.unwrap();
    group.pd.proxy.refuse().await;
    for (leader, term) in [(2, 2), (3, 3), (1, 4)] {
        group.elect(leader, term);
        client.raw_put("k", "v").await.unwrap();
        client.raw_put("k", "v").await.unwrap();
    }
    assert_eq!(group.applied("k"), [3, 2, 2]);
    assert_eq!(group.asked("k"), [4, 3, 3], "one in vain for each move");
}

async fn a_hint_of_an_earlier_term_is_not_followed(path: CallPath) {
    let group = Group::start().await;
    group.elect(2, 2);
    group.pd.pd.set_routes(vec![group.route(Some(2), 2)]);
    let client = group.client_over(path).await;
    client.raw_put("k", "1").await.unwrap();
    let late = Step::Refuse(Some(group.not_leader(Some(1), 1)));
    group.node(2).store.script(1, [late]);
    client.raw_put("k", "2").await.unwrap();
    assert_eq!(group.asked("k"), [0, 3, 0]);
}

async fn a_placement_driver_that_is_behind_does_not_bring_back_an_earlier_leader(path: CallPath) {
    let group = Group::start().await;
    let client = group.client_over(path).await;
    client.raw_put("k", "1").await.unwrap();
    group.elect(2, 2);
    client.raw_get("k").await.unwrap();
    assert_eq!(group.asked("k"), [2, 1, 0]);

    group.node(2).proxy.refuse().await;
    let lookups = group.pd.pd.region_lookups();
    let reading = tokio::spawn(async move { client.raw_get("k").await });
    // The second question is asked after the answer to the first: that store 1 leads, in term 1.
    group.pd.pd.wait_region_lookups(lookups + 2).await;
    group.node(2).proxy.listen();
    assert_eq!(reading.await.unwrap(), Ok(None));
    assert_eq!(group.asked("k"), [2, 2, 0], "nobody else was asked");
}

async fn a_leader_that_refuses_connections_is_left_without_the_placement_driver(path: CallPath) {
    let group = Group::start().await;
    let client = group.client_over(path).await;
    client.raw_put("k", "1").await.unwrap();
    group.pd.proxy.refuse().await;
    group.node(1).proxy.refuse().await;
    group.elect(2, 2);
    assert_eq!(client.raw_get("k").await, Ok(None), "of store 2");
    client.raw_put("k", "2").await.unwrap();
    assert_eq!(group.applied("k"), [1, 1, 0]);
}

async fn the_next_leader_is_found_by_who_may_not_read_the_lowest_key(path: CallPath) {
    let group = Group::start().await;
    for node in &group.nodes {
        node.store.allow_only("k");
    }
    let client = group.client_over(path).await;
    client.raw_put("k", "1").await.unwrap();
    group.pd.proxy.refuse().await;
    group.node(1).proxy.refuse().await;
    group.elect(2, 2);
    client.raw_put("k", "2").await.unwrap();
    assert_eq!(group.applied("k"), [1, 1, 0]);
    let denied = client.raw_put("a", "1").await;
    assert!(is_denied(&denied), "{denied:?}");
}

async fn a_leader_that_fell_silent_is_left_by_reads_without_the_placement_driver(path: CallPath) {
    let group = Group::start().await;
    let client = group.client_over(path).await;
    client.raw_put("k", "1").await.unwrap();
    group.pd.proxy.refuse().await;
    group.node(1).proxy.set_mode(Mode::HoldAnswers);
    group.elect(2, 2);
    let scan = async {
        let entries: Vec<_> = client
            .raw_scan("a".., ScanOptions::default())
            .collect()
            .await;
        entries
    };
    let (point, batch, entries) =
        futures::join!(client.raw_get("k"), client.raw_batch_get(["k"]), scan);
    assert_eq!(point, Ok(None), "of store 2");
    assert_eq!(batch, Ok(vec![None]));
    assert_eq!(entries, []);
    client.raw_put("k", "2").await.unwrap();
    assert_eq!(group.applied("k"), [1, 1, 0]);
}

async fn a_leader_that_fell_silent_is_left_by_who_may_not_read_the_lowest_key(path: CallPath) {
    let group = Group::start().await;
    for node in &group.nodes {
        node.store.allow_only("k");
    }
    let client = group.client_over(path).await;
    client.raw_put("k", "1").await.unwrap();
    group.pd.proxy.refuse().await;
    group.node(1).proxy.set_mode(Mode::HoldAnswers);
    group.elect(2, 2);
    assert_eq!(client.raw_get("k").await, Ok(None), "of store 2");
    client.raw_put("k", "2").await.unwrap();
    assert_eq!(group.applied("k"), [1, 1, 0]);
}

/// Its copy of the rights may be old, and the leader says later that it leads.
async fn a_peer_that_refuses_keeps_no_call_from_the_leader(path: CallPath) {
    let group = Group::start().await;
    let client = group.client_over(path).await;
    client.raw_put("k", "1").await.unwrap();
    group.pd.proxy.refuse().await;
    group.node(2).store.allow_only("other key");
    let not_ready = Kind::NotReady(NotReady {
        reason: "it hiccups".into(),
    });
    let (release, held) = watch::channel(false);
    let steps = [Step::Refuse(Some(not_ready)), Step::Hold(held)];
    group.node(1).store.script(1, steps);
    let mut write = tokio::spawn(async move { client.raw_put("k", "2").await });
    let search = async {
        // It has denied the lowest key and the key itself in both keyspaces, and the search goes on.
        group.node(2).store.wait_arrived(3).await;
        group.node(3).store.wait_arrived(4).await;
        release.send_replace(true);
    };
    // A write that is denied ends before the peers are asked that often.
    let ended = tokio::select! {
        ended = &mut write => ended,
        () = search => write.await,
    };
    assert_eq!(ended.unwrap(), Ok(()));
    assert_eq!(group.applied("k"), [2, 0, 0]);
}

/// An election takes longer than others have to bring news once a peer has refused.
async fn a_peer_that_refuses_keeps_no_call_from_the_next_leader(path: CallPath) {
    let group = Group::start().await;
    let client = group.client_over(path).await;
    client.raw_put("k", "1").await.unwrap();
    group.node(1).proxy.refuse().await;
    group.node(2).store.allow_only("other key");
    let mut write = tokio::spawn(async move { client.raw_put("k", "2").await });
    // The waits between so many questions are at least 1.6 s together.
    tokio::select! {
        ended = &mut write => panic!("it has not waited for the next leader: {ended:?}"),
        () = group.node(3).store.wait_arrived(10) => {}
    }
    group.elect(3, 2);
    assert_eq!(write.await.unwrap(), Ok(()));
    assert_eq!(group.applied("k"), [1, 0, 1]);
}

async fn a_leader_that_is_silent_from_the_start_is_left_by_a_write_that_is_applied_once(
    path: CallPath,
) {
    let group = Group::start().await;
    // Only the peers can tell that another one leads, not the end of an attempt to connect.
    let client = group.patient_client(path).await;
    group.node(1).proxy.set_mode(Mode::HoldAnswers);
    group.elect(2, 2);
    assert_eq!(client.cas_put("k", 0, "v").await, Ok(1));
    assert_eq!(group.applied("k"), [0, 1, 0]);
}

async fn a_write_that_a_silent_leader_got_is_undetermined_and_sent_to_nobody_else(path: CallPath) {
    let group = Group::start().await;
    let client = group.client_over(path).await;
    client.raw_get("other key").await.unwrap();
    group.node(1).proxy.set_mode(Mode::HoldAnswers);
    group.elect(2, 2);
    // Nobody hears that it takes writes still.
    group.node(1).store.serve_always();
    let hurried = client.with_timeout(4 * SHORT);
    let write = tokio::spawn(async move { hurried.cas_put("k", 0, "v").await });
    group.node(1).store.wait_applied(1).await;
    assert_eq!(client.get("k").await, Ok(None), "of store 2");
    let result = write.await.unwrap();
    assert!(is_undetermined(&result), "{result:?}");
    assert_eq!(group.applied("k"), [1, 0, 0]);
}

async fn a_write_that_a_dying_leader_may_have_got_is_undetermined_and_sent_to_nobody_else(
    path: CallPath,
) {
    let group = Group::start().await;
    let client = group.client_over(path).await;
    client.raw_get("k").await.unwrap();
    group.elect(2, 2);
    group.node(1).proxy.set_mode(Mode::CutRequests);
    let result = client.cas_put("k", 0, "v").await;
    assert!(is_undetermined(&result), "{result:?}");
    assert_eq!(group.asked("k"), [1, 0, 0], "the read alone");
    assert_eq!(client.get("k").await, Ok(None), "of store 2");
    assert_eq!(group.applied("k"), [0, 0, 0]);
}

async fn a_leader_that_is_cut_off_from_its_peers_is_left_by_the_call(path: CallPath) {
    let group = Group::start().await;
    let client = group.client_over(path).await;
    client.raw_put("k", "1").await.unwrap();
    let no_quorum = || Step::Fail(Status::unavailable("no quorum"));
    group
        .node(1)
        .store
        .script(1, (0..1000).map(|_| no_quorum()));
    group.elect(2, 2);
    let result = client.raw_put("k", "2").await;
    assert!(is_undetermined(&result), "{result:?}");
    assert_eq!(client.raw_get("k").await, Ok(None), "of store 2");
    assert_eq!(group.asked("k"), [2, 1, 0]);
}

async fn a_slow_leader_that_leads_still_is_waited_for(path: CallPath) {
    let group = Group::start().await;
    let client = group.client_over(path).await;
    client.raw_put("k", "v").await.unwrap();
    let (release, held) = watch::channel(false);
    group.node(1).store.script(1, [Step::Hold(held)]);
    let reading = tokio::spawn(async move { client.raw_get("k").await });
    // The write, the read, and twice the question whether it leads.
    group.node(1).store.wait_arrived(4).await;
    release.send_replace(true);
    assert_eq!(reading.await.unwrap(), Ok(Some("v".into())));
    assert_eq!(group.asked("k"), [2, 0, 0], "the read was sent once");
}

async fn an_election_is_waited_for(path: CallPath) {
    let group = Group::start().await;
    let client = group.client_over(path).await;
    client.raw_put("k", "1").await.unwrap();
    group.depose(2);
    let write = tokio::spawn(async move { client.raw_put("k", "2").await });
    for id in 2..=3 {
        group.node(id).store.wait_arrived(8).await;
    }
    group.elect(3, 3);
    assert_eq!(write.await.unwrap(), Ok(()));
    assert_eq!(group.applied("k"), [1, 0, 1]);
    assert_eq!(
        group.asked("k"),
        [2, 0, 1],
        "the peers were asked something else"
    );
}

async fn where_nobody_ever_leads_a_call_ends_at_its_deadline_as_unavailable(path: CallPath) {
    let group = Group::start().await;
    let client = group.client_over(path).await;
    group.depose(2);
    let result = client.with_timeout(SHORT).raw_put("k", "v").await;
    let error = result.expect_err("nobody leads");
    assert!(
        matches!(error, Error::Unavailable { .. }) && error.to_string().contains("region 1"),
        "{error:?}"
    );
}

async fn where_no_peer_leads_the_error_has_what_one_has_refused(path: CallPath) {
    let group = Group::start().await;
    for node in &group.nodes {
        let too_old = || Step::Fail(Status::unavailable("the rights are too old"));
        node.store.script(1, (0..1000).map(|_| too_old()));
    }
    let client = group.client_over(path).await;
    let result = client.with_timeout(SHORT).raw_get("k").await;
    let error = result.expect_err("nobody says who leads");
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    let told = error.to_string();
    let parts = ["no peer of region 1 says", "the rights are too old"];
    assert!(parts.iter().all(|part| told.contains(part)), "{told}");
}

/// The write goes to the leader alone: one that a silent peer may have got would be undetermined.
async fn peers_are_asked_when_the_placement_driver_knows_no_leader(path: CallPath) {
    let group = Group::start().await;
    group.pd.pd.set_routes(vec![group.route(None, 0)]);
    group.node(1).proxy.set_mode(Mode::HoldAnswers);
    group.elect(2, 2);
    let client = group.client_over(path).await;
    client.raw_put("k", "v").await.unwrap();
    assert_eq!(group.asked("k"), [0, 1, 0]);
}

async fn peers_are_asked_where_a_sole_peer_has_got_others_and_nobody_knows_the_leader(
    path: CallPath,
) {
    let group = Group::start().await;
    let alone = RegionRoute {
        peers: vec![group.node(1).description()],
        ..group.route(Some(1), 1)
    };
    group.pd.pd.set_routes(vec![alone]);
    let client = group.client_over(path).await;
    client.raw_put("k", "1").await.unwrap();
    group.pd.pd.set_routes(vec![group.route(None, 1)]);
    group.elect(2, 2);
    let not_ready = Kind::NotReady(NotReady {
        reason: "it hiccups".into(),
    });
    let (_release, held) = watch::channel(false);
    let steps = [Step::Refuse(Some(not_ready)), Step::Hold(held)];
    group.node(1).store.script(1, steps);
    assert_eq!(client.raw_put("k", "2").await, Ok(()));
    assert_eq!(group.applied("k"), [1, 1, 0]);
}

async fn who_may_not_do_it_is_told_so_where_nobody_knows_a_leader(path: CallPath) {
    let group = Group::start().await;
    group.pd.pd.set_routes(vec![group.route(None, 0)]);
    group.depose(2);
    for node in &group.nodes {
        node.store.allow_only("k");
    }
    let client = group.client_over(path).await;
    let denied = client.raw_put("a", "1").await;
    assert!(is_denied(&denied), "{denied:?}");
}

/// It has to be told though nobody leads, and others who wait for a leader have to find it.
async fn who_may_not_do_it_is_told_so_when_the_leader_has_gone(path: CallPath) {
    let group = Group::start().await;
    for node in &group.nodes {
        node.store.allow_only("k");
    }
    let client = group.client_over(path).await;
    client.raw_put("k", "1").await.unwrap();
    group.pd.proxy.refuse().await;
    group.node(1).proxy.refuse().await;
    group.depose(2);
    let denied = client.raw_put("a", "1").await;
    assert!(is_denied(&denied), "{denied:?}");
    group.elect(3, 3);
    client.raw_put("k", "2").await.unwrap();
    assert_eq!(group.applied("k"), [1, 0, 1]);
}

async fn calls_that_are_denied_one_after_the_other_share_a_search(path: CallPath) {
    let group = Group::start().await;
    for node in &group.nodes {
        node.store.allow_only("k");
    }
    let client = group.client_over(path).await;
    client.raw_put("k", "1").await.unwrap();
    group.node(1).proxy.refuse().await;
    group.depose(2);
    for _ in 0..20 {
        let denied = client.raw_put("a", "1").await;
        assert!(is_denied(&denied), "{denied:?}");
    }
    let asked: usize = group.asked("a").iter().sum();
    assert!(
        asked < 80,
        "twenty searches and calls ask 100 times: {asked}"
    );
}

async fn a_new_address_of_the_leader_is_learned_from_the_placement_driver(path: CallPath) {
    let mut group = Group::start().await;
    let client = group.client_over(path).await;
    client.raw_put("k", "1").await.unwrap();
    let _old_address = group.nodes[0].move_away().await;
    // The peers name the old address.
    group.pd.pd.set_routes(vec![group.route(Some(1), 1)]);
    assert_eq!(client.raw_get("k").await, Ok(Some("1".into())));
    assert_eq!(group.asked("k"), [2, 0, 0]);
}

async fn a_thousand_calls_that_wait_for_a_leader_share_the_search(path: CallPath) {
    let group = Group::start().await;
    group.node(1).proxy.refuse().await;
    group.depose(2);
    // However slow this machine is, no lookup takes too long for others to join it.
    let client = group.patient_client(path).await;
    let began_at = Instant::now();
    let keys: Vec<String> = (0..1000).map(|number| format!("key {number}")).collect();
    let calls = keys.iter().enumerate().map(|(number, key)| {
        let client = client.clone();
        async move {
            if number % 2 == 0 {
                client.raw_put(key, "v").await
            } else {
                client.raw_get(key).await.map(drop)
            }
        }
    });
    let election = async {
        group.node(2).store.wait_arrived(5).await;
        group.elect(2, 3);
    };
    let (results, ()) = guarded("all calls", async {
        futures::join!(join_all(calls), election)
    })
    .await;
    for (key, result) in keys.iter().zip(results) {
        assert_eq!(result, Ok(()), "{key}");
        assert_eq!(group.asked(key), [0, 1, 0], "{key}");
    }
    // One before a route is known. Then there is one search at a time, which waits for 100 ms at least before it asks.
    let lookups = group.pd.pd.region_lookups() as u128;
    let lookups_max = 1 + began_at.elapsed().as_millis() / 100;
    assert!(lookups <= lookups_max, "{lookups} lookups");
}
