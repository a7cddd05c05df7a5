use proptest::prelude::*;
use rdb_proto::metapb::RegionEpoch;

use super::*;

fn route(id: u64, version: u64, start_key: &[u8], end_key: &[u8]) -> Arc<Route> {
    route_at(id, (version, 1), start_key, end_key)
}

/// The epoch is (`version`, `conf_version`).
fn route_at(id: u64, epoch: (u64, u64), start_key: &[u8], end_key: &[u8]) -> Arc<Route> {
    let (version, conf_version) = epoch;
    let region = Region {
        id,
        start_key: Bytes::copy_from_slice(start_key),
        end_key: Bytes::copy_from_slice(end_key),
        epoch: Some(RegionEpoch {
            conf_version,
            version,
        }),
        peers: Vec::new(),
    };
    Arc::new(Route::new(region, leader(1)))
}

fn leader(store_id: u64) -> PeerStore {
    PeerStore {
        store_id,
        address: format!("store-{store_id}:1"),
    }
}

fn located(cache: &RegionCache, key: &[u8]) -> Option<u64> {
    cache.locate(key).map(|route| route.region.id)
}

#[test]
fn a_split_replaces_the_region_it_came_from() {
    let mut cache = RegionCache::default();
    assert!(cache.insert(route(1, 1, b"", b"")));
    assert!(cache.insert(route(1, 2, b"", b"m")));
    assert_eq!(located(&cache, b"a"), Some(1));
    assert_eq!(
        located(&cache, b"m"),
        None,
        "not known until someone says so"
    );
    assert!(cache.insert(route(2, 2, b"m", b"")));
    assert_eq!(located(&cache, b"m"), Some(2));
}

#[test]
fn who_leads_a_region_that_came_out_of_a_split_is_what_the_answer_says() {
    let mut before = Route::clone(&route(1, 1, b"", b""));
    before.term = 5;
    let region = |id| route(id, 2, b"", b"m").region.clone();
    let told = |store_id, term| {
        Some(RegionLeader {
            leader: Some(Store {
                id: store_id,
                address: leader(store_id).address,
                ..Store::default()
            }),
            term,
        })
    };
    let nobody = Some(RegionLeader {
        leader: None,
        term: 9,
    });
    for (id, told, store_id, term) in [
        (1, told(2, 6), 2, 6),
        (2, told(2, 3), 2, 3),
        (1, told(2, 4), 1, 5),
        (1, None, 1, 5),
        (2, None, 1, 0),
        (2, nobody, 1, 0),
    ] {
        let described = before.described_anew(region(id), told);
        assert_eq!((described.leader, described.term), (leader(store_id), term));
        assert_eq!(described.region, region(id));
    }
    // The store that answers may not know where it is.
    let itself = RegionLeader {
        leader: Some(Store {
            id: 1,
            ..Store::default()
        }),
        term: 7,
    };
    let described = before.described_anew(region(2), Some(itself));
    assert_eq!((described.leader, described.term), (leader(1), 7));
}

#[test]
fn what_was_true_before_a_split_does_not_come_back() {
    let mut cache = RegionCache::default();
    cache.insert(route(1, 2, b"", b"m"));
    cache.insert(route(2, 2, b"m", b""));
    assert!(!cache.insert(route(1, 1, b"", b"")));
    assert_eq!(located(&cache, b"z"), Some(2));
}

#[test]
fn an_older_description_brings_the_newer_address_of_the_same_store_and_no_other_leader() {
    let mut cache = RegionCache::default();
    cache.insert(route(1, 2, b"", b"m"));
    let led_by_another = Route::new(route(2, 2, b"m", b"").region.clone(), leader(2));
    cache.insert(Arc::new(led_by_another));
    let suspect = Arc::clone(cache.locate(b"a").expect("known"));
    cache.suspect(&suspect, Suspicion::NotServed);
    let moved = PeerStore {
        store_id: 1,
        address: "moved:1".to_owned(),
    };
    let older = Route::new(route(1, 1, b"", b"").region.clone(), moved.clone());
    cache.learn(&Arc::new(older));
    let led = |key| cache.locate(key).map(|route| route.leader.clone());
    assert_eq!((led(b"a"), led(b"z")), (Some(moved), Some(leader(2))));
    assert_eq!(
        cache.locate(b"a").map(|route| route.region.version()),
        Some(2)
    );
    assert!(is_trusted(&cache, b"a"));
}

#[test]
fn a_new_leader_replaces_the_one_that_was_asked_and_no_later_one() {
    let mut cache = RegionCache::default();
    let used = route(1, 1, b"", b"");
    cache.insert(Arc::clone(&used));
    cache.set_leader(&used, leader(2), 0);
    assert_eq!(
        cache.locate(b"k").map(|route| route.leader.store_id),
        Some(2)
    );

    // Late news about the first leader does not touch the second.
    cache.remove(&used);
    cache.suspect(&used, Suspicion::NotServed);
    assert!(is_trusted(&cache, b"k"));

    // Nor does news about an epoch that is gone.
    cache.insert(route(1, 2, b"", b""));
    cache.set_leader(&used, leader(3), 0);
    assert_eq!(
        cache.locate(b"k").map(|route| route.leader.store_id),
        Some(1)
    );
}

#[test]
fn a_suspect_is_trusted_again_once_it_is_confirmed() {
    let mut cache = RegionCache::default();
    let used = route(1, 1, b"", b"");
    cache.insert(Arc::clone(&used));
    cache.suspect(&used, Suspicion::NotServed);
    assert!(!is_trusted(&cache, b"k"));
    assert!(cache.insert(Arc::clone(&used)));
    assert!(is_trusted(&cache, b"k"));

    cache.suspect(&used, Suspicion::NotServed);
    cache.trust(&used);
    assert!(is_trusted(&cache, b"k"), "for want of anything better");

    cache.suspect(&used, Suspicion::Foreign { cluster_id: 8 });
    assert!(!is_trusted(&cache, b"k"));
    assert!(cache.set_leader(&used, leader(2), 0));
    assert!(is_trusted(&cache, b"k"), "another store leads it");
}

#[test]
fn a_change_of_peers_is_newer_and_what_was_true_before_it_does_not_come_back() {
    let mut cache = RegionCache::default();
    cache.insert(route_at(1, (2, 3), b"", b""));
    for older in [(2, 2), (1, 9)] {
        assert!(!cache.insert(route_at(1, older, b"", b"")), "{older:?}");
    }
    for newer in [(2, 3), (2, 4), (3, 1)] {
        assert!(cache.insert(route_at(1, newer, b"", b"")), "{newer:?}");
    }
    // Peers of different regions cannot be compared.
    assert!(cache.insert(route_at(2, (3, 0), b"", b"")));
}

#[test]
fn keys_between_two_regions_that_are_known_lie_in_one_hole() {
    let mut cache = RegionCache::default();
    assert_eq!(cache.hole(b"k"), "");
    cache.insert(route(1, 1, b"b", b"d"));
    cache.insert(route(2, 1, b"m", b""));
    let holes = [&b"a"[..], b"b", b"c", b"d", b"k", b"m", b"z"].map(|key| cache.hole(key));
    assert_eq!(holes, ["", "b", "b", "d", "d", "m", "m"]);
}

/// A route to region 1, whose peers are on the stores 1 to 3, led by the first of them in `term`.
fn replicated(term: u64) -> Route {
    Route {
        peers: (1..=3).map(leader).collect(),
        term,
        ..Route::clone(&route(1, 1, b"", b""))
    }
}

fn known(cache: &RegionCache) -> (u64, u64, Option<Suspicion>) {
    let route = cache.locate(b"k").expect("it is known");
    (route.leader.store_id, route.term, route.suspicion)
}

#[test]
fn what_is_said_of_a_lower_term_changes_no_leader() {
    let mut cache = RegionCache::default();
    let used = replicated(5);
    cache.insert(Arc::new(used.clone()));
    assert!(cache.set_leader(&used, leader(2), 6));
    for _ in 0..2 {
        cache.learn(&Arc::new(replicated(5)));
        assert!(
            cache.set_leader(&used, leader(3), 5),
            "the cache knows better"
        );
        assert_eq!(known(&cache), (2, 6, None));
    }
    let second = Route::clone(cache.locate(b"k").expect("known"));
    assert!(
        !cache.set_leader(&second, leader(1), 5),
        "no way but the same"
    );

    // Not even of a leader that serves nobody.
    cache.suspect(&second, Suspicion::NotServed);
    cache.learn(&Arc::new(replicated(5)));
    assert_eq!(known(&cache), (2, 6, Some(Suspicion::NotServed)));
    cache.learn(&Arc::new(replicated(7)));
    assert_eq!(known(&cache), (1, 7, None));
}

#[test]
fn a_store_that_is_named_again_in_its_term_stays_suspect_until_it_serves() {
    let mut cache = RegionCache::default();
    for term in [0, 5] {
        let used = replicated(term);
        cache.insert(Arc::new(used.clone()));
        cache.suspect(&used, Suspicion::NotServed);
        assert!(!cache.set_leader(&used, leader(1), term));
        cache.learn(&Arc::new(used.clone()));
        assert!(!is_trusted(&cache, b"k"), "term {term}");
        cache.confirm(&used);
        assert!(is_trusted(&cache, b"k"), "term {term}");
    }
}

#[test]
fn an_unknown_leader_is_replaced_by_the_one_that_is_named_in_its_term() {
    let named: [fn(&mut RegionCache, &Route); 2] = [
        |cache, used| assert!(cache.set_leader(used, leader(1), 6)),
        |cache, _| cache.learn(&Arc::new(replicated(6))),
    ];
    for name in named {
        let mut cache = RegionCache::default();
        let used = replicated(5);
        cache.insert(Arc::new(used.clone()));
        cache.unset_leader(&used, 6);
        assert_eq!(known(&cache), (1, 6, Some(Suspicion::NoLeader)));
        cache.learn(&Arc::new(replicated(5)));
        cache.suspect(&used, Suspicion::NotServed);
        cache.remove(&used);
        assert_eq!(known(&cache), (1, 6, Some(Suspicion::NoLeader)));
        name(&mut cache, &used);
        assert_eq!(known(&cache), (1, 6, None));
        let unknown = Route {
            suspicion: Some(Suspicion::NoLeader),
            ..replicated(6)
        };
        cache.learn(&Arc::new(unknown));
        assert_eq!(known(&cache), (1, 6, None), "and stays");
    }
}

#[test]
fn a_placement_driver_that_knows_an_older_term_brings_new_addresses_and_peers() {
    let mut cache = RegionCache::default();
    let used = replicated(5);
    cache.insert(Arc::new(used.clone()));
    cache.suspect(&used, Suspicion::NotServed);
    let moved = PeerStore {
        store_id: 1,
        address: "moved:1".to_owned(),
    };
    let older = Route {
        leader: leader(2),
        peers: vec![leader(4), moved.clone()],
        ..replicated(4)
    };
    cache.learn(&Arc::new(older));
    let route = cache.locate(b"k").expect("known");
    assert_eq!(route.leader, moved);
    assert_eq!(route.peers, [leader(4), moved]);
    assert_eq!(known(&cache), (1, 5, None));
}

#[test]
fn every_store_that_may_lead_is_asked_once() {
    let mut route = replicated(1);
    let stores = |route: &Route| -> Vec<u64> {
        route
            .to_each_peer()
            .map(|way| way.leader.store_id)
            .collect()
    };
    assert_eq!(stores(&route), [1, 2, 3]);
    route.leader = leader(4);
    assert_eq!(stores(&route), [1, 2, 3, 4]);
}

fn is_trusted(cache: &RegionCache, key: &[u8]) -> bool {
    let route = cache.locate(key).expect("it is known");
    route.suspicion.is_none()
}

/// Regions over single-byte boundaries; 0 as the end is no bound.
fn any_route() -> impl Strategy<Value = Arc<Route>> {
    let epoch = (1..4_u64, 1..4_u64);
    (1..4_u64, epoch, 0..8_u8, 0..9_u8).prop_filter_map("inverted", |(id, epoch, start, end)| {
        let start_key: &[u8] = if start == 0 { &[] } else { &[start] };
        let end_key: &[u8] = if end == 0 { &[] } else { &[end] };
        (end == 0 || start < end).then(|| route_at(id, epoch, start_key, end_key))
    })
}

/// Whether a cached region must not be replaced by the one that is offered: its range is older, or its peers are.
fn is_older(offered: &Region, known: &Region) -> bool {
    let conf_version = |region: &Region| region.epoch.expect("set").conf_version;
    let has_older_peers = offered.id == known.id
        && offered.version() == known.version()
        && conf_version(offered) < conf_version(known);
    offered.version() < known.version() || has_older_peers
}

proptest! {
    #[test]
    fn regions_never_overlap_and_never_get_older(
        routes in proptest::collection::vec(any_route(), 1..40),
    ) {
        let mut cache = RegionCache::default();
        for route in routes {
            let known: Vec<Arc<Route>> = cache.routes.values().cloned().collect();
            let newer = known.iter().any(|known| {
                known.region.overlaps(&route.region.start_key, &route.region.end_key)
                    && is_older(&route.region, &known.region)
            });
            prop_assert_eq!(cache.insert(Arc::clone(&route)), !newer);
            if !newer {
                prop_assert_eq!(cache.locate(&route.region.start_key), Some(&route));
            }
            for one in cache.routes.values() {
                let overlapping = cache.routes.values().filter(|other| {
                    other.region.overlaps(&one.region.start_key, &one.region.end_key)
                });
                prop_assert_eq!(overlapping.count(), 1);
            }
            for known in known {
                let overlaps = known.region.overlaps(&route.region.start_key, &route.region.end_key);
                let kept = cache.routes.values().any(|now| *now == known);
                prop_assert!(kept || (overlaps && !newer), "an entry vanished without need");
            }
        }
    }
}

/// Something that is said of region 1, in a term.
#[derive(Debug, Clone, Copy)]
enum Word {
    Leader(u64),
    NoLeader,
    PlacementDriver {
        leader: Option<u64>,
        conf_version: u64,
        peers: u64,
    },
    Serves(u64),
    GotNowhere,
}

fn any_word() -> impl Strategy<Value = Word> {
    let store = 1..4_u64;
    prop_oneof![
        store.clone().prop_map(Word::Leader),
        Just(Word::NoLeader),
        (proptest::option::of(store.clone()), 1..3_u64, 0..4_u64).prop_map(
            |(leader, conf_version, peers)| Word::PlacementDriver {
                leader,
                conf_version,
                peers
            }
        ),
        store.prop_map(Word::Serves),
        Just(Word::GotNowhere),
    ]
}

proptest! {
    #[test]
    fn the_term_of_a_route_never_goes_down_and_a_lower_one_changes_no_leader(
        words in proptest::collection::vec((0..5_u64, any_word()), 1..40),
    ) {
        let mut cache = RegionCache::default();
        cache.insert(Arc::new(replicated(0)));
        for (term, word) in words {
            let before = Arc::clone(cache.locate(b"k").expect("nothing removes it"));
            let used = Route::clone(&before);
            match word {
                Word::Leader(store_id) => {
                    cache.set_leader(&used, leader(store_id), term);
                }
                Word::NoLeader => cache.unset_leader(&used, term),
                Word::PlacementDriver { leader: named, conf_version, peers } => {
                    let offered = Route {
                        leader: leader(named.unwrap_or(1)),
                        peers: (1..=peers).map(leader).collect(),
                        term,
                        suspicion: named.is_none().then_some(Suspicion::NoLeader),
                        ..Route::clone(&route_at(1, (1, conf_version), b"", b""))
                    };
                    cache.learn(&Arc::new(offered));
                }
                Word::Serves(store_id) => {
                    cache.confirm(&Route { leader: leader(store_id), ..used });
                }
                Word::GotNowhere => cache.suspect(&used, Suspicion::NotServed),
            }
            let after = cache.locate(b"k").expect("nothing removes it");
            prop_assert!(after.term >= before.term);
            // A placement driver that knows no terms and no peers has the last word, as there is no other.
            let is_plain = matches!(word, Word::PlacementDriver { peers: 0..=1, .. }) && term == 0;
            if term < before.term && !is_plain && !matches!(word, Word::Serves(_)) {
                prop_assert_eq!(&after.leader, &before.leader);
            }
        }
    }
}
