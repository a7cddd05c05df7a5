//! A group of one voter, from its start to its end.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use openraft::storage::RaftLogStorage;
use rdb_raft::group::{Group, Leader, ProposeError};
use rdb_raft::log::{LogDevice, LogWriter, MemoryDevice};
use rdb_raft::machine::{Applied, ApplyError, Committed, StateMachine};
use rdb_raft::{Answer, Content, Membership, StoreNode, StoredMembership, Timing};
use tokio::sync::oneshot;

use crate::device::{Fault, TestDevice};
use crate::entries::log_id;

/// Keeps payloads, and remembers what would survive a crash.
#[derive(Default)]
struct Payloads {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    now: Kept,
    flushed: Kept,
    reads_the_disk: bool,
    has_failed: bool,
    does_not_flush: bool,
    /// How often it was applied to with `may_block`.
    blocking_applies: usize,
}

#[derive(Clone, Default)]
struct Kept {
    applied: Applied,
    payloads: Vec<Bytes>,
}

impl Payloads {
    fn with(kept: Kept) -> Arc<Self> {
        let state = State {
            now: kept.clone(),
            flushed: kept,
            ..State::default()
        };
        Arc::new(Self {
            state: Mutex::new(state),
        })
    }

    fn bootstrapped<const VOTERS: usize>(voters: [u64; VOTERS]) -> Arc<Self> {
        let beginning = log_id(0, 0);
        let nodes = voters.map(|id| (id, StoreNode { store_id: id }));
        let nodes = BTreeMap::from(nodes);
        let membership = Membership::new(vec![voters.into()], nodes).unwrap();
        Self::with(Kept {
            applied: Applied {
                position: Some(beginning),
                membership: StoredMembership::new(Some(beginning), membership),
            },
            payloads: Vec::new(),
        })
    }

    fn after_crash(&self) -> Arc<Self> {
        Self::with(self.state().flushed.clone())
    }

    fn payloads(&self) -> Vec<Bytes> {
        self.state().now.payloads.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl StateMachine for Payloads {
    /// Answers with the count of payloads.
    fn apply(&self, entries: &[Committed], may_block: bool) -> Result<Vec<Answer>, ApplyError> {
        let mut state = self.state();
        if state.has_failed {
            return Err(io::Error::other("the test says so").into());
        }
        if state.reads_the_disk && !may_block {
            return Err(ApplyError::Blocks);
        }
        state.blocking_applies += usize::from(may_block);
        let now = &mut state.now;
        let answers = entries.iter().map(|Committed { entry, is_awaited }| {
            now.applied.position = Some(entry.log_id);
            match &entry.payload {
                Content::Blank => {}
                Content::Normal(payload) => now.payloads.push(payload.0.clone()),
                Content::Membership(membership) => {
                    let log_id = Some(entry.log_id);
                    now.applied.membership = StoredMembership::new(log_id, membership.clone());
                }
            }
            match is_awaited {
                true => Answer::new(now.payloads.len()),
                false => Answer::default(),
            }
        });
        Ok(answers.collect())
    }

    fn flushed(&self) -> io::Result<Applied> {
        Ok(self.state().flushed.applied.clone())
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.state();
        if !state.does_not_flush {
            state.flushed = state.now.clone();
        }
        Ok(())
    }
}

async fn start(device: Arc<dyn LogDevice>, payloads: Arc<Payloads>) -> (LogWriter, Group) {
    let writer = LogWriter::start(device).unwrap();
    let log = writer.open_group(1).unwrap();
    let group = Group::start(1, Timing::default(), log, payloads).await;
    (writer, group.unwrap())
}

fn propose(group: &Group, payload: &[u8]) -> Proposed {
    let (sender, outcome) = oneshot::channel();
    let complete = |outcome| drop(sender.send(outcome));
    group.propose(Bytes::copy_from_slice(payload), complete);
    Proposed(outcome)
}

/// A peer that leads.
struct Peer {
    group: Group,
    device: Arc<MemoryDevice>,
    writer: LogWriter,
    payloads: Arc<Payloads>,
}

impl Peer {
    async fn first() -> Self {
        Self::start(MemoryDevice::default(), Payloads::bootstrapped([1])).await
    }

    async fn start(device: MemoryDevice, payloads: Arc<Payloads>) -> Self {
        let device = Arc::new(device);
        let (writer, group) = start(Arc::clone(&device) as _, Arc::clone(&payloads)).await;
        group.lead_alone().await.unwrap();
        Self {
            group,
            device,
            writer,
            payloads,
        }
    }

    async fn kill_and_start(self) -> Self {
        self.group.shut_down().await;
        let device = self.device.after_power_cut(usize::MAX);
        Self::start(device, self.payloads.after_crash()).await
    }

    fn propose(&self, payload: &[u8]) -> Proposed {
        propose(&self.group, payload)
    }
}

struct Proposed(oneshot::Receiver<Result<Answer, ProposeError>>);

impl Proposed {
    /// The count of payloads once it is applied.
    async fn outcome(self) -> Result<usize, ProposeError> {
        let answer = self.0.await.unwrap()?;
        Ok(answer.into_inner().unwrap())
    }
}

#[tokio::test]
async fn proposals_are_answered_in_order_by_the_state_machine() {
    let peer = Peer::first().await;
    let payloads: Vec<_> = (0..500)
        .map(|number: u32| number.to_be_bytes().to_vec())
        .collect();
    let mut proposed = Vec::new();
    for payload in &payloads {
        proposed.push(peer.propose(payload));
    }
    for (count, proposed) in (1..).zip(proposed) {
        assert_eq!(proposed.outcome().await, Ok(count));
    }
    assert_eq!(peer.payloads.payloads(), payloads);
    assert_eq!(peer.payloads.state().blocking_applies, 0);
}

#[tokio::test]
async fn what_would_read_the_disk_is_applied_where_it_may() {
    let peer = Peer::first().await;
    peer.propose(b"a").outcome().await.unwrap();
    peer.payloads.state().reads_the_disk = true;
    assert_eq!(peer.propose(b"b").outcome().await, Ok(2));
    assert_eq!(peer.payloads.state().blocking_applies, 1);
    assert_eq!(peer.payloads.payloads(), ["a", "b"]);
}

#[tokio::test]
async fn what_was_not_flushed_is_applied_again_after_a_crash() {
    let peer = Peer::first().await;
    peer.propose(b"a").outcome().await.unwrap();
    peer.payloads.flush().unwrap();
    peer.propose(b"b").outcome().await.unwrap();
    let peer = peer.kill_and_start().await;
    assert_eq!(peer.propose(b"c").outcome().await, Ok(3));
    assert_eq!(peer.payloads.payloads(), ["a", "b", "c"]);
}

#[tokio::test]
async fn a_log_is_purged_up_to_what_is_flushed() {
    let peer = Peer::first().await;
    for payload in [b"a", b"b", b"c"] {
        peer.propose(payload).outcome().await.unwrap();
    }
    peer.group.purge(9).await.unwrap();
    peer.payloads.state().does_not_flush = true;
    peer.propose(b"d").outcome().await.unwrap();
    peer.group.purge(9).await.unwrap();
    peer.propose(b"e").outcome().await.unwrap();
    peer.group.shut_down().await;
    let mut log = peer.writer.open_group(1).unwrap();
    let purged = log.get_log_state().await.unwrap().last_purged_log_id;
    assert_eq!(purged, Some(log_id(1, 4)));

    let peer = peer.kill_and_start().await;
    assert_eq!(peer.propose(b"f").outcome().await, Ok(6));
    assert_eq!(peer.payloads.payloads(), ["a", "b", "c", "d", "e", "f"]);
}

#[tokio::test]
async fn every_start_leads_in_a_term_of_its_own() {
    let leader = |term| Leader {
        term,
        peer_id: Some(1),
    };
    let peer = Peer::first().await;
    assert_eq!(peer.group.leader(), leader(1));
    let peer = peer.kill_and_start().await;
    assert_eq!(peer.group.leader(), leader(2));
}

#[tokio::test]
async fn a_failed_apply_ends_the_group_and_leaves_the_outcome_unknown() {
    let peer = Peer::first().await;
    peer.propose(b"a").outcome().await.unwrap();
    peer.payloads.state().has_failed = true;
    let lost = peer.propose(b"b").outcome().await.unwrap_err();
    assert!(!lost.is_certain());

    let peer = peer.kill_and_start().await;
    assert_eq!(peer.propose(b"c").outcome().await, Ok(3));
    assert_eq!(peer.payloads.payloads(), ["a", "b", "c"]);
}

#[tokio::test]
async fn a_group_that_cannot_apply_does_not_lead() {
    let payloads = Payloads::bootstrapped([1]);
    payloads.state().has_failed = true;
    let (_writer, group) = start(Arc::<MemoryDevice>::default(), payloads).await;
    let ended = group.lead_alone().await.unwrap_err();
    assert!(ended.cause.contains("the test says so"), "{ended}");
}

#[tokio::test]
async fn a_failed_log_ends_the_group_and_says_why() {
    let device = Arc::<TestDevice>::default();
    let (_writer, group) = start(Arc::clone(&device) as _, Payloads::bootstrapped([1])).await;
    group.lead_alone().await.unwrap();
    device.break_down(Fault::Write);
    let lost = propose(&group, b"a").outcome().await.unwrap_err();
    assert!(!lost.is_certain());
    let ended = group.lead_alone().await.unwrap_err();
    assert!(ended.cause.contains("the device is broken"), "{ended}");
    group.shut_down().await;
    let refused = propose(&group, b"b").outcome().await.unwrap_err();
    assert!(matches!(refused, ProposeError::NotQueued { .. }));
}

#[tokio::test]
async fn what_nobody_takes_in_is_certainly_not_applied() {
    let device = Arc::<MemoryDevice>::default();
    let (_writer, group) = start(device, Payloads::bootstrapped([1, 2])).await;
    let refused = propose(&group, b"a").outcome().await;
    assert_eq!(refused, Err(ProposeError::NotLeader));
    group.shut_down().await;
    let refused = propose(&group, b"a").outcome().await.unwrap_err();
    assert!(matches!(refused, ProposeError::NotQueued { .. }));
}
