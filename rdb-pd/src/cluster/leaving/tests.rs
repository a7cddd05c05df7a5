use super::super::membership::Led;
use super::super::refusal::Refusal;
use super::super::reports::{Leadership, Report};
use super::super::scene::{Scene, fresh, start_of};
use super::super::{DISCONNECTED_AFTER, HEARTBEAT_INTERVAL};
use super::*;

impl Scene {
    /// Decides and applies as the registrar does. Returns whether the store has left.
    fn change_leaving(&mut self, store_id: u64, is_leaving: bool) -> Result<bool, Impossible> {
        let changes = self.state.decide_leaving(store_id, is_leaving, self.now)?;
        changes
            .into_iter()
            .for_each(|change| self.state.apply(change));
        self.let_stores_leave();
        Ok(self.state.stores[&store_id].record.has_left)
    }

    /// The first peer of each region reports that it leads.
    fn leaders_report(&mut self) {
        for known in self.state.regions.values_mut() {
            let peer_id = known.region.peers[0].id;
            known.leadership = Some(Leadership { peer_id, term: 1 });
        }
    }

    /// How many replicas have to stay, and how many other stores could hold them.
    fn refused(&mut self, store_id: u64) -> (usize, usize) {
        match self.change_leaving(store_id, true) {
            Err(Impossible::TooFewStores { needed, usable, .. }) => (needed, usable),
            other => panic!("{other:?}"),
        }
    }

    fn let_stores_leave(&mut self) {
        let left = self.state.decide_departures(self.now);
        left.into_iter().for_each(|change| self.state.apply(change));
    }

    fn shown(&self) -> Vec<(u64, i32)> {
        let stores = self.state.stores(self.now).into_iter();
        stores.map(|store| (store.id, store.state)).collect()
    }
}

/// What a registered store says at its start, and in its heartbeats.
fn present(scene: &Scene, store_id: u64) -> super::super::Registration {
    let record = &scene.state.stores[&store_id].record;
    let incarnation = record.incarnation;
    start_of(store_id, &record.address, incarnation, incarnation)
}

#[test]
fn a_store_leaves_when_no_region_has_a_peer_on_it_and_is_refused_for_good() {
    let mut scene = Scene::with_three_replicas();
    scene.add_store();
    for _ in 0..2 {
        assert_eq!(scene.change_leaving(3, true), Ok(false));
        scene.restart();
        for store_id in [1, 2, 3, 4] {
            scene.beat(&present(&scene, store_id)).unwrap();
        }
    }
    let leaving = rdb_proto::metapb::StoreState::Leaving as i32;
    assert_eq!(scene.shown()[2], (3, leaving));

    let mut region = scene.state.regions_of(3).remove(0);
    region.peers[2].store_id = 4;
    scene.state.apply(Change::Region(region));
    scene.let_stores_leave();
    assert_eq!(scene.shown().len(), 4, "the region may have other peers");
    scene.leaders_report();
    scene.let_stores_leave();
    let shown = scene.shown();
    assert_eq!(
        shown.iter().map(|&(id, _)| id).collect::<Vec<_>>(),
        [1, 2, 4]
    );
    let registration = present(&scene, 3);
    let address = registration.start.address.clone();
    let removed = Refusal::Removed { store_id: 3 };
    for _ in 0..2 {
        assert_eq!(scene.beat(&registration), Err(removed.clone()));
        assert_eq!(scene.register(&registration), Err(removed.clone()));
        assert_eq!(scene.change_leaving(3, true), Ok(true), "the same again");
        let stays = scene.change_leaving(3, false);
        assert_eq!(stays, Err(Impossible::HasLeft { store_id: 3 }));
        for change in scene.state.changes_after_restore() {
            scene.state.apply(change);
        }
        scene.restart();
    }
    // Its machine comes back with an empty directory.
    scene.pass(DISCONNECTED_AFTER);
    let again = scene.register(&fresh(&address, 77)).unwrap();
    assert!(again > 4, "{again}");
}

#[test]
fn a_store_without_replicas_leaves_at_once_and_its_address_is_free() {
    let mut scene = Scene::with_original();
    scene.leaders_report();
    let second = scene.add_store();
    let address = scene.state.stores[&second].record.address.clone();
    assert_eq!(scene.change_leaving(second, true), Ok(true));
    assert_eq!(scene.register(&fresh(&address, 9)), Ok(3));
}

/// A region that should get a replica on store 2, and its leader's report.
fn about_to_grow() -> (Scene, Report) {
    let mut scene = Scene::with_original();
    for _ in 0..2 {
        let store_id = scene.add_store();
        scene.report(store_id, &[]);
    }
    let region = scene.state.regions_of(1).remove(0);
    let report = Report {
        region_id: region.id,
        peer_id: region.peers[0].id,
        term: 1,
        epoch: region.epoch_or_default(),
        peers: region.peers,
        live: None,
        bytes: None,
    };
    (scene, report)
}

#[test]
fn a_store_that_may_be_about_to_get_a_replica_has_not_left() {
    let (mut scene, report) = about_to_grow();
    let told = scene.lead_on(1, std::slice::from_ref(&report));
    assert_eq!(told.len(), 1, "to add a learner on store 2");
    scene.state.settings.replicas = 1;
    assert_eq!(scene.change_leaving(2, true), Ok(false));
    scene.pass(DISCONNECTED_AFTER - HEARTBEAT_INTERVAL);
    scene.let_stores_leave();
    assert!(!scene.state.stores[&2].record.has_left);
    // The leader has not done it.
    scene.pass(HEARTBEAT_INTERVAL);
    scene.lead_on(1, &[report]);
    scene.let_stores_leave();
    assert!(scene.state.stores[&2].record.has_left);
}

#[test]
fn a_store_that_leaves_while_a_peer_for_it_gets_its_id_gets_none() {
    let (mut scene, report) = about_to_grow();
    scene.report(1, std::slice::from_ref(&report));
    let led = [Led::from(&report)];
    let (_, nameless) = scene.state.take_steps(&led, scene.now);
    scene.state.settings.replicas = 1;
    assert_eq!(scene.change_leaving(2, true), Ok(true));
    for change in scene.state.decide_new_peers(&nameless) {
        scene.state.apply(change);
    }
    assert_eq!(scene.state.take_named(&nameless, scene.now), []);
}

#[test]
fn a_store_that_leaves_may_stay_after_all_and_restarts_meanwhile() {
    let mut scene = Scene::with_three_replicas();
    scene.add_store();
    assert_eq!(scene.change_leaving(2, true), Ok(false));
    let before = present(&scene, 2);
    scene.pass(DISCONNECTED_AFTER);
    let next = start_of(2, &before.start.address, 50, before.start.incarnation);
    assert_eq!(scene.register(&next), Ok(2));
    assert!(scene.state.stores[&2].record.is_leaving);
    for _ in 0..2 {
        assert_eq!(scene.change_leaving(2, false), Ok(false));
        assert!(!scene.state.stores[&2].record.is_leaving);
    }
}

#[test]
fn a_store_stays_while_too_few_others_can_take_its_replicas() {
    let mut scene = Scene::with_three_replicas();
    let fourth = scene.add_store();
    let refused = |scene: &mut Scene| assert_eq!(scene.refused(1), (3, 2));
    scene.pass(DISCONNECTED_AFTER - HEARTBEAT_INTERVAL);
    for store_id in [1, 2, 3] {
        scene.beat(&present(&scene, store_id)).unwrap();
    }
    scene.pass(HEARTBEAT_INTERVAL);
    refused(&mut scene);
    scene.beat(&present(&scene, fourth)).unwrap();
    scene.state.note_replicas_taken(fourth, true);
    refused(&mut scene);
    scene.state.note_replicas_taken(fourth, false);
    assert_eq!(scene.change_leaving(2, true), Ok(false));
    refused(&mut scene);
    let spare = scene.change_leaving(fourth, true);
    assert!(
        matches!(spare, Err(Impossible::TooFewStores { .. })),
        "the second store's replica is to move there: {spare:?}"
    );
    // Fewer are kept from now on.
    scene.state.settings.replicas = 1;
    assert_eq!(scene.change_leaving(1, true), Ok(false));
}

#[test]
fn stores_that_were_not_heard_of_yet_are_waited_for() {
    let mut scene = Scene::with_three_replicas();
    let fourth = scene.add_store();
    scene.restart();
    scene.beat(&present(&scene, 1)).unwrap();
    for store_id in [2, 3, fourth] {
        let unheard = Err(Impossible::Unheard { store_id });
        assert_eq!(scene.change_leaving(1, true), unheard);
        scene.beat(&present(&scene, store_id)).unwrap();
    }
    assert_eq!(scene.change_leaving(1, true), Ok(false));
    // One that stays silent is one too few in the end.
    scene.restart();
    for store_id in [1, 3, fourth] {
        scene.beat(&present(&scene, store_id)).unwrap();
    }
    let unheard = Err(Impossible::Unheard { store_id: 2 });
    assert_eq!(scene.change_leaving(3, true), unheard);
    scene.pass(DISCONNECTED_AFTER);
    for store_id in [1, 3, fourth] {
        scene.beat(&present(&scene, store_id)).unwrap();
    }
    assert_eq!(scene.refused(3), (3, 1));
}

#[test]
fn stores_that_are_not_there_are_refused_with_a_list_of_those_that_are() {
    let mut scene = Scene::with_original();
    let unkept = scene.register(&fresh("b:1", 2)).unwrap();
    for store_id in [unkept, 9] {
        let refused = scene.change_leaving(store_id, true).unwrap_err();
        let told = format!("there is no store {store_id}; there are stores 1");
        assert_eq!(refused.to_string(), told);
    }
}

#[test]
fn a_store_that_leaves_gets_no_part_of_the_first_region() {
    let mut scene = Scene::empty();
    scene.state.settings.initial_replicas = 2;
    let first = scene.add_store();
    // It has no region, and so it has left.
    assert_eq!(scene.change_leaving(first, true), Ok(true));
    scene.add_store();
    assert!(scene.state.regions.is_empty());
    let third = scene.add_store();
    assert_eq!(scene.state.regions_of(third).len(), 1);
    assert!(scene.state.regions_of(first).is_empty());
}

#[test]
fn what_a_region_is_to_have_counts_not_what_it_has_at_the_moment() {
    // It grows from one.
    let mut scene = Scene::with_original();
    scene.leaders_report();
    scene.add_store();
    scene.add_store();
    for store_id in [3, 2, 1] {
        assert_eq!(scene.refused(store_id), (3, 2));
    }
    // A replica was removed, and the next one is not there yet.
    let mut scene = Scene::with_three_replicas();
    scene.leaders_report();
    let mut region = scene.state.regions_of(3).remove(0);
    region.peers.pop();
    scene.state.apply(Change::Region(region));
    for store_id in [3, 2, 1] {
        assert_eq!(scene.refused(store_id), (3, 2));
    }
    // Stores may leave once fewer replicas are asked for.
    scene.state.settings.replicas = 1;
    assert_eq!(scene.change_leaving(3, true), Ok(true));
    assert_eq!(scene.change_leaving(2, true), Ok(false));
}

#[test]
fn of_stores_that_are_removed_at_once_as_many_stay_as_there_are_to_be_replicas() {
    let mut scene = Scene::with_original();
    scene.leaders_report();
    for _ in 0..4 {
        scene.add_store();
    }
    assert_eq!(scene.change_leaving(5, true), Ok(true));
    assert_eq!(scene.change_leaving(1, true), Ok(false));
    for store_id in [2, 3, 4] {
        assert_eq!(scene.refused(store_id), (3, 2));
    }
}

#[test]
fn a_dead_store_that_holds_nothing_is_not_counted_on() {
    let mut scene = Scene::with_original();
    scene.leaders_report();
    scene.add_store();
    scene.add_store();
    scene.pass(DISCONNECTED_AFTER);
    for store_id in [1, 2] {
        scene.beat(&present(&scene, store_id)).unwrap();
    }
    assert_eq!(scene.change_leaving(3, true), Ok(true));
}
