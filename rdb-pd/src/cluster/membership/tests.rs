mod lagging;
mod learning;
mod removed;

use std::time::Duration;

use rdb_proto::metapb::Region;

use super::super::scene::Scene;
use super::*;
use crate::keys::StoreRecord;

/// A leader that does what it is told, and the stores of its region.
struct Play {
    scene: Scene,
    region: Region,
    leader: u64,
    term: u64,
    /// Stores that send heartbeats.
    alive: BTreeSet<u64>,
    /// Peers that the leader does not hear of.
    deaf: BTreeSet<u64>,
    /// Whether the leader tells which peers live.
    tells_live: bool,
}

impl Play {
    /// The first region on the first of some stores, which leads it.
    fn with_stores(count: u64) -> Self {
        let mut scene = Scene::empty();
        let alive = (0..count).map(|_| scene.add_store()).collect();
        let region = scene.state.regions_of(1).remove(0);
        Self {
            scene,
            region,
            leader: 1,
            term: 1,
            alive,
            deaf: BTreeSet::new(),
            tells_live: true,
        }
    }

    fn has_leave(&mut self, store_id: u64) {
        let record = self.scene.state.stores[&store_id].record.clone();
        self.scene.state.apply(Change::Store(StoreRecord {
            is_leaving: true,
            ..record
        }));
    }

    fn report(&self) -> Report {
        let peers = self.region.peers.iter().map(|peer| peer.id);
        let live = peers.filter(|id| !self.deaf.contains(id)).collect();
        Report {
            live: self.tells_live.then_some(live),
            bytes: None,
            region_id: self.region.id,
            peer_id: self.leader,
            term: self.term,
            epoch: self.region.epoch_or_default(),
            peers: self.region.peers.clone(),
        }
    }

    fn leads_on(&self) -> u64 {
        let mut peers = self.region.peers.iter();
        let leader = peers.find(|peer| peer.id == self.leader);
        leader.expect("it is a member").store_id
    }

    /// Every store that lives sends a heartbeat, the leader's the last. Returns the step.
    fn beat(&mut self) -> Option<RegionStep> {
        let leads_on = self.leads_on();
        for &store_id in &self.alive {
            if store_id != leads_on {
                self.scene.report(store_id, &[]);
            }
        }
        let mut steps = self.scene.lead_on(leads_on, &[self.report()]);
        assert!(steps.len() <= 1);
        let step = steps.pop()?;
        assert_eq!(step.region_id, self.region.id);
        assert_eq!(step.conf_version, self.conf_version());
        Some(step)
    }

    fn conf_version(&self) -> u64 {
        self.region.epoch_or_default().conf_version
    }

    /// The leader has done it.
    fn apply(&mut self, step: RegionStep) {
        let peers = &mut self.region.peers;
        match step.step.expect("known") {
            region_step::Step::AddLearner(peer) => peers.push(peer),
            region_step::Step::Promote(id) => {
                let mut peers = peers.iter_mut();
                peers.find(|peer| peer.id == id).expect("there").learner = false;
            }
            region_step::Step::Remove(id) => peers.retain(|peer| peer.id != id),
            region_step::Step::TransferLeader(id) => {
                (self.leader, self.term) = (id, self.term + 1);
                return;
            }
        }
        let mut epoch = self.region.epoch_or_default();
        epoch.conf_version += 1;
        self.region.epoch = Some(epoch);
    }

    /// Takes steps until there is none.
    fn settle(&mut self) -> usize {
        for count in 0..100 {
            let Some(step) = self.beat() else {
                return count;
            };
            self.apply(step);
            self.pass(HEARTBEAT_INTERVAL);
        }
        panic!("it does not settle: {:?}", self.region);
    }

    /// Stores that live go on sending heartbeats meanwhile.
    fn pass(&mut self, time: Duration) {
        let mut left = time;
        while left > Duration::ZERO {
            let part = left.min(HEARTBEAT_INTERVAL);
            self.scene.pass(part);
            left -= part;
            self.beat();
        }
    }

    fn stores(&self) -> Vec<u64> {
        let mut stores: Vec<_> = self.region.peers.iter().map(|peer| peer.store_id).collect();
        stores.sort_unstable();
        stores
    }
}

fn added(step: Option<RegionStep>) -> Peer {
    match step.and_then(|step| step.step) {
        Some(region_step::Step::AddLearner(peer)) => peer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_replica_becomes_three_when_stores_come() {
    let mut play = Play::with_stores(2);
    assert_eq!(play.beat(), None, "two are no better than one");
    let third = play.scene.add_store();
    play.alive.insert(third);
    assert_eq!(play.settle(), 4);
    assert_eq!(play.stores(), [1, 2, 3]);
    assert!(play.region.peers.iter().all(|peer| !peer.learner));
    let known = &play.scene.state.region_by_id(1).unwrap().region;
    assert_eq!(known, &play.region);
}

#[test]
fn a_new_peer_keeps_its_id_until_the_members_are_others_also_over_a_restart() {
    let mut play = Play::with_stores(4);
    let first = added(play.beat());
    assert_eq!((first.id, first.store_id, first.learner), (2, 2, true));
    for _ in 0..3 {
        assert_eq!(added(play.beat()), first);
        play.scene.restart();
        // Until it has heard of the other stores, it does not know better.
        play.scene.lead_on(1, &[play.report()]);
    }
    assert_eq!(play.scene.state.counters.peer_id, 2);

    // Its store falls silent: another store, another id. It comes back: the first again.
    play.alive.remove(&2);
    play.pass(DISCONNECTED_AFTER);
    let second = added(play.beat());
    assert_eq!((second.id, second.store_id), (3, 3));
    play.alive.insert(2);
    assert_eq!(
        added(play.beat()),
        first,
        "the first that was answered, by id"
    );

    // The leader has taken the other one.
    play.region.peers.push(second);
    play.region.epoch.as_mut().unwrap().conf_version += 1;
    let third = added(play.beat());
    assert_eq!((third.id, third.store_id), (4, 2));
    let ids = play.scene.state.region_by_id(1).unwrap().new_peers.clone();
    assert_eq!(ids, [third]);
}

#[test]
fn a_store_that_is_down_is_replaced_and_one_of_an_earlier_term_is_told_nothing() {
    let mut play = Play::with_stores(4);
    play.settle();
    assert_eq!(play.stores(), [1, 2, 3]);
    let down_after = play.scene.state.settings.store_down_after;
    play.alive.remove(&3);
    play.pass(down_after - HEARTBEAT_INTERVAL);
    assert_eq!(play.beat(), None);
    play.pass(HEARTBEAT_INTERVAL);
    let step = play.beat().unwrap();
    assert_eq!(added(Some(step)).store_id, 4);
    let late = play.report();
    (play.leader, play.term) = (play.region.peers[1].id, 2);
    assert_eq!(play.beat(), Some(step), "for another leader the same");
    assert_eq!(play.scene.lead_on(1, &[late]), []);
    assert_eq!(play.settle(), 3);
    assert_eq!(play.stores(), [1, 2, 4]);
}

#[test]
fn a_restart_in_the_middle_of_anything_changes_nothing_of_where_it_ends() {
    for steps in 0..8 {
        for restarts in [1, 2] {
            let mut play = Play::with_stores(4);
            play.settle();
            let down_after = play.scene.state.settings.store_down_after;
            play.alive.remove(&3);
            play.pass(down_after);
            for _ in 0..steps {
                if let Some(step) = play.beat() {
                    play.apply(step);
                }
            }
            for _ in 0..restarts {
                play.scene.restart();
                // Only the leader was heard of. A step of it would be decided in ignorance.
                let leads_on = play.leads_on();
                assert_eq!(play.scene.lead_on(leads_on, &[play.report()]), []);
            }
            let before = play.stores();
            play.settle();
            if before.len() < 4 {
                assert_eq!(play.stores(), before, "it does not know yet who is down");
            } else if !play.stores().contains(&3) {
                assert_eq!(play.stores(), [1, 2, 4]);
            }
            play.pass(down_after + HEARTBEAT_INTERVAL);
            play.settle();
            assert_eq!(play.stores(), [1, 2, 4]);
        }
    }
}

#[test]
fn a_store_that_is_not_known_may_have_registered_after_a_copy_was_made() {
    let mut play = Play::with_stores(4);
    play.settle();
    // It was replaced since.
    play.scene.state.counters.peer_id = 9;
    play.region.peers[2] = Peer {
        id: 9,
        store_id: 9,
        learner: false,
    };
    play.region.epoch.as_mut().unwrap().conf_version += 2;
    assert_eq!(play.beat(), None);
    play.scene.restart();
    play.scene.lead_on(1, &[play.report()]);
    play.pass(DISCONNECTED_AFTER);
    assert_eq!(play.beat(), None, "it is silent");
    let down_after = play.scene.state.settings.store_down_after;
    play.pass(down_after);
    play.settle();
    assert!(!play.stores().contains(&9));
}

#[test]
fn a_leader_on_a_store_that_leaves_is_not_asked_to_hand_over_to_the_same_voter_for_ever() {
    let mut play = Play::with_stores(4);
    play.settle();
    play.has_leave(1);
    for _ in 0..2 {
        let step = play.beat().unwrap();
        play.apply(step);
    }
    let others: BTreeSet<_> = play.region.peers.iter().map(|peer| peer.id).collect();
    let mut asked = BTreeSet::new();
    for _ in 0..3 {
        let step = play.beat().unwrap();
        assert_eq!(play.beat(), None, "it has a little time");
        let Some(region_step::Step::TransferLeader(peer_id)) = step.step else {
            panic!("{step:?}");
        };
        asked.insert(peer_id);
        play.scene.pass(HEARTBEAT_INTERVAL);
    }
    asked.insert(play.leader);
    assert_eq!(asked, others);
}

#[test]
fn who_is_asked_to_lead_is_told_also_while_a_new_peer_waits_for_its_id() {
    let mut play = Play::with_stores(4);
    play.settle();
    play.has_leave(1);
    // The first region grows, and the second one has a fourth voter already.
    let mut second = play.region.clone();
    (second.id, second.start_key) = (2, b"m"[..].into());
    play.scene.state.counters.peer_id += 1;
    second.peers.push(Peer {
        id: play.scene.state.counters.peer_id,
        store_id: 4,
        learner: false,
    });
    play.scene.state.apply(Change::Region(second.clone()));
    let peers = second.peers.iter().map(|peer| peer.id);
    let report = Report {
        region_id: 2,
        live: Some(peers.collect()),
        peers: second.peers,
        ..play.report()
    };
    let reports = [play.report(), report];
    let mut told = play.scene.lead_on(1, &reports);
    told.sort_by_key(|step| step.region_id);
    let transfer = Some(region_step::Step::TransferLeader(2));
    assert_eq!((told.len(), told[1].step), (2, transfer));
    assert_eq!(added(Some(told[0])).store_id, 4);
    assert_eq!(play.scene.lead_on(1, &reports), [told[0]]);
}

#[test]
fn steps_for_a_joint_membership_are_for_its_own_conf_version() {
    let mut play = Play::with_stores(4);
    play.settle();
    // A voter is about to leave: no vote any more, and not gone yet.
    let last = play.region.peers.last_mut().unwrap();
    last.learner = true;
    play.region.epoch.as_mut().unwrap().conf_version += 1;
    // The leader does not take it, since its change is under way.
    let step = play.beat().unwrap();
    assert_eq!(step.conf_version, play.conf_version());
    assert_eq!(play.beat(), Some(step));
    let gone = play.region.peers.pop().unwrap();
    play.region.epoch.as_mut().unwrap().conf_version += 1;
    play.settle();
    assert_eq!(play.stores().len(), 3);
    assert!(play.region.peers.iter().all(|peer| peer.id != gone.id));
}

#[test]
fn a_region_whose_sole_peer_is_a_learner_has_no_leader_until_one_reports() {
    let mut play = Play::with_stores(1);
    play.region.peers[0].learner = true;
    play.scene.state.apply(Change::Region(play.region.clone()));
    let route = play.scene.state.route(b"k", play.scene.now).unwrap();
    assert_eq!(route.leader, None);
}
