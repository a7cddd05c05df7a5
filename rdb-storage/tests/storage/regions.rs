//! What a store knows of itself survives a restart: its regions, and whose it is.

use rdb_storage::{
    Command, Error, PeerDescriptor, RegionDescriptor, Role, Storage, StorageOptions,
};

use crate::fixture::{copy_of, invalid_field, open, single, unsynced};

fn region(id: u64, start_key: &'static str, end_key: &'static str) -> RegionDescriptor {
    RegionDescriptor {
        id,
        start_key: start_key.into(),
        end_key: end_key.into(),
        conf_version: 1,
        version: 1,
        peers: vec![PeerDescriptor {
            id: id + 100,
            store_id: 1,
        }],
    }
}

fn put_region(storage: &Storage, region: RegionDescriptor) {
    let pending = storage.submit(single(Command::PutRegion(region))).unwrap();
    pending.wait().unwrap();
}

#[test]
fn regions_are_kept_in_the_order_of_their_ids_and_replaced_by_later_ones() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    assert_eq!(storage.regions().unwrap(), []);
    put_region(&storage, region(300, "m", ""));
    put_region(&storage, region(2, "", "x"));
    let mut split = region(2, "", "m");
    split.version = 2;
    put_region(&storage, split.clone());
    drop(storage);
    let storage = open(directory.path(), &unsynced());
    assert_eq!(storage.regions().unwrap(), [split, region(300, "m", "")]);
}

#[test]
fn the_size_of_a_region_is_about_that_of_its_keys_in_table_files() {
    const BYTES: usize = 1 << 20;
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    put_region(&storage, region(1, "", "m"));
    put_region(&storage, region(2, "m", ""));
    let mut noise = vec![0; BYTES];
    fastrand::Rng::with_seed(1).fill(&mut noise);
    storage.put_raw("n", noise.clone()).unwrap();
    storage.compare_and_swap("n", 0, noise).unwrap();
    storage.close().unwrap();
    drop(storage);
    let storage = open(directory.path(), &unsynced());
    let bytes_of = |region_id| storage.region_bytes(region_id).unwrap();
    let (first, second) = (bytes_of(1).unwrap(), bytes_of(2).unwrap());
    let both = 2 * BYTES as u64;
    assert!((both..both * 5 / 4).contains(&second), "{second}");
    assert!(first < BYTES as u64 / 4, "{first}");
    assert_eq!(bytes_of(3), None);
}

#[test]
fn floors_and_regions_share_a_family_and_do_not_mix() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    storage.compare_and_swap("k", 0, "v").unwrap();
    storage.compare_and_delete("k", 1).unwrap();
    put_region(&storage, region(1, "", ""));
    assert_eq!(storage.regions().unwrap(), [region(1, "", "")]);
    assert_eq!(storage.compare_and_swap("k", 0, "v"), Ok(2));
}

#[test]
fn an_inverted_region_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    let inverted = single(Command::PutRegion(region(1, "m", "a")));
    assert_eq!(invalid_field(storage.submit(inverted)), "region");
    assert_eq!(storage.regions().unwrap(), []);
}

#[test]
fn an_assignment_is_for_good() {
    let directory = tempfile::tempdir().unwrap();
    let server = StorageOptions {
        role: Role::Server,
        ..unsynced()
    };
    let storage = open(directory.path(), &server);
    assert_eq!(storage.identity().cluster_id, None);
    storage.assign(10, None, None).unwrap();
    storage.assign(10, Some(3), None).unwrap();
    drop(storage);

    let storage = open(directory.path(), &server);
    let identity = storage.identity();
    assert_eq!(
        (identity.cluster_id, identity.store_id),
        (Some(10), Some(3))
    );
    storage.assign(10, Some(3), None).unwrap();
    storage.assign(10, None, None).unwrap();
    for (cluster_id, store_id) in [(11, None), (11, Some(3)), (10, Some(4))] {
        let error = storage.assign(cluster_id, store_id, None).unwrap_err();
        let Error::ForeignAssignment { owner, wanted } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(owner, "store 3 of cluster 10");
        assert!(wanted.contains(&cluster_id.to_string()), "{wanted}");
    }
    assert_eq!(storage.identity(), identity);
    drop(storage);
    assert_eq!(open(directory.path(), &server).identity(), identity);
}

#[test]
fn a_copied_directory_keeps_its_identity() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), &unsynced());
    storage.assign(10, Some(3), None).unwrap();
    drop(storage);
    let copy = copy_of(directory.path());
    assert_eq!(open(copy.path(), &unsynced()).identity().store_id, Some(3));
}
