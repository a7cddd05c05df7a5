use proptest::prelude::*;
use proptest::sample::Index;

use super::Liveness::{Down, Silent, Unheard, Up};
use super::Step::{AddLearner, Promote, Remove, TransferLeader};
use super::*;

/// A region of a small cluster, with a leader that does what it is told.
#[derive(Debug, Clone)]
struct Model {
    places: BTreeMap<u64, Place>,
    peers: Vec<Peer>,
    leader: u64,
    replicas: usize,
    wish: Option<Wish>,
    /// Peers that the leader does not hear of, or that do not catch up.
    deaf: Vec<u64>,
    /// Those of them that were so for a while.
    absent: Vec<Absent>,
    /// Stores whose new peers are deaf.
    bad: Vec<u64>,
    asked: Option<Asked>,
    avoided: Option<u64>,
    given_up: Vec<u64>,
    bytes_needed: u64,
    new_peers: Vec<Peer>,
    may_learn: bool,
}

fn up() -> Place {
    Place {
        liveness: Up,
        is_leaving: false,
        may_take_replicas: true,
        takes_replicas: true,
        peer_count: 0,
        available_bytes: None,
    }
}

fn voter(id: u64) -> Peer {
    Peer {
        id,
        store_id: id,
        learner: false,
    }
}

fn learner(id: u64) -> Peer {
    Peer {
        learner: true,
        ..voter(id)
    }
}

impl Model {
    /// Stores that are up. The peers with the ids of the first ones vote there, and the first leads.
    fn of(stores: u64, voters: u64) -> Self {
        Self {
            places: (1..=stores).map(|id| (id, up())).collect(),
            peers: (1..=voters).map(voter).collect(),
            leader: 1,
            replicas: 3,
            wish: None,
            deaf: Vec::new(),
            absent: Vec::new(),
            bad: Vec::new(),
            asked: None,
            avoided: None,
            given_up: Vec::new(),
            bytes_needed: 0,
            new_peers: Vec::new(),
            may_learn: true,
        }
    }

    fn place(&mut self, store_id: u64) -> &mut Place {
        self.places.get_mut(&store_id).unwrap()
    }

    fn set(mut self, store_id: u64, liveness: Liveness) -> Self {
        self.place(store_id).liveness = liveness;
        self
    }

    fn leaves(mut self, store_id: u64) -> Self {
        self.place(store_id).is_leaving = true;
        self
    }

    /// A voter does not live, for a while or for long.
    fn lacks(mut self, peer_id: u64, is_lost: bool) -> Self {
        self.deaf.push(peer_id);
        self.absent.push(Absent { peer_id, is_lost });
        self
    }

    fn with(mut self, peer: Peer) -> Self {
        self.peers.push(peer);
        self
    }

    fn next(&self) -> Next {
        let peers = self.peers.iter().map(|peer| peer.id);
        let live: Vec<_> = peers.filter(|id| !self.deaf.contains(id)).collect();
        let case = Case {
            peers: &self.peers,
            leader: self.leader,
            places: &self.places,
            replicas: self.replicas,
            wish: self.wish,
            live: Some(&live),
            absent: self.absent.clone(),
            asked: self.asked,
            avoided: self.avoided,
            given_up: self.given_up.clone(),
            bytes_needed: self.bytes_needed,
            new_peers: &self.new_peers,
            may_learn: self.may_learn,
        };
        case.next_step()
    }

    /// The leader does it. A learner that does not catch up is not promoted, but given up, which ends an
    /// operator that wants it.
    fn apply(&mut self, step: Step) {
        let next_id = self.peers.iter().map(|peer| peer.id).max().unwrap() + 1;
        let next_id = next_id.max(100);
        match step {
            AddLearner(store_id) => {
                self.peers.push(Peer {
                    id: next_id,
                    store_id,
                    learner: true,
                });
                if self.bad.contains(&store_id) {
                    self.deaf.push(next_id);
                }
            }
            Promote(id) => {
                let mut peers = self.peers.iter_mut();
                let learner = peers.find(|peer| peer.id == id).unwrap();
                if self.deaf.contains(&id) {
                    let store_id = learner.store_id;
                    self.given_up.push(store_id);
                    self.wish = self.wish.filter(|wish| wish.add != Some(store_id));
                } else {
                    learner.learner = false;
                }
            }
            Remove(id) => {
                self.peers.retain(|peer| peer.id != id);
                self.deaf.retain(|&deaf| deaf != id);
            }
            TransferLeader(id) => self.leader = id,
        }
    }

    /// Takes steps until there is none, and returns them, with why there is none.
    fn run(&mut self) -> (Vec<Step>, Next) {
        let mut steps = Vec::new();
        loop {
            match self.next() {
                Next::Step(step) if steps.len() < 100 => {
                    self.apply(step);
                    steps.push(step);
                }
                other => return (steps, other),
            }
        }
    }

    fn steps(&mut self) -> Vec<Step> {
        self.run().0
    }

    fn waits(&self) -> Obstacle {
        match self.next() {
            Next::Waits(obstacle) => obstacle,
            other => panic!("{other:?}"),
        }
    }

    fn voters(&self) -> Vec<u64> {
        let voters = self.peers.iter().filter(|peer| !peer.learner);
        let mut stores: Vec<_> = voters.map(|peer| peer.store_id).collect();
        stores.sort_unstable();
        stores
    }

    fn lives(&self, peer: &Peer) -> bool {
        let place = self.places.get(&peer.store_id);
        let is_up = place.is_some_and(|place| place.liveness == Up);
        is_up && !self.deaf.contains(&peer.id)
    }

    /// Whether most voters live.
    fn has_majority(&self) -> bool {
        let voters = self.peers.iter().filter(|peer| !peer.learner);
        let live = voters.clone().filter(|voter| self.lives(voter));
        live.count() * 2 > voters.count()
    }

    /// The setting, or the largest odd number of stores below it.
    fn goal(&self, stores: usize) -> usize {
        if stores >= self.replicas {
            self.replicas
        } else {
            stores.saturating_sub(1) | 1
        }
    }
}

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
    // One without learners gets none.
    let mut model = Model::of(3, 1);
    model.given_up = vec![3];
    assert_eq!(model.next(), Next::Done);
    // Of five that it is to have, it gets the three that it can.
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
fn a_voter_is_not_removed_without_a_live_majority_of_the_others() {
    let mut model = Model::of(4, 4).set(2, Silent).set(3, Silent);
    assert_eq!(model.steps(), [Remove(2)], "two of the other three");
    let model = Model::of(6, 5).set(2, Down).set(3, Silent).set(4, Silent);
    assert_eq!(model.voters().len(), 5);
    let crowded = Model::of(4, 4).set(2, Silent).set(3, Silent).set(4, Silent);
    assert_eq!(crowded.waits(), Obstacle::NoMajority);
}

#[test]
fn nothing_is_decided_before_the_stores_of_a_region_were_heard_of() {
    let replaced = Model::of(4, 4).set(3, Unheard).set(4, Unheard).leaves(2);
    assert_eq!(replaced.waits(), Obstacle::Unheard(3));
    // Other stores may be missing: the learner is kept.
    let growing = Model::of(3, 1).with(learner(2)).set(3, Unheard);
    assert_eq!(growing.waits(), Obstacle::NoPlace);
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

fn places() -> impl Strategy<Value = BTreeMap<u64, Place>> {
    let liveness = prop_oneof![6 => Just(Up), 1 => Just(Silent), 2 => Just(Down)];
    let place = (
        liveness,
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.9),
        0..3_usize,
    );
    let place = place.prop_map(|(liveness, is_leaving, takes_replicas, peer_count)| Place {
        liveness,
        is_leaving,
        may_take_replicas: takes_replicas,
        takes_replicas,
        peer_count,
        available_bytes: None,
    });
    prop::collection::btree_map(1..=9_u64, place, 1..=9)
}

fn stores() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(1..=9_u64, 0..3)
}

fn models() -> impl Strategy<Value = Model> {
    let peers = prop::collection::btree_map(1..=10_u64, prop::bool::weighted(0.3), 1..=8);
    let wish = prop::option::weighted(
        0.3,
        (prop::option::of(1..=9_u64), prop::option::of(1..=9_u64)),
    );
    (
        places(),
        peers,
        any::<Index>(),
        1..=7_usize,
        wish,
        prop::option::of(1..=9_u64),
        prop::collection::btree_map(1..=10_u64, prop::option::of(any::<bool>()), 0..3),
        (stores(), stores()),
    )
        .prop_filter_map(
            "a voter that is up leads",
            |(places, peers, leader, replicas, wish, avoided, mut deaf, (given_up, bad))| {
                let peers = peers.into_iter().map(|(id, learner)| Peer {
                    id,
                    store_id: id,
                    learner,
                });
                let peers: Vec<_> = peers.collect();
                let may_lead = |peer: &&Peer| {
                    let place = places.get(&peer.store_id);
                    !peer.learner && place.is_some_and(|place| place.liveness == Up)
                };
                let leaders: Vec<_> = peers.iter().filter(may_lead).collect();
                let leader = (!leaders.is_empty()).then(|| leader.get(&leaders).id)?;
                let wish = wish.map(|(add, remove)| Wish { add, remove });
                let wish = wish.filter(|wish| wish.add != wish.remove);
                deaf.remove(&leader);
                let is_voter = |&(id, _): &(u64, bool)| {
                    let mut peers = peers.iter();
                    peers.any(|peer| peer.id == id && !peer.learner)
                };
                let absent = deaf
                    .iter()
                    .filter_map(|(&id, absent)| Some((id, (*absent)?)));
                let absent = absent
                    .filter(is_voter)
                    .map(|(peer_id, is_lost)| Absent { peer_id, is_lost });
                Some(Model {
                    absent: absent.collect(),
                    deaf: deaf.into_keys().collect(),
                    bad,
                    places,
                    peers,
                    leader,
                    replicas,
                    wish,
                    asked: None,
                    avoided,
                    given_up,
                    bytes_needed: 0,
                    new_peers: Vec::new(),
                    may_learn: true,
                })
            },
        )
}

impl Model {
    /// What every step has to be.
    fn check(&self, step: Step) {
        let peer = |id: u64| *self.peers.iter().find(|peer| peer.id == id).unwrap();
        let is_up = |store_id: u64| {
            let place = self.places.get(&store_id);
            place.is_some_and(|place| place.liveness == Up)
        };
        let lives = |peer: &Peer| self.lives(peer);
        match step {
            AddLearner(store_id) => {
                assert!(self.places[&store_id].is_usable());
                assert!(self.peers.iter().all(|peer| peer.store_id != store_id));
            }
            Promote(id) => assert!(peer(id).learner && is_up(peer(id).store_id)),
            Remove(id) => {
                assert_ne!(id, self.leader);
                let others = self
                    .peers
                    .iter()
                    .filter(|peer| !peer.learner && peer.id != id);
                let live = others.clone().filter(|other| lives(other));
                let count = others.clone().count() + 1;
                assert!(peer(id).learner || live.count() * 2 > others.count());
                // Nobody has asked for fewer.
                let is_one_too_many = count > self.replicas || count.is_multiple_of(2);
                assert!(peer(id).learner || self.wish.is_some() || is_one_too_many);
            }
            TransferLeader(id) => {
                assert!(!peer(id).learner && lives(&peer(id)) && id != self.leader);
            }
        }
    }

    /// Every store is up, and all that have peers are in the cluster.
    fn all_are_up(&mut self) {
        let stores = self.peers.iter().map(|peer| peer.store_id);
        let stores: Vec<_> = stores.chain(self.places.keys().copied()).collect();
        self.places = stores
            .into_iter()
            .map(|store_id| (store_id, up()))
            .collect();
        self.deaf.clear();
        self.absent.clear();
        self.given_up.clear();
        self.bad.clear();
    }

    /// Takes steps to the end, and checks that none goes back or puts the region at risk.
    fn run_checked(&mut self) -> Next {
        let mut seen = Vec::new();
        loop {
            let peers = self.peers.iter();
            let peers = peers.map(|peer| (peer.store_id, peer.learner, self.lives(peer)));
            let mut peers: Vec<_> = peers.collect();
            peers.sort_unstable();
            let leader = self.peers.iter().find(|peer| peer.id == self.leader);
            let state = (leader.unwrap().store_id, peers, self.given_up.len());
            assert!(!seen.contains(&state), "in a circle: {seen:?}");
            seen.push(state);
            let next = self.next();
            let Next::Step(step) = next else {
                return next;
            };
            self.check(step);
            let had_majority = self.has_majority();
            self.apply(step);
            assert!(self.has_majority() || !had_majority, "{step:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn steps_end_and_never_cost_a_majority(mut model in models()) {
        if let (Next::Done, Some(wish)) = (model.run_checked(), model.wish) {
            let on = |store_id| model.peers.iter().find(|peer| peer.store_id == store_id);
            if let Some(added) = wish.add {
                prop_assert!(on(added).is_some_and(|peer| !peer.learner));
            }
            prop_assert!(wish.remove.is_none_or(|removed| on(removed).is_none()));
        }
        // Whatever came of the wish.
        model.wish = None;
        let end = model.run_checked();
        let has_place = || model.places.iter().any(|(&store_id, place)| {
            let is_open = !model.given_up.contains(&store_id);
            is_open && place.is_usable() && model.peers.iter().all(|peer| peer.store_id != store_id)
        });
        match end {
            Next::Done | Next::Waits(Obstacle::Absent { .. }) => {
                prop_assert!(model.peers.iter().all(|peer| !peer.learner));
                let is_lost = |store_id: &u64| model.places.get(store_id).is_none_or(Place::is_lost);
                prop_assert!(!model.voters().iter().any(is_lost));
                let is_dead = |peer: &Peer| {
                    let is_lost = |absent: &Absent| absent.is_lost && absent.peer_id == peer.id;
                    model.absent.iter().any(is_lost) && !model.lives(peer)
                };
                let has_dead = model.peers.iter().any(is_dead);
                prop_assert!(!has_dead || !model.has_majority());
                prop_assert!(end != Next::Done || !model.peers.iter().any(is_dead));
            }
            Next::Waits(Obstacle::NoPlace) => prop_assert!(!has_place(), "{model:?}"),
            Next::Waits(Obstacle::Silent(store_id)) => {
                prop_assert_eq!(model.places[&store_id].liveness, Silent);
            }
            Next::Waits(Obstacle::NoMajority | Obstacle::NoSuccessor | Obstacle::Alone(_)) => {}
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn a_cluster_that_is_up_has_as_many_replicas_as_it_should(mut model in models()) {
        model.all_are_up();
        model.wish = None;
        let has_majority = model.has_majority();
        let end = model.run_checked();
        let goal = model.goal(model.places.len());
        if has_majority {
            prop_assert_eq!(end, Next::Done);
            prop_assert_eq!((model.voters().len(), model.peers.len()), (goal, goal));
        }
    }

    #[test]
    fn beside_bad_stores_a_region_has_the_replicas_that_the_others_can_hold(
        mut model in models(),
        bad in stores(),
    ) {
        model.all_are_up();
        model.wish = None;
        model.bad = bad;
        // What a voter lives on is not bad.
        let voters = model.voters();
        let is_good = |store_id: &&u64| voters.contains(store_id) || !model.bad.contains(store_id);
        let goal = model.goal(model.places.keys().filter(is_good).count());
        let end = model.run_checked();
        let is_end = matches!(end, Next::Done | Next::Waits(Obstacle::NoPlace));
        prop_assert!(is_end, "{end:?}");
        prop_assert!(model.voters().len() >= goal, "{model:?}");
    }

    #[test]
    fn what_happens_in_between_never_costs_a_majority_and_ends_well(
        mut model in models(),
        events in prop::collection::vec((any::<Index>(), places()), 0..12),
    ) {
        for (count, others) in events {
            for _ in 0..count.index(4) {
                if let Next::Step(step) = model.next() {
                    model.check(step);
                    model.apply(step);
                }
            }
            // Some stores change, the leader's stays up.
            let leader = model.peers.iter().find(|peer| peer.id == model.leader).unwrap();
            let leads_on = leader.store_id;
            for (store_id, place) in others {
                if store_id != leads_on {
                    model.places.insert(store_id, place);
                }
            }
        }
        model.wish = None;
        model.run_checked();
        model.all_are_up();
        let has_majority = model.has_majority();
        let end = model.run_checked();
        prop_assert!(!has_majority || end == Next::Done, "{end:?}");
    }
}
