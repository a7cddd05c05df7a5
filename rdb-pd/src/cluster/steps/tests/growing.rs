//! Regions that grow: where their learners go, which of them are kept, and when they get their votes.

use super::*;

#[test]
fn one_replica_becomes_three_with_two_voters_for_as_short_as_can_be() {
    let mut model = Model::of(3, 1);
    let steps = [AddLearner(2), AddLearner(3), Promote(101), Promote(100)];
    assert_eq!(model.steps(), steps);
    assert_eq!(model.voters(), [1, 2, 3]);
}

#[test]
fn an_even_number_of_stores_holds_no_more_than_the_odd_one_below_it() {
    for (stores, replicas, goal) in [
        (1, 3, 1),
        (2, 3, 1),
        (3, 3, 3),
        (4, 3, 3),
        (4, 5, 3),
        (5, 5, 5),
        (6, 7, 5),
        (9, 7, 7),
        (2, 2, 2),
        (5, 4, 4),
        (3, 4, 3),
    ] {
        for voters in 1..=stores {
            let mut model = Model::of(stores, voters);
            model.replicas = replicas;
            assert_eq!(model.run().1, Next::Done);
            assert_eq!(
                model.voters().len(),
                goal,
                "{voters} on {stores}, {replicas}"
            );
            assert_eq!(model.peers.len(), goal);
            assert_eq!(model.leader, 1);
        }
    }
}

#[test]
fn a_store_whose_learner_was_given_up_is_left_alone() {
    let growing = Model::of(4, 1).with(learner(2)).with(learner(3));
    let mut model = growing.clone();
    model.given_up = vec![3];
    let steps = [Remove(3), AddLearner(4), Promote(100), Promote(2)];
    assert_eq!(model.steps(), steps);
    // There is no other: the one that can vote with it is kept, and waits.
    let mut model = growing.leaves(4);
    model.given_up = vec![3];
    let waits = Next::Waits(Obstacle::NoPlace);
    assert_eq!(model.run(), (vec![Remove(3)], waits));
    model = model.set(3, Silent);
    assert_eq!(model.run(), (vec![], waits));
    model = model.set(3, Up);
    model.given_up.clear();
    assert_eq!(model.steps(), [AddLearner(3), Promote(100), Promote(2)]);
    // A region without learners gets none.
    let mut model = Model::of(3, 1);
    model.given_up = vec![3];
    assert_eq!(model.next(), Next::Done);
    // It should have five voters, and gets the three that are possible.
    let mut model = Model::of(5, 1);
    (model.replicas, model.given_up) = (5, vec![5]);
    model = model.with(learner(2)).with(learner(3)).with(learner(4));
    let steps = [Promote(3), Promote(2)];
    assert_eq!(model.run(), (steps.to_vec(), waits));
}

#[test]
fn a_store_without_room_gets_no_learner() {
    let mut model = Model::of(4, 3).leaves(3);
    model.bytes_needed = 100;
    model.place(4).available_bytes = Some(99);
    assert_eq!(model.waits(), Obstacle::NoPlace);
    model.wish = Some(Wish {
        add: Some(4),
        remove: None,
    });
    assert_eq!(model.waits(), Obstacle::NoRoom(4));
    model.wish = None;
    model.place(4).available_bytes = Some(100);
    assert_eq!(model.next(), Next::Step(AddLearner(4)));
}

#[test]
fn a_learner_on_a_silent_store_is_waited_for_and_given_up_when_the_store_is_down() {
    let growing = Model::of(3, 1).with(learner(2)).with(learner(3));
    let silent = growing.clone().set(3, Silent);
    assert_eq!(silent.waits(), Obstacle::Silent(3), "two voters need both");
    let mut down = growing.clone().set(3, Down);
    assert_eq!(down.steps(), [Remove(2), Remove(3)]);
    assert_eq!(down.voters(), [1]);
    let mut another = growing.set(3, Down);
    another.places.insert(4, up());
    assert_eq!(another.steps()[0], Remove(3));
    assert_eq!(another.voters(), [1, 2, 4]);

    let replacing = Model::of(5, 3).set(3, Down).with(learner(4));
    let silent = replacing.clone().set(4, Silent);
    assert_eq!(silent.waits(), Obstacle::Silent(4));
    let mut down = replacing.set(4, Down);
    let steps = [Remove(4), AddLearner(5), Promote(100), Remove(3)];
    assert_eq!(down.steps(), steps);
}

#[test]
fn the_best_store_has_the_fewest_peers_then_the_most_room() {
    let mut model = Model::of(6, 3).leaves(3);
    for (store_id, peer_count, available_bytes) in [(4, 2, 900), (5, 1, 10), (6, 1, 20)] {
        *model.place(store_id) = Place {
            peer_count,
            available_bytes: Some(available_bytes),
            ..up()
        };
    }
    assert_eq!(model.next(), Next::Step(AddLearner(6)));
    model.avoided = Some(6);
    assert_eq!(model.next(), Next::Step(AddLearner(5)));
    model.place(5).takes_replicas = false;
    assert_eq!(
        model.next(),
        Next::Step(AddLearner(4)),
        "it has not said yet"
    );
    model.place(4).liveness = Silent;
    assert_eq!(model.next(), Next::Step(AddLearner(6)), "there is no other");
    model.place(4).liveness = Up;
    model.new_peers = vec![learner(6)];
    assert_eq!(
        model.next(),
        Next::Step(AddLearner(6)),
        "it was answered before"
    );
}

#[test]
fn a_region_of_a_store_that_takes_no_replicas_stays_alone() {
    let mut model = Model::of(3, 1);
    model.place(1).may_take_replicas = false;
    assert_eq!(model.waits(), Obstacle::Alone(1));
    // One among others, which should not be, is not given up.
    let mut model = Model::of(3, 3);
    model.place(2).may_take_replicas = false;
    assert_eq!(model.next(), Next::Done);
}

#[test]
fn learners_wait_while_many_other_regions_learn() {
    let mut model = Model::of(3, 1);
    model.may_learn = false;
    assert_eq!(model.waits(), Obstacle::OthersLearn);
}
