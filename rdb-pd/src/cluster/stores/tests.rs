use rdb_proto::metapb::Peer;

use super::super::record::UNKEPT_INCARNATIONS_MAX;
use super::super::refusal::RegisteredStore;
use super::super::scene::{CLUSTER_ID, Scene, fresh, start, start_of};
use super::*;

fn is_superseded<T>(result: Result<T, Refusal>) -> bool {
    matches!(result, Err(Refusal::Superseded(store)) if store.id == 1)
}

fn is_elsewhere<T>(result: Result<T, Refusal>) -> bool {
    matches!(result, Err(Refusal::LivesElsewhere { store, .. }) if store.id == 1)
}

fn is_told_to_wait<T>(result: Result<T, Refusal>) -> bool {
    matches!(result, Err(Refusal::MayBeAlive { store, .. }) if store.id == 1)
}

#[test]
fn the_first_store_that_keeps_its_id_gets_the_whole_key_range_and_the_second_nothing() {
    let mut scene = Scene::empty();
    assert_eq!(scene.register(&fresh("a:1", 1)), Ok(1));
    assert_eq!(scene.register(&start("a:1", 1, 0)), Ok(1));
    assert!(scene.state.regions_of(1).is_empty(), "it may not keep it");
    assert_eq!(scene.register(&start("a:1", 1, 1)), Ok(1));
    let regions = scene.state.regions_of(1);
    assert_eq!(regions.len(), 1);
    assert!(regions[0].contains(b"") && regions[0].end_key.is_empty());
    assert_eq!(
        regions[0].peers,
        [Peer {
            id: 1,
            store_id: 1,
            learner: false
        }]
    );

    assert_eq!(scene.register(&fresh("b:1", 2)), Ok(2));
    let second = start_of(2, "b:1", 2, 2);
    assert_eq!(scene.register(&second), Ok(2));
    assert!(scene.state.regions_of(2).is_empty());
    assert_eq!(scene.state.regions_of(1), regions);
}

#[test]
fn an_id_that_was_never_kept_takes_no_region_with_it() {
    let mut scene = Scene::empty();
    assert_eq!(scene.register(&fresh("a:1", 1)), Ok(1));
    // Its directory could not be written, and the operator starts it elsewhere.
    assert_eq!(scene.register(&fresh("b:1", 2)), Ok(2));
    let second = start_of(2, "b:1", 2, 2);
    assert_eq!(scene.register(&second), Ok(2));
    assert_eq!(scene.state.regions_of(2).len(), 1);
    assert_eq!(scene.state.stores(scene.now).len(), 1);
}

#[test]
fn a_new_store_whose_answer_was_lost_gets_the_same_id() {
    let mut scene = Scene::empty();
    for _ in 0..3 {
        assert_eq!(scene.register(&fresh("a:1", 1)), Ok(1));
    }
    assert_eq!(scene.state.counters.store_id, 1);
}

#[test]
fn two_new_stores_at_one_address_get_different_ids_and_never_live_together() {
    let mut scene = Scene::empty();
    assert_eq!(scene.register(&fresh("a:1", 1)), Ok(1));
    let second = fresh("a:1", 2);
    assert!(
        is_told_to_wait(scene.register(&second)),
        "the first may be about to keep its id, or may have ended"
    );
    assert_eq!(scene.register(&start("a:1", 1, 1)), Ok(1));
    let taken = Refusal::AddressTaken(RegisteredStore {
        id: 1,
        address: "a:1".to_owned(),
    });
    assert_eq!(scene.register(&second), Err(taken));
    scene.pass(DISCONNECTED_AFTER);
    assert_eq!(scene.register(&second), Ok(2));
}

#[test]
fn a_new_store_that_ended_before_it_kept_its_id_is_let_in_again_under_another_one() {
    let mut scene = Scene::empty();
    assert_eq!(scene.register(&fresh("a:1", 1)), Ok(1));
    assert!(is_told_to_wait(scene.register(&fresh("a:1", 2))));
    scene.pass(DISCONNECTED_AFTER);
    assert_eq!(scene.register(&fresh("a:1", 2)), Ok(2));
    assert_eq!(
        scene.register(&start("a:1", 3, 1)),
        Err(Refusal::MayBeAlive {
            store: RegisteredStore {
                id: 2,
                address: "a:1".to_owned(),
            },
            is_previous: false,
        }),
        "and if it kept the first after all, it waits for its turn"
    );
}

#[test]
fn a_restarted_store_gets_its_place_as_soon_as_its_last_process_is_silent() {
    let mut scene = Scene::with_original();
    let told = scene.register(&start("a:1", 2, 1)).unwrap_err();
    assert!(told.to_string().contains("the previous process"), "{told}");
    scene.pass(DISCONNECTED_AFTER);
    assert_eq!(scene.register(&start("a:1", 2, 1)), Ok(1));
    assert_eq!(scene.register(&start("a:1", 2, 1)), Ok(1), "lost answer");
    assert_eq!(scene.register(&start("a:1", 2, 2)), Ok(1));
    assert_eq!(scene.beat(&start("a:1", 2, 2)), Ok(()));
}

#[test]
fn a_store_that_crashes_again_and_again_is_never_shut_out() {
    let mut scene = Scene::with_original();
    // Each ends within a second, and before it writes what may have been accepted.
    for incarnation in 2..60 {
        let _ = scene.register(&start("a:1", incarnation, 1));
        scene.pass(Duration::from_secs(1));
    }
    assert!(scene.state.stores[&1].record.incarnation > 1);
    for incarnation in 60..100 {
        scene.pass(DISCONNECTED_AFTER);
        assert_eq!(scene.register(&start("a:1", incarnation, 1)), Ok(1));
    }
    let record = &scene.state.stores[&1].record;
    assert!(record.unkept_incarnations.len() <= UNKEPT_INCARNATIONS_MAX);
    // The last one has written and ended before it said so.
    scene.pass(DISCONNECTED_AFTER);
    assert_eq!(scene.register(&start("a:1", 100, 99)), Ok(1));
    assert_eq!(scene.register(&start("a:1", 100, 100)), Ok(1));
}

#[test]
fn a_late_request_of_a_killed_process_shuts_nobody_out() {
    let mut scene = Scene::with_original();
    let late = start("a:1", 2, 1);
    scene.pass(DISCONNECTED_AFTER);
    assert_eq!(scene.register(&start("a:1", 3, 1)), Ok(1));
    assert!(is_told_to_wait(scene.register(&late)));
    assert_eq!(scene.beat(&start("a:1", 3, 3)), Ok(()), "it lives on");

    // So late that 3, which has kept its incarnation but did not get to say so, is silent by then.
    scene.pass(DISCONNECTED_AFTER);
    assert_eq!(scene.register(&late), Ok(1));
    scene.pass(DISCONNECTED_AFTER);
    assert_eq!(scene.register(&start("a:1", 4, 3)), Ok(1));
    assert_eq!(scene.register(&start("a:1", 4, 4)), Ok(1));
    assert!(is_superseded(scene.register(&late)));
}

#[test]
fn a_copy_never_displaces_a_living_original_whatever_its_address() {
    let mut scene = Scene::with_original();
    let original = start("a:1", 1, 1);
    for round in 0..100 {
        let elsewhere = scene.register(&start("b:1", 1_000 + round, 1));
        assert!(is_elsewhere(elsewhere), "at its own address");
        let same = scene.register(&start("a:1", 2_000 + round, 1));
        assert!(is_told_to_wait(same), "it may be a quick restart");
        scene.pass(HEARTBEAT_INTERVAL);
        assert_eq!(scene.beat(&original), Ok(()));
    }
    let copy = start("a:1", 5, 1);
    for _ in 0..3 {
        assert!(is_told_to_wait(scene.register(&copy)));
        scene.pass(HEARTBEAT_INTERVAL);
        assert_eq!(scene.beat(&original), Ok(()));
    }
    assert!(
        matches!(scene.register(&copy), Err(Refusal::LivesHere { .. })),
        "no restart of the original would have heard it for so long"
    );
}

#[test]
fn a_placement_driver_that_was_restarted_or_asleep_lets_nobody_take_a_place() {
    let restart: fn(&mut Scene) = Scene::restart;
    let sleep: fn(&mut Scene) = |scene| scene.sleep(Duration::from_secs(3_600));
    for forget in [restart, sleep] {
        let mut scene = Scene::with_original();
        let copies = [start("b:1", 2, 1), start("a:1", 3, 1)];
        for _ in 0..20 {
            forget(&mut scene);
            assert!(is_told_to_wait(scene.register(&fresh("a:1", 4))));
            for copy in &copies {
                assert!(is_told_to_wait(scene.register(copy)));
            }
            assert_eq!(scene.beat(&start("a:1", 1, 1)), Ok(()));
            assert!(is_elsewhere(scene.register(&copies[0])));
        }
        forget(&mut scene);
        let moved = start("c:1", 5, 1);
        assert!(is_told_to_wait(scene.register(&moved)));
        // A sleep is noted within a second.
        scene.pass(DISCONNECTED_AFTER + Duration::from_secs(1));
        assert_eq!(scene.register(&moved), Ok(1), "nobody spoke up");
    }
}

#[test]
fn a_store_that_waits_for_its_place_keeps_its_address() {
    let mut scene = Scene::with_original();
    let restarted = start("a:1", 2, 1);
    for _ in 0..DISCONNECTED_AFTER.as_secs() {
        assert!(is_told_to_wait(scene.register(&restarted)));
        scene.pass(Duration::from_secs(1));
    }
    assert!(
        is_elsewhere(scene.register(&start("b:1", 3, 1))),
        "a copy that asks first when the last process is silent"
    );
    let newcomer = scene.register(&fresh("a:1", 4));
    assert!(matches!(newcomer, Err(Refusal::AddressTaken { .. })));
    assert_eq!(scene.register(&restarted), Ok(1));
}

#[test]
fn a_silent_store_may_move_and_what_it_was_copied_from_is_refused() {
    let mut scene = Scene::with_original();
    let moved = start("b:1", 2, 1);
    assert!(is_elsewhere(scene.register(&moved)));
    scene.pass(DISCONNECTED_AFTER);
    assert_eq!(scene.register(&moved), Ok(1));
    assert_eq!(scene.state.stores[&1].record.address, "b:1");
    assert!(is_elsewhere(scene.beat(&start("a:1", 1, 1))));
}

#[test]
fn an_old_copy_is_refused_for_good_once_the_original_has_kept_a_later_start() {
    let mut scene = Scene::with_original();
    scene.pass(DISCONNECTED_AFTER);
    assert_eq!(scene.register(&start("a:1", 2, 1)), Ok(1));
    assert_eq!(scene.register(&start("a:1", 2, 2)), Ok(1));
    for _ in 0..2 {
        for address in ["a:1", "b:1"] {
            assert!(is_superseded(scene.register(&start(address, 3, 1))));
        }
        scene.pass(super::super::DOWN_AFTER);
        scene.restart();
    }
}

#[test]
fn a_restored_directory_believes_the_present_starts_and_gives_out_no_id_twice() {
    let mut scene = Scene::with_original();
    // In the time that the restored copy does not know of, the store was started twice more, and others registered.
    let living = start("a:1", 3, 3);
    assert!(is_superseded(scene.beat(&living)));
    let changes = scene.state.changes_after_restore();
    for change in changes {
        scene.state.apply(change);
    }
    scene.restart();
    assert_eq!(scene.beat(&living), Ok(()));
    assert!(is_elsewhere(scene.register(&start("b:1", 4, 1))));
    scene.pass(DISCONNECTED_AFTER);
    assert_eq!(scene.register(&start("a:1", 5, 3)), Ok(1));
    assert_eq!(scene.register(&start("a:1", 5, 5)), Ok(1));
    assert!(is_superseded(scene.register(&start("a:1", 6, 3))));
    assert_eq!(scene.register(&fresh("c:1", 7)), Ok(1_000_002));
}

#[test]
fn strangers_are_refused() {
    let mut scene = Scene::empty();
    let mut foreign = start("a:1", 1, 0);
    foreign.start.cluster_id = 8;
    let refused = Refusal::ForeignCluster {
        theirs: 8,
        ours: CLUSTER_ID,
    };
    assert_eq!(scene.register(&foreign), Err(refused));
    let refused = Refusal::UnknownStore { store_id: 1 };
    assert_eq!(scene.register(&start("a:1", 1, 0)), Err(refused.clone()));
    assert_eq!(scene.beat(&start("a:1", 1, 0)), Err(refused));
}

/// Registers as many first starts as drop the record of every unconfirmed store.
fn flood(scene: &mut Scene) {
    for number in 0..UNCONFIRMED_STORES_MAX as u64 {
        let registered = scene.register(&fresh(&format!("flood:{number}"), 1_000 + number));
        assert_eq!(registered, Ok(scene.state.counters.store_id));
    }
    assert_eq!(
        scene.state.confirmed().count() + UNCONFIRMED_STORES_MAX,
        scene.state.stores.len()
    );
}

#[test]
fn ids_that_nobody_keeps_leave_room_for_stores_and_are_never_given_out_again() {
    let mut scene = Scene::with_original();
    // As a process without that bound left them.
    for id in 2..=STORES_MAX as u64 {
        let start = fresh(&format!("lost:{id}"), 100_000 + id).start;
        scene
            .state
            .apply(Change::Store(StoreRecord::unconfirmed(id, &start)));
    }
    scene.state.counters.store_id = STORES_MAX as u64;
    let next = STORES_MAX as u64 + 1;
    assert_eq!(scene.register(&fresh("b:1", 2)), Ok(next));
    assert_eq!(scene.state.stores.len(), 1 + UNCONFIRMED_STORES_MAX);
    assert_eq!(scene.register(&fresh("b:1", 2)), Ok(next), "lost answer");
    assert_eq!(scene.register(&start_of(next, "b:1", 2, 2)), Ok(next));
    flood(&mut scene);
    assert_eq!(scene.state.stores(scene.now).len(), 2);
    assert_eq!(scene.beat(&start("a:1", 1, 1)), Ok(()));
}

#[test]
fn a_start_that_keeps_its_id_in_a_flood_gets_it_back() {
    let mut scene = Scene::empty();
    assert_eq!(scene.register(&fresh("a:1", 1)), Ok(1));
    assert_eq!(scene.register(&fresh("b:1", 2)), Ok(2));
    flood(&mut scene);
    let unknown = Err(Refusal::UnknownStore { store_id: 1 });
    assert_eq!(scene.beat(&start("a:1", 1, 1)), unknown.clone());
    assert_eq!(scene.register(&start("a:1", 1, 1)), Ok(1));
    assert_eq!(scene.beat(&start("a:1", 1, 1)), Ok(()));
    assert_eq!(scene.state.regions_of(1).len(), 1);

    // The other ended before it could say that it had kept it, or never got it.
    let restarted = scene.register(&start_of(2, "b:1", 3, 2));
    assert_eq!(restarted, Err(Refusal::UnknownStore { store_id: 2 }));
    let next = scene.state.counters.store_id + 1;
    assert_eq!(scene.register(&fresh("b:1", 2)), Ok(next));
    let never_given = next + 1;
    let refused = scene.register(&start_of(never_given, "c:1", 4, 4));
    let unknown = Refusal::UnknownStore {
        store_id: never_given,
    };
    assert_eq!(refused, Err(unknown));
}

#[test]
fn a_dropped_store_does_not_come_back_at_the_address_of_another() {
    let mut scene = Scene::empty();
    assert_eq!(scene.register(&fresh("a:1", 1)), Ok(1));
    flood(&mut scene);
    let next = scene.state.counters.store_id + 1;
    assert_eq!(scene.register(&fresh("a:1", 2)), Ok(next));
    assert_eq!(scene.register(&start_of(next, "a:1", 2, 2)), Ok(next));
    let refused = scene.register(&start("a:1", 1, 1));
    assert!(matches!(refused, Err(Refusal::AddressTaken(store)) if store.id == next));
}

#[test]
fn a_cluster_has_no_more_stores_than_one_answer_can_list() {
    let mut scene = Scene::empty();
    scene.state.counters.store_id = STORES_MAX as u64;
    let late = [fresh("b:1", 2), fresh("c:1", 3)];
    let late = late.map(|fresh| (scene.register(&fresh).unwrap(), fresh.start));
    for number in 1..STORES_MAX as u64 {
        scene.state.apply(Change::Store(StoreRecord {
            id: number,
            address: format!("{number:0250}:{number}"),
            ..StoreRecord::default()
        }));
    }
    let kept = late.map(|(id, start)| {
        let incarnation = start.incarnation;
        scene.register(&start_of(id, &start.address, incarnation, incarnation))
    });
    assert_eq!(kept, [Ok(10_001), Err(Refusal::TooManyStores)]);
    let one_more = fresh("a:1", 1);
    assert_eq!(scene.register(&one_more), Err(Refusal::TooManyStores));
    let answer = rdb_proto::pdpb::GetStoresResponse {
        stores: scene.state.stores(scene.now),
    };
    assert_eq!(answer.stores.len(), STORES_MAX);
    assert!(prost::Message::encoded_len(&answer) < 4 << 20);
}

#[test]
fn a_store_is_up_then_disconnected_then_down() {
    let second = Duration::from_secs(1);
    let restart: fn(&mut Scene) = Scene::restart;
    let sleep: fn(&mut Scene) = |scene| scene.sleep(Duration::from_secs(3_600));
    for forget in [|_: &mut Scene| {}, restart, sleep] {
        let mut scene = Scene::with_original();
        let state = |scene: &Scene| scene.state.stores(scene.now)[0].state();
        assert_eq!(state(&scene), StoreState::Up);
        scene.pass(DISCONNECTED_AFTER - second);
        assert_eq!(state(&scene), StoreState::Up);
        scene.pass(second);
        assert_eq!(state(&scene), StoreState::Disconnected);
        forget(&mut scene);
        scene.beat(&start("a:1", 1, 1)).unwrap();
        assert_eq!(state(&scene), StoreState::Up);
        forget(&mut scene);
        // A sleep is noted within a second.
        scene.pass(super::super::DOWN_AFTER - second);
        assert_eq!(state(&scene), StoreState::Disconnected);
        scene.pass(second * 2);
        assert_eq!(state(&scene), StoreState::Down);
    }
}
