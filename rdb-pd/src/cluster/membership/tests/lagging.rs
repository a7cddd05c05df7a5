//! Learners that are given up, and voters that are dead though their stores are up.

use super::super::super::lagging::{LEFT_ALONE_FOR, PATIENCE};
use super::*;

impl Play {
    /// The stores whose learners are given up.
    fn given_up(&self) -> Vec<u64> {
        let known = self.scene.state.region_by_id(self.region.id).unwrap();
        known.lagging.given_up(self.scene.now).collect()
    }
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
fn a_leader_without_a_majority_gets_no_step_though_there_are_other_stores_and_is_not_absent_itself()
{
    let mut play = Play::with_stores(5);
    play.settle();
    let (leader, down_after) = (play.leader, play.scene.state.settings.store_down_after);
    for peer in &play.region.peers {
        play.deaf.insert(peer.id);
        if peer.id != leader {
            play.alive.remove(&peer.store_id);
        }
    }
    play.pass(down_after * 2);
    assert_eq!(play.beat(), None);
    let now = play.scene.now;
    let state = &mut play.scene.state;
    let operators = state.operators(now);
    let waits = "waits: the leader does not hear of a majority of the voters";
    assert_eq!(operators[0].status, waits);
    let absent = state.absent(state.region_by_id(1).unwrap(), now);
    let is_leader = |absent: &Absent| absent.peer_id == leader;
    assert!(!absent.iter().any(is_leader), "{absent:?}");
    // It is elected again, and nobody has answered it yet.
    play.term += 1;
    play.beat();
    assert!(play.scene.state.operators(now).is_empty());
}

#[test]
fn a_region_that_lacks_nothing_is_no_change_though_its_leader_hears_of_no_majority() {
    let mut play = Play::with_stores(3);
    play.settle();
    for peer in &play.region.peers {
        play.deaf.insert(peer.id);
    }
    play.beat();
    for _ in 0..2 {
        let operators = play.scene.state.operators(play.scene.now);
        assert!(operators.is_empty(), "{operators:?}");
        play.scene.pass(HEARTBEAT_INTERVAL);
        play.beat();
    }
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
