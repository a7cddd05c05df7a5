use std::slice::from_ref;

use bytes::Bytes;
use proptest::prelude::*;
use rdb_proto::metapb::{RegionRoute, StoreState};

use super::super::scene::Scene;
use super::super::{DISCONNECTED_AFTER, HEARTBEAT_INTERVAL};
use super::*;

/// What the peer of region 1 on the store with the same id reports, at the epoch that the region was made with.
fn report(peer_id: u64, term: u64) -> Report {
    changed(peer_id, term, 1, &[1, 2, 3])
}

/// The same with other peers.
fn changed(peer_id: u64, term: u64, conf_version: u64, peers: &[u64]) -> Report {
    Report {
        region_id: 1,
        peer_id,
        term,
        epoch: RegionEpoch {
            conf_version,
            version: 1,
        },
        peers: peers.iter().map(|&id| peer(id)).collect(),
        live: None,
        bytes: None,
    }
}

fn peer(id: u64) -> Peer {
    Peer {
        id,
        store_id: id,
        learner: false,
    }
}

impl Scene {
    /// Reports as the leader, and is believed.
    fn lead(&mut self, report: &Report) {
        assert_eq!(self.report(report.peer_id, from_ref(report)), 0);
    }

    /// Regions with the ids up to this one, on the stores of the first.
    fn add_regions(&mut self, count: u64) {
        for id in 2..=count {
            let region = self.first_route().region.unwrap();
            self.state.apply(Change::Region(Region {
                id,
                start_key: Bytes::copy_from_slice(&id.to_be_bytes()),
                ..region
            }));
        }
    }

    fn first_route(&self) -> RegionRoute {
        self.state.route(b"k", self.now).unwrap()
    }

    /// The id of the leader's store, and its term.
    fn leader(&self) -> Option<(u64, u64)> {
        let route = self.first_route();
        assert_eq!(route.leader.is_some(), route.term > 0);
        route.leader.map(|store| (store.id, route.term))
    }

    /// The ids of the peers, and the `conf_version`.
    fn peers(&self) -> (Vec<u64>, u64) {
        let region = self.first_route().region.unwrap();
        let ids = region.peers.iter().map(|peer| peer.id);
        (ids.collect(), region.epoch_or_default().conf_version)
    }
}

#[test]
fn the_highest_term_leads_and_what_comes_late_does_not() {
    let mut scene = Scene::with_three_replicas();
    assert_eq!(scene.leader(), None);
    scene.lead(&report(1, 4));
    assert_eq!(scene.leader(), Some((1, 4)));
    scene.lead(&report(2, 7));
    assert_eq!(scene.leader(), Some((2, 7)));
    for late in [report(1, 4), report(3, 6)] {
        scene.lead(&late);
        assert_eq!(scene.leader(), Some((2, 7)));
    }
    scene.lead(&report(3, 7));
    assert_eq!(scene.leader(), Some((3, 7)), "the later of one term");
}

#[test]
fn the_size_of_a_region_is_what_a_leader_has_told_last() {
    let mut scene = Scene::with_three_replicas();
    scene.lead(&report(1, 4));
    assert_eq!(scene.first_route().bytes, None);
    scene.lead(&Report {
        bytes: Some(7),
        ..report(1, 4)
    });
    assert_eq!(scene.first_route().bytes, Some(7));
    scene.lead(&report(2, 5));
    assert_eq!(scene.first_route().bytes, Some(7), "it does not know yet");
}

#[test]
fn a_leader_that_falls_silent_is_named_until_another_one_reports() {
    let mut scene = Scene::with_three_replicas();
    scene.lead(&report(1, 4));
    scene.pass(DISCONNECTED_AFTER);
    scene.report(2, &[]);
    let route = scene.first_route();
    assert_eq!(route.leader.as_ref(), Some(&route.peers[0]));
    let states = route.peers.iter().map(|store| store.state());
    assert_eq!(
        states.collect::<Vec<_>>(),
        [
            StoreState::Disconnected,
            StoreState::Up,
            StoreState::Disconnected
        ]
    );
    scene.lead(&report(2, 5));
    assert_eq!(scene.leader(), Some((2, 5)));
}

#[test]
fn a_restart_forgets_who_leads_until_the_leader_reports_again() {
    let mut scene = Scene::with_three_replicas();
    scene.lead(&report(1, 4));
    scene.restart();
    assert_eq!(scene.leader(), None);
    scene.lead(&report(2, 3));
    scene.lead(&report(1, 4));
    assert_eq!(scene.leader(), Some((1, 4)));
}

#[test]
fn the_sole_peer_of_a_region_leads_before_it_reports() {
    let mut scene = Scene::with_original();
    let route = scene.first_route();
    let leader = route.leader.unwrap();
    assert_eq!((leader.address.as_str(), route.term), ("a:1", 0));
    assert_eq!(route.peers, [leader]);
    scene.lead(&changed(1, 6, 1, &[1]));
    assert_eq!(scene.leader(), Some((1, 6)));
}

#[test]
fn reports_of_peers_that_the_region_does_not_have_are_ignored() {
    let mut scene = Scene::with_three_replicas();
    scene.add_store();
    scene.lead(&report(1, 4));
    let unknown_region = Report {
        region_id: 7,
        ..report(1, 9)
    };
    let never_given_out = changed(1, 9, 2, &[1, 2, 3, 4]);
    for (store_id, foreign) in [
        (4, report(4, 9)),
        (2, report(1, 9)),
        (1, unknown_region),
        (1, never_given_out),
        (1, changed(1, 9, 2, &[2, 3])),
    ] {
        assert_eq!(scene.report(store_id, from_ref(&foreign)), 1, "{foreign:?}");
        assert_eq!(scene.leader(), Some((1, 4)));
        assert_eq!(scene.peers(), (vec![1, 2, 3], 1));
    }
}

#[test]
fn peers_follow_what_the_leader_says_and_are_durable() {
    let mut scene = Scene::with_three_replicas();
    scene.add_store();
    scene.state.counters.peer_id = 4;
    scene.lead(&report(1, 4));
    scene.lead(&changed(4, 5, 3, &[2, 3, 4]));
    for _ in 0..2 {
        assert_eq!(scene.peers(), (vec![2, 3, 4], 3));
        assert!(scene.state.regions_of(1).is_empty());
        assert_eq!(scene.state.regions_of(4).len(), 1);
        scene.restart();
    }
    assert_eq!(scene.leader(), None);
    // A leader that was elected since may not have applied the last change yet.
    scene.lead(&changed(2, 6, 2, &[1, 2, 3, 4]));
    assert_eq!(scene.leader(), Some((2, 6)));
    assert_eq!(scene.peers(), (vec![2, 3, 4], 3));
}

#[test]
fn peers_do_not_follow_an_earlier_leader_or_another_shape_or_the_same_epoch() {
    let mut scene = Scene::with_three_replicas();
    scene.lead(&report(1, 4));
    let mut split = changed(1, 4, 2, &[1, 2]);
    split.epoch.version = 2;
    for other in [changed(2, 3, 2, &[2, 3]), split, changed(1, 4, 1, &[1, 2])] {
        scene.lead(&other);
        assert_eq!(scene.leader(), Some((1, 4)));
        assert_eq!(scene.peers(), (vec![1, 2, 3], 1), "{other:?}");
    }
}

#[test]
fn a_leader_that_was_removed_is_not_named() {
    let mut scene = Scene::with_three_replicas();
    scene.lead(&report(1, 4));
    let shrunk = scene.state.changed_region(2, &changed(2, 5, 2, &[2, 3]));
    scene.state.apply(Change::Region(shrunk.unwrap()));
    assert_eq!(scene.leader(), None, "until the new one has reported");
    scene.lead(&changed(2, 5, 2, &[2, 3]));
    assert_eq!(scene.leader(), Some((2, 5)));
}

#[test]
fn one_heartbeat_changes_as_many_regions_as_one_write_takes() {
    let mut scene = Scene::with_three_replicas();
    let count = CHANGED_REGIONS_MAX as u64 + 10;
    scene.add_regions(count);
    let reports = (1..=count).map(|region_id| Report {
        region_id,
        ..changed(1, 4, 2, &[1, 2])
    });
    let mut reports: Vec<_> = reports.collect();
    assert_eq!(scene.report(1, &reports), 0);
    let rest: Vec<_> = reports[CHANGED_REGIONS_MAX..].to_vec();
    scene.state.retain_changes(1, &mut reports);
    assert_eq!(reports, rest, "the next heartbeat's");
}

/// Each heartbeat brings something to store for every region, and one write cannot take all.
#[test]
fn what_voters_were_away_for_is_stored_of_all_regions_by_turns_and_after_changed_peers() {
    let mut scene = Scene::with_three_replicas();
    scene.state.settings.store_down_after = HEARTBEAT_INTERVAL * 8;
    let count = CHANGED_REGIONS_MAX as u64 * 3;
    scene.add_regions(count);
    let reports = (1..=count).map(|region_id| Report {
        region_id,
        live: Some(vec![1, 2]),
        ..report(1, 4)
    });
    let mut reports: Vec<_> = reports.collect();
    let beat = |scene: &mut Scene, reports: &[Report]| {
        scene.pass(HEARTBEAT_INTERVAL);
        scene.report(2, &[]);
        assert_eq!(scene.report(1, reports), 0);
    };
    // The first only begins.
    for _ in 0..4 {
        beat(&mut scene, &reports);
    }
    for region_id in 1..=count {
        let known = scene.state.region_by_id(region_id).unwrap();
        assert_eq!(known.lagging.stored().len(), 1, "of region {region_id}");
    }
    *reports.last_mut().unwrap() = Report {
        region_id: count,
        ..changed(1, 4, 2, &[1, 2])
    };
    beat(&mut scene, &reports);
    let changed = scene.state.region_by_id(count).unwrap();
    assert_eq!(changed.conf_version(), 2);
}

proptest! {
    #[test]
    fn of_the_reports_of_peers_the_last_with_the_highest_term_counts(
        reports in prop::collection::vec((1_u64..=4, 1_u64..=4, 1_u64..=5), 0..40),
    ) {
        let mut scene = Scene::with_three_replicas();
        scene.add_store();
        let is_peer = |&(store_id, peer_id, _): &(u64, u64, u64)| store_id == peer_id && peer_id <= 3;
        for &(store_id, peer_id, term) in &reports {
            scene.report(store_id, &[report(peer_id, term)]);
        }
        let of_peers = reports.iter().copied().filter(is_peer);
        let counts = of_peers.max_by_key(|&(_, _, term)| term);
        prop_assert_eq!(scene.leader(), counts.map(|(store_id, _, term)| (store_id, term)));
    }
}
