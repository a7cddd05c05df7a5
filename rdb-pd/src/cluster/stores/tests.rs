use rdb_proto::metapb::Peer;

use super::*;

const CLUSTER_ID: u64 = 9;

/// A state that has been observed for long enough.
fn state() -> State {
    State {
        cluster_id: CLUSTER_ID,
        ..State::default()
    }
}

/// A first start at `address`.
fn fresh(address: &str, incarnation: u64) -> Registration {
    Registration {
        address: address.to_owned(),
        store_id: 0,
        cluster_id: 0,
        incarnation,
        previous_incarnation: 0,
    }
}

/// A start of store 1 at `address` whose directory has the incarnation `previous`.
fn restart(address: &str, incarnation: u64, previous: u64) -> Registration {
    Registration {
        store_id: 1,
        cluster_id: CLUSTER_ID,
        previous_incarnation: previous,
        ..fresh(address, incarnation)
    }
}

/// Registers as the cluster does.
fn register(state: &mut State, registration: &Registration) -> Result<u64, Refusal> {
    let (store_id, changes) = state.decide_registration(registration)?;
    changes.into_iter().for_each(|change| state.apply(change));
    state.heard_of(store_id, registration, None);
    Ok(store_id)
}

/// The first heartbeat after `registration`, as the cluster takes it.
fn beat(state: &mut State, registration: &Registration) -> Result<(), Refusal> {
    let changes = state.decide_confirmation(registration)?;
    changes.into_iter().for_each(|change| state.apply(change));
    state.heard_of(registration.store_id, registration, None);
    Ok(())
}

/// Store 1 at `a:1` with incarnation 1, registered and confirmed.
fn with_original() -> State {
    let mut state = state();
    assert_eq!(register(&mut state, &fresh("a:1", 1)), Ok(1));
    assert_eq!(beat(&mut state, &restart("a:1", 1, 0)), Ok(()));
    state
}

fn silence(state: &mut State, store_id: u64, age: Duration) {
    let store = state.stores.get_mut(&store_id).unwrap();
    store.heard_at = Instant::now().checked_sub(age);
    assert!(store.heard_at.is_some());
}

/// As after a restart of the placement driver a moment ago.
fn forget(state: &mut State) {
    for store in state.stores.values_mut() {
        store.heard_at = None;
    }
    state.settled_at = Some(Instant::now() + DISCONNECTED_AFTER);
}

fn is_superseded<T>(result: Result<T, Refusal>) -> bool {
    matches!(result, Err(Refusal::Superseded { store_id: 1, .. }))
}

#[test]
fn the_first_store_gets_the_whole_key_range_and_the_second_nothing() {
    let mut state = state();
    assert_eq!(register(&mut state, &fresh("a:1", 1)), Ok(1));
    let regions = state.regions_of(1);
    assert_eq!(regions.len(), 1);
    assert!(regions[0].contains(b"") && regions[0].end_key.is_empty());
    assert_eq!(register(&mut state, &fresh("b:1", 2)), Ok(2));
    assert!(state.regions_of(2).is_empty());
}

#[test]
fn a_new_store_whose_answer_was_lost_gets_the_same_id() {
    let mut state = state();
    assert_eq!(register(&mut state, &fresh("a:1", 1)), Ok(1));
    assert_eq!(register(&mut state, &fresh("a:1", 1)), Ok(1));
    assert_eq!(register(&mut state, &restart("a:1", 1, 0)), Ok(1));
    let taken = Refusal::AddressTaken {
        store_id: 1,
        address: "a:1".to_owned(),
    };
    assert_eq!(
        register(&mut state, &fresh("a:1", 2)),
        Err(taken),
        "naming the id has confirmed it, so this is another store"
    );
    silence(&mut state, 1, DISCONNECTED_AFTER);
    assert_eq!(
        register(&mut state, &fresh("a:1", 2)),
        Ok(2),
        "ids are never reused"
    );
}

#[test]
fn two_new_stores_at_one_address_never_share_an_id() {
    let mut state = state();
    assert_eq!(register(&mut state, &fresh("a:1", 1)), Ok(1));
    let taken = Refusal::AddressTaken {
        store_id: 1,
        address: "a:1".to_owned(),
    };
    assert_eq!(
        register(&mut state, &fresh("a:1", 2)),
        Err(taken),
        "the first may be about to keep its id"
    );
    silence(&mut state, 1, DISCONNECTED_AFTER);
    assert_eq!(register(&mut state, &fresh("a:1", 2)), Ok(2));
    let regions = state.regions_of(2);
    assert_eq!(
        regions.len(),
        1,
        "the second serves what the first never did"
    );
    assert_eq!(
        regions[0].peers,
        [Peer { id: 2, store_id: 2 }],
        "and no id of a peer is used twice"
    );
    assert!(state.regions_of(1).is_empty());
    assert!(
        is_superseded(register(&mut state, &restart("a:1", 1, 0))),
        "the first, should it come back"
    );
    assert!(is_superseded(beat(&mut state, &restart("a:1", 1, 0))));
    assert_eq!(state.stores().len(), 1);
}

#[test]
fn a_store_that_returns_keeps_its_id_and_may_have_moved_when_it_was_silent() {
    let mut state = with_original();
    assert_eq!(register(&mut state, &restart("a:1", 2, 1)), Ok(1));
    assert_eq!(beat(&mut state, &restart("a:1", 2, 1)), Ok(()));
    let refused = register(&mut state, &restart("b:1", 3, 2));
    assert!(
        matches!(refused, Err(Refusal::LivesElsewhere { store_id: 1, .. })),
        "a copy"
    );
    silence(&mut state, 1, DISCONNECTED_AFTER);
    assert_eq!(register(&mut state, &restart("b:1", 3, 2)), Ok(1));
    assert_eq!(state.stores[&1].record.address, "b:1");
    let late = state.check_heartbeat(&restart("a:1", 2, 1));
    assert!(
        matches!(late, Err(Refusal::LivesElsewhere { .. })),
        "the one it was copied from"
    );
}

#[test]
fn an_old_copy_is_refused_for_good_once_the_original_has_started_anew() {
    let mut state = with_original();
    assert_eq!(register(&mut state, &restart("a:1", 2, 1)), Ok(1));
    assert_eq!(beat(&mut state, &restart("a:1", 2, 1)), Ok(()));
    for _ in 0..2 {
        assert!(is_superseded(register(&mut state, &restart("b:1", 3, 1))));
        assert!(
            is_superseded(register(&mut state, &restart("a:1", 3, 1))),
            "at the original's address, too"
        );
        silence(&mut state, 1, DOWN_AFTER);
    }
    forget(&mut state);
    assert!(is_superseded(register(&mut state, &restart("b:1", 3, 1))));
}

#[test]
fn a_start_that_ended_before_it_kept_its_incarnation_does_not_shut_the_store_out() {
    let mut state = with_original();
    assert_eq!(register(&mut state, &restart("a:1", 2, 1)), Ok(1));
    assert_eq!(
        register(&mut state, &restart("a:1", 3, 1)),
        Ok(1),
        "it has kept only the first"
    );
    assert_eq!(register(&mut state, &restart("a:1", 3, 1)), Ok(1));
    assert!(
        is_superseded(beat(&mut state, &restart("a:1", 2, 1))),
        "the one in between"
    );
    assert_eq!(beat(&mut state, &restart("a:1", 3, 1)), Ok(()));
    assert!(is_superseded(register(&mut state, &restart("a:1", 4, 1))));
}

#[test]
fn a_placement_driver_that_has_just_started_lets_nobody_take_a_place() {
    let mut state = with_original();
    forget(&mut state);
    let not_heard_yet = Refusal::NotHeardYet {
        store_id: 1,
        registered: "a:1".to_owned(),
    };
    let copy = restart("b:1", 2, 1);
    assert_eq!(register(&mut state, &copy), Err(not_heard_yet.clone()));
    let newcomer = fresh("a:1", 3);
    assert_eq!(register(&mut state, &newcomer), Err(not_heard_yet));
    assert_eq!(beat(&mut state, &restart("a:1", 1, 0)), Ok(()));
    let refused = register(&mut state, &copy);
    assert!(matches!(refused, Err(Refusal::LivesElsewhere { .. })));

    forget(&mut state);
    assert_eq!(
        register(&mut state, &restart("a:1", 4, 1)),
        Ok(1),
        "at its own address the store is welcome at once"
    );
    forget(&mut state);
    state.settled_at = Some(Instant::now());
    assert_eq!(
        register(&mut state, &restart("b:1", 5, 4)),
        Ok(1),
        "nobody was heard of at the old address for long enough"
    );
}

#[test]
fn a_record_of_a_release_without_incarnations_is_taken_over() {
    let mut state = with_original();
    let store = state.stores.get_mut(&1).unwrap();
    store.record.incarnation = 0;
    store.record.incarnation_kept = false;
    assert_eq!(register(&mut state, &restart("a:1", 2, 0)), Ok(1));
    assert_eq!(beat(&mut state, &restart("a:1", 2, 0)), Ok(()));
    assert!(is_superseded(register(&mut state, &restart("a:1", 3, 0))));
}

#[test]
fn strangers_are_refused() {
    let mut state = state();
    let foreign = Registration {
        cluster_id: 8,
        ..restart("a:1", 1, 0)
    };
    let refused = Refusal::ForeignCluster {
        theirs: 8,
        ours: CLUSTER_ID,
    };
    assert_eq!(register(&mut state, &foreign), Err(refused));
    let unknown = Registration {
        store_id: 5,
        ..restart("a:1", 1, 0)
    };
    let refused = Refusal::UnknownStore { store_id: 5 };
    assert_eq!(register(&mut state, &unknown), Err(refused.clone()));
    assert_eq!(state.check_heartbeat(&unknown), Err(refused));
}

#[test]
fn a_store_is_up_then_disconnected_then_down() {
    let just_before = Duration::from_millis(1);
    assert_eq!(state_at(None), StoreState::Disconnected);
    assert_eq!(state_at(Some(Duration::ZERO)), StoreState::Up);
    assert_eq!(
        state_at(Some(DISCONNECTED_AFTER - just_before)),
        StoreState::Up
    );
    assert_eq!(state_at(Some(DISCONNECTED_AFTER)), StoreState::Disconnected);
    assert_eq!(
        state_at(Some(DOWN_AFTER - just_before)),
        StoreState::Disconnected
    );
    assert_eq!(state_at(Some(DOWN_AFTER)), StoreState::Down);
}
