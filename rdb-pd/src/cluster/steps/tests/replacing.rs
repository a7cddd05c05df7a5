//! Voters that are lost, and stores that leave.

use super::*;

#[test]
fn a_silent_store_is_waited_for_and_one_that_is_down_is_replaced() {
    let silent = Model::of(4, 3).set(3, Silent);
    assert_eq!(silent.next(), Next::Done);
    let mut down = Model::of(4, 3).set(3, Down);
    assert_eq!(down.steps(), [AddLearner(4), Promote(100), Remove(3)]);
    assert_eq!(down.run(), (vec![], Next::Done));
}

#[test]
fn a_voter_that_is_dead_while_its_store_is_up_is_replaced() {
    let absent = Obstacle::Absent {
        peer_id: 3,
        store_id: 3,
    };
    assert_eq!(Model::of(4, 3).lacks(3, false).waits(), absent);
    let steps = [AddLearner(4), Promote(100), Remove(3)];
    let mut model = Model::of(4, 3).lacks(3, true);
    assert_eq!(model.steps(), steps);
    assert_eq!(model.next(), Next::Done);
    // Nobody else can have it.
    let mut model = Model::of(3, 3).lacks(3, true);
    assert_eq!(model.waits(), Obstacle::NoPlace);
    model.places.insert(4, up());
    assert_eq!(model.steps(), steps);
    // It lives again.
    let mut model = Model::of(4, 3).lacks(3, true).with(learner(4));
    model.deaf.clear();
    assert_eq!(model.steps(), [Remove(4)]);
    // An even number does without it, and its store gets another one.
    let mut model = Model::of(4, 4).lacks(3, true);
    model.replicas = 4;
    assert_eq!(model.steps(), [Remove(3), AddLearner(3), Promote(100)]);
}

#[test]
fn a_dead_voter_is_replaced_also_while_its_store_is_silent() {
    let mut model = Model::of(4, 3).lacks(3, true);
    for step in [AddLearner(4), Promote(100), Remove(3)] {
        model = model.set(3, Silent);
        assert_eq!(model.next(), Next::Step(step));
        model.apply(step);
        model = model.set(3, Up);
    }
    let cut_off = Model::of(5, 3).lacks(3, true).lacks(2, false);
    assert_eq!(cut_off.set(3, Silent).waits(), Obstacle::Silent(3));
}

#[test]
fn what_a_leader_says_that_hears_of_no_majority_counts_against_nobody() {
    for model in [
        Model::of(5, 3).lacks(2, true).lacks(3, true),
        Model::of(5, 3).lacks(3, true).set(2, Silent),
    ] {
        let next = model.next();
        assert!(
            matches!(next, Next::Waits(Obstacle::Absent { .. })),
            "{next:?}"
        );
    }
}

#[test]
fn a_leader_that_hears_of_no_majority_is_given_no_step() {
    let mut lost = Model::of(5, 3).set(2, Down).set(3, Down);
    lost.deaf.push(lost.leader);
    assert_eq!(lost.waits(), Obstacle::LeaderCutOff);
    lost.wish = Some(Wish {
        add: Some(4),
        remove: None,
    });
    assert_eq!(lost.waits(), Obstacle::LeaderCutOff);
}

/// A store may be late by as much as a heartbeat.
#[test]
fn a_report_without_a_majority_undoes_nothing_of_a_replacement() {
    for done in [&[AddLearner(4)][..], &[AddLearner(4), Promote(100)]] {
        let mut model = Model::of(4, 3).lacks(3, true);
        for step in done {
            assert_eq!(model.next(), Next::Step(*step));
            model.apply(*step);
        }
        model.deaf.push(2);
        let absent = Obstacle::Absent {
            peer_id: 3,
            store_id: 3,
        };
        assert_eq!(model.waits(), absent);
        model.deaf.retain(|&deaf| deaf != 2);
        assert_eq!(model.steps().last(), Some(&Remove(3)));
    }
}

#[test]
fn a_learner_is_kept_while_it_is_not_known_any_more_for_how_long_a_voter_was_away() {
    let mut model = Model::of(4, 3).lacks(3, true).with(learner(4));
    let known = std::mem::take(&mut model.absent);
    let absent = Obstacle::Absent {
        peer_id: 3,
        store_id: 3,
    };
    assert_eq!(model.waits(), absent);
    model.absent = known;
    assert_eq!(model.steps(), [Promote(4), Remove(3)]);
}

#[test]
fn without_a_place_for_another_replica_none_is_given_up() {
    for stores in [
        Model::of(3, 3).set(3, Down),
        Model::of(4, 3).set(3, Down).set(4, Silent),
        Model::of(4, 3).set(3, Down).set(4, Down),
        Model::of(4, 3).set(3, Down).leaves(4),
        Model::of(3, 3).leaves(3),
        Model::of(4, 3).leaves(3).leaves(4),
        Model::of(4, 3).leaves(3).set(4, Down),
    ] {
        assert_eq!(stores.waits(), Obstacle::NoPlace);
    }
    let mut gone = Model::of(3, 3);
    gone.places.remove(&3);
    assert_eq!(gone.waits(), Obstacle::NoPlace, "of an older cluster");
    gone.replicas = 5;
    gone.places.insert(4, up());
    assert_eq!(gone.steps(), [AddLearner(4), Promote(100), Remove(3)]);
}

#[test]
fn five_replicas_with_two_lost_get_what_can_be_had() {
    let mut model = Model::of(6, 5).set(4, Down).set(5, Down);
    model.replicas = 5;
    assert_eq!(model.steps(), [AddLearner(6), Promote(100), Remove(4)]);
    assert_eq!(model.waits(), Obstacle::NoPlace);
    // It is to grow by two, cannot, and replaces first.
    let mut model = Model::of(6, 3).set(3, Down).set(5, Silent).set(6, Silent);
    model.replicas = 5;
    assert_eq!(model.steps(), [AddLearner(4), Promote(100), Remove(3)]);
    model = model.set(5, Up).set(6, Up);
    assert_eq!(model.steps().len(), 4);
    assert_eq!(model.voters(), [1, 2, 4, 5, 6]);
}

#[test]
fn an_even_number_of_voters_does_without_a_lost_one() {
    let mut model = Model::of(4, 4).set(4, Down);
    model.replicas = 4;
    assert_eq!(model.steps(), [Remove(4)]);
    assert_eq!(model.next(), Next::Done);
    model = model.set(4, Up);
    assert_eq!(model.steps(), [AddLearner(4), Promote(100)]);
}

#[test]
fn a_live_copy_on_a_store_that_leaves_is_kept_until_it_is_replaced() {
    for (voters, replicas) in [(2, 2), (4, 4)] {
        let mut model = Model::of(voters + 1, voters).leaves(voters);
        model.replicas = replicas;
        model = model.set(voters + 1, Silent);
        assert_eq!(model.waits(), Obstacle::NoPlace, "{voters}");
        model = model.set(voters + 1, Up);
        let steps = [AddLearner(voters + 1), Promote(100), Remove(voters)];
        assert_eq!(model.steps(), steps);
    }
    // The one on the store that is down goes, not the one that leaves.
    let mut model = Model::of(4, 4).leaves(2).set(3, Down);
    model.replicas = 4;
    assert_eq!(
        model.run(),
        (vec![Remove(3)], Next::Waits(Obstacle::NoPlace))
    );
}

#[test]
fn a_store_that_comes_back_keeps_its_replica_and_the_new_one_goes() {
    let mut learning = Model::of(4, 3).with(learner(4));
    assert_eq!(learning.steps(), [Remove(4)]);
    // It had its vote already: now the one with the lowest id goes, and the leader stays.
    let mut voting = Model::of(4, 4);
    assert_eq!(voting.steps(), [Remove(2)]);
    let mut voting = Model::of(4, 4).set(3, Silent);
    assert_eq!(voting.steps(), [Remove(3)]);
}

#[test]
fn a_leaving_store_is_replaced_and_its_leader_hands_over() {
    let mut follower = Model::of(4, 3).leaves(3);
    assert_eq!(follower.steps(), [AddLearner(4), Promote(100), Remove(3)]);
    let mut dead = Model::of(4, 3).leaves(3).set(3, Silent);
    assert_eq!(dead.steps(), [AddLearner(4), Promote(100), Remove(3)]);
    let mut leader = Model::of(4, 3).leaves(1);
    let steps = [AddLearner(4), Promote(100), TransferLeader(2), Remove(1)];
    assert_eq!(leader.steps(), steps);
    let mut sole = Model::of(2, 1).leaves(1);
    let steps = [AddLearner(2), Promote(100), TransferLeader(100), Remove(1)];
    assert_eq!(sole.steps(), steps);
    let mut sole = Model::of(3, 1).leaves(1);
    assert_eq!(sole.steps(), steps, "two are no better than one");
    let mut lowered = Model::of(3, 3).leaves(1);
    lowered.replicas = 1;
    assert_eq!(lowered.steps(), [TransferLeader(2), Remove(1), Remove(3)]);
}

#[test]
fn nothing_is_decided_before_the_stores_of_a_region_were_heard_of() {
    let replaced = Model::of(4, 4).set(3, Unheard).set(4, Unheard).leaves(2);
    assert_eq!(replaced.waits(), Obstacle::Unheard(3));
    // Other stores may be missing: the learner is kept.
    let growing = Model::of(3, 1).with(learner(2)).set(3, Unheard);
    assert_eq!(growing.waits(), Obstacle::NoPlace);
}
