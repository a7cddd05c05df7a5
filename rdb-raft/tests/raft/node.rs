//! All groups of a store.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::storage::RaftLogStorage;
use rdb_raft::group::{Alone, Group, GroupState, Leader, ProposeError, StartError};
use rdb_raft::log::{LogDevice, LogHealth, LogWriter, MemoryDevice};
use rdb_raft::machine::StateMachine;
use rdb_raft::{Entry, Node, OpenError, Timing, Vote};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::device::{Fault, Gate, TestDevice};
use crate::entries::{append, entry, log_id};
use crate::payloads::Payloads;
use crate::voters::{GUARD, wait_until};

fn node(device: &Arc<MemoryDevice>) -> Node {
    Node::start(Timing::default(), Arc::clone(device) as _).unwrap()
}

async fn open(node: &Node, group_id: u64, payloads: &Arc<Payloads>) -> Result<Group, OpenError> {
    open_as(1, node, group_id, payloads).await
}

async fn open_as(
    peer_id: u64,
    node: &Node,
    group_id: u64,
    payloads: &Arc<Payloads>,
) -> Result<Group, OpenError> {
    let machine = Arc::clone(payloads) as _;
    node.open(group_id, peer_id, machine, Alone).await
}

async fn write(group: &Group, payload: Vec<u8>) -> Result<(), ProposeError> {
    let (sender, outcome) = oneshot::channel();
    group.propose(Bytes::from(payload), |outcome| drop(sender.send(outcome)));
    outcome.await.unwrap().map(drop)
}

async fn wait_for_state(node: &Node, group_id: u64, is_it: impl Fn(&GroupState) -> bool) {
    let mut states = node.states();
    let reached = states.wait_for(|states| states.get(&group_id).is_some_and(&is_it));
    timeout(GUARD, reached)
        .await
        .expect("it comes in time")
        .unwrap();
}

#[tokio::test]
async fn a_group_that_fails_ends_alone() {
    let node = node(&Arc::default());
    let machines = [1, 2].map(|_| Payloads::bootstrapped([1]));
    let first = open(&node, 1, &machines[0]).await.unwrap();
    let second = open(&node, 2, &machines[1]).await.unwrap();
    for (group_id, group) in [(1, &first), (2, &second)] {
        group.lead_alone().await.unwrap();
        let leads = GroupState::Running(Leader {
            term: 1,
            peer_id: Some(1),
        });
        wait_for_state(&node, group_id, |state| *state == leads).await;
    }
    machines[0].state().has_failed = true;
    write(&first, vec![1]).await.unwrap_err();
    let has_failed = |state: &GroupState| match state {
        GroupState::Ended(ended) => ended.cause.contains("the test says so"),
        GroupState::Running(_) => false,
    };
    wait_for_state(&node, 1, has_failed).await;
    write(&second, vec![1]).await.unwrap();
    node.shut_down().await;
    let states = node.states().borrow().clone();
    let have_ended = states
        .values()
        .filter(|state| matches!(state, GroupState::Ended(_)));
    assert_eq!(have_ended.count(), 2);
}

#[tokio::test]
async fn groups_are_opened_once_and_not_after_the_shutdown() {
    let device = Arc::<MemoryDevice>::default();
    let payloads = Payloads::bootstrapped([1]);
    let node = self::node(&device);
    assert!(node.group(1).is_none());
    let group = open(&node, 1, &payloads).await.unwrap();
    assert!(node.group(1).is_some());
    let again = open(&node, 1, &payloads).await;
    assert!(matches!(again, Err(OpenError::IsOpen { group_id: 1 })));
    group.lead_alone().await.unwrap();
    write(&group, vec![1]).await.unwrap();
    node.shut_down().await;
    let late = open(&node, 2, &Payloads::bootstrapped([1])).await;
    assert!(matches!(late, Err(OpenError::ShutDown)));
    let late = write(&group, vec![1]).await.unwrap_err();
    assert!(matches!(late, ProposeError::NotQueued { .. }));
    node.shut_down().await;

    let node = self::node(&device);
    let payloads = payloads.after_crash();
    let group = open(&node, 1, &payloads).await.unwrap();
    group.lead_alone().await.unwrap();
    assert_eq!(payloads.payloads(), [vec![1]]);
    node.shut_down().await;
}

/// Waits until a thread is at a gate. The runtime goes on meanwhile.
async fn wait_for_arrival(payloads: &Arc<Payloads>, gate: fn(&Payloads) -> &Gate) {
    let payloads = Arc::clone(payloads);
    let arrived = spawn_blocking(move || gate(&payloads).wait_for_arrival());
    timeout(GUARD, arrived).await.unwrap().unwrap();
}

/// Shuts a node down while a thread is at a gate, and says whether the shutdown waited for it.
async fn shut_down_waits(node: &Node, gate: &Gate) -> bool {
    let mut shut_down = pin!(node.shut_down());
    let waits = timeout(Duration::from_millis(200), &mut shut_down)
        .await
        .is_err();
    gate.open();
    if waits {
        shut_down.await;
    }
    waits
}

#[tokio::test]
async fn the_shutdown_waits_for_what_is_being_applied_and_applies_no_more() {
    let node = node(&Arc::default());
    let payloads = Payloads::bootstrapped([1]);
    let group = open(&node, 1, &payloads).await.unwrap();
    group.lead_alone().await.unwrap();
    payloads.state().reads_the_disk = true;
    payloads.applies.close();
    let (sender, mut outcomes) = mpsc::unbounded_channel();
    let propose = |payload: &'static [u8]| {
        let sender = sender.clone();
        let complete = move |outcome: Result<_, _>| drop(sender.send(outcome.map(drop)));
        group.propose(Bytes::from_static(payload), complete);
    };
    propose(b"a");
    wait_for_arrival(&payloads, |payloads| &payloads.applies).await;
    propose(b"b");
    assert!(shut_down_waits(&node, &payloads.applies).await);
    assert_eq!(payloads.payloads(), ["a"]);
    drop(sender);
    while outcomes.recv().await.is_some() {}
}

#[tokio::test]
async fn the_shutdown_waits_for_a_flush() {
    let node = node(&Arc::default());
    let payloads = Payloads::bootstrapped([1]);
    let group = open(&node, 1, &payloads).await.unwrap();
    group.lead_alone().await.unwrap();
    payloads.flushes.close();
    write(&group, vec![0; 16 << 20]).await.unwrap();
    wait_for_arrival(&payloads, |payloads| &payloads.flushes).await;
    assert!(shut_down_waits(&node, &payloads.flushes).await);
}

#[tokio::test]
async fn the_groups_of_a_node_that_is_dropped_end() {
    let node = node(&Arc::default());
    let payloads = Payloads::bootstrapped([1]);
    let group = open(&node, 1, &payloads).await.unwrap();
    group.lead_alone().await.unwrap();
    drop(group);
    drop(node);
    wait_until("nobody holds it", || Arc::strong_count(&payloads) == 1).await;
}

#[tokio::test]
async fn a_state_that_is_newer_than_its_log_does_not_start() {
    let payloads = Payloads::bootstrapped([1]);
    let node = self::node(&Arc::default());
    let group = open(&node, 1, &payloads).await.unwrap();
    group.lead_alone().await.unwrap();
    payloads.flush().unwrap();
    node.shut_down().await;

    let node = self::node(&Arc::default());
    let refused = open(&node, 1, &payloads.after_crash()).await;
    let missing = OpenError::Start(StartError::LogMissing { index: 1 }).to_string();
    assert_eq!(refused.map(drop).unwrap_err().to_string(), missing);
    node.shut_down().await;
}

fn is_of(noted: u64, opened: Result<Group, OpenError>) -> bool {
    let error = opened.map(drop).unwrap_err();
    matches!(error, OpenError::OtherPeer { noted: is, .. } if is == noted)
}

#[tokio::test]
async fn the_log_of_a_peer_is_given_to_no_other_one_before_it_is_destroyed() {
    let device = Arc::<MemoryDevice>::default();
    let node = self::node(&device);
    let payloads = Payloads::bootstrapped([1]);
    assert_eq!(node.noted_peer(1).await.unwrap(), None);
    let group = open(&node, 1, &payloads).await.unwrap();
    group.lead_alone().await.unwrap();
    payloads.flush().unwrap();
    node.shut_down().await;

    let node = self::node(&Arc::new(device.after_power_cut(0)));
    assert_eq!(node.noted_peer(1).await.unwrap(), Some(1));
    for payloads in [payloads.after_crash(), Arc::default()] {
        for other in [0, 2] {
            assert!(is_of(1, open_as(other, &node, 1, &payloads).await));
        }
    }
    open(&node, 1, &payloads.after_crash()).await.unwrap();
    assert_eq!(node.logs().await.unwrap(), [(1, Some(1))].into());
    node.destroy(1).await.unwrap();
    assert!(node.logs().await.unwrap().is_empty());
    open_as(2, &node, 1, &Arc::default()).await.unwrap();
    assert_eq!(node.noted_peer(1).await.unwrap(), Some(2));
    node.shut_down().await;
}

#[tokio::test]
async fn a_later_peer_takes_over_from_one_that_has_waited_in_vain_and_an_earlier_one_does_not() {
    let node = node(&Arc::default());
    for peer_id in [5, 9] {
        let waiting = open_as(peer_id, &node, 1, &Arc::default()).await;
        waiting.unwrap();
        node.end(1).await;
    }
    assert!(is_of(9, open_as(5, &node, 1, &Arc::default()).await));
    // A state cannot be that of a peer that has waited.
    let begun = Payloads::bootstrapped([10]);
    assert!(is_of(9, open_as(10, &node, 1, &begun).await));
    node.shut_down().await;
}

/// What a release without notes leaves: a log behind the state that all peers begin with.
async fn leave_log(device: &Arc<dyn LogDevice>, group_id: u64, entries: Vec<Entry>) {
    let writer = LogWriter::start(Arc::clone(device)).unwrap();
    let mut log = writer.open_group(group_id).unwrap();
    log.purge(log_id(0, 0)).await.unwrap();
    log.save_vote(&Vote::new(1, 2)).await.unwrap();
    let durable = append(&mut log, entries).await.unwrap();
    durable.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_log_without_a_note_gets_one_when_it_is_opened() {
    let device = Arc::<MemoryDevice>::default();
    leave_log(&(Arc::clone(&device) as _), 1, Vec::new()).await;
    let node = self::node(&device);
    assert_eq!(node.logs().await.unwrap(), [(1, None)].into());
    let group = open(&node, 1, &Payloads::bootstrapped([1])).await.unwrap();
    group.lead_alone().await.unwrap();
    assert_eq!(node.logs().await.unwrap(), [(1, Some(1))].into());
    node.shut_down().await;
}

#[tokio::test]
async fn a_peer_that_its_state_names_starts_though_its_note_cannot_be_written() {
    let device = Arc::<TestDevice>::default();
    for group_id in [1, 2] {
        leave_log(&(Arc::clone(&device) as _), group_id, Vec::new()).await;
    }
    device.break_down(Fault::Write);
    let node = Node::start(Timing::default(), Arc::clone(&device) as _).unwrap();
    let of_several = || Payloads::bootstrapped([1, 2, 3]);
    open(&node, 1, &of_several()).await.unwrap();
    let mut health = node.log_health();
    let stopped = |health: &LogHealth| *health != LogHealth::Healthy;
    timeout(GUARD, health.wait_for(stopped))
        .await
        .expect("it stops in time")
        .unwrap();
    open(&node, 2, &of_several()).await.unwrap();
    let waiting = open(&node, 3, &Arc::default()).await;
    assert!(matches!(waiting, Err(OpenError::Log { group_id: 3, .. })));
    node.shut_down().await;
}

/// As a release without notes leaves it, and an install that is not finished.
#[tokio::test]
async fn a_log_without_a_note_and_without_a_state_is_that_of_nobody_who_asks() {
    let device = Arc::<MemoryDevice>::default();
    leave_log(&(Arc::clone(&device) as _), 1, vec![entry(1, 1, "a")]).await;
    let node = self::node(&device);
    let missing = OpenError::Start(StartError::StateMissing { index: 1 }).to_string();
    let refused = open_as(5, &node, 1, &Arc::default()).await;
    assert_eq!(refused.map(drop).unwrap_err().to_string(), missing);
    assert_eq!(node.noted_peer(1).await.unwrap(), None);
    let begun = Payloads::bootstrapped([9]);
    open_as(9, &node, 1, &begun).await.unwrap();
    node.shut_down().await;
    let node = self::node(&device);
    assert_eq!(node.noted_peer(1).await.unwrap(), Some(9));
    node.shut_down().await;
}

#[tokio::test]
async fn a_note_that_is_wrong_is_forgotten_durably() {
    let device = Arc::<MemoryDevice>::default();
    let node = self::node(&device);
    open_as(9, &node, 1, &Arc::default()).await.unwrap();
    node.end(1).await;
    node.forget_peer(1).await.unwrap();
    let left = self::node(&Arc::new(device.after_power_cut(0)));
    assert_eq!(left.noted_peer(1).await.unwrap(), None);
    open_as(5, &left, 1, &Arc::default()).await.unwrap();
    assert_eq!(left.noted_peer(1).await.unwrap(), Some(5));
    for node in [node, left] {
        node.shut_down().await;
    }
}

#[tokio::test]
async fn logs_are_purged_by_and_by() {
    let device = Arc::<MemoryDevice>::default();
    let node = self::node(&device);
    let payloads = Payloads::bootstrapped([1]);
    let group = open(&node, 1, &payloads).await.unwrap();
    group.lead_alone().await.unwrap();
    write(&group, vec![0; 16 << 20]).await.unwrap();
    payloads.flush().unwrap();

    let writer = LogWriter::start(Arc::clone(&device) as _).unwrap();
    let purged = timeout(GUARD, async {
        loop {
            let mut log = writer.open_group(1).unwrap();
            let state = log.get_log_state().await.unwrap();
            if state.last_purged_log_id == Some(log_id(1, 2)) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    purged.await.expect("it is purged in time");
    node.shut_down().await;
}
