use std::time::Duration;

use rdb_proto::metapb::Region;

use super::super::lagging::{LEFT_ALONE_FOR, PATIENCE};
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

    /// The stores whose learners are given up.
    fn given_up(&self) -> Vec<u64> {
        let known = self.scene.state.region_by_id(self.region.id).unwrap();
        known.lagging.given_up(self.scene.now).collect()
    }

    fn held(&self, peer_id: u64, conf_version: u64) -> HeldPeer {
        HeldPeer {
            region_id: self.region.id,
            peer_id,
            conf_version,
        }
    }

    fn is_removed(&self, store_id: u64, peer_id: u64, conf_version: u64) -> bool {
        let held = [self.held(peer_id, conf_version)];
        let removed = self.scene.state.removed_of(store_id, &held);
        assert!(removed.is_empty() || removed == held);
        !removed.is_empty()
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

/// More regions than may have learners at a time.
const MANY_REGIONS: u64 = LEARNING_REGIONS_MAX as u64 + 4;

impl Play {
    /// More regions like the first one. Returns the reports of their leaders, all on the first store.
    fn with_many_regions(&mut self) -> Vec<Report> {
        for id in 2..=MANY_REGIONS {
            self.scene.state.apply(Change::Region(Region {
                id,
                start_key: id.to_be_bytes().to_vec().into(),
                ..self.region.clone()
            }));
        }
        let reports = (1..=MANY_REGIONS).map(|region_id| Report {
            region_id,
            ..self.report()
        });
        reports.collect()
    }

    /// The first store leads these, and others are up. Returns the regions that are told a step.
    fn lead_many(&mut self, reports: &[Report]) -> Vec<u64> {
        for store_id in [2, 3] {
            self.scene.report(store_id, &[]);
        }
        let steps = self.scene.lead_on(1, reports);
        steps.iter().map(|step| step.region_id).collect()
    }
}

#[test]
fn few_regions_have_learners_at_a_time() {
    let mut play = Play::with_stores(3);
    let mut reports = play.with_many_regions();
    let first: Vec<_> = (1..=LEARNING_REGIONS_MAX as u64).collect();
    assert_eq!(play.lead_many(&reports), first);
    assert_eq!(play.lead_many(&reports), first, "the same again");
    // Each on the store that has the fewest then.
    let state = &play.scene.state;
    let counts = [2, 3].map(|store_id| state.surroundings(play.scene.now).places[&store_id]);
    assert_eq!(counts.map(|place| place.peer_count), [4, 4]);

    // The first has got all that it needs.
    reports[0].peers = [1, 2, 3]
        .map(|id| Peer {
            id,
            store_id: id,
            learner: false,
        })
        .to_vec();
    reports[0].epoch.conf_version = 5;
    play.lead_many(&reports);
    play.scene.now += DISCONNECTED_AFTER - HEARTBEAT_INTERVAL;
    play.scene.state.listening.note_awake(play.scene.now);
    let next: Vec<_> = (2..=LEARNING_REGIONS_MAX as u64 + 1).collect();
    play.lead_many(&[]);
    play.scene.pass(HEARTBEAT_INTERVAL);
    assert_eq!(play.lead_many(&reports), next);
}

#[test]
fn a_region_keeps_its_place_to_learn_while_its_new_peer_waits_for_an_id() {
    let mut play = Play::with_stores(3);
    let reports = play.with_many_regions();
    play.lead_many(&[]);
    let (first, others) = reports.split_at(LEARNING_REGIONS_MAX);
    let mut nameless = |reports: &[Report]| {
        let Scene { state, now, .. } = &mut play.scene;
        assert!(state.note_reports(1, reports, *now).is_empty());
        let led: Vec<_> = reports.iter().map(Led::from).collect();
        state.take_steps(&led, *now).1.len()
    };
    assert_eq!(nameless(first), LEARNING_REGIONS_MAX);
    assert_eq!(nameless(others), 0);
}

#[test]
fn a_region_without_a_leader_has_no_place_to_learn() {
    let mut play = Play::with_stores(3);
    let mut reports = play.with_many_regions();
    play.scene.state.counters.peer_id += 1;
    let learner = Peer {
        id: play.scene.state.counters.peer_id,
        store_id: 2,
        learner: true,
    };
    let (learning, others) = reports.split_at_mut(LEARNING_REGIONS_MAX);
    for report in &mut *learning {
        report.peers.push(learner);
        report.epoch.conf_version += 1;
        report.live = Some(vec![report.peer_id]);
    }
    play.lead_many(learning);
    assert!(play.lead_many(others).is_empty(), "there are enough");
    // Their leaders have no majority any more. The store is up.
    play.scene.pass(DISCONNECTED_AFTER - HEARTBEAT_INTERVAL);
    assert!(play.lead_many(others).is_empty(), "another may be elected");
    play.scene.pass(HEARTBEAT_INTERVAL);
    let told = others.iter().map(|report| report.region_id);
    assert_eq!(play.lead_many(others), told.collect::<Vec<_>>());
}

#[test]
fn what_is_held_and_is_no_member_any_more_is_removed() {
    let mut play = Play::with_stores(4);
    play.settle();
    let at = play.conf_version();
    let third = *play
        .region
        .peers
        .iter()
        .find(|peer| peer.store_id == 3)
        .unwrap();
    assert!(!play.is_removed(3, third.id, at));
    assert!(!play.is_removed(3, third.id, at - 1), "it is behind");
    let down_after = play.scene.state.settings.store_down_after;
    play.alive.remove(&3);
    play.pass(down_after);
    let learner = added(play.beat());
    // It may be a member already that the placement driver has not heard of.
    assert!(!play.is_removed(4, learner.id, at));
    assert!(!play.is_removed(4, learner.id, at - 1));
    play.scene.restart();
    assert!(!play.is_removed(4, learner.id, at - 1));
    play.pass(down_after);
    play.settle();
    assert_eq!(play.stores(), [1, 2, 4]);

    let now_at = play.conf_version();
    assert!(play.is_removed(3, third.id, at));
    assert!(play.is_removed(3, third.id, now_at - 1));
    assert!(
        !play.is_removed(3, third.id, now_at),
        "a member added since, as far as can be told"
    );
    assert!(!play.is_removed(3, third.id, now_at + 1));
    assert!(!play.is_removed(3, third.id, 0), "it waits for data");
    let unknown_region = HeldPeer {
        region_id: 9,
        ..play.held(third.id, at)
    };
    assert!(play.scene.state.removed_of(3, &[unknown_region]).is_empty());
    play.scene.restart();
    assert!(
        !play.is_removed(3, third.id, at),
        "the members may be those of an older copy"
    );
    play.beat();
    assert!(play.is_removed(3, third.id, at));
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
fn a_learner_that_does_not_catch_up_is_given_up_and_another_store_is_tried() {
    let mut play = Play::with_stores(5);
    play.settle();
    assert_eq!(play.stores(), [1, 2, 3]);
    play.has_leave(3);
    let step = play.beat().unwrap();
    let learner = added(Some(step));
    assert_eq!(learner.store_id, 4);
    play.apply(step);
    play.deaf.insert(learner.id);
    // The leader does not promote it.
    play.beat();
    play.pass(PATIENCE - HEARTBEAT_INTERVAL);
    let promote = region_step::Step::Promote(learner.id);
    assert_eq!(play.beat().unwrap().step, Some(promote));
    play.pass(HEARTBEAT_INTERVAL);
    let remove = play.beat().unwrap();
    assert_eq!(remove.step, Some(region_step::Step::Remove(learner.id)));
    play.apply(remove);
    assert_eq!(added(play.beat()).store_id, 5);

    // Nobody else is there: it is tried again, but not at once.
    play.alive.remove(&5);
    play.pass(DISCONNECTED_AFTER);
    assert_eq!(play.beat(), None);
    play.pass(LEFT_ALONE_FOR);
    assert_eq!(added(play.beat()).store_id, 4);
}

#[test]
fn a_voter_that_is_dead_while_its_store_is_up_is_shown_and_then_replaced() {
    let mut play = Play::with_stores(4);
    play.settle();
    let third = play.region.peers[2];
    assert_eq!(third.store_id, 3);
    let shown = |play: &mut Play| {
        let shown = play.scene.state.operators(play.scene.now).into_iter();
        shown.map(|operator| operator.status).collect::<Vec<_>>()
    };
    let absent = |play: &Play| {
        let route = play.scene.state.route(b"k", play.scene.now);
        route.unwrap().absent_peers
    };
    play.deaf.insert(third.id);
    play.beat();
    play.pass(DISCONNECTED_AFTER - HEARTBEAT_INTERVAL);
    assert!(shown(&mut play).is_empty() && absent(&play).is_empty());
    play.pass(HEARTBEAT_INTERVAL);
    assert_eq!(absent(&play), [third.id]);
    let status = shown(&mut play).join("");
    assert!(
        status.contains("peer 3 does not live though store 3 is up"),
        "{status}"
    );
    // Its leader may be wrong by now, or its store silent.
    play.scene.pass(DISCONNECTED_AFTER);
    assert!(shown(&mut play).is_empty() && absent(&play).is_empty());
    let down_after = play.scene.state.settings.store_down_after;
    // Another leader goes on where the first one has stopped.
    (play.leader, play.term) = (play.region.peers[1].id, 2);
    play.beat();
    play.pass(down_after - DISCONNECTED_AFTER - HEARTBEAT_INTERVAL);
    assert_eq!(play.beat(), None);
    play.pass(HEARTBEAT_INTERVAL);
    assert_eq!(added(play.beat()).store_id, 4);
    assert_eq!(play.settle(), 3);
    assert_eq!(play.stores(), [1, 2, 4]);
    assert!(shown(&mut play).is_empty() && absent(&play).is_empty());
}

/// The store is silent for a while before each start, its voter lives for a moment after it, and another voter leads after each.
#[test]
fn a_voter_whose_store_starts_again_and_again_is_replaced() {
    let mut play = Play::with_stores(4);
    play.settle();
    let third = play.region.peers[2];
    let mut starts = 0;
    let mut first = None;
    while first.is_none() && starts < 60 {
        let other = play.region.peers.iter().find(|peer| {
            let is_leader = peer.id == play.leader;
            !is_leader && peer.id != third.id
        });
        (play.leader, play.term) = (other.unwrap().id, play.term + 1);
        play.alive.insert(third.store_id);
        play.beat();
        play.pass(Duration::from_secs(30));
        play.deaf.insert(third.id);
        play.pass(Duration::from_secs(30));
        play.alive.remove(&third.store_id);
        play.pass(Duration::from_secs(120));
        first = play.beat();
        starts += 1;
        if first.is_none() {
            play.deaf.clear();
        }
    }
    // Each time it counts for at most two and a half minutes, and pays one back.
    assert!(starts >= 20, "{starts}");
    assert_eq!(added(first).store_id, 4);
    // It starts in between, and is silent again.
    play.apply(first.unwrap());
    play.alive.insert(third.store_id);
    play.pass(HEARTBEAT_INTERVAL);
    let promote = play.beat().unwrap();
    play.alive.remove(&third.store_id);
    play.pass(DISCONNECTED_AFTER);
    assert_eq!(play.beat(), Some(promote));
    play.settle();
    assert_eq!(play.stores(), [1, 2, 4]);
}

#[test]
fn a_voter_that_lives_again_is_kept_and_so_are_all_of_a_leader_that_is_cut_off() {
    let mut play = Play::with_stores(4);
    play.settle();
    let third = play.region.peers[2].id;
    let down_after = play.scene.state.settings.store_down_after;
    for _ in 0..10 {
        play.deaf.insert(third);
        play.pass(down_after / 2);
        assert_eq!(play.beat().map(|step| step.step), None);
        play.deaf.clear();
        play.pass(down_after / 3);
    }
    for peer in &play.region.peers {
        if peer.id != play.leader {
            play.deaf.insert(peer.id);
        }
    }
    play.pass(down_after * 3);
    assert_eq!(play.beat(), None);
}

#[test]
fn a_dead_voter_is_replaced_also_if_the_placement_driver_starts_again_and_again() {
    let mut play = Play::with_stores(4);
    play.settle();
    play.deaf.insert(play.region.peers[2].id);
    play.beat();
    let down_after = play.scene.state.settings.store_down_after;
    // What is stored is less than an eighth behind.
    for _ in 0..3 {
        play.pass(down_after / 4);
        assert_eq!(play.beat(), None);
        play.scene.restart();
        play.beat();
    }
    play.pass(down_after / 2);
    assert_eq!(added(play.beat()).store_id, 4);
    play.settle();
    assert_eq!(play.stores(), [1, 2, 4]);
    // Nothing of it is left.
    let known = play.scene.state.region_by_id(play.region.id).unwrap();
    assert!(known.lagging.stored().is_empty());
}

#[test]
fn a_learner_is_not_given_up_for_time_in_which_its_leader_could_not_report() {
    let mut play = Play::with_stores(4);
    play.settle();
    play.has_leave(3);
    let step = play.beat().unwrap();
    let learner = added(Some(step));
    play.apply(step);
    play.deaf.insert(learner.id);
    let promote = Some(region_step::Step::Promote(learner.id));
    for _ in 0..3 {
        play.beat();
        play.pass(PATIENCE - HEARTBEAT_INTERVAL);
        assert_eq!(play.beat().unwrap().step, promote);
        // It is cut off, and the others are, too.
        play.scene.pass(DISCONNECTED_AFTER);
    }
    play.beat();
    play.pass(PATIENCE);
    let remove = Some(region_step::Step::Remove(learner.id));
    assert_eq!(play.beat().unwrap().step, remove);
}

#[test]
fn a_bad_store_is_tried_less_and_less_and_what_has_caught_up_elsewhere_stays() {
    let mut play = Play::with_stores(3);
    let step = play.beat().unwrap();
    assert_eq!(added(Some(step)).store_id, 2);
    play.apply(step);
    for doubled in [1, 2, 4] {
        let step = play.beat().unwrap();
        let learner = added(Some(step));
        assert_eq!(learner.store_id, 3);
        play.apply(step);
        play.deaf.insert(learner.id);
        play.beat();
        play.pass(PATIENCE);
        let remove = play.beat().unwrap();
        assert_eq!(remove.step, Some(region_step::Step::Remove(learner.id)));
        play.apply(remove);
        play.pass(LEFT_ALONE_FOR * doubled - HEARTBEAT_INTERVAL);
        assert_eq!(play.beat(), None);
        assert_eq!(play.stores(), [1, 2]);
        // Others may learn meanwhile.
        let surroundings = play.scene.state.surroundings(play.scene.now);
        assert_eq!(surroundings.learning.len(), 0);
        play.pass(HEARTBEAT_INTERVAL);
    }
    // It is mended.
    play.settle();
    assert_eq!(play.stores(), [1, 2, 3]);
    assert!(play.region.peers.iter().all(|peer| !peer.learner));
}

#[test]
fn a_learner_that_has_caught_up_is_not_given_up() {
    for tells_live in [true, false] {
        let mut play = Play::with_stores(3);
        play.tells_live = tells_live;
        for _ in 0..2 {
            let step = play.beat().unwrap();
            play.apply(step);
        }
        let promote = play.beat().unwrap();
        // The leader does not take it for long.
        play.pass(PATIENCE * 2);
        assert!(play.given_up().is_empty());
        assert_eq!(play.beat(), Some(promote));
        // Two voters are no better than one, so the one waits for the other. A store that is silent says nothing of its peer,
        // unless the leader does.
        play.alive.remove(&3);
        play.pass(PATIENCE + DISCONNECTED_AFTER);
        let given_up = if tells_live { vec![] } else { vec![3] };
        assert_eq!(play.given_up(), given_up);
    }
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
fn data_without_a_peer_is_removed_unless_the_store_may_be_about_to_get_one() {
    let mut play = Play::with_stores(4);
    play.settle();
    let at = play.conf_version();
    assert!(play.is_removed(4, 0, at));
    assert!(play.is_removed(4, 0, at - 1));
    assert!(!play.is_removed(4, 0, at + 1));
    assert!(!play.is_removed(4, 0, 0));
    assert!(!play.is_removed(2, 0, at), "it has one");
    play.alive.remove(&3);
    let down_after = play.scene.state.settings.store_down_after;
    play.pass(down_after);
    assert_eq!(added(play.beat()).store_id, 4);
    for _ in 0..2 {
        assert!(!play.is_removed(4, 0, at) && !play.is_removed(4, 0, at - 1));
        play.scene.restart();
    }
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
