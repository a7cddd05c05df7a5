//! How the members of a region change: stores that say what they hold, and a leader that does what it is told.

use std::collections::BTreeMap;

use rdb_proto::metapb::{Peer, Region, RegionRoute, StoreState};
use rdb_proto::pdpb::region_step::Step;
use rdb_proto::pdpb::*;

use super::*;

/// How often scripted stores send heartbeats.
const BEAT: Duration = Duration::from_millis(50);

/// Scripted stores of a cluster whose first region begins on the first of them.
struct Stores {
    pd: Running,
    cluster_id: u64,
    /// The addresses of those that send heartbeats, by their ids.
    alive: BTreeMap<u64, String>,
    region: Region,
    leader: Peer,
    term: u64,
    /// Whether the leader does what it is told.
    obeys: bool,
    /// The peer that the leader says not to live.
    dead: Option<u64>,
    steps: Vec<Step>,
    /// The `conf_version` that the last step was for.
    last_step_at: u64,
}

fn settings(config: &mut Config) {
    config.store_down_after_s = 20;
}

impl Stores {
    async fn start(directory: &Path, count: u64) -> Self {
        let mut pd = start_with(directory, settings).await.unwrap();
        let first = pd.register("store-1:1", 0, 0).await.unwrap();
        let region = first.regions[0].clone();
        let mut stores = Self {
            pd,
            cluster_id: first.cluster_id,
            alive: BTreeMap::from([(1, "store-1:1".to_owned())]),
            leader: region.peers[0],
            region,
            term: 1,
            obeys: true,
            dead: None,
            steps: Vec::new(),
            last_step_at: 0,
        };
        for _ in 1..count {
            stores.add_store().await;
        }
        stores
    }

    async fn add_store(&mut self) -> u64 {
        let address = format!("store-{}:1", self.alive.len() + 1);
        let registered = self.pd.register(&address, 0, 0).await.unwrap();
        self.alive.insert(registered.store_id, address);
        registered.store_id
    }

    async fn restart_pd(self, directory: &Path) -> Self {
        let Self { pd, .. } = self;
        pd.stop().await;
        let pd = start_with(directory, settings).await.unwrap();
        Self { pd, ..self }
    }

    fn request(&self, store_id: u64) -> StoreHeartbeatRequest {
        let address = &self.alive[&store_id];
        StoreHeartbeatRequest {
            cluster_id: self.cluster_id,
            store_id,
            address: address.clone(),
            incarnation: incarnation_at(address),
            region_count: Some(1),
            ..StoreHeartbeatRequest::default()
        }
    }

    async fn send(
        &mut self,
        heartbeat: &StoreHeartbeatRequest,
    ) -> Result<StoreHeartbeatResponse, Status> {
        let answer = self.pd.client.store_heartbeat(heartbeat.clone()).await;
        answer.map(tonic::Response::into_inner)
    }

    /// A heartbeat of every store that lives.
    async fn beat(&mut self) {
        let store_ids: Vec<_> = self.alive.keys().copied().collect();
        for store_id in store_ids {
            let mut request = self.request(store_id);
            if store_id == self.leader.store_id {
                request.leads = vec![RegionReport {
                    region_id: self.region.id,
                    peer_id: self.leader.id,
                    term: self.term,
                    epoch: self.region.epoch,
                    peers: self.region.peers.clone(),
                    live: self.live(),
                    bytes: None,
                }];
            }
            for step in self.send(&request).await.unwrap().steps {
                assert_eq!(step.region_id, self.region.id);
                assert_eq!(step.conf_version, self.conf_version());
                let step = step.step.unwrap();
                if self.obeys {
                    self.take(step);
                } else {
                    self.steps.push(step);
                }
            }
        }
    }

    /// A bit for each peer that lives, if one does not.
    fn live(&self) -> Option<u32> {
        let dead = self.dead?;
        let bits = self.region.peers.iter().enumerate();
        let live = bits.filter(|(_, peer)| peer.id != dead);
        Some(live.map(|(position, _)| 1 << position).sum())
    }

    /// Sends heartbeats until the leader was told so many steps in all.
    async fn next_steps(&mut self, count: usize) {
        while self.steps.len() < count {
            self.beat().await;
        }
        assert_eq!(self.steps.len(), count);
    }

    /// A heartbeat of every store that lives, but the leader's.
    async fn beat_followers(&mut self) {
        let store_ids: Vec<_> = self.alive.keys().copied().collect();
        for store_id in store_ids {
            if store_id != self.leader.store_id {
                let request = self.request(store_id);
                self.send(&request).await.unwrap();
            }
        }
    }

    fn conf_version(&self) -> u64 {
        self.region.epoch_or_default().conf_version
    }

    fn take(&mut self, step: Step) {
        assert!(self.last_step_at <= self.conf_version());
        self.last_step_at = self.conf_version();
        let peers = &mut self.region.peers;
        match &step {
            Step::AddLearner(peer) => {
                assert!(peer.learner && peers.iter().all(|other| other.id != peer.id));
                peers.push(*peer);
            }
            Step::Promote(id) => {
                let mut peers = peers.iter_mut();
                peers.find(|peer| peer.id == *id).unwrap().learner = false;
            }
            Step::Remove(id) => peers.retain(|peer| peer.id != *id),
            Step::TransferLeader(id) => {
                self.leader = *peers.iter().find(|peer| peer.id == *id).unwrap();
                self.term += 1;
            }
        }
        if !matches!(step, Step::TransferLeader(_)) {
            self.region.epoch.as_mut().unwrap().conf_version += 1;
        }
        self.steps.push(step);
    }

    /// Sends heartbeats until the region has voters on these stores only, and the placement driver knows.
    async fn settle_on(&mut self, wanted: &[u64]) {
        let settled = async {
            while !self.is_on(wanted) || self.routed().await != self.region {
                self.beat().await;
                tokio::time::sleep(BEAT).await;
            }
        };
        timeout(GUARD, settled).await.expect("the region settles");
        self.beat().await;
        assert!(self.is_on(wanted));
    }

    fn is_on(&self, wanted: &[u64]) -> bool {
        let peers = self.region.peers.iter();
        let mut stores: Vec<_> = peers.map(|peer| (peer.store_id, peer.learner)).collect();
        stores.sort_unstable();
        let wanted = wanted.iter().map(|&store_id| (store_id, false));
        stores.into_iter().eq(wanted)
    }

    async fn route(&mut self) -> RegionRoute {
        let key = GetRegionRequest::default();
        let answer = self.pd.client.get_region(key).await.unwrap();
        answer.into_inner().route.unwrap()
    }

    async fn routed(&mut self) -> Region {
        self.route().await.region.unwrap()
    }

    async fn states(&mut self) -> Vec<(u64, StoreState)> {
        let answer = self.pd.client.get_stores(GetStoresRequest {}).await;
        let stores = answer.unwrap().into_inner().stores;
        let states = stores.iter().map(|store| (store.id, store.state()));
        states.collect()
    }

    async fn remove(&mut self, store_id: u64, cancel: bool) -> Result<RemoveStoreResponse, Status> {
        let request = RemoveStoreRequest { store_id, cancel };
        let answer = self.pd.client.remove_store(request).await?;
        Ok(answer.into_inner())
    }

    /// Has the region change its replicas; 0: no store.
    async fn operate(&mut self, add: u64, remove: u64) -> Result<Operator, Status> {
        let request = AddOperatorRequest {
            region_id: self.region.id,
            add_store_id: add,
            remove_store_id: remove,
        };
        let answer = self.pd.client.add_operator(request).await?;
        Ok(answer.into_inner().operator.unwrap())
    }

    async fn operators(&mut self) -> Vec<Operator> {
        let answer = self.pd.client.get_operators(GetOperatorsRequest {}).await;
        answer.unwrap().into_inner().operators
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_becomes_three_also_if_the_placement_driver_is_restarted_after_each_step() {
    for restarts in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let mut stores = Stores::start(directory.path(), 3).await;
        while restarts
            && stores
                .region
                .peers
                .iter()
                .filter(|peer| !peer.learner)
                .count()
                < 3
        {
            let taken = stores.steps.len();
            while stores.steps.len() == taken {
                stores.beat().await;
            }
            stores = stores.restart_pd(directory.path()).await;
        }
        stores.settle_on(&[1, 2, 3]).await;
        let ids: Vec<_> = stores.region.peers.iter().map(|peer| peer.id).collect();
        assert_eq!(ids, [1, 2, 3], "none was lost");
        stores.pd.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_peer_has_the_same_id_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut stores = Stores::start(directory.path(), 4).await;
    stores.obeys = false;
    let added = |id| {
        Step::AddLearner(Peer {
            id,
            store_id: id,
            learner: true,
        })
    };
    for restarts in 1..=3 {
        stores.next_steps(restarts).await;
        stores = stores.restart_pd(directory.path()).await;
    }
    assert_eq!(stores.steps, [added(2), added(2), added(2)]);
    // Another one gets another id: the first was not forgotten.
    let address = stores.alive.remove(&2).unwrap();
    stores.next_steps(4).await;
    assert_eq!(stores.steps[3], added(3));
    stores = stores.restart_pd(directory.path()).await;
    stores.alive.insert(2, address);
    stores.beat_followers().await;
    stores.next_steps(5).await;
    assert_eq!(stores.steps[4], added(2));
    stores.pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_is_replaced_and_told_what_to_destroy_when_it_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut stores = Stores::start(directory.path(), 4).await;
    stores.settle_on(&[1, 2, 3]).await;
    let held = HeldPeer {
        region_id: 1,
        peer_id: stores
            .region
            .peers
            .iter()
            .find(|p| p.store_id == 3)
            .unwrap()
            .id,
        conf_version: stores.conf_version(),
    };
    let mut back = stores.request(3);
    back.holds = vec![held];
    assert!(stores.send(&back).await.unwrap().removed.is_empty());

    let address = stores.alive.remove(&3).unwrap();
    stores.settle_on(&[1, 2, 4]).await;
    assert!(stores.states().await.contains(&(3, StoreState::Down)));
    stores.alive.insert(3, address);
    for _ in 0..2 {
        assert_eq!(stores.send(&back).await.unwrap().removed, [held]);
        stores = stores.restart_pd(directory.path()).await;
        let early = stores.send(&back).await.unwrap().removed;
        assert!(early.is_empty(), "its data may be an older copy");
        stores.beat().await;
    }
    stores.settle_on(&[1, 2, 4]).await;
    let hostile = [vec![held; 9], vec![HeldPeer::default()]];
    for holds in hostile {
        back.holds = holds;
        let refused = stores.send(&back).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(details(&refused).unwrap().field, "holds");
    }
    stores.pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_is_dead_while_its_store_is_up_is_shown_and_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let mut stores = Stores::start(directory.path(), 4).await;
    stores.settle_on(&[1, 2, 3]).await;
    let mut peers = stores.region.peers.iter();
    let dead = peers.find(|peer| peer.store_id == 3).unwrap().id;
    stores.dead = Some(dead);
    let shown = async {
        while stores.route().await.absent_peers != [dead] {
            stores.beat().await;
            tokio::time::sleep(BEAT).await;
        }
    };
    timeout(GUARD, shown).await.expect("it is shown");
    stores.settle_on(&[1, 2, 4]).await;
    assert!(stores.route().await.absent_peers.is_empty());
    stores.pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_removed_when_its_replicas_have_moved_and_then_refused_for_good() {
    let directory = tempfile::tempdir().unwrap();
    let mut stores = Stores::start(directory.path(), 3).await;
    stores.settle_on(&[1, 2, 3]).await;
    let refused = stores.remove(1, false).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("Add a store first"), "{refused}");
    let unknown = stores.remove(9, false).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let nothing = stores.remove(0, false).await.unwrap_err();
    assert_eq!(nothing.code(), Code::InvalidArgument);

    let fourth = stores.add_store().await;
    stores.beat().await;
    let leaving = RemoveStoreResponse {
        has_left: false,
        region_count: 1,
    };
    assert_eq!(stores.remove(2, false).await.unwrap(), leaving);
    assert_eq!(stores.remove(2, true).await.unwrap(), leaving);
    assert!(stores.states().await.contains(&(2, StoreState::Up)));
    assert!(stores.is_on(&[1, 2, 3]));

    // The leader's own store.
    assert_eq!(stores.remove(1, false).await.unwrap(), leaving);
    assert_eq!(
        stores.remove(1, false).await.unwrap(),
        leaving,
        "the same again"
    );
    let restarted = stores.restart_pd(directory.path()).await;
    stores = restarted;
    assert!(stores.states().await.contains(&(1, StoreState::Leaving)));
    let heartbeat = stores.request(1);
    let address = stores.alive[&1].clone();
    let gone = async {
        while stores
            .states()
            .await
            .iter()
            .any(|&(store_id, _)| store_id == 1)
        {
            if stores.leader.store_id != 1 {
                stores.alive.remove(&1);
            }
            stores.beat().await;
            tokio::time::sleep(BEAT).await;
        }
    };
    timeout(GUARD, gone).await.expect("it leaves");
    stores.settle_on(&[2, 3, fourth]).await;
    for _ in 0..2 {
        let refused = stores.send(&heartbeat).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(details(&refused).unwrap().field, "store_id");
        let cluster_id = stores.cluster_id;
        let refused = stores
            .pd
            .register(&address, 1, cluster_id)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(
            refused.message().contains("store 1 was removed"),
            "{refused}"
        );
        let kept = stores.remove(1, true).await.unwrap_err();
        assert_eq!(kept.code(), Code::FailedPrecondition);
        assert!(stores.remove(1, false).await.unwrap().has_left);
        stores = stores.restart_pd(directory.path()).await;
    }
    stores.pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_store_that_is_removed_is_not_waited_for_and_its_machine_comes_back_as_another_one()
{
    let directory = tempfile::tempdir().unwrap();
    let mut stores = Stores::start(directory.path(), 4).await;
    stores.settle_on(&[1, 2, 3]).await;
    let address = stores.alive.remove(&3).unwrap();
    assert!(!stores.remove(3, false).await.unwrap().has_left);
    stores.settle_on(&[1, 2, 4]).await;
    assert!(stores.remove(3, false).await.unwrap().has_left);
    let again = stores.pd.register(&address, 0, 0).await.unwrap();
    assert_eq!(again.store_id, 5);
    let ids = stores.states().await.into_iter().map(|(id, _)| id);
    assert_eq!(ids.collect::<Vec<_>>(), [1, 2, 4, 5]);
    stores.pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_moves_where_an_operator_wants_it_and_stays_there() {
    let directory = tempfile::tempdir().unwrap();
    let mut stores = Stores::start(directory.path(), 5).await;
    stores.settle_on(&[1, 2, 3]).await;
    let moved = stores.operate(5, 2).await.unwrap();
    assert_eq!(moved.state(), OperatorState::Running);
    assert!(moved.status.contains("store 5"), "{moved:?}");
    let twice = stores.operate(4, 0).await.unwrap_err();
    assert_eq!(twice.code(), Code::FailedPrecondition);
    stores.settle_on(&[1, 3, 5]).await;
    let done = stores.operators().await;
    assert_eq!((done.len(), done[0].state()), (1, OperatorState::Done));

    // One that is taken away by hand does not come back to the same store while there is another.
    stores.operate(0, 5).await.unwrap();
    stores.settle_on(&[1, 2, 3]).await;
    let removed_then_added = |steps: &[Step]| {
        let tail = &steps[steps.len() - 3..];
        matches!(
            tail,
            [Step::Remove(_), Step::AddLearner(_), Step::Promote(_)]
        )
    };
    assert!(removed_then_added(&stores.steps), "{:?}", stores.steps);
    stores.pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_are_refused_listed_and_cancelled() {
    let directory = tempfile::tempdir().unwrap();
    let mut stores = Stores::start(directory.path(), 2).await;
    stores.beat().await;
    for (add, remove, code) in [
        (0, 0, Code::InvalidArgument),
        (2, 2, Code::InvalidArgument),
        (9, 0, Code::NotFound),
        (0, 9, Code::NotFound),
        (0, 1, Code::FailedPrecondition),
    ] {
        let refused = stores.operate(add, remove).await.unwrap_err();
        assert_eq!(refused.code(), code, "{add} {remove}: {refused}");
        assert_eq!(details(&refused).unwrap().fate(), Fate::NotApplied);
    }
    for (add, remove) in [(1, 0), (0, 2), (1, 2)] {
        let done = stores.operate(add, remove).await.unwrap();
        assert_eq!(done.state(), OperatorState::Done);
        assert!(done.status.contains("nothing is to be done"), "{done:?}");
    }
    assert!(stores.operators().await.is_empty());
    let cancel = |region_id| CancelOperatorRequest { region_id };
    let none = stores
        .pd
        .client
        .cancel_operator(cancel(1))
        .await
        .unwrap_err();
    assert_eq!(none.code(), Code::NotFound);
    let zero = stores
        .pd
        .client
        .cancel_operator(cancel(0))
        .await
        .unwrap_err();
    assert_eq!(zero.code(), Code::InvalidArgument);
    stores.operate(2, 0).await.unwrap();
    let listed = stores.operators().await;
    assert_eq!(
        (listed.len(), listed[0].state()),
        (1, OperatorState::Running)
    );
    let cancelled = stores.pd.client.cancel_operator(cancel(1)).await.unwrap();
    let cancelled = cancelled.into_inner().operator.unwrap();
    assert_eq!(cancelled.state(), OperatorState::Cancelled);
    assert!(cancelled.ended_age_ms.is_some() && cancelled.status.is_empty());
    let again = stores.pd.client.cancel_operator(cancel(1)).await.unwrap();
    let again = again.into_inner().operator.unwrap();
    assert_eq!(again.state(), OperatorState::Cancelled);
    assert_eq!(again.status, "it was cancelled before");
    stores.beat().await;
    assert!(stores.steps.is_empty(), "two stores hold no more than one");
    stores.pd.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_wants_fewer_stores_lowers_the_number_of_replicas_first() {
    let directory = tempfile::tempdir().unwrap();
    let mut stores = Stores::start(directory.path(), 3).await;
    stores.beat().await;
    for store_id in [3, 2] {
        let refused = stores.remove(store_id, false).await.unwrap_err();
        assert!(
            refused.message().contains("lower --replicas"),
            "the region is growing: {refused}"
        );
    }
    stores.settle_on(&[1, 2, 3]).await;
    let Stores { pd, .. } = stores;
    pd.stop().await;
    let lowered = |config: &mut Config| {
        settings(config);
        config.replicas = Some(1);
    };
    let pd = start_with(directory.path(), lowered).await.unwrap();
    let mut stores = Stores { pd, ..stores };
    stores.beat().await;
    for store_id in [3, 2] {
        stores.remove(store_id, false).await.unwrap();
        // Its heartbeats are refused once it has left.
        stores.alive.remove(&store_id);
    }
    stores.settle_on(&[1]).await;
    for store_id in [3, 2] {
        assert!(stores.remove(store_id, false).await.unwrap().has_left);
    }
    stores.pd.stop().await;
}
