//! What operators ask for.

use super::*;

#[test]
fn a_wish_goes_first_and_what_it_did_is_tended_afterwards() {
    let wish = |add: u64, remove: u64| {
        let named = |store_id| (store_id > 0).then_some(store_id);
        Some(Wish {
            add: named(add),
            remove: named(remove),
        })
    };
    let mut model = Model::of(5, 3).set(3, Down);
    model.wish = wish(5, 0);
    assert_eq!(model.steps(), [AddLearner(5), Promote(100)]);
    assert_eq!(model.next(), Next::Done);
    model.wish = None;
    assert_eq!(model.steps(), [Remove(3)]);

    let mut model = Model::of(5, 3);
    model.wish = wish(5, 2);
    assert_eq!(model.steps(), [AddLearner(5), Promote(100), Remove(2)]);
    model.wish = wish(0, 1);
    assert_eq!(model.steps(), [TransferLeader(3), Remove(1)]);
    (model.wish, model.avoided) = (None, Some(1));
    assert_eq!(model.steps(), [AddLearner(2), Promote(101)]);

    let mut model = Model::of(4, 3).set(4, Silent);
    model.wish = wish(4, 0);
    assert_eq!(model.waits(), Obstacle::Unusable(4));
    model.peers.push(learner(4));
    assert_eq!(model.waits(), Obstacle::Silent(4));
    model.wish = wish(0, 4);
    assert_eq!(model.next(), Next::Step(Remove(4)));
    let mut model = Model::of(3, 3).set(3, Silent);
    model.wish = wish(0, 2);
    assert_eq!(model.waits(), Obstacle::NoMajority);
}
