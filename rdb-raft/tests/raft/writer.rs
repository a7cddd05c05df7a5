//! The one thread that writes the logs of all groups.

use std::pin::pin;
use std::sync::Arc;

use futures::poll;
use openraft::RaftLogReader;
use openraft::storage::RaftLogStorage;
use rdb_raft::Vote;
use rdb_raft::log::{LogHealth, LogStore, LogWriter};

use crate::device::{Fault, TestDevice};
use crate::entries::{append, entry, log_id};

fn start() -> (Arc<TestDevice>, LogWriter) {
    let device = Arc::<TestDevice>::default();
    let writer = LogWriter::start(Arc::clone(&device) as _).unwrap();
    (device, writer)
}

fn open(writer: &LogWriter) -> LogStore {
    writer.open_group(1).unwrap()
}

#[tokio::test]
async fn what_all_groups_queue_while_the_device_is_busy_is_synced_once() {
    let (device, writer) = start();
    device.writes.close();
    let mut first = open(&writer);
    let mut durable = vec![append(&mut first, vec![entry(1, 0, "a")]).await.unwrap()];
    device.writes.wait_for_arrival();
    for group_id in 2..6 {
        let mut store = writer.open_group(group_id).unwrap();
        for index in 0..3 {
            let entries = vec![entry(1, index, "b")];
            durable.push(append(&mut store, entries).await.unwrap());
        }
    }
    device.writes.open();
    for durable in durable {
        durable.await.unwrap().unwrap();
    }
    assert_eq!(device.syncs(), 2);
}

#[tokio::test]
async fn an_append_can_be_read_before_it_is_durable_and_completes_after() {
    let (device, writer) = start();
    let mut store = open(&writer);
    device.writes.close();
    let entries = vec![entry(1, 0, "a"), entry(1, 1, "b")];
    let mut durable = append(&mut store, entries.clone()).await.unwrap();
    device.writes.wait_for_arrival();
    assert_eq!(
        store.reader().try_get_log_entries(..).await.unwrap(),
        entries
    );
    assert!(durable.try_recv().is_err());
    device.writes.open();
    durable.await.unwrap().unwrap();

    let left = Arc::new(device.memory.after_power_cut(0));
    let writer = LogWriter::start(left).unwrap();
    let mut reader = open(&writer).reader();
    assert_eq!(reader.try_get_log_entries(..).await.unwrap(), entries);
}

#[tokio::test]
async fn a_vote_is_durable_when_it_is_saved() {
    let (device, writer) = start();
    let vote = Vote::new_committed(3, 4);
    open(&writer).save_vote(&vote).await.unwrap();
    let left = Arc::new(device.memory.after_power_cut(0));
    let writer = LogWriter::start(left).unwrap();
    let read = open(&writer).reader().read_vote().await.unwrap();
    assert_eq!(read, Some(vote));
}

#[tokio::test]
async fn truncating_and_purging_wait_for_no_sync_and_are_synced_all_the_same() {
    let (device, writer) = start();
    let mut store = open(&writer);
    let entries = (0..9).map(|index| entry(1, index, "a")).collect();
    append(&mut store, entries)
        .await
        .unwrap()
        .await
        .unwrap()
        .unwrap();
    device.writes.close();
    store.truncate_after(Some(log_id(1, 5))).await.unwrap();
    store.purge(log_id(1, 2)).await.unwrap();
    device.writes.open();
    writer.close();
    let left = Arc::new(device.memory.after_power_cut(0));
    let writer = LogWriter::start(left).unwrap();
    let mut reader = open(&writer).reader();
    let expected: Vec<_> = (3..=5).map(|index| entry(1, index, "a")).collect();
    assert_eq!(reader.try_get_log_entries(..).await.unwrap(), expected);
}

#[tokio::test]
async fn entries_that_leave_a_hole_are_refused() {
    let (_, writer) = start();
    let mut store = open(&writer);
    let hole = vec![entry(1, 5, "a"), entry(1, 7, "b")];
    append(&mut store, hole).await.err().unwrap();
    append(&mut store, vec![entry(1, 5, "a")]).await.unwrap();
    append(&mut store, vec![entry(1, 7, "b")])
        .await
        .err()
        .unwrap();
    append(&mut store, vec![entry(1, 5, "b")])
        .await
        .err()
        .unwrap();
    append(&mut store, vec![entry(1, 6, "b")]).await.unwrap();
}

/// What is in hand and what is queued when the device breaks down is told so, and so is all that comes later.
async fn all_fails_after(fault: Fault, cause: &str) {
    let (device, writer) = start();
    let (mut store, mut other) = (open(&writer), writer.open_group(2).unwrap());
    device.writes.close();
    let in_hand = append(&mut store, vec![entry(1, 0, "a")]).await.unwrap();
    device.writes.wait_for_arrival();
    let queued = append(&mut other, vec![entry(1, 0, "a")]).await.unwrap();
    let mut voter = writer.open_group(3).unwrap();
    let vote = Vote::new(1, 1);
    let mut vote = pin!(voter.save_vote(&vote));
    assert!(poll!(&mut vote).is_pending());
    device.break_down(fault);
    device.writes.open();
    in_hand.await.unwrap().unwrap_err();
    queued.await.unwrap().unwrap_err();
    vote.await.unwrap_err();

    let stopped = format!("the Raft log has stopped: {cause}");
    let refused = append(&mut store, vec![entry(1, 1, "a")])
        .await
        .err()
        .unwrap();
    assert_eq!(refused.to_string(), stopped);
    let refused = other.save_vote(&Vote::new(1, 1)).await.unwrap_err();
    assert_eq!(refused.to_string(), stopped);
    let cause = cause.to_owned();
    assert_eq!(*writer.health().borrow(), LogHealth::Stopped { cause });
    writer.close();
}

#[tokio::test]
async fn after_a_failed_write_every_change_fails() {
    all_fails_after(Fault::Write, "the device is broken").await;
}

#[tokio::test]
async fn after_a_panic_of_the_thread_every_change_fails() {
    all_fails_after(Fault::Panic, "the writer thread panicked").await;
}

#[tokio::test]
async fn a_failure_that_no_write_was_told_of_stops_the_log() {
    let (device, writer) = start();
    device.break_down(Fault::Background);
    let mut health = writer.health();
    let stopped = |health: &LogHealth| *health != LogHealth::Healthy;
    health.wait_for(stopped).await.unwrap();
    let refused = open(&writer).save_vote(&Vote::new(1, 1)).await;
    refused.unwrap_err();
}

#[tokio::test]
async fn closing_writes_what_is_queued_and_refuses_the_rest() {
    let (device, writer) = start();
    let mut store = open(&writer);
    device.writes.close();
    let in_hand = append(&mut store, vec![entry(1, 0, "a")]).await.unwrap();
    device.writes.wait_for_arrival();
    let queued = append(&mut store, vec![entry(1, 1, "a")]).await.unwrap();
    device.writes.open();
    writer.close();
    in_hand.await.unwrap().unwrap();
    queued.await.unwrap().unwrap();
    let refused = append(&mut store, vec![entry(1, 2, "a")]).await;
    let message = "the Raft log has stopped: it was closed";
    assert_eq!(refused.err().unwrap().to_string(), message);
}

/// The read has to begin again, or it would answer with entries that never were in the log together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_of_the_device_while_the_log_is_truncated_is_of_one_moment() {
    let (device, writer) = start();
    let entries = (0..4).map(|index| entry(1, index, "old")).collect();
    let written = append(&mut open(&writer), entries).await.unwrap();
    written.await.unwrap().unwrap();

    let mut store = open(&writer);
    append(&mut store, vec![entry(1, 4, "old")]).await.unwrap();
    device.scans.close();
    let mut reader = store.reader();
    let reading = tokio::spawn(async move { reader.try_get_log_entries(..).await });
    device.scans.wait_for_arrival();
    store.truncate_after(Some(log_id(1, 1))).await.unwrap();
    let new = vec![entry(2, 2, "new")];
    append(&mut store, new)
        .await
        .unwrap()
        .await
        .unwrap()
        .unwrap();
    device.scans.open();
    let read = reading.await.unwrap().unwrap();
    let expected = [entry(1, 0, "old"), entry(1, 1, "old"), entry(2, 2, "new")];
    assert_eq!(read, expected);
}
