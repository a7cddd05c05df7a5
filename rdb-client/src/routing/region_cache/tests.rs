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

fn leader(store_id: u64) -> Leader {
    Leader {
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
    let moved = Leader {
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
    cache.set_leader(&used, leader(2));
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
    cache.set_leader(&used, leader(3));
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
    assert!(cache.set_leader(&used, leader(2)));
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
