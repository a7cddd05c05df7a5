use std::sync::mpsc;

use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use rdb_proto::errorpb::region_error::Kind;
use rdb_proto::metapb::RegionEpoch;
use rdb_raft::group::ProposeError;
use rdb_storage::{Outcome, Role, StorageOptions};
use tempfile::TempDir;
use tokio::runtime::Builder;
use tokio::task::spawn_blocking;

use super::fixture::Led;
use super::*;

fn storage() -> (TempDir, Storage) {
    let directory = tempfile::tempdir().expect("the temporary directory can be written");
    let options = StorageOptions::new(Role::Server);
    let storage = Storage::open(directory.path(), options).expect("a new directory");
    (directory, storage)
}

#[tokio::test]
async fn commands_of_an_epoch_that_is_over_are_not_applied() {
    let (_directory, storage) = storage();
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
        let submitted = handle.submit(vec![command], 0);
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

/// Nothing is answered while the test does not wait: all tasks run on its thread.
#[tokio::test]
async fn a_region_whose_writes_wait_leaves_room_for_those_of_another() {
    let directory = tempfile::tempdir().expect("the temporary directory can be written");
    let options = StorageOptions {
        write_queue_bytes_max: 8 << 20,
        ..StorageOptions::new(Role::Server)
    };
    let storage = Storage::open(directory.path(), options).expect("a new directory");
    let region_1 = Region {
        end_key: "m".into(),
        ..region_1()
    };
    let region_2 = Region {
        id: 2,
        start_key: "m".into(),
        ..Region::default()
    };
    let (slow, other) = (
        Led::begin(&storage, region_1.clone()).await,
        Led::begin(&storage, region_2.clone()).await,
    );
    let (slow_handle, other_handle) = (slow.handle(region_1), other.handle(region_2));
    let put = |key: &'static str| Command::PutRaw {
        key: key.into(),
        value: vec![0; 64 << 10].into(),
    };
    let submit = |in_turn: bool| {
        if !in_turn {
            return vec![slow_handle.submit(vec![put("a")], 0)];
        }
        let room = slow_handle.take_message_room(64 << 10);
        let parts = [create("a"), put("a")].into_iter();
        let parts = parts.map(|command| (vec![command], 0)).collect();
        slow_handle.submit_in_turn(parts, &room.expect("it leaves room"))
    };
    for in_turn in [false, true] {
        let mut waiting = Vec::new();
        let refused = 'full: loop {
            for submitted in submit(in_turn) {
                match submitted {
                    Ok(pending) => waiting.push(pending),
                    Err(refused) => break 'full refused,
                }
            }
        };
        let Rejection::Routing(Kind::ServerBusy(_)) = refused else {
            panic!("{refused:?}");
        };
        let written = other_handle.submit(vec![put("n")], 0);
        let written = written.expect("there is room").await;
        assert_eq!(written.expect("applied"), [Outcome::Done]);
        for written in waiting {
            assert_eq!(written.await.expect("applied").len(), 1);
        }
    }
}

fn create(key: &'static str) -> Command {
    Command::CompareAndSwap {
        key: key.into(),
        expected_version: 0,
        value: "v".into(),
    }
}

#[tokio::test]
async fn a_part_that_is_refused_does_not_hold_up_the_next() {
    let (_directory, storage) = storage();
    let led = Led::begin(&storage, region_1()).await;
    let handle = led.handle(region_1());
    let no_key = create("");
    let parts = [create("a"), no_key, create("b")].into_iter();
    let parts = parts.map(|command| (vec![command], 0));
    let room = handle.take_message_room(1).expect("there is room");
    let mut applied = Vec::new();
    for submitted in handle.submit_in_turn(parts.collect(), &room) {
        applied.push(match submitted {
            Ok(pending) => pending.await.is_ok(),
            Err(_) => false,
        });
    }
    assert_eq!(applied, [true, false, true]);
}

#[tokio::test]
async fn a_leader_whose_log_is_full_is_busy_unless_another_store_may_lead() {
    let [(_first, first), (_second, second)] = [storage(), storage()];
    let led = Led::begin(&first, region_1()).await;
    let leaderless = Led::begin_leaderless(&second, region_1()).await;
    let refusal = |led: &Led| outcomes::unanswered(ProposeError::Busy, led.proposer().leadership());
    let busy = refusal(&led);
    assert!(
        matches!(busy, Rejection::Routing(Kind::ServerBusy(_))),
        "{busy:?}"
    );
    let not_led = refusal(&leaderless);
    assert!(
        matches!(not_led, Rejection::Routing(Kind::NotLeader(_))),
        "{not_led:?}"
    );
}

/// The log is what is synced.
#[tokio::test]
async fn what_is_applied_from_the_log_is_not_synced() {
    let (_directory, storage) = storage();
    let led = Led::begin(&storage, region_1()).await;
    let handle = led.handle(region_1());
    let syncs = || storage.stats().expect("it is open").wal_sync_count;
    let before = syncs();
    for value in ["1", "2", "3"] {
        let (key, value) = ("k".into(), value.into());
        let submitted = handle.submit(vec![Command::PutRaw { key, value }], 0);
        let written = submitted.expect("there is room").await;
        assert_eq!(written.expect("applied"), [Outcome::Done]);
    }
    assert_eq!(syncs(), before);
    // Any other region's write is synced.
    let (key, value) = ("other".into(), "v".into());
    let other = Submission::new(9, vec![Command::PutRaw { key, value }]);
    storage
        .submit(other)
        .expect("there is room")
        .await
        .expect("written");
    assert!(syncs() > before);
}

/// A read that is late may find its region taken away, since its store has lost the leadership.
#[tokio::test]
async fn a_read_that_was_permitted_before_its_region_was_replaced_has_no_result() {
    let (_directory, storage) = storage();
    let led = Led::begin(&storage, region_1()).await;
    let handle = led.handle(region_1());
    let read = || PointRead::raw("k".into()).expect("a key");
    let late = handle.permit_read().await.expect("it leads");
    replace_region_1(&storage);
    let found = late.read(read(), usize::MAX).await;
    let Err(ReadFailure::Rejected(Rejection::Routing(Kind::EpochNotMatch(_)))) = found else {
        panic!("{found:?}");
    };
    let next = handle.permit_read().await.expect("it leads");
    let found = next.read(read(), usize::MAX).await.expect("read");
    assert_eq!(found, PointValue::Raw(None));
}

fn region_1() -> Region {
    Region {
        id: 1,
        ..Region::default()
    }
}

/// Has a snapshot of the region take its place.
fn replace_region_1(storage: &Storage) {
    let mut snapshot = storage.region_snapshot(1).expect("it has a state");
    let mut received = storage.receive_region(1).expect("there is space");
    while let Some(chunk) = snapshot.next_chunk().expect("read") {
        received.add(chunk).expect("the next one");
    }
    let received = received.complete().expect("all is here");
    received.install().expect("installed");
}

type Read = BoxFuture<'static, Result<(), ReadFailure>>;

/// The reads that ask for their permission themselves. They all read on blocking threads, those of keys since there are so many.
fn reads(handle: &Arc<RegionHandle>) -> [(&'static str, Read); 4] {
    const ROOM: usize = usize::MAX;
    let region = || Arc::clone(handle);
    let keys = || vec![Bytes::from_static(b"k"); 1000];
    let range = ScanRange::default;
    let get_raw = region().multi_get_raw(keys(), ROOM).map_ok(drop);
    let get_versioned = region().multi_get_versioned(keys(), ROOM).map_ok(drop);
    let scan_raw = region().scan_raw(range(), ROOM).map_ok(drop);
    let scan_versioned = region().scan_versioned(range(), ROOM).map_ok(drop);
    [
        ("multi_get_raw", get_raw.boxed()),
        ("multi_get_versioned", get_versioned.boxed()),
        ("scan_raw", scan_raw.boxed()),
        ("scan_versioned", scan_versioned.boxed()),
    ]
}

#[tokio::test]
async fn reads_of_a_replica_that_does_not_lead_are_refused() {
    let (_directory, storage) = storage();
    let leaderless = Led::begin_leaderless(&storage, region_1()).await;
    let handle = leaderless.handle(region_1());
    let read = PointRead::raw("k".into()).expect("a key");
    let found = handle.read_from_memory(&read, usize::MAX);
    assert!(matches!(found, Ok(None)), "{found:?}");
    for (name, read) in reads(&handle) {
        let found = read.await;
        let Err(ReadFailure::Rejected(Rejection::Routing(Kind::NotLeader(_)))) = found else {
            panic!("{name}: {found:?}");
        };
    }
}

#[test]
fn reads_whose_region_changes_after_their_permission_have_no_result() {
    late_reads_have_no_result_after(|_, handle| handle.set_outdated());
}

#[test]
fn reads_whose_region_is_replaced_after_their_permission_have_no_result() {
    late_reads_have_no_result_after(|storage, _| replace_region_1(storage));
}

/// Has `change` happen between the permission and the result of each read. The only blocking thread is busy meanwhile.
fn late_reads_have_no_result_after(change: impl FnOnce(&Storage, &RegionHandle)) {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().max_blocking_threads(1).build();
    runtime.expect("threads can start").block_on(async {
        let (_directory, storage) = storage();
        let led = Led::begin(&storage, region_1()).await;
        let handle = led.handle(region_1());
        let begun = || storage.stats().expect("it is open").disk_read_count;
        let (busy, done) = mpsc::channel::<()>();
        spawn_blocking(move || done.recv());
        let mut late = reads(&handle);
        for (name, read) in &mut late {
            let before = begun();
            assert!(read.as_mut().now_or_never().is_none(), "{name}: too early");
            assert_eq!(begun(), before + 1, "{name} has its permission");
        }
        change(&storage, &handle);
        drop(busy);
        for (name, read) in late {
            let found = read.await;
            let Err(ReadFailure::Rejected(Rejection::Routing(Kind::EpochNotMatch(_)))) = found
            else {
                panic!("{name}: {found:?}");
            };
        }
    });
}

#[tokio::test]
async fn a_large_value_is_looked_at_again_only_with_room_and_off_the_async_threads() {
    const VALUE_BYTES: usize = 1 << 20;
    let (_directory, storage) = storage();
    let led = Led::begin(&storage, Region::default()).await;
    let handle = led.handle(Region::default());
    let write = async |command| {
        let written = handle.submit(vec![command], 0);
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
