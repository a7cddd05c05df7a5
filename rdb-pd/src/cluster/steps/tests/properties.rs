//! Promises that hold for any region on any stores.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

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

    fn is_dead(&self, peer: &Peer) -> bool {
        let is_lost = |absent: &Absent| absent.is_lost && absent.peer_id == peer.id;
        self.absent.iter().any(is_lost) && !self.lives(peer)
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
        // Whether or not the wish was fulfilled.
        model.wish = None;
        let end = model.run_checked();
        let has_place = || model.places.iter().any(|(&store_id, place)| {
            let is_open = !model.given_up.contains(&store_id);
            is_open && place.is_usable() && model.peers.iter().all(|peer| peer.store_id != store_id)
        });
        match end {
            Next::Done => {
                prop_assert!(model.peers.iter().all(|peer| !peer.learner));
                let is_lost = |store_id: &u64| model.places.get(store_id).is_none_or(Place::is_lost);
                prop_assert!(!model.voters().iter().any(is_lost));
                prop_assert!(!model.peers.iter().any(|peer| model.is_dead(peer)));
            }
            Next::Waits(Obstacle::Absent { .. }) => {
                prop_assert!(model.peers.iter().any(|peer| !peer.learner && !model.lives(peer)));
                let has_dead = model.peers.iter().any(|peer| model.is_dead(peer));
                prop_assert!(!has_dead || !model.has_majority());
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
