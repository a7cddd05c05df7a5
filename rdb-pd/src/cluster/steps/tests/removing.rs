//! Voters that go, and leaders that hand over before.

use super::*;

#[test]
fn a_voter_is_removed_only_if_most_of_those_who_stay_live() {
    let mut model = Model::of(4, 4);
    model.deaf = vec![3];
    assert_eq!(model.steps(), [Remove(3)], "it goes first");
    let mut model = Model::of(4, 4);
    model.deaf = vec![2, 3, 4];
    assert_eq!(model.waits(), Obstacle::NoMajority);
    let mut model = Model::of(3, 3);
    model.wish = Some(Wish {
        add: None,
        remove: Some(2),
    });
    model.deaf = vec![3];
    assert_eq!(model.waits(), Obstacle::NoMajority);
    model.deaf = vec![2];
    assert_eq!(model.steps(), [Remove(2)]);
}

#[test]
fn a_leader_that_has_to_go_asks_those_who_live_one_after_the_other() {
    let mut model = Model::of(5, 5).leaves(1);
    model.replicas = 5;
    model.wish = Some(Wish {
        add: None,
        remove: Some(1),
    });
    model.deaf = vec![3];
    for (asked, next) in [
        (None, 2),
        (Some((2, false)), 4),
        (Some((4, false)), 5),
        (Some((5, false)), 2),
        // It has fallen silent meanwhile.
        (Some((3, true)), 4),
        // It is no member any more.
        (Some((9, true)), 2),
    ] {
        model.asked = asked.map(|(peer_id, is_recent)| Asked { peer_id, is_recent });
        assert_eq!(model.next(), Next::Step(TransferLeader(next)), "{asked:?}");
    }
    // It may lead yet.
    model.asked = Some(Asked {
        peer_id: 4,
        is_recent: true,
    });
    assert_eq!(model.waits(), Obstacle::WasAsked(4));
}

#[test]
fn voters_on_stores_that_leave_are_asked_to_lead_after_those_on_stores_that_stay() {
    let mut model = Model::of(4, 4).leaves(1).leaves(2).leaves(3);
    model.replicas = 4;
    model.wish = Some(Wish {
        add: None,
        remove: Some(1),
    });
    for next in [4, 2, 3, 4] {
        assert_eq!(model.next(), Next::Step(TransferLeader(next)));
        model.asked = Some(Asked {
            peer_id: next,
            is_recent: false,
        });
    }
}

#[test]
fn a_voter_is_not_removed_without_a_live_majority_of_the_others() {
    let mut model = Model::of(4, 4).set(2, Silent).set(3, Silent);
    assert_eq!(model.steps(), [Remove(2)], "two of the other three");
    let model = Model::of(6, 5).set(2, Down).set(3, Silent).set(4, Silent);
    assert_eq!(model.voters().len(), 5);
    let crowded = Model::of(4, 4).set(2, Silent).set(3, Silent).set(4, Silent);
    assert_eq!(crowded.waits(), Obstacle::NoMajority);
}
