use super::*;

const CLUSTER_ID: u64 = 9;

fn state() -> State {
    State {
        cluster_id: CLUSTER_ID,
        ..State::default()
    }
}

fn claim(address: &str, store_id: u64) -> Registration {
    Registration {
        address: address.to_owned(),
        store_id,
        cluster_id: if store_id == 0 { 0 } else { CLUSTER_ID },
        start_time_ms: 1,
    }
}

/// Registers as the cluster does, and confirms by a heartbeat.
fn register(state: &mut State, registration: &Registration) -> Result<u64, Refusal> {
    let (store_id, changes) = state.decide_registration(registration)?;
    changes.into_iter().for_each(|change| state.apply(change));
    state.heard_of(store_id, &registration.address, None);
    Ok(store_id)
}

fn confirm(state: &mut State, store_id: u64) {
    let changes = state.decide_confirmation(store_id);
    changes.into_iter().for_each(|change| state.apply(change));
}

fn silence(state: &mut State, store_id: u64, age: Duration) {
    let store = state.stores.get_mut(&store_id).unwrap();
    store.heard_at = Instant::now().checked_sub(age);
    assert!(store.heard_at.is_some());
}

#[test]
fn the_first_store_gets_the_whole_key_range_and_the_second_nothing() {
    let mut state = state();
    assert_eq!(register(&mut state, &claim("a:1", 0)), Ok(1));
    let regions = state.regions_of(1);
    assert_eq!(regions.len(), 1);
    assert!(regions[0].contains(b"") && regions[0].end_key.is_empty());
    assert_eq!(register(&mut state, &claim("b:1", 0)), Ok(2));
    assert!(state.regions_of(2).is_empty());
}

#[test]
fn a_new_store_whose_answer_was_lost_gets_the_same_id() {
    let mut state = state();
    assert_eq!(register(&mut state, &claim("a:1", 0)), Ok(1));
    assert_eq!(register(&mut state, &claim("a:1", 0)), Ok(1));
    confirm(&mut state, 1);
    let taken = Refusal::AddressTaken {
        store_id: 1,
        address: "a:1".to_owned(),
    };
    assert_eq!(
        register(&mut state, &claim("a:1", 0)),
        Err(taken),
        "now it would be another store"
    );
    silence(&mut state, 1, DISCONNECTED_AFTER);
    assert_eq!(
        register(&mut state, &claim("a:1", 0)),
        Ok(2),
        "ids are never reused"
    );
}

#[test]
fn two_new_stores_at_one_address_never_share_an_id() {
    let mut state = state();
    let other_process = Registration {
        start_time_ms: 2,
        ..claim("a:1", 0)
    };
    assert_eq!(register(&mut state, &claim("a:1", 0)), Ok(1));
    let taken = Refusal::AddressTaken {
        store_id: 1,
        address: "a:1".to_owned(),
    };
    assert_eq!(
        register(&mut state, &other_process),
        Err(taken),
        "the first may be about to keep its id"
    );
    silence(&mut state, 1, DISCONNECTED_AFTER);
    assert_eq!(
        register(&mut state, &other_process),
        Ok(1),
        "the first ended before it kept its id"
    );
}

#[test]
fn a_store_that_returns_keeps_its_id_and_may_have_moved_when_it_was_silent() {
    let mut state = state();
    register(&mut state, &claim("a:1", 0)).unwrap();
    assert_eq!(register(&mut state, &claim("a:1", 1)), Ok(1));
    let refused = register(&mut state, &claim("b:1", 1));
    assert!(
        matches!(refused, Err(Refusal::LivesElsewhere { store_id: 1, .. })),
        "a copy"
    );
    silence(&mut state, 1, DISCONNECTED_AFTER);
    assert_eq!(register(&mut state, &claim("b:1", 1)), Ok(1));
    assert_eq!(state.stores[&1].record.address, "b:1");
    let late = state.check_heartbeat(&claim("a:1", 1));
    assert!(
        matches!(late, Err(Refusal::LivesElsewhere { .. })),
        "the one it was copied from"
    );
}

#[test]
fn strangers_are_refused() {
    let mut state = state();
    let foreign = Registration {
        cluster_id: 8,
        ..claim("a:1", 1)
    };
    let refused = Refusal::ForeignCluster {
        theirs: 8,
        ours: CLUSTER_ID,
    };
    assert_eq!(register(&mut state, &foreign), Err(refused));
    assert_eq!(
        register(&mut state, &claim("a:1", 5)),
        Err(Refusal::UnknownStore { store_id: 5 })
    );
    let unknown = state.check_heartbeat(&claim("a:1", 5));
    assert_eq!(unknown, Err(Refusal::UnknownStore { store_id: 5 }));
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
