//! Starts that meet a damaged log, or a damaged record of what is applied.

use bytes::Bytes;
use rdb_raft::encoding::entry;
use rdb_raft::{Content, Entry, LogId, Membership, StoreNode};
use rdb_storage::AppliedState;

use super::*;
use crate::region::first_state;

impl Fixture {
    /// Starts again, which is refused as damage of the region. Says why, and whether other stores are said to hold the region, too.
    async fn is_refused(&self) -> (String, bool) {
        let started = self.regions.restore().await;
        match started.expect_err("it is damaged") {
            ServerError::RegionDamaged {
                region_id: REGION,
                cause,
                has_others,
            } => (cause, has_others),
            error => panic!("{error}"),
        }
    }
}

fn entry_key(index: u64) -> Vec<u8> {
    [&[1_u8][..], &REGION.to_be_bytes(), &index.to_be_bytes()].concat()
}

/// openraft reads the first entry at each start.
#[tokio::test]
async fn a_damaged_entry_that_is_applied_is_told_with_its_region() {
    let fixture = fixture(Durability::Sync).await;
    assert_eq!(fixture.adopts(&[(5, STORE)]).await, 1);
    // That adds a second entry.
    fixture.starts_again().await;
    let storage = fixture.regions.storage.clone();
    let flushed = spawn_blocking(move || storage.flush(REGION)).await;
    flushed.expect("no panic").expect("written");
    fixture.ends().await;
    fixture
        .writes(|batch| batch.put(&entry_key(1), b"damaged"))
        .await;
    let (cause, has_others) = fixture.is_refused().await;
    let told = "damaged: a log entry of 7 bytes cannot be read";
    assert!(cause.contains(told), "{cause}");
    assert!(!has_others);
}

/// At a start openraft reads the end of the log, until it has found two memberships. Those before it reads only to apply them.
#[tokio::test]
async fn a_damaged_entry_that_is_to_be_applied_is_told_with_its_region() {
    let fixture = fixture(Durability::Sync).await;
    assert_eq!(fixture.adopts(&[(5, STORE)]).await, 1);
    let group = fixture.regions.node.group(REGION);
    let term = group.expect("it is open").leader().term;
    fixture.ends().await;
    let nodes = BTreeMap::from([(5, StoreNode { store_id: STORE })]);
    let membership = Membership::new(vec![BTreeSet::from([5])], nodes);
    let payload = Content::Membership(membership.expect("its voter has a store"));
    let appends = move |batch: &mut LogBatch| {
        for index in 2..100 {
            let entry = Entry {
                log_id: LogId::new_term_index(term, index),
                payload: payload.clone(),
            };
            let mut record = Vec::new();
            entry::encode(&entry, &mut record);
            batch.put(&entry_key(index), &record);
        }
        batch.put(&entry_key(2), b"damaged");
    };
    fixture.writes(appends).await;
    let (cause, has_others) = fixture.is_refused().await;
    let told = "its log cannot be applied: a log entry of 7 bytes cannot be read";
    assert!(cause.starts_with(told), "{cause}");
    assert!(!has_others);
}

#[tokio::test]
async fn a_damaged_record_of_what_is_applied_is_told_with_its_region() {
    for (peers, is_elsewhere) in [(&[(5, STORE)][..], false), (&[(5, STORE), (6, 3)], true)] {
        let described = from_wire(region(peers));
        let state = first_state(&described).expect("it has peers");
        let damaged = Bytes::from_static(b"damaged");
        let states = [
            AppliedState {
                position: damaged.clone(),
                ..state.clone()
            },
            AppliedState {
                membership: damaged,
                ..state
            },
        ];
        for state in states {
            let fixture = fixture(Durability::Sync).await;
            let (storage, described) = (fixture.regions.storage.clone(), described.clone());
            let begun = spawn_blocking(move || storage.bootstrap_regions(&[(described, state)]));
            begun.await.expect("no panic").expect("written");
            let (cause, has_others) = fixture.is_refused().await;
            assert!(cause.contains("of 7 bytes cannot be read"), "{cause}");
            assert_eq!(has_others, is_elsewhere);
        }
    }
}
