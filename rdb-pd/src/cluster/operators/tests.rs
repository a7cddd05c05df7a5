use std::slice::from_ref;

use rdb_proto::metapb::RegionEpoch;

use super::super::lagging::PATIENCE;
use super::super::reports::Report;
use super::super::scene::Scene;
use super::super::state::Change;
use super::super::{DISCONNECTED_AFTER, HEARTBEAT_INTERVAL};
use super::*;
use crate::keys::StoreRecord;

fn wish(add: u64, remove: u64) -> Wish {
    let named = |store_id| (store_id > 0).then_some(store_id);
    Wish {
        add: named(add),
        remove: named(remove),
    }
}

/// Five stores, with the first region on the first three of them. The first leads.
fn scene() -> Scene {
    let mut scene = Scene::with_three_replicas();
    scene.add_store();
    scene.add_store();
    lead(&mut scene, &[1, 2, 3], 1);
    scene
}

/// The leader's heartbeat, with voters on these stores. Returns how many steps it is told.
fn lead(scene: &mut Scene, stores: &[u64], conf_version: u64) -> usize {
    lead_with(scene, stores, 0, conf_version)
}

/// The same, of which one is a learner that has not caught up; 0: none.
fn lead_with(scene: &mut Scene, stores: &[u64], learns_on: u64, conf_version: u64) -> usize {
    let report = Report {
        region_id: 1,
        peer_id: 1,
        term: 1,
        epoch: RegionEpoch {
            conf_version,
            version: 1,
        },
        peers: stores
            .iter()
            .map(|&id| rdb_proto::metapb::Peer {
                id: id.min(4),
                store_id: id,
                learner: id == learns_on,
            })
            .collect(),
        live: Some(vec![1, 2, 3]),
        bytes: None,
    };
    let silent = scene.silent;
    for store_id in (2..=5).filter(|&id| id != silent) {
        scene.report(store_id, &[]);
    }
    scene.lead_on(1, from_ref(&report)).len()
}

fn states(scene: &mut Scene) -> Vec<(OperatorState, String)> {
    let operators = scene.state.operators(scene.now);
    let states = operators.into_iter();
    let states = states.map(|operator| (operator.state(), operator.status));
    states.collect()
}

#[test]
fn an_operator_is_done_when_the_region_is_as_it_asks_and_the_store_is_avoided_then() {
    let mut scene = scene();
    let now = scene.now;
    let added = scene.state.add_operator(1, wish(5, 2), now).unwrap();
    assert_eq!((added.add_store_id, added.remove_store_id), (5, 2));
    let adding = "the leader adds a learner on store 5".to_owned();
    assert_eq!(states(&mut scene), [(OperatorState::Running, adding)]);
    assert_eq!(lead(&mut scene, &[1, 2, 3], 1), 1);
    assert_eq!(lead(&mut scene, &[1, 2, 3, 5], 3), 1);
    assert_eq!(scene.state.operators.avoided(1), None);
    scene.pass(HEARTBEAT_INTERVAL);
    assert_eq!(lead(&mut scene, &[1, 3, 5], 4), 0);
    let operators = scene.state.operators(scene.now);
    assert_eq!(
        (operators.len(), operators[0].state()),
        (1, OperatorState::Done)
    );
    assert_eq!(operators[0].age_ms, 5_000);
    assert_eq!(operators[0].ended_age_ms, Some(0));
    assert_eq!(scene.state.operators.avoided(1), Some(2));
}

#[test]
fn an_operator_that_is_cancelled_or_takes_too_long_ends_and_makes_room() {
    let mut scene = scene();
    let now = scene.now;
    scene.state.add_operator(1, wish(4, 0), now).unwrap();
    let again = scene.state.add_operator(1, wish(4, 0), now);
    assert_eq!(again.unwrap().state(), OperatorState::Running);
    let twice = scene.state.add_operator(1, wish(5, 0), now);
    assert_eq!(twice, Err(Impossible::HasOperator { region_id: 1 }));
    let cancelled = scene.state.cancel_operator(1, now).unwrap();
    assert_eq!(cancelled.state(), OperatorState::Cancelled);
    assert!(cancelled.status.is_empty());
    let again = scene.state.cancel_operator(1, now).unwrap();
    assert_eq!(again.state(), OperatorState::Cancelled);
    assert_eq!(again.status, "it was cancelled before");
    let none = scene.state.cancel_operator(2, now).unwrap_err();
    assert!(
        none.to_string().contains("there are no operators"),
        "{none}"
    );

    scene.pass(DISCONNECTED_AFTER);
    lead(&mut scene, &[1, 2, 3], 1);
    let now = scene.now;
    scene.state.add_operator(1, wish(4, 0), now).unwrap();
    let leaderless = "the placement driver".to_owned();
    assert!(!states(&mut scene)[0].1.contains(&leaderless));
    scene.pass(OPERATOR_TIMEOUT);
    let ended = states(&mut scene);
    assert_eq!(ended[0].0, OperatorState::TimedOut);
    let why = "not done in time: waits: store 1 has led the region, and is silent";
    assert_eq!(ended[0].1, why);
    assert_eq!(ended[1].0, OperatorState::Cancelled);
    let never_cancelled = scene.state.cancel_operator(1, scene.now);
    assert!(never_cancelled.is_err(), "{never_cancelled:?}");
    lead(&mut scene, &[1, 2, 3], 1);
    let now = scene.now;
    scene.state.add_operator(1, wish(5, 0), now).unwrap();
    scene.restart();
    assert!(states(&mut scene).is_empty(), "in memory only");
}

#[test]
fn what_is_changed_without_an_operator_is_listed_with_what_it_waits_for() {
    let mut scene = scene();
    assert!(states(&mut scene).is_empty());
    let record = scene.state.stores[&3].record.clone();
    scene.state.apply(Change::Store(StoreRecord {
        is_leaving: true,
        ..record
    }));
    let adding = "the leader adds a learner on store 4".to_owned();
    assert_eq!(states(&mut scene), [(OperatorState::Running, adding)]);
    for store_id in [4, 5] {
        scene.state.note_replicas_taken(store_id, true);
    }
    let waits = "waits: too few stores can take a replica".to_owned();
    assert_eq!(states(&mut scene), [(OperatorState::Running, waits)]);
}

#[test]
fn what_only_a_leader_could_do_whose_store_is_silent_is_listed_as_waiting() {
    let mut scene = scene();
    let down_after = scene.state.settings.store_down_after;
    scene.pass(down_after);
    for store_id in 3..=5 {
        scene.report(store_id, &[]);
    }
    let waits = "waits: store 1 has led the region, and is silent".to_owned();
    assert_eq!(states(&mut scene), [(OperatorState::Running, waits)]);
}

#[test]
fn what_cannot_be_done_is_refused_and_says_what_there_is() {
    let mut scene = scene();
    let now = scene.now;
    scene.state.note_replicas_taken(5, true);
    let mut refused = |region_id, wish| {
        let refused = scene.state.add_operator(region_id, wish, now);
        refused.unwrap_err().to_string()
    };
    for ((region_id, wish), cause) in [
        ((9, wish(4, 0)), "there is no region 9; there are regions 1"),
        (
            (1, wish(9, 0)),
            "there is no store 9; there are stores 1, 2, 3, 4, 5",
        ),
        ((1, wish(0, 9)), "there is no store 9"),
        ((1, wish(4, 5)), "there are replicas on stores 1, 2, 3"),
        ((1, wish(5, 0)), "--durability=os"),
    ] {
        let told = refused(region_id, wish);
        assert!(told.contains(cause), "{told}");
    }
    for wish in [wish(3, 0), wish(0, 4), wish(3, 4)] {
        let done = scene.state.add_operator(1, wish, now).unwrap();
        assert_eq!(done.state(), OperatorState::Done);
        assert!(done.status.contains("nothing is to be done"), "{done:?}");
    }
    assert!(states(&mut scene).is_empty());
    lead(&mut scene, &[1], 2);
    let sole = scene.state.add_operator(1, wish(0, 1), now).unwrap_err();
    assert!(sole.to_string().contains("the only replica"), "{sole}");
    let moved = scene.state.add_operator(1, wish(4, 1), now);
    moved.expect("another one comes first");
}

/// The placement driver has started in between, and may have removed another voter, since there was one too many.
#[test]
fn a_move_to_a_store_that_has_a_voter_is_refused_unless_it_is_done_or_under_way() {
    let no_move = |to, voters| Impossible::NoMove {
        region_id: 1,
        from: 2,
        to,
        voters,
        kept: 3,
    };
    let mut scene = scene();
    let never = scene.state.add_operator(1, wish(3, 2), scene.now);
    assert_eq!(never, Err(no_move(3, 3)), "it had one all along");

    scene.state.add_operator(1, wish(5, 2), scene.now).unwrap();
    lead(&mut scene, &[1, 2, 3], 1);
    lead(&mut scene, &[1, 2, 3, 5], 3);
    let again = scene.state.add_operator(1, wish(5, 2), scene.now).unwrap();
    assert_eq!(again.state(), OperatorState::Running);
    assert_eq!(again.status, "the leader removes peer 2");
    scene.restart();
    for (members, conf_version) in [(&[1, 2, 3, 5][..], 4), (&[1, 2, 5], 5)] {
        lead(&mut scene, members, conf_version);
        let again = scene.state.add_operator(1, wish(5, 2), scene.now);
        assert_eq!(again, Err(no_move(5, members.len())), "{members:?}");
    }
    assert!(states(&mut scene).is_empty());
    // A move that has happened is answered as done, even if nobody remembers it.
    scene.restart();
    lead(&mut scene, &[1, 3, 5], 9);
    let again = scene.state.add_operator(1, wish(5, 2), scene.now).unwrap();
    assert_eq!(again.state(), OperatorState::Done);
}

#[test]
fn the_rest_of_a_move_that_was_cancelled_is_finished_or_undone_as_its_refusal_says() {
    for (goes, command, members) in [
        (
            2,
            "`rdbctl operator remove-peer 1 2` finishes it",
            [1, 3, 5],
        ),
        (5, "`rdbctl operator remove-peer 1 5` undoes it", [1, 2, 3]),
    ] {
        let mut scene = scene();
        scene.state.add_operator(1, wish(5, 2), scene.now).unwrap();
        lead(&mut scene, &[1, 2, 3], 1);
        scene.state.cancel_operator(1, scene.now).unwrap();
        lead(&mut scene, &[1, 2, 3, 5], 3);
        let refused = scene.state.add_operator(1, wish(5, 2), scene.now);
        let told = refused.unwrap_err().to_string();
        assert!(told.contains(command), "{told}");
        let prospect = "If nobody asks, one goes by itself: the region has 4, and 3 are kept";
        assert!(told.contains(prospect), "{told}");

        scene
            .state
            .add_operator(1, wish(0, goes), scene.now)
            .unwrap();
        assert_eq!(lead(&mut scene, &[1, 2, 3, 5], 3), 1);
        assert_eq!(lead(&mut scene, &members, 4), 0);
        assert_eq!(states(&mut scene)[0].0, OperatorState::Done);
    }
    // The one that was too many is gone by itself.
    let mut scene = scene();
    scene.state.counters.peer_id += 1;
    lead(&mut scene, &[1, 2, 5], 4);
    let refused = scene.state.add_operator(1, wish(5, 2), scene.now);
    let told = refused.unwrap_err().to_string();
    assert!(told.contains("Another one comes then"), "{told}");
}

/// Four stores can hold three voters but not four, for any setting.
#[test]
fn a_refused_move_tells_how_many_replicas_are_kept_on_the_stores_that_there_are() {
    let mut scene = scene();
    scene.state.settings.replicas = 5;
    let record = scene.state.stores[&4].record.clone();
    scene.state.apply(Change::Store(StoreRecord {
        is_leaving: true,
        ..record
    }));
    scene.state.counters.peer_id += 1;
    lead(&mut scene, &[1, 2, 3, 5], 3);
    let refused = scene.state.add_operator(1, wish(5, 2), scene.now);
    let told = refused.unwrap_err().to_string();
    let prospect = "If nobody asks, one goes by itself: the region has 4, and 3 are kept";
    assert!(told.contains(prospect), "{told}");
}

#[test]
fn nothing_is_answered_from_members_that_no_leader_has_confirmed() {
    let mut scene = scene();
    scene.restart();
    let now = scene.now;
    for wish in [wish(3, 0), wish(0, 4), wish(5, 2), wish(0, 1)] {
        let asked = scene.state.add_operator(1, wish, now);
        assert_eq!(asked, Err(Impossible::Unconfirmed { region_id: 1 }));
    }
    // The copy was made before the replica moved.
    scene.state.counters.peer_id += 1;
    lead(&mut scene, &[1, 2, 4], 3);
    let moved = scene.state.add_operator(1, wish(4, 3), now).unwrap();
    assert_eq!(moved.state(), OperatorState::Done);
    let added = scene.state.add_operator(1, wish(3, 0), now).unwrap();
    assert_eq!(added.state(), OperatorState::Running);
}

#[test]
fn operators_and_their_memory_are_bounded() {
    let mut scene = scene();
    let now = scene.now;
    let known = scene.state.region_by_id(1).unwrap();
    let (region, leadership) = (known.region.clone(), known.leadership);
    let count = OPERATORS_MAX as u64;
    for id in 2..=count + 1 {
        let start_key = id.to_be_bytes().to_vec().into();
        let region = rdb_proto::metapb::Region {
            id,
            start_key,
            ..region.clone()
        };
        scene.state.apply(Change::Region(region));
        scene.state.region_mut(id).unwrap().leadership = leadership;
    }
    for _ in 0..2 {
        for region_id in 1..=count {
            scene
                .state
                .add_operator(region_id, wish(4, 0), now)
                .unwrap();
        }
        let one_more = scene.state.add_operator(count + 1, wish(4, 0), now);
        assert_eq!(one_more, Err(Impossible::TooManyOperators));
        for region_id in 1..=count {
            scene.state.cancel_operator(region_id, now).unwrap();
        }
    }
    assert_eq!(scene.state.operators(now).len(), OPERATORS_MAX);
    let statuses = scene.state.operators(now).into_iter();
    assert!(
        statuses
            .map(|operator| operator.status.len())
            .all(|bytes| bytes <= 255)
    );
}

#[test]
fn a_store_that_is_silent_is_refused_at_once_and_so_is_one_without_room() {
    let mut scene = scene();
    scene.silent = 4;
    scene.pass(DISCONNECTED_AFTER);
    lead(&mut scene, &[1, 2, 3], 1);
    let now = scene.now;
    let refused = scene.state.add_operator(1, wish(4, 0), now).unwrap_err();
    assert_eq!(refused, Impossible::Silent { store_id: 4 });
    let removed = scene.state.add_operator(1, wish(5, 3), now);
    removed.expect("the other store is up");
    scene.state.cancel_operator(1, now).unwrap();
    let figures = |data_bytes, available_bytes| {
        Some(rdb_proto::metapb::StoreStats {
            data_bytes,
            available_bytes,
            ..Default::default()
        })
    };
    for (store_id, stats) in [(1, figures(100, 0)), (5, figures(0, 124))] {
        let store = scene.state.stores.get_mut(&store_id);
        store.unwrap().stats = stats;
    }
    let refused = scene.state.add_operator(1, wish(5, 0), now).unwrap_err();
    let needed = 125;
    assert_eq!(
        refused,
        Impossible::NoRoom {
            store_id: 5,
            needed
        }
    );
    // Its store holds other regions, too.
    scene.state.region_mut(1).unwrap().bytes = Some(99);
    let added = scene.state.add_operator(1, wish(5, 0), now);
    added.expect("there is room for this one");
}

#[test]
fn one_replica_more_than_are_kept_is_told_at_the_call() {
    let mut scene = scene();
    let now = scene.now;
    let added = scene.state.add_operator(1, wish(5, 0), now).unwrap();
    assert!(
        added
            .status
            .contains("more replicas than the 3 of rdb-pd --replicas"),
        "{added:?}"
    );
    assert!(added.status.len() <= 255);
    scene.state.cancel_operator(1, now).unwrap();
    let moved = scene.state.add_operator(1, wish(5, 2), now).unwrap();
    assert_eq!(moved.status, "the leader adds a learner on store 5");
}

#[test]
fn an_operator_whose_learner_does_not_catch_up_ends_and_says_so() {
    let mut scene = scene();
    let now = scene.now;
    scene.state.add_operator(1, wish(5, 0), now).unwrap();
    lead(&mut scene, &[1, 2, 3], 1);
    lead_with(&mut scene, &[1, 2, 3, 5], 5, 2);
    for _ in 0..PATIENCE.as_secs() / DISCONNECTED_AFTER.as_secs() * 2 {
        scene.pass(DISCONNECTED_AFTER / 2);
        lead_with(&mut scene, &[1, 2, 3, 5], 5, 2);
    }
    assert_eq!(
        lead_with(&mut scene, &[1, 2, 3, 5], 5, 2),
        1,
        "it is removed"
    );
    let ended = states(&mut scene);
    let why = "the learner on store 5 has not caught up, and is given up".to_owned();
    assert_eq!(ended.last(), Some(&(OperatorState::TimedOut, why)));
    // Somebody wants it all the same.
    let now = scene.now;
    let again = scene.state.add_operator(1, wish(5, 0), now).unwrap();
    assert_eq!(again.state(), OperatorState::Running);
    lead_with(&mut scene, &[1, 2, 3, 5], 5, 2);
    assert_eq!(states(&mut scene)[0].0, OperatorState::Running);
}

#[test]
fn what_a_cancelled_operator_leaves_on_a_silent_store_does_not_hold_up_one_that_leaves() {
    let mut scene = scene();
    let now = scene.now;
    scene.state.add_operator(1, wish(5, 0), now).unwrap();
    lead(&mut scene, &[1, 2, 3], 1);
    lead_with(&mut scene, &[1, 2, 3, 5], 5, 2);
    let record = scene.state.stores[&3].record.clone();
    scene.state.apply(Change::Store(StoreRecord {
        is_leaving: true,
        ..record
    }));
    scene.silent = 5;
    scene.pass(DISCONNECTED_AFTER);
    lead_with(&mut scene, &[1, 2, 3, 5], 5, 2);
    let now = scene.now;
    scene.state.cancel_operator(1, now).unwrap();
    let removing = "the leader removes peer 4".to_owned();
    assert_eq!(states(&mut scene)[0], (OperatorState::Running, removing));
    lead(&mut scene, &[1, 2, 3], 3);
    let adding = "the leader adds a learner on store 4".to_owned();
    assert_eq!(states(&mut scene)[0], (OperatorState::Running, adding));
}
