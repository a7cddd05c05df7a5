use std::cell::Cell;
use std::collections::BTreeSet;
use std::iter::once;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rdb_proto::errorpb::RegionLeader;
use rdb_proto::metapb::{Peer, RegionEpoch};
use rdb_raft::StoredMembership;
use rdb_storage::{PointRead, Role, Storage, StorageOptions};

use super::*;
use crate::region::fixture::Led;
use crate::region::{Described, ReadFailure, from_wire};

struct Fixture {
    router: Router,
    drain: CancellationToken,
    led: Led,
    _directory: tempfile::TempDir,
}

const CLUSTER_ID: u64 = 77;
const STORE_ID: u64 = 3;
const VERSION: u64 = 5;

/// Region 1 holds ["", "m"), region 2 holds ["m", "t"); nothing is above.
async fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let storage = Storage::open(directory.path(), StorageOptions::new(Role::Server)).unwrap();
    let led = Led::begin(&storage, Region::default()).await;
    let drain = CancellationToken::new();
    let router = Router::new(drain.clone());
    let handle = |id, start_key: &'static str, end_key: &'static str| {
        led.handle(Region {
            id,
            start_key: start_key.into(),
            end_key: end_key.into(),
            epoch: Some(RegionEpoch {
                conf_version: 1,
                version: VERSION,
            }),
            peers: Vec::new(),
        })
    };
    let regions = vec![handle(2, "m", "t"), handle(1, "", "m")];
    router.set(Membership::new(CLUSTER_ID, STORE_ID, regions));
    Fixture {
        router,
        drain,
        led,
        _directory: directory,
    }
}

impl Fixture {
    fn region_of(&self, context: Option<Context>, keys: &[&'static str]) -> Result<u64, Kind> {
        let keys: Vec<Bytes> = keys
            .iter()
            .map(|key| Bytes::from_static(key.as_bytes()))
            .collect();
        let found = self.router.for_keys(context.as_ref(), keys.iter());
        found.map(|handle| handle.region().id).map_err(kind)
    }

    fn scan(
        &self,
        start_key: &'static str,
        end_key: &'static str,
        reverse: bool,
    ) -> Result<(u64, Bytes, Bytes, Option<Bytes>), Kind> {
        let range = ScanRange {
            start_key: start_key.into(),
            end_key: end_key.into(),
            reverse,
            ..ScanRange::default()
        };
        let target = self.router.for_scan(None, range);
        let target = target.map_err(kind)?;
        Ok((
            target.region.region().id,
            target.range.start_key,
            target.range.end_key,
            target.resume_key,
        ))
    }
}

fn kind(rejection: Rejection) -> Kind {
    match rejection {
        Rejection::Routing(kind) => kind,
        Rejection::Denied(fault) | Rejection::Fault(fault) => panic!("{fault:?}"),
    }
}

fn context() -> Context {
    Context {
        cluster_id: CLUSTER_ID,
        store_id: STORE_ID,
        region_id: 1,
        region_epoch: Some(RegionEpoch {
            conf_version: 9,
            version: VERSION,
        }),
    }
}

#[tokio::test]
async fn an_absent_context_means_the_region_that_holds_the_key() {
    let fixture = fixture().await;
    assert_eq!(fixture.region_of(None, &["a"]), Ok(1));
    assert_eq!(fixture.region_of(None, &["m"]), Ok(2));
    assert_eq!(
        fixture.region_of(None, &["z"]),
        Err(Kind::RegionNotFound(RegionNotFound { region_id: 0 }))
    );
}

#[tokio::test]
async fn a_batch_that_crosses_regions_is_refused_as_a_whole() {
    let fixture = fixture().await;
    assert_eq!(fixture.region_of(None, &["a", "b"]), Ok(1));
    assert!(matches!(
        fixture.region_of(None, &["a", "n"]),
        Err(Kind::KeyNotInRegion(_))
    ));
}

#[tokio::test]
async fn each_part_of_the_context_is_checked() {
    let fixture = fixture().await;
    assert_eq!(
        fixture.region_of(Some(context()), &["a"]),
        Ok(1),
        "conf_version is not compared"
    );
    let wrong = |change: fn(&mut Context)| {
        let mut context = context();
        change(&mut context);
        fixture.region_of(Some(context), &["a"]).unwrap_err()
    };
    assert_eq!(
        wrong(|context| context.cluster_id = 1),
        Kind::ClusterMismatch(ClusterMismatch {
            cluster_id: CLUSTER_ID
        })
    );
    assert_eq!(
        wrong(|context| context.store_id = 1),
        Kind::StoreMismatch(StoreMismatch { store_id: STORE_ID })
    );
    assert_eq!(
        wrong(|context| context.region_id = 9),
        Kind::RegionNotFound(RegionNotFound { region_id: 9 })
    );
    assert!(matches!(
        wrong(|context| context.region_id = 2),
        Kind::KeyNotInRegion(_)
    ));
}

#[tokio::test]
async fn an_older_epoch_is_told_the_present_regions_and_a_newer_one_to_try_again() {
    let fixture = fixture().await;
    let with_version = |version, key| {
        let region_epoch = Some(RegionEpoch {
            conf_version: 1,
            version,
        });
        match fixture.region_of(
            Some(Context {
                region_epoch,
                ..context()
            }),
            &[key],
        ) {
            Err(Kind::EpochNotMatch(mismatch)) => mismatch
                .current_regions
                .iter()
                .map(|region| region.id)
                .collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(with_version(VERSION - 1, "a"), [1]);
    assert_eq!(
        with_version(VERSION - 1, "n"),
        [1, 2],
        "the key has moved to another region"
    );
    assert!(with_version(VERSION + 1, "a").is_empty());
}

#[tokio::test]
async fn an_older_epoch_is_told_who_leads_the_present_regions() {
    let fixture = fixture().await;
    let region_epoch = Some(RegionEpoch {
        conf_version: 1,
        version: VERSION - 1,
    });
    let older = Context {
        region_epoch,
        ..context()
    };
    let refused = fixture.region_of(Some(older), &["n"]);
    let Err(Kind::EpochNotMatch(EpochNotMatch {
        current_regions,
        leaders,
    })) = refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!((current_regions.len(), leaders.len()), (2, 2));
    for RegionLeader { leader, term } in leaders {
        // The fixture's peer is on store 1, and leads alone.
        assert_eq!((leader.map(|store| store.id), term > 0), (Some(1), true));
    }
}

#[tokio::test]
async fn a_range_has_to_lie_in_one_region() {
    let fixture = fixture().await;
    let router = &fixture.router;
    assert!(router.for_range(None, b"n", b"t").is_ok());
    assert!(router.for_range(None, b"a", b"n").is_err());
    assert!(
        router.for_range(None, b"n", b"").is_err(),
        "the region has an end"
    );
}

#[tokio::test]
async fn a_scan_is_cut_to_its_region_and_says_where_to_go_on() {
    let fixture = fixture().await;
    let forward = |start, end| fixture.scan(start, end, false);
    assert_eq!(forward("a", "c"), Ok((1, "a".into(), "c".into(), None)));
    assert_eq!(
        forward("a", ""),
        Ok((1, "a".into(), "m".into(), Some("m".into())))
    );
    assert_eq!(forward("m", "t"), Ok((2, "m".into(), "t".into(), None)));

    let reverse = |start, end| fixture.scan(start, end, true);
    assert_eq!(reverse("n", "p"), Ok((2, "n".into(), "p".into(), None)));
    assert_eq!(
        reverse("a", "t"),
        Ok((2, "m".into(), "t".into(), Some("m".into())))
    );
    assert_eq!(reverse("a", "m"), Ok((1, "a".into(), "m".into(), None)));
    assert!(reverse("a", "").is_err(), "no region here reaches the end");
}

#[tokio::test]
async fn a_drain_refuses_everything() {
    let fixture = fixture().await;
    fixture.drain.cancel();
    assert!(matches!(
        fixture.region_of(Some(context()), &["a"]),
        Err(Kind::NotReady(_))
    ));
}

#[tokio::test]
async fn what_was_routed_to_a_region_that_is_another_now_is_refused_after_the_read() {
    let fixture = fixture().await;
    let router = &fixture.router;
    let [changed, same] = ["a", "n"].map(|key| router.for_key(None, key.as_bytes()).unwrap());
    let read = || PointRead::raw(Bytes::from_static(b"a")).unwrap();
    let permit = changed.permit_read().await.unwrap();
    let again = |handle: &Arc<RegionHandle>| fixture.led.handle(handle.region().clone());
    // A registration that changes nothing comes between.
    let regions = vec![again(&changed), again(&same)];
    router.set(Membership::new(CLUSTER_ID, STORE_ID, regions));
    let mut region = changed.region().clone();
    region.epoch = Some(RegionEpoch {
        conf_version: 1,
        version: VERSION + 1,
    });
    let regions = vec![fixture.led.handle(region), again(&same)];
    router.set(Membership::new(CLUSTER_ID, STORE_ID, regions));

    let refused = permit.read(read(), usize::MAX).await;
    let Err(ReadFailure::Rejected(refused)) = refused else {
        panic!("{refused:?}");
    };
    assert!(matches!(kind(refused), Kind::EpochNotMatch(_)));
    assert!(
        same.read_from_memory(&read(), usize::MAX).is_ok(),
        "it has not changed"
    );
}

#[tokio::test]
async fn requests_go_on_when_only_the_peers_of_their_region_change() {
    let fixture = fixture().await;
    let router = &fixture.router;
    let routed = router.for_key(None, b"a").unwrap();
    let permit = routed.permit_read().await.unwrap();
    let peer = Peer {
        id: 7,
        store_id: 4,
        learner: true,
    };
    let region = Region {
        epoch: Some(RegionEpoch {
            conf_version: 2,
            version: VERSION,
        }),
        peers: vec![peer],
        ..routed.region().clone()
    };
    assert!(routed.description().learn(Described {
        region: from_wire(region.clone()),
        members: StoredMembership::default(),
    }));
    let regions = vec![fixture.led.handle(region.clone())];
    router.set(Membership::new(CLUSTER_ID, STORE_ID, regions));
    let read = PointRead::raw(Bytes::from_static(b"a")).unwrap();
    let found = permit.read(read, usize::MAX).await;
    assert!(found.is_ok(), "{found:?}");
    let now = router.for_key(None, b"a").unwrap();
    assert!(Arc::ptr_eq(&now, &routed));
    let Err(Kind::KeyNotInRegion(told)) = fixture.region_of(Some(context()), &["z"]) else {
        panic!("it is another region");
    };
    assert_eq!(told.region, Some(region));
}

#[tokio::test]
async fn a_region_is_found_as_if_all_were_looked_at() {
    let fixture = fixture().await;
    let bounds = prop::collection::btree_set("[a-e]{1,3}", 0..20);
    let present = prop::collection::vec(any::<bool>(), 21);
    let check = |(bounds, present, key): (BTreeSet<String>, Vec<bool>, String)| {
        let starts = once(String::new()).chain(bounds.iter().cloned());
        let ends = bounds.iter().cloned().chain(once(String::new()));
        let ranges = starts.zip(ends).zip(present);
        let ranges = ranges.filter_map(|(range, present)| present.then_some(range));
        // The ids are not in the order of the keys.
        let regions = ranges
            .zip((1..100).rev())
            .map(|((start_key, end_key), id)| Region {
                id,
                start_key: start_key.into(),
                end_key: end_key.into(),
                ..Region::default()
            });
        let regions: Vec<_> = regions.collect();
        let handles = regions.iter().cloned();
        let handles = handles.map(|region| fixture.led.handle(region));
        let membership = Membership::new(CLUSTER_ID, STORE_ID, handles.collect());
        for place in [Seek::At(key.as_bytes()), Seek::Below(key.as_bytes())] {
            let found = membership.at(place).map(|handle| handle.region());
            prop_assert_eq!(found, regions.iter().find(|region| place.is_in(region)));
        }
        for region in &regions {
            let found = membership.with_id(region.id);
            prop_assert_eq!(found.map(|handle| handle.region()), Some(region));
        }
        prop_assert!(membership.with_id(100).is_none());
        Ok(())
    };
    let strategy = (bounds, present, "[a-f]{0,3}");
    TestRunner::default().run(&strategy, check).unwrap();
}

#[tokio::test]
async fn a_region_is_found_among_many_with_few_comparisons() {
    const REGIONS: u64 = 10_000;
    const COMPARISONS_MAX: u32 = 16;
    let fixture = fixture().await;
    let start_key = |number: u64| Bytes::copy_from_slice(&number.to_be_bytes());
    let handles = (0..REGIONS).map(|number| {
        fixture.led.handle(Region {
            id: number,
            start_key: start_key(number),
            end_key: start_key(number + 1),
            ..Region::default()
        })
    });
    let membership = Membership::new(CLUSTER_ID, STORE_ID, handles.collect());
    for number in [0, 1, REGIONS / 3, REGIONS / 2, REGIONS - 1] {
        let key = start_key(number);
        let comparisons = Cell::new(0);
        let found = membership.last(|region| {
            comparisons.set(comparisons.get() + 1);
            Seek::At(&key).is_behind_start(region)
        });
        assert_eq!(found.map(|handle| handle.region().id), Some(number));
        assert!(comparisons.get() <= COMPARISONS_MAX, "{comparisons:?}");
    }
}
