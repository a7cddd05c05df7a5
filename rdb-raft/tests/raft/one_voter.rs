//! A group of one voter, from its start to its end.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::select;
use openraft::raft::VoteRequest;
use openraft::storage::RaftLogStorage;
use rdb_raft::group::{
    Alone, Group, LOG_BYTES_MAX, Leader, ProposeError, PurgeError, ReadError, StartError,
    TransferError,
};
use rdb_raft::log::{LogDevice, LogWriter, MemoryDevice};
use rdb_raft::machine::StateMachine;
use rdb_raft::{Answer, LogId, Timing, Vote};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::device::{Fault, TestDevice};
use crate::entries::log_id;
use crate::payloads::Payloads;
use crate::voters::{GUARD, wait_until};

async fn start(device: Arc<dyn LogDevice>, payloads: Arc<Payloads>) -> (LogWriter, Group) {
    let writer = LogWriter::start(device).unwrap();
    let log = writer.open_group(1).unwrap();
    let group = Group::start(1, Timing::default(), 0, log, payloads, Alone).await;
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

/// Enough for a stride of a purge.
const STRIDE_BYTES: usize = 16 << 20;

async fn last_purged(peer: &Peer) -> Option<LogId> {
    peer.group.shut_down().await;
    let mut log = peer.writer.open_group(1).unwrap();
    log.get_log_state().await.unwrap().last_purged_log_id
}

#[tokio::test]
async fn a_log_is_purged_in_strides_and_up_to_what_is_flushed() {
    let stride = vec![0; STRIDE_BYTES];
    let peer = Peer::first().await;
    peer.propose(&stride).outcome().await.unwrap();
    peer.propose(b"a").outcome().await.unwrap();
    peer.payloads.flush().unwrap();
    peer.propose(&stride).outcome().await.unwrap();
    peer.group.purge(LOG_BYTES_MAX).await.unwrap();
    peer.propose(b"b").outcome().await.unwrap();
    // The blank entry and the first stride.
    assert_eq!(last_purged(&peer).await, Some(log_id(1, 2)));

    let peer = peer.kill_and_start().await;
    assert_eq!(peer.propose(b"c").outcome().await, Ok(5));
    let payloads = peer.payloads.payloads();
    assert_eq!(payloads, [&stride[..], b"a", &stride, b"b", b"c"]);
}

#[tokio::test]
async fn a_log_that_is_short_is_not_purged() {
    let peer = Peer::first().await;
    peer.propose(b"a").outcome().await.unwrap();
    peer.payloads.flush().unwrap();
    peer.group.purge(LOG_BYTES_MAX).await.unwrap();
    assert_eq!(last_purged(&peer).await, Some(log_id(0, 0)));
}

#[tokio::test]
async fn a_state_that_cannot_be_told_of_keeps_the_log_and_harms_nobody() {
    let peer = Peer::first().await;
    peer.propose(&vec![0; STRIDE_BYTES])
        .outcome()
        .await
        .unwrap();
    peer.payloads.flush().unwrap();
    peer.payloads.state().flushed_times_max = Some(0);
    let failed = peer.group.purge(LOG_BYTES_MAX).await;
    assert!(matches!(failed, Err(PurgeError::Flush(_))));
    // The purge goes by what it was told.
    peer.payloads.state().flushed_times_max = Some(1);
    peer.group.purge(LOG_BYTES_MAX).await.unwrap();
    assert_eq!(peer.propose(b"a").outcome().await, Ok(2));
    assert_eq!(last_purged(&peer).await, Some(log_id(1, 2)));
    let ended = peer.group.purge(LOG_BYTES_MAX).await;
    assert!(matches!(ended, Err(PurgeError::Ended(_))));
}

#[tokio::test]
async fn the_log_of_a_group_with_a_learner_is_kept() {
    let payloads = Payloads::with_learners([1], [2]);
    let peer = Peer::start(MemoryDevice::default(), payloads).await;
    let stride = vec![0; STRIDE_BYTES];
    peer.propose(&stride).outcome().await.unwrap();
    peer.payloads.flush().unwrap();
    // It is not even asked what is flushed.
    peer.payloads.state().flushed_times_max = Some(0);
    peer.group.purge(LOG_BYTES_MAX).await.unwrap();
    peer.propose(b"a").outcome().await.unwrap();
    assert_eq!(last_purged(&peer).await, Some(log_id(0, 0)));
}

/// What a start says to a log and a state that do not belong together.
async fn refused(device: MemoryDevice, payloads: Arc<Payloads>) -> StartError {
    let writer = LogWriter::start(Arc::new(device)).unwrap();
    let log = writer.open_group(1).unwrap();
    let started = Group::start(1, Timing::default(), 0, log, payloads, Alone).await;
    started.map(drop).unwrap_err()
}

#[tokio::test]
async fn a_log_that_is_purged_beyond_the_state_does_not_start() {
    let peer = Peer::first().await;
    peer.propose(&vec![0; STRIDE_BYTES])
        .outcome()
        .await
        .unwrap();
    peer.payloads.flush().unwrap();
    peer.group.purge(LOG_BYTES_MAX).await.unwrap();
    peer.propose(b"a").outcome().await.unwrap();
    assert_eq!(last_purged(&peer).await, Some(log_id(1, 2)));
    let device = peer.device.after_power_cut(usize::MAX);
    let purged = StartError::LogPurged {
        purged_index: 2,
        index: 0,
    };
    assert_eq!(refused(device, Payloads::bootstrapped([1])).await, purged);
}

#[tokio::test]
async fn a_log_that_is_older_than_the_state_does_not_start() {
    let peer = Peer::first().await;
    peer.group.shut_down().await;
    let device = peer.device.after_power_cut(usize::MAX);
    let peer = peer.kill_and_start().await;
    peer.payloads.flush().unwrap();
    let outdated = StartError::LogOutdated {
        vote_term: 1,
        term: 2,
    };
    assert_eq!(refused(device, peer.payloads.after_crash()).await, outdated);
}

#[tokio::test]
async fn a_log_with_another_entry_in_the_place_of_the_last_applied_one_does_not_start() {
    let peer = Peer::first().await;
    let device = peer.device.after_power_cut(usize::MAX);
    let applied = Peer::start(device, Payloads::bootstrapped([1])).await;
    applied.payloads.flush().unwrap();
    for payload in [b"a", b"b"] {
        peer.propose(payload).outcome().await.unwrap();
    }
    let device = Arc::new(peer.device.after_power_cut(usize::MAX));
    let writer = LogWriter::start(Arc::clone(&device) as _).unwrap();
    let mut log = writer.open_group(1).unwrap();
    log.save_vote(&Vote::new(2, 1)).await.unwrap();
    let device = device.after_power_cut(usize::MAX);
    let contradicts = StartError::LogContradicts {
        last_index: 3,
        last_term: 1,
        index: 2,
        term: 2,
    };
    let state = applied.payloads.after_crash();
    assert_eq!(refused(device, state).await, contradicts);
}

/// A leader applies what others have before its own disk has it.
#[tokio::test]
async fn a_log_that_ends_before_the_state_goes_on_after_it() {
    let peer = Peer::first().await;
    let device = Arc::new(peer.device.after_power_cut(usize::MAX));
    let applied = peer.kill_and_start().await;
    applied.propose(b"a").outcome().await.unwrap();
    applied.payloads.flush().unwrap();
    let writer = LogWriter::start(Arc::clone(&device) as _).unwrap();
    let mut log = writer.open_group(1).unwrap();
    log.save_vote(&Vote::new(2, 1)).await.unwrap();
    let last = log.get_log_state().await.unwrap().last_log_id;
    assert_eq!(last, Some(log_id(1, 1)));
    let position = applied.payloads.flushed().unwrap().position;
    assert_eq!(position, Some(log_id(2, 3)));

    let device = device.after_power_cut(usize::MAX);
    let peer = Peer::start(device, applied.payloads.after_crash()).await;
    assert_eq!(peer.propose(b"b").outcome().await, Ok(2));
    let peer = peer.kill_and_start().await;
    assert_eq!(peer.payloads.payloads(), ["a", "b"]);
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
async fn no_read_is_permitted_after_an_apply_has_failed_or_panicked() {
    let fail = |payloads: &Payloads| payloads.state().has_failed = true;
    let panic = |payloads: &Payloads| payloads.state().panics = true;
    let ways: [fn(&Payloads); 2] = [fail, panic];
    for go_wrong in ways {
        let peer = Peer::first().await;
        assert!(peer.group.try_permit_read());
        go_wrong(&peer.payloads);
        let lost = peer.propose(b"a").outcome().await.unwrap_err();
        assert!(!lost.is_certain());
        assert!(!peer.group.try_permit_read());
        // The core learns of it later.
        let refused = async || peer.propose(b"b").outcome().await.unwrap_err();
        while !refused().await.is_certain() {}
        assert!(!peer.group.try_permit_read());
        peer.group.lead_alone().await.unwrap_err();
    }
}

#[tokio::test]
async fn reads_go_on_when_nothing_more_is_applied() {
    let peer = Peer::first().await;
    peer.propose(b"a").outcome().await.unwrap();
    peer.payloads.state().refuses = true;
    let lost = peer.propose(b"b").outcome().await.unwrap_err();
    assert!(!lost.is_certain(), "it is in the log");
    let ended = peer.group.lead_alone().await.unwrap_err();
    assert!(ended.to_string().contains("the test says so"), "{ended}");
    assert!(peer.group.try_permit_read());
    peer.group.permit_read().await.unwrap();
    assert_eq!(peer.payloads.payloads(), ["a"]);

    let peer = peer.kill_and_start().await;
    assert_eq!(peer.propose(b"c").outcome().await, Ok(3));
}

#[tokio::test]
async fn a_group_that_cannot_apply_does_not_lead() {
    let payloads = Payloads::bootstrapped([1]);
    payloads.state().has_failed = true;
    let (_writer, group) = start(Arc::<MemoryDevice>::default(), payloads).await;
    let ended = group.lead_alone().await.unwrap_err();
    assert!(ended.to_string().contains("the test says so"), "{ended}");
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
    assert!(
        ended.to_string().contains("the device is broken"),
        "{ended}"
    );
    group.shut_down().await;
    let refused = propose(&group, b"b").outcome().await.unwrap_err();
    assert!(matches!(refused, ProposeError::NotQueued { .. }));
}

/// When the proposal ends, asks the group for everything without waiting, and proposes again.
fn propose_and_ask(group: Group, again: usize, outcomes: mpsc::UnboundedSender<ProposeError>) {
    let asked = group.clone();
    let complete = move |outcome: Result<Answer, ProposeError>| {
        outcomes.send(outcome.unwrap_err()).unwrap();
        if again == 0 {
            return;
        }
        let request = || VoteRequest::new(Vote::new(9, 1), Some(log_id(1, 1)));
        let _ = asked.vote(request()).now_or_never();
        let _ = asked.pre_vote(request()).now_or_never();
        let _ = asked.permit_read().now_or_never();
        let _ = asked.shut_down().now_or_never();
        propose_and_ask(asked, again - 1, outcomes);
    };
    group.propose(Bytes::from_static(b"a"), complete);
}

#[tokio::test]
async fn what_a_completion_asks_of_a_group_that_ends_harms_nobody() {
    let device = Arc::<TestDevice>::default();
    let (_writer, group) = start(Arc::clone(&device) as _, Payloads::bootstrapped([1])).await;
    group.lead_alone().await.unwrap();
    device.break_down(Fault::Write);
    let (sender, mut outcomes) = mpsc::unbounded_channel();
    propose_and_ask(group.clone(), 2, sender);
    let mut certain = Vec::new();
    while let Some(outcome) = outcomes.recv().await {
        certain.push(outcome.is_certain());
    }
    assert_eq!(certain, [false, true, true]);
    group.shut_down().await;
    let refused = propose(&group, b"b").outcome().await.unwrap_err();
    assert!(matches!(refused, ProposeError::NotQueued { .. }));
}

#[tokio::test]
async fn a_sole_voter_permits_reads_as_soon_as_it_leads_and_after_its_log_has_failed() {
    let device = Arc::<TestDevice>::default();
    let (_writer, group) = start(Arc::clone(&device) as _, Payloads::bootstrapped([1])).await;
    assert!(!group.try_permit_read());
    assert_eq!(group.permit_read().await, Err(ReadError::NotLeader));
    group.lead_alone().await.unwrap();
    assert!(group.try_permit_read());
    device.break_down(Fault::Write);
    propose(&group, b"a").outcome().await.unwrap_err();
    group.lead_alone().await.unwrap_err();
    assert!(group.try_permit_read());
}

/// Starts a group that leads, and that cannot apply its first entry until a gate opens.
async fn start_held_up(payloads: &Arc<Payloads>) -> (LogWriter, Group) {
    payloads.state().reads_the_disk = true;
    payloads.applies.close();
    let timing = Timing {
        heartbeat_ms: 10,
        election_timeout_min_ms: 30,
        election_timeout_max_ms: 40,
    };
    let writer = LogWriter::start(Arc::<MemoryDevice>::default()).unwrap();
    let log = writer.open_group(1).unwrap();
    let machine = Arc::clone(payloads) as _;
    let group = Group::start(1, timing, 0, log, machine, Alone)
        .await
        .unwrap();
    let mut leads = Box::pin(group.lead_alone());
    let waiting = wait_until("it leads", || group.leader().peer_id == Some(1));
    select(&mut leads, pin!(waiting)).await;
    drop(leads);
    (writer, group)
}

#[tokio::test]
async fn a_read_is_refused_if_what_it_waits_for_is_not_applied_in_time() {
    let payloads = Payloads::bootstrapped([1]);
    let (_writer, group) = start_held_up(&payloads).await;
    let refused = timeout(GUARD, group.permit_read()).await;
    // Opened before anything can fail, since the runtime waits for the thread at the gate.
    payloads.applies.open();
    assert_eq!(refused.expect("it ends"), Err(ReadError::NotApplied));
    group.lead_alone().await.unwrap();
    group.permit_read().await.unwrap();
}

#[tokio::test]
async fn a_read_is_not_answered_by_what_was_asked_before_it_began() {
    let payloads = Payloads::bootstrapped([1]);
    let (_writer, group) = start_held_up(&payloads).await;
    let mut first = Box::pin(group.permit_read());
    let mut second = Box::pin(group.permit_read());
    assert!((&mut first).now_or_never().is_none());
    assert!((&mut second).now_or_never().is_none());
    let refused = timeout(GUARD, first).await;
    let answered = (&mut second).now_or_never();
    payloads.applies.open();
    assert_eq!(refused.expect("it ends"), Err(ReadError::NotApplied));
    assert_eq!(answered, None);
}

#[tokio::test]
async fn a_sole_voter_has_nobody_to_hand_over_to() {
    let peer = Peer::first().await;
    for peer_id in [1, 2] {
        let refused = peer.group.transfer_leader(peer_id).await;
        assert_eq!(refused, Err(TransferError::NotAnotherVoter { peer_id }));
    }
    assert_eq!(peer.propose(b"a").outcome().await, Ok(1));
    assert!(peer.group.try_permit_read());
}

#[tokio::test]
async fn a_group_that_was_shut_down_permits_no_reads() {
    let peer = Peer::first().await;
    peer.group.shut_down().await;
    assert!(!peer.group.try_permit_read());
    let refused = peer.group.permit_read().await;
    assert!(matches!(refused, Err(ReadError::Ended(_))));
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
