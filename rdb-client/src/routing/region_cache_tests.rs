use proptest::prelude::*;
use rdb_proto::metapb::RegionEpoch;

use super::*;

fn route(id: u64, version: u64, start_key: &[u8], end_key: &[u8]) -> Arc<Route> {
    let region = Region {
        id,
        start_key: Bytes::copy_from_slice(start_key),
        end_key: Bytes::copy_from_slice(end_key),
        epoch: Some(RegionEpoch {
            conf_version: 1,
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
    cache.suspect(&used);
    assert!(cache.locate(b"k").is_some_and(|route| !route.suspect));

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
    cache.suspect(&used);
    assert!(cache.locate(b"k").is_some_and(|route| route.suspect));
    assert!(cache.insert(used));
    assert!(cache.locate(b"k").is_some_and(|route| !route.suspect));
}

/// Regions over single-byte boundaries; 0 as the end is no bound.
fn any_route() -> impl Strategy<Value = Arc<Route>> {
    (1..4_u64, 1..5_u64, 0..8_u8, 0..9_u8).prop_filter_map(
        "inverted",
        |(id, version, start, end)| {
            let start_key: &[u8] = if start == 0 { &[] } else { &[start] };
            let end_key: &[u8] = if end == 0 { &[] } else { &[end] };
            (end == 0 || start < end).then(|| route(id, version, start_key, end_key))
        },
    )
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
                    && known.region.version() > route.region.version()
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
