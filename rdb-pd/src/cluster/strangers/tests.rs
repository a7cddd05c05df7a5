use rdb_proto::findings::Severity;
use rdb_proto::metapb::{Peer, RegionEpoch};

use super::super::scene::{CLUSTER_ID, Scene, fresh, start_of};
use super::super::state::Change;
use super::super::{DISCONNECTED_AFTER, Registration};
use super::*;

/// What is wrong, in words. All of it has to be mended.
fn told(scene: &Scene) -> Vec<String> {
    let findings = scene.state.findings(scene.now).into_iter();
    let told = findings.map(|finding| {
        assert_eq!(finding.severity, Severity::Alarm);
        finding.what
    });
    told.collect()
}

/// A start of a store of another cluster.
fn foreign(store_id: u64) -> Registration {
    let mut foreign = start_of(store_id, "b:1", 7, 7);
    foreign.start.cluster_id = CLUSTER_ID + 1;
    foreign
}

impl Scene {
    /// Sends a heartbeat that is refused, as the cluster does.
    fn beat_in_vain(&mut self, registration: &Registration) {
        let refusal = self.beat(registration).expect_err("it is refused");
        let Self { state, now, .. } = self;
        let strangers = &mut state.strangers;
        strangers.note_refused(&registration.start, &refusal, *now);
        strangers.log_refused(&registration.start, &refusal, *now);
    }

    /// Takes a report on region 1 whose peers have these ids, each on the store with the same id. It is ignored.
    fn report_in_vain(&mut self, store_id: u64, peers: &[u64]) {
        let peer = |&id: &u64| Peer {
            id,
            store_id: id,
            learner: false,
        };
        let report = Report {
            region_id: 1,
            peer_id: store_id,
            term: 5,
            epoch: RegionEpoch {
                conf_version: 2,
                version: 1,
            },
            peers: peers.iter().map(peer).collect(),
            live: None,
            bytes: None,
        };
        assert_eq!(self.report(store_id, std::slice::from_ref(&report)), 1);
        self.state.note_ignored(store_id, &[&report], self.now);
    }

    /// When the log last told of a store, if that is remembered.
    fn logged_at(&self, registration: &Registration) -> Option<Instant> {
        let mut refused = self.state.strangers.refused.iter();
        let known = refused.find(|known| known.is(&registration.start));
        known.and_then(|known| known.logged_at)
    }
}

#[test]
fn stores_of_another_cluster_are_told_of_instead_of_asking_for_a_first_store() {
    let mut scene = Scene::empty();
    let no_store = "no store has registered with the placement driver yet";
    assert_eq!(told(&scene), [no_store]);
    scene.beat_in_vain(&foreign(3));
    let refused = "stores of another cluster report here and are refused: store 3 at b:1 of cluster 10; this is cluster 9";
    assert_eq!(told(&scene), [refused]);
    // They may have ended since, and there is nothing else to go by.
    scene.pass(TOLD_FOR * 2);
    assert_eq!(told(&scene), [refused]);
}

#[test]
fn a_store_of_another_cluster_is_told_of_for_a_while_where_there_are_others() {
    let mut scene = Scene::with_original();
    assert_eq!(told(&scene), Vec::<String>::new());
    scene.beat_in_vain(&foreign(3));
    assert_eq!(told(&scene).len(), 1);
    scene.pass(TOLD_FOR);
    assert_eq!(told(&scene), Vec::<String>::new());
}

#[test]
fn the_last_ones_that_were_refused_are_remembered_and_each_is_logged_now_and_then() {
    let mut scene = Scene::empty();
    let last_id = REMEMBERED_MAX as u64 + 2;
    for store_id in 1..=last_id {
        scene.beat_in_vain(&foreign(store_id));
    }
    let remembered = scene.state.strangers.refused.iter();
    let ids: Vec<_> = remembered.map(|known| known.stranger.store_id).collect();
    assert_eq!(ids, (3..=last_id).collect::<Vec<_>>());
    let last = foreign(last_id);
    assert_eq!(scene.logged_at(&last), None, "a flood is a line a second");
    scene.pass(Duration::from_secs(1));
    scene.beat_in_vain(&last);
    let logged_at = scene.logged_at(&last);
    assert_eq!(logged_at, Some(scene.now));
    scene.pass(LOG_INTERVAL - Duration::from_secs(1));
    scene.beat_in_vain(&last);
    assert_eq!(scene.logged_at(&last), logged_at);
    scene.pass(Duration::from_secs(1));
    scene.beat_in_vain(&last);
    assert_eq!(scene.logged_at(&last), Some(scene.now));
}

#[test]
fn a_crowd_of_another_cluster_makes_nobody_forget_a_store_of_this_one() {
    let mut scene = Scene::with_original();
    let unknown = start_of(9, "b:1", 7, 7);
    scene.beat_in_vain(&unknown);
    for store_id in 1..=REMEMBERED_MAX as u64 + 1 {
        scene.beat_in_vain(&foreign(store_id));
    }
    let refused = &scene.state.strangers.refused;
    assert_eq!(refused.len(), 1 + REMEMBERED_MAX);
    assert!(refused.iter().any(|known| known.is(&unknown.start)));
    assert!(!refused.iter().any(|known| known.is(&foreign(1).start)));
}

#[test]
fn a_store_with_an_id_that_was_never_given_out_shows_that_the_directory_is_older() {
    let mut scene = Scene::with_original();
    scene.beat_in_vain(&start_of(2, "b:1", 7, 7));
    let findings = told(&scene);
    let [older] = &findings[..] else {
        panic!("{findings:?}");
    };
    let lacks = "looks older than the cluster: it has never given out the ids of store 2 at b:1";
    assert!(older.ends_with(lacks), "{older}");
    // The directory is started with --tso-advance-ms, and the store stays unknown.
    for change in scene.state.changes_after_restore() {
        scene.state.apply(change);
    }
    let findings = told(&scene);
    let [unknown] = &findings[..] else {
        panic!("{findings:?}");
    };
    assert!(
        unknown.contains("has no record of them: store 2 at b:1"),
        "{unknown}"
    );
}

#[test]
fn a_directory_from_before_the_first_region_asks_for_no_store_and_makes_no_region() {
    let mut scene = Scene::empty();
    scene.state.settings.initial_replicas = 3;
    scene.add_store();
    scene.add_store();
    scene.beat_in_vain(&start_of(9, "b:1", 7, 7));
    let findings = told(&scene);
    let [older] = &findings[..] else {
        panic!("{findings:?}");
    };
    for told in [older, &scene.state.no_region(scene.now)] {
        assert!(told.contains("looks older than the cluster"), "{told}");
    }
    scene.add_store();
    scene.beat_without_region(3);
    assert!(scene.state.regions.is_empty());
}

#[test]
fn an_unknown_store_is_told_of_for_as_long_as_it_may_hold_what_a_region_lacks() {
    let mut scene = Scene::with_three_replicas();
    scene.state.counters.store_id = 9;
    let unknown = start_of(9, "b:1", 7, 7);
    let to_do = |scene: &Scene| {
        let findings = scene.state.findings(scene.now).into_iter();
        findings.map(|finding| finding.to_do).collect::<Vec<_>>()
    };
    scene.beat_in_vain(&unknown);
    scene.pass(TOLD_FOR * 2);
    let silent = told(&scene);
    assert!(silent[0].contains("the last time 2m0s ago"), "{silent:?}");
    let without_leader = to_do(&scene);
    assert_eq!(without_leader.len(), 1);
    assert!(
        without_leader[0].contains("keep their directories"),
        "{without_leader:?}"
    );
    scene.state.region_mut(1).unwrap().reported_at = Some(scene.now);
    assert_eq!(to_do(&scene), Vec::<String>::new());
    scene.beat_in_vain(&unknown);
    let led = to_do(&scene);
    assert!(led[0].contains("empty data directories"), "{led:?}");
}

#[test]
fn an_unknown_store_is_forgotten_once_its_directory_was_emptied() {
    let mut scene = Scene::empty();
    scene.state.settings.initial_replicas = 3;
    scene.add_store();
    scene.add_store();
    scene.beat_in_vain(&start_of(3, "b:1", 7, 7));
    assert_eq!(scene.register(&fresh("b:1", 8)), Ok(3));
    assert_eq!(scene.register(&start_of(3, "b:1", 8, 8)), Ok(3));
    assert_eq!(told(&scene).len(), 1, "it has not said what it has");
    assert!(scene.state.regions.is_empty());
    scene.beat_without_region(3);
    assert_eq!(told(&scene), Vec::<String>::new());
    assert!(!scene.state.regions.is_empty());
}

#[test]
fn a_report_about_peers_that_were_never_named_shows_that_the_directory_is_older() {
    let mut scene = Scene::with_three_replicas();
    scene.report_in_vain(1, &[1, 2, 4]);
    let older = "the data directory of the placement driver looks older than the cluster: it has never named all replicas of region \
                 1, and knows no store with the id 4";
    assert_eq!(told(&scene), [older]);
    scene.pass(DISCONNECTED_AFTER);
    assert_eq!(told(&scene), Vec::<String>::new());
    // All of these are known, and the first is not the leader's.
    scene.report_in_vain(1, &[2, 3]);
    assert_eq!(told(&scene), Vec::<String>::new());
}

#[test]
fn reports_of_ids_that_were_never_given_out_are_logged_less_often_than_other_ignored_ones() {
    let mut scene = Scene::with_three_replicas();
    scene.report_in_vain(1, &[1, 2, 4]);
    scene.report_in_vain(1, &[2, 3]);
    let later = scene.now + LOG_INTERVAL;
    let soon = later - Duration::from_secs(1);
    let strangers = &mut scene.state.strangers;
    assert_eq!(strangers.foreign_line.take_turn(scene.now), None);
    assert_eq!(strangers.foreign_line.take_turn(soon), Some(1));
    assert_eq!(strangers.later_line.take_turn(soon), None);
    assert_eq!(strangers.later_line.take_turn(later), Some(1));
}

#[test]
fn a_refused_call_as_a_store_is_told_of_for_a_while() {
    let refused = RefusedCall::default();
    let address = IpAddr::from([10, 0, 0, 1]);
    let before = Instant::now();
    assert_eq!(refused.told(before), None);
    refused.note(address, "no token");
    let told = Some((address, "no token".to_owned()));
    assert_eq!(refused.told(before), told);
    assert_eq!(refused.told(Instant::now() + TOLD_FOR), None);
}

/// A store that was removed on purpose has a record.
#[test]
fn a_store_that_has_left_is_no_stranger() {
    let mut scene = Scene::with_original();
    scene.add_store();
    let mut record = scene.state.stores[&2].record.clone();
    record.has_left = true;
    scene.state.apply(Change::Store(record));
    scene.beat_in_vain(&start_of(2, "store-2:1", 2, 2));
    assert_eq!(told(&scene), Vec::<String>::new());
}

#[test]
fn what_the_first_region_waits_for_is_told_until_it_is_there() {
    let mut scene = Scene::empty();
    scene.state.settings.initial_replicas = 3;
    for missing in ["2 more stores", "1 more store"] {
        scene.add_store();
        let waits = format!("the first region waits for {missing} (--initial-replicas 3)");
        assert_eq!(scene.state.no_region(scene.now), waits);
        assert_eq!(
            told(&scene),
            [format!("{waits}: nothing can be read or written before")]
        );
    }
    scene.add_store();
    assert_eq!(told(&scene), Vec::<String>::new());
    // No finding comes back when stores are silent.
    scene.pass(DISCONNECTED_AFTER);
    assert_eq!(told(&scene), Vec::<String>::new());
}
