use rdb_proto::errorpb::region_error::Kind;
use rdb_proto::metapb::RegionEpoch;
use rdb_storage::{Outcome, Role, StorageOptions};

use super::fixture::Led;
use super::*;

#[tokio::test]
async fn commands_of_an_epoch_that_is_over_are_not_applied() {
    let directory = tempfile::tempdir().expect("the temporary directory can be written");
    let options = StorageOptions::new(Role::Server);
    let storage = Storage::open(directory.path(), options).expect("a new directory");
    let region = |version| Region {
        id: 1,
        epoch: Some(RegionEpoch {
            conf_version: 1,
            version,
        }),
        ..Region::default()
    };
    let led = Led::begin(&storage, region(1)).await;
    let handle = led.handle(region(1));
    let submit = async |command| {
        let submitted = handle.submit(vec![command], None, 0);
        submitted.expect("there is room").await
    };
    for (version, value) in [(1, "applied"), (2, "not applied")] {
        let changed = submit(Command::PutRegion(from_wire(region(version)))).await;
        changed.expect("stored");
        let (key, value) = ("k".into(), value.into());
        let written = submit(Command::PutRaw { key, value }).await;
        if version == 1 {
            assert_eq!(written.expect("applied"), [Outcome::Done]);
            continue;
        }
        let Err(Rejection::Routing(Kind::EpochNotMatch(_))) = written else {
            panic!("{written:?}");
        };
    }
    let read = PointRead::raw("k".into()).expect("a key");
    let permit = handle.permit_read().await.expect("it leads");
    let found = permit.read(read, usize::MAX).await.expect("read");
    assert_eq!(found, PointValue::Raw(Some("applied".into())));
}

/// A read that is late may find its region taken away, since its store has lost the leadership.
#[tokio::test]
async fn a_read_that_was_permitted_before_its_region_was_replaced_has_no_result() {
    let directory = tempfile::tempdir().expect("the temporary directory can be written");
    let options = StorageOptions::new(Role::Server);
    let storage = Storage::open(directory.path(), options).expect("a new directory");
    let region = Region {
        id: 1,
        ..Region::default()
    };
    let led = Led::begin(&storage, region.clone()).await;
    let handle = led.handle(region);
    let read = || PointRead::raw("k".into()).expect("a key");
    let late = handle.permit_read().await.expect("it leads");
    let mut snapshot = storage.region_snapshot(1).expect("it has a state");
    let mut received = storage.receive_region(1).expect("there is space");
    while let Some(chunk) = snapshot.next_chunk().expect("read") {
        received.add(chunk).expect("the next one");
    }
    let received = received.complete().expect("all is here");
    received.install().expect("installed");
    let found = late.read(read(), usize::MAX).await;
    let Err(ReadFailure::Rejected(Rejection::Routing(Kind::EpochNotMatch(_)))) = found else {
        panic!("{found:?}");
    };
    let next = handle.permit_read().await.expect("it leads");
    let found = next.read(read(), usize::MAX).await.expect("read");
    assert_eq!(found, PointValue::Raw(None));
}

#[tokio::test]
async fn a_large_value_is_looked_at_again_only_with_room_and_off_the_async_threads() {
    const VALUE_BYTES: usize = 1 << 20;
    let directory = tempfile::tempdir().expect("the temporary directory can be written");
    let options = StorageOptions::new(Role::Server);
    let storage = Storage::open(directory.path(), options).expect("a new directory");
    let led = Led::begin(&storage, Region::default()).await;
    let handle = led.handle(Region::default());
    let write = async |command| {
        let written = handle.submit(vec![command], None, 0);
        written.expect("there is room").await.expect("written");
    };
    let read = async |room| {
        let read = PointRead::raw("k".into()).expect("a key");
        let permit = handle.permit_read().await.expect("it leads");
        permit.read(read, room).await
    };
    let needs_room = |found| match found {
        Err(ReadFailure::NeedsRoom { bytes }) => bytes,
        other => panic!("{other:?}"),
    };
    let (key, value) = (Bytes::from("k"), Bytes::from(vec![0; VALUE_BYTES]));
    write(Command::PutRaw { key, value }).await;
    assert_eq!(needs_room(read(100).await), VALUE_BYTES);

    let key = "k".into();
    write(Command::DeleteRaw { key }).await;
    assert_eq!(
        needs_room(read(100).await),
        VALUE_BYTES,
        "it is not looked at"
    );
    let found = read(VALUE_BYTES).await.expect("read");
    assert_eq!(found, PointValue::Raw(None));
    let stats = storage.stats().expect("it is open");
    assert_eq!(stats.disk_read_count, 1, "on a blocking thread");
    let found = read(100).await.expect("the size is forgotten");
    assert_eq!(found, PointValue::Raw(None));
}
