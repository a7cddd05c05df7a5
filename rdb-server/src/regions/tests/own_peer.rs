//! Which peer of a region a store has, and regions that are left out because that is not known or because they cannot be opened.

use super::*;
use crate::region::first_state;

/// As a release left it that took snapshots as of before the peer was added.
async fn with_a_region_of_another_store() -> Fixture {
    let fixture = fixture(Durability::Sync).await;
    fixture.stores(&[(1, 1)]).await;
    fixture.starts_again().await;
    let report = fixture.regions.report();
    assert_eq!((report.holds, report.count), (vec![held(0)], 1));
    assert!(fixture.regions.served().borrow().is_empty());
    fixture
}

#[tokio::test]
async fn a_region_that_is_stored_without_a_peer_of_this_store_is_destroyed_as_it_was_named() {
    let fixture = with_a_region_of_another_store().await;
    let regions = &fixture.regions;
    let of_other = HeldPeer {
        conf_version: 2,
        ..held(0)
    };
    regions.destroy(of_other).await;
    assert!(fixture.is_stored().await);
    assert_eq!(regions.report().holds, [held(0)]);
    regions.destroy(held(0)).await;
    assert!(!fixture.is_stored().await);
    assert_eq!(regions.report().count, 0);
    // A member that was away may still ask for those that are as old as it is.
    assert_eq!(fixture.tombstone(), Some(1));
    assert_eq!(fixture.is_asked_for(1).await, 0);
}

#[tokio::test]
async fn a_region_that_is_stored_without_a_peer_of_this_store_is_that_of_the_first_one_asked_for() {
    let fixture = with_a_region_of_another_store().await;
    let regions = &fixture.regions;
    assert_eq!(fixture.is_asked_for(9).await, 1);
    assert_eq!(regions.report().holds, [held(9)]);
    assert!(regions.served().borrow().contains(&REGION));
    // From then on the note says which peer this store has, not the region.
    fixture.ends().await;
    for other in [5, 10] {
        assert_eq!(fixture.is_asked_for(other).await, 0);
        assert!(regions.node.group(REGION).is_none());
    }
    fixture.starts_again().await;
    assert_eq!(regions.report().holds, [held(9)]);
    assert!(regions.node.group(REGION).is_some());
    assert_eq!(fixture.noted_peer().await, Some(9));
}

#[tokio::test]
async fn a_later_peer_that_is_stored_beats_what_was_noted_before() {
    let fixture = fixture(Durability::Sync).await;
    assert_eq!(fixture.adopts(&[(9, STORE)]).await, 1);
    fixture.ends().await;
    fixture.has_the_note_of_peer_5().await;
    fixture.starts_again().await;
    let regions = &fixture.regions;
    assert_eq!(regions.replicas().open[&REGION].peer_id, 9);
    assert_eq!(fixture.noted_peer().await, Some(9));
    regions.destroy(held(5)).await;
    assert!(fixture.is_stored().await);
}

#[tokio::test]
async fn a_peer_that_was_destroyed_has_no_region_whatever_was_noted_and_stored_of_it() {
    for peers in [&[(1, 1)][..], &[(1, 1), (3, STORE)]] {
        let fixture = fixture(Durability::Sync).await;
        fixture.destroys_what_is_stored().await;
        fixture.stores(peers).await;
        fixture.starts_again().await;
        let regions = &fixture.regions;
        assert_eq!(regions.report().holds, [held(0)]);
        fixture.is_asked_for(9).await;
        assert_eq!(regions.report().holds, [held(9)]);
        fixture.ends().await;
        fixture.has_the_note_of_peer_5().await;
        fixture.starts_again().await;
        fixture.is_asked_for(5).await;
        assert_eq!(regions.report().holds, [held(0)]);
        assert_eq!(fixture.noted_peer().await, None);
        fixture.is_asked_for(9).await;
        assert_eq!(regions.report().holds, [held(9)]);
        assert_eq!(fixture.noted_peer().await, Some(9));
    }
}

#[tokio::test]
async fn a_note_that_cannot_be_read_keeps_a_store_from_starting_only_if_its_region_is_to_be_opened()
{
    for (peers, refused) in [
        (&[(5, STORE)][..], Some(false)),
        (&[(5, STORE), (6, 3)], Some(true)),
        (&[(6, 3)], None),
    ] {
        let fixture = fixture(Durability::Sync).await;
        fixture.stores(peers).await;
        fixture.puts(4, b"damaged").await;
        let regions = &fixture.regions;
        let started = regions.restore().await;
        let Some(has_others) = refused else {
            started.expect("it starts");
            assert_eq!(regions.report().holds, [held(0)]);
            regions.destroy(held(0)).await;
            assert!(!fixture.is_stored().await);
            assert!(fixture.logs().await.is_empty());
            continue;
        };
        let error = started.expect_err("it is to be opened");
        let ServerError::RegionDamaged { has_others: is, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(is, has_others);
    }
}

fn new_storage(config: &Config) -> Storage {
    let storage = Storage::open(&config.data_dir, config.storage_options());
    storage.expect("a new directory")
}

/// A snapshot with peer 5 of this store arrives, and cannot be installed.
fn fail_to_install(storage: &Storage) {
    let of_source = directory();
    let source = new_storage(&config(&of_source, Durability::Sync));
    source.put_raw("k", "v").expect("written");
    let region = from_wire(region(&[(5, STORE), (6, 3)]));
    let state = first_state(&region).expect("it has peers");
    let begun = source.bootstrap_regions(&[(region, state)]);
    begun.expect("written");
    let snapshot = source.region_snapshot(REGION);
    let mut snapshot = snapshot.expect("it has a state");
    let incoming = storage.receive_region(REGION);
    let mut incoming = incoming.expect("there is space");
    while let Some(chunk) = snapshot.next_chunk().expect("it can be read") {
        incoming.add(chunk).expect("it is the next one");
    }
    let received = incoming.complete().expect("it is complete");
    let files = storage.directory().join("snapshots");
    std::fs::remove_dir_all(files).expect("they are there");
    received.install().expect_err("the files are gone");
}

async fn with_unfinished_install() -> Fixture {
    let directory = directory();
    let config = config(&directory, Durability::Sync);
    let left = spawn_blocking(move || fail_to_install(&new_storage(&config)));
    left.await.expect("no panic");
    fixture_in(directory, Durability::Sync).await
}

#[tokio::test]
async fn a_region_whose_snapshot_cannot_be_installed_is_named_and_destroyed_once_its_peer_is_removed()
 {
    let fixture = with_unfinished_install().await;
    let regions = &fixture.regions;
    let report = regions.report();
    assert_eq!((report.holds, report.count), (vec![held(5)], 1));
    assert_eq!(fixture.adopts(&[(5, STORE)]).await, 1);
    assert!(!fixture.is_stored().await);
    regions.destroy(held(6)).await;
    assert_eq!(regions.report().count, 1, "that is another peer");
    regions.destroy(held(5)).await;
    let report = regions.report();
    assert_eq!((report.holds, report.count), (Vec::new(), 0));
    assert_eq!(fixture.tombstone(), Some(5));
    assert!(regions.storage.unfinished_installs().is_empty());
}

#[tokio::test]
async fn an_earlier_peer_than_that_of_an_unfinished_install_does_not_get_its_log() {
    let fixture = with_unfinished_install().await;
    let regions = &fixture.regions;
    fixture.is_asked_for(3).await;
    assert!(regions.node.group(REGION).is_none());
    assert_eq!(fixture.noted_peer().await, None);
    assert_eq!(regions.report().holds, [held(5)]);
}

#[tokio::test]
async fn a_region_that_is_left_out_is_named_again_once_its_peer_has_waited_in_vain() {
    let fixture = with_unfinished_install().await;
    let regions = &fixture.regions;
    fixture.is_asked_for(5).await;
    assert!(regions.node.group(REGION).is_some());
    assert!(regions.report().holds.is_empty());
    regions.end_those_silent_for(Duration::ZERO).await;
    assert!(regions.node.group(REGION).is_none());
    let report = regions.report();
    assert_eq!((report.holds, report.count), (vec![held(5)], 1));
    let counts = regions.counts();
    assert_eq!((counts.held, counts.without_leader), (1, 0));
    regions.destroy(held(5)).await;
    assert_eq!(regions.counts().held, 0);
    assert_eq!(regions.report().count, 0);
    assert_eq!(fixture.tombstone(), Some(5));
    assert!(regions.storage.unfinished_installs().is_empty());
}

#[tokio::test]
async fn a_region_whose_install_fails_while_the_store_runs_is_left_out_without_a_restart() {
    let fixture = fixture(Durability::Sync).await;
    let regions = &fixture.regions;
    fixture.is_asked_for(5).await;
    let storage = regions.storage.clone();
    let failed = spawn_blocking(move || fail_to_install(&storage));
    failed.await.expect("no panic");
    assert!(regions.storage.unfinished_installs().contains_key(&REGION));
    regions.end_those_silent_for(Duration::ZERO).await;
    let report = regions.report();
    assert_eq!((report.holds, report.count), (vec![held(5)], 1));
    regions.destroy(held(5)).await;
    assert_eq!(regions.report().count, 0);
    assert!(regions.storage.unfinished_installs().is_empty());
}

#[tokio::test]
async fn a_damaged_log_of_a_region_that_is_left_out_keeps_no_store_from_starting() {
    let fixture = with_unfinished_install().await;
    let regions = &fixture.regions;
    for tag in [2, 4] {
        fixture.puts(tag, b"damaged").await;
    }
    fixture.starts_again().await;
    assert_eq!(regions.report().holds, [held(5)]);
    regions.destroy(held(5)).await;
    assert_eq!(regions.report().count, 0);
    assert!(fixture.logs().await.is_empty());
}
