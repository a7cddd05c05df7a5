//! Replicas that come to stores and leave them, one step after the other, as the placement driver decides.

use std::collections::BTreeSet;

use bytes::Bytes;
use rdb_proto::adminpb::get_checksum_response::State;
use rdb_proto::adminpb::region_admin_client::RegionAdminClient;
use rdb_proto::adminpb::{BeginCheckRequest, GetChecksumRequest, Position, TransferLeaderRequest};
use rdb_proto::errorpb::region_error::Kind;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::kvrpc::{RawGetRequest, RawPutRequest};
use rdb_proto::metapb::Peer;
use rdb_proto::pdpb::region_step::Step;
use rdb_proto::pdpb::{HeldPeer, RegionReport, RegionStep};
use tempfile::TempDir;
use tonic::Code;

use crate::harness::{Node, connect, found};
use crate::scripted_pd::{REGION_ID, ScriptedPd};

/// Stores 1 and on, of which the first one begins alone with the region.
struct Stores {
    pd: ScriptedPd,
    stores: Vec<Node>,
    _directory: TempDir,
}

impl Stores {
    async fn start(durabilities: &[&str]) -> Self {
        let directory = TempDir::new().expect("the temporary directory can be written");
        let pd = ScriptedPd::start("", "").await;
        let mut stores = Vec::new();
        for (number, durability) in (1..).zip(durabilities) {
            let data_dir = directory.path().join(format!("store-{number}"));
            let store = Node::store(data_dir, &pd.address())
                .with_flag("--durability", durability)
                .with_flag("--log-level", "debug");
            stores.push(store);
        }
        let mut stores = Self {
            pd,
            stores,
            _directory: directory,
        };
        for id in 1..=durabilities.len() {
            // In this order, so that each gets its id.
            stores.store(id as u64).start_serving().await;
            stores.has_sent(id as u64, 1).await;
        }
        stores
    }

    fn store(&mut self, id: u64) -> &mut Node {
        &mut self.stores[id as usize - 1]
    }

    fn address(&self, id: u64) -> String {
        self.stores[id as usize - 1].address()
    }

    async fn restart(&mut self, id: u64) {
        let store = self.store(id);
        store.kill();
        store.start_serving().await;
        self.has_sent(id, 2).await;
    }

    /// Waits until a store has sent so many heartbeats more.
    async fn has_sent(&self, id: u64, more: u64) {
        let sent = || self.pd.heartbeat_of(id).map_or(0, |(_, count)| count);
        let before = sent();
        found("the store sends heartbeats", async || {
            (sent() >= before + more).then_some(())
        })
        .await;
    }

    fn count(&self, id: u64) -> u64 {
        let heartbeat = self.pd.heartbeat_of(id).expect("it has sent one").0;
        heartbeat.region_count.expect("it says so")
    }

    fn holds(&self, id: u64) -> Option<HeldPeer> {
        self.pd.heartbeat_of(id)?.0.holds.first().copied()
    }

    /// Waits until a store holds this peer, and has its data.
    async fn has_replica(&self, id: u64, peer_id: u64) {
        found("the store has the replica", async || {
            let held = self.holds(id)?;
            (held.peer_id == peer_id && held.conf_version > 0).then_some(())
        })
        .await;
    }

    /// What the latest leader has said.
    fn report(&self) -> Option<RegionReport> {
        let heartbeats = (1..=self.stores.len() as u64).filter_map(|id| self.pd.heartbeat_of(id));
        let reports = heartbeats.flat_map(|(heartbeat, _)| heartbeat.leads);
        reports.max_by_key(|report| (report.term, conf_version(report)))
    }

    /// Hands a step out until the region is as it should be.
    async fn take(&self, step: Step, is_done: impl Fn(&RegionReport) -> bool) {
        let what = format!("{step:?} is taken");
        found(&what, async || {
            let report = self.report()?;
            if is_done(&report) {
                return Some(());
            }
            let conf_version = conf_version(&report);
            self.pd.hand_out(Some(step_at(conf_version, step)));
            None
        })
        .await;
        self.pd.hand_out(None);
    }

    async fn add_learner(&self, id: u64, store_id: u64) {
        let peer = peer(id, store_id);
        let is_done = |report: &RegionReport| role(report, id) == Some(true);
        self.take(Step::AddLearner(peer), is_done).await;
    }

    async fn promote(&self, id: u64) {
        let is_done = |report: &RegionReport| role(report, id) == Some(false);
        self.take(Step::Promote(id), is_done).await;
    }

    async fn remove(&self, id: u64) {
        let is_done = |report: &RegionReport| role(report, id).is_none();
        self.take(Step::Remove(id), is_done).await;
    }

    /// Asks one store after the other.
    async fn put(&self, key: &'static str) {
        found("a store takes the write", async || {
            for store in &self.stores {
                let Ok(channel) = connect(&store.address()).await else {
                    continue;
                };
                let request = RawPutRequest {
                    context: None,
                    key: key.into(),
                    value: vec![7; 100_000].into(),
                };
                let put = KvRawClient::new(channel).raw_put(request).await;
                if put.is_ok_and(|put| put.into_inner().region_error.is_none()) {
                    return Some(());
                }
            }
            None
        })
        .await;
    }

    /// What these stores hold, as of one entry, and how many keys.
    async fn checksums(&self, ids: &[u64]) -> BTreeSet<(Bytes, u64)> {
        // A replica may get its data from another store at this very moment.
        found("the replicas are checked", async || {
            let position = self.begin_check().await?;
            let mut sums = BTreeSet::new();
            for &id in ids {
                sums.insert(self.checksum(id, position).await?);
            }
            Some(sums)
        })
        .await
    }

    async fn begin_check(&self) -> Option<Position> {
        for store in &self.stores {
            let channel = connect(&store.address()).await.ok()?;
            let begun = RegionAdminClient::new(channel)
                .begin_check(BeginCheckRequest::default())
                .await;
            if let Some(position) = begun.ok().and_then(|begun| begun.into_inner().position) {
                return Some(position);
            }
        }
        None
    }

    /// `None`: the replica has none of that position.
    async fn checksum(&self, id: u64, position: Position) -> Option<(Bytes, u64)> {
        found("the replica answers", async || {
            let channel = connect(&self.address(id)).await.ok()?;
            let request = GetChecksumRequest {
                context: None,
                position: Some(position),
                wait_ms: 1000,
            };
            let answer = RegionAdminClient::new(channel).get_checksum(request).await;
            match answer.ok()?.into_inner().state? {
                State::Checksum(sum) => Some(Some((sum.digest, sum.key_count))),
                State::Failure(_) => Some(None),
                State::NotReached(_) | State::SummedBytes(_) => None,
            }
        })
        .await
    }

    /// Names what a store holds as removed, until it has nothing.
    async fn destroy_all(&self, id: u64) {
        found("the replica is destroyed", async || {
            let (heartbeat, _) = self.pd.heartbeat_of(id)?;
            let is_done = heartbeat.region_count == Some(0);
            self.pd.name_removed(heartbeat.holds);
            is_done.then_some(())
        })
        .await;
        self.pd.name_removed(Vec::new());
    }
}

fn conf_version(report: &RegionReport) -> u64 {
    report.epoch.expect("it is always there").conf_version
}

fn step_at(conf_version: u64, step: Step) -> RegionStep {
    RegionStep {
        region_id: REGION_ID,
        conf_version,
        step: Some(step),
    }
}

fn peer(id: u64, store_id: u64) -> Peer {
    Peer {
        id,
        store_id,
        learner: true,
    }
}

/// Whether a peer is a learner. `None`: it is no member.
fn role(report: &RegionReport, id: u64) -> Option<bool> {
    let mut peers = report.peers.iter();
    Some(peers.find(|peer| peer.id == id)?.learner)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_grows_to_three_stores_and_leaves_the_first_one() {
    let mut stores = Stores::start(&["sync"; 3]).await;
    stores.put("alone").await;
    stores.add_learner(2, 2).await;
    stores.has_replica(2, 2).await;
    stores.restart(2).await;
    stores.has_replica(2, 2).await;
    stores.restart(1).await;
    stores.promote(2).await;
    stores.restart(2).await;
    stores.put("two").await;
    stores.add_learner(3, 3).await;
    stores.promote(3).await;
    stores.restart(3).await;
    stores.put("three").await;
    let sums = stores.checksums(&[1, 2, 3]).await;
    assert_eq!(sums.len(), 1, "{sums:?}");
    assert_eq!(sums.first().expect("one").1, 3);

    let leads = |report: &RegionReport| report.peer_id == 2;
    stores.take(Step::TransferLeader(2), leads).await;
    stores.remove(1).await;
    stores.put("without the first").await;
    // It was told nothing.
    stores.has_replica(1, 1).await;
    stores.destroy_all(1).await;
    let get = async |stores: &Stores| {
        let channel = connect(&stores.address(1)).await.expect("it listens");
        let request = RawGetRequest {
            context: None,
            key: "alone".into(),
        };
        let got = KvRawClient::new(channel).raw_get(request).await;
        got.expect("an answer").into_inner().region_error
    };
    let error = get(&stores).await.expect("it is not here");
    assert!(matches!(error.kind, Some(Kind::RegionNotFound(_))));
    stores.restart(1).await;
    assert_eq!(stores.count(1), 0);

    // As a late message would ask for it.
    stores.add_learner(1, 1).await;
    stores.store(1).wait_for_log("it was destroyed here").await;
    stores.has_sent(1, 2).await;
    assert_eq!(stores.count(1), 0);
    stores.remove(1).await;

    stores.add_learner(4, 1).await;
    stores.has_replica(1, 4).await;
    stores.promote(4).await;
    stores.put("with the first").await;
    stores.restart(1).await;
    let sums = stores.checksums(&[1, 2, 3]).await;
    assert_eq!(sums.len(), 1, "{sums:?}");
    assert_eq!(sums.first().expect("one").1, 5);
    assert_eq!(stores.count(1), 1);
}

/// The ids of the peers that live.
fn live(report: &RegionReport) -> Vec<u64> {
    let live = report.live.expect("it tells");
    let peers = report.peers.iter().enumerate();
    let live = peers.filter(|(position, _)| live >> position & 1 == 1);
    live.map(|(_, peer)| peer.id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_tells_which_peers_live_and_hands_over_to_no_other() {
    let mut stores = Stores::start(&["sync"; 3]).await;
    for id in [2, 3] {
        stores.add_learner(id, id).await;
    }
    for id in [3, 2] {
        stores.promote(id).await;
    }
    let live_are = async |stores: &Stores, expected: &[u64]| {
        found("the leader tells who lives", async || {
            let report = stores.report()?;
            (live(&report) == expected).then_some(report)
        })
        .await
    };
    live_are(&stores, &[1, 2, 3]).await;
    stores.store(3).kill();
    let before = live_are(&stores, &[1, 2]).await;
    let leads_on = before.peer_id;
    let channel = connect(&stores.address(leads_on))
        .await
        .expect("it listens");
    let request = TransferLeaderRequest {
        context: None,
        to_store: 3,
    };
    let mut admin = RegionAdminClient::new(channel);
    let refused = admin.transfer_leader(request).await;
    stores.has_sent(leads_on, 2).await;
    // One that was elected meanwhile has never heard of the third.
    if stores.report().expect("it leads").term == before.term {
        assert_eq!(
            refused.expect_err("it is gone").code(),
            Code::FailedPrecondition
        );
    }
    stores.store(3).start_serving().await;
    live_are(&stores, &[1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_hears_of_no_majority_says_so_and_takes_no_step() {
    let mut stores = Stores::start(&["sync"; 3]).await;
    for id in [2, 3] {
        stores.add_learner(id, id).await;
    }
    for id in [3, 2] {
        stores.promote(id).await;
    }
    let all_live = found("all live", async || {
        let report = stores.report()?;
        (live(&report) == [1, 2, 3]).then_some(report)
    });
    // Each peer is on the store with its id.
    let leads_on = all_live.await.peer_id;
    for id in (1..=3).filter(|&id| id != leads_on) {
        stores.store(id).kill();
    }
    let report = found("the leader says so", async || {
        let report = stores.report()?;
        live(&report).is_empty().then_some(report)
    })
    .await;
    let step = step_at(conf_version(&report), Step::AddLearner(peer(4, 4)));
    stores.pd.hand_out(Some(step));
    let store = stores.store(leads_on);
    store
        .wait_for_log("does not hear of a majority of its voters")
        .await;
    let log = store.log();
    assert!(!log.contains("the first step error"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_is_taken_only_under_the_membership_that_it_was_decided_for() {
    let stores = Stores::start(&["sync"; 3]).await;
    let report = found("the region has a leader", async || stores.report()).await;
    let before = conf_version(&report);
    stores.add_learner(2, 2).await;
    let report = stores.report().expect("it leads");
    let now = conf_version(&report);
    assert!(before < now);
    for decided_for in [before, now + 1] {
        let step = step_at(decided_for, Step::AddLearner(peer(3, 3)));
        stores.pd.hand_out(Some(step));
        let refused =
            format!("it was decided for conf_version {decided_for}, and the region has {now}");
        stores.stores[0].wait_for_log(&refused).await;
        stores.pd.hand_out(None);
        stores.has_sent(1, 2).await;
        assert_eq!(stores.report().expect("it leads").peers, report.peers);
    }
    stores.add_learner(3, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_does_not_keep_what_it_promises_has_no_replicas_together_with_others() {
    let stores = Stores::start(&["os", "sync"]).await;
    let heartbeat = stores.pd.heartbeat_of(1).expect("it has sent one").0;
    assert!(heartbeat.takes_no_replicas);
    let report = found("the region has a leader", async || stores.report()).await;
    let step = step_at(conf_version(&report), Step::AddLearner(peer(2, 2)));
    stores.pd.hand_out(Some(step));
    stores.stores[0]
        .wait_for_log("--durability=os: after")
        .await;
    stores.has_sent(1, 2).await;
    assert_eq!(stores.report().expect("it leads").peers, report.peers);

    let stores = Stores::start(&["sync", "os"]).await;
    stores.add_learner(2, 2).await;
    // It is asked for the peer all the time.
    stores.has_sent(2, 20).await;
    assert_eq!(stores.count(2), 0);
}
