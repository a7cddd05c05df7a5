//! Tests of what other crates cannot see of a group.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use openraft::async_runtime::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use openraft::storage::RaftLogStorage;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::purge::{LOG_BYTES_MAX, Purging};
use super::{Alone, Group, ProposeError, RaftMetrics};
use crate::log::held_device::{HeldDevice, append_too_much};
use crate::log::{LogDevice, LogWriter, MemoryDevice};
use crate::machine::{
    Applied, ApplyError, Committed, ReceivedSnapshot, SnapshotSink, SnapshotSource, StateMachine,
};
use crate::node::{Groups, Node};
use crate::supervisor::beat_groups;
use crate::timing::Timing;
use crate::types::{
    Answer, Content, Entry, LogId, Membership, StoreNode, StoredMembership, TypeConfig, Vote,
};

/// Fails a test that waits in vain.
const GUARD: Duration = Duration::from_secs(90);

/// A state machine of one of two voters, which counts what it is asked.
struct Counting {
    flushed: Mutex<Applied>,
    asked: AtomicUsize,
    flushes: AtomicUsize,
    applying: mpsc::Sender<LogId>,
    applied: Mutex<mpsc::Receiver<LogId>>,
}

impl Counting {
    fn new() -> Arc<Self> {
        Self::of([1, 2].into())
    }

    /// A group of peers 1 and 2, some of which vote.
    fn of(voters: BTreeSet<u64>) -> Arc<Self> {
        Self::of_members(voters, [1, 2].into())
    }

    fn of_members(voters: BTreeSet<u64>, members: BTreeSet<u64>) -> Arc<Self> {
        let beginning = Some(LogId::new_term_index(0, 0));
        let nodes = members
            .into_iter()
            .map(|id| (id, StoreNode { store_id: id }));
        let membership = Membership::new(vec![voters], nodes.collect::<BTreeMap<_, _>>()).unwrap();
        let (applying, applied) = mpsc::channel();
        Arc::new(Self {
            flushed: Mutex::new(Applied {
                position: beginning,
                membership: StoredMembership::new(beginning, membership),
            }),
            asked: AtomicUsize::default(),
            flushes: AtomicUsize::default(),
            applying,
            applied: Mutex::new(applied),
        })
    }

    fn counts(&self) -> (usize, usize) {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        (count(&self.asked), count(&self.flushes))
    }

    /// The next entry that is applied, if that is within `patience`. Blocks.
    fn next_applied(&self, patience: Duration) -> Result<LogId, mpsc::RecvTimeoutError> {
        self.applied.lock().unwrap().recv_timeout(patience)
    }
}

impl StateMachine for Counting {
    fn apply(&self, entries: &[Committed], _: bool) -> Result<Vec<Answer>, ApplyError> {
        for Committed { entry, .. } in entries {
            self.applying.send(entry.log_id).map_err(io::Error::other)?;
        }
        Ok(entries.iter().map(|_| Answer::default()).collect())
    }

    fn flushed(&self) -> io::Result<Applied> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(self.flushed.lock().unwrap().clone())
    }

    fn flush(&self) -> io::Result<()> {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.flushed.lock().unwrap().position = Some(LogId::new_term_index(1, 1000));
        Ok(())
    }

    fn snapshot(&self) -> io::Result<(Applied, Box<dyn SnapshotSource>)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn receive(&self) -> io::Result<Box<dyn SnapshotSink>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

async fn start(machine: &Arc<Counting>) -> (LogWriter, Group) {
    start_with(Timing::default(), machine).await
}

async fn start_with(timing: Timing, machine: &Arc<Counting>) -> (LogWriter, Group) {
    start_on(Arc::<MemoryDevice>::default(), timing, machine).await
}

async fn start_on(
    device: Arc<dyn LogDevice>,
    timing: Timing,
    machine: &Arc<Counting>,
) -> (LogWriter, Group) {
    let writer = LogWriter::start(device).unwrap();
    let log = writer.open_group(1).unwrap();
    let machine = Arc::clone(machine) as _;
    let group = Group::start(1, timing, 0, log, machine, Alone).await;
    (writer, group.unwrap())
}

#[tokio::test]
async fn a_peer_that_does_not_lead_keeps_a_little_is_flushed_after_many_strides_and_else_asked_nothing()
 {
    let machine = Counting::new();
    let (_writer, group) = start(&machine).await;
    let (at_start, _) = machine.counts();
    for last_index in 1..=4 {
        group.shared.strides.add(last_index, 1, 16 << 20);
        group.purge(LOG_BYTES_MAX).await.unwrap();
    }
    assert_eq!(machine.counts(), (at_start, 0));
    let keeps = |bytes| group.needed_after(&mut Purging::default(), bytes);
    let is_known = |metrics: &RaftMetrics| metrics.membership_config.nodes().count() == 2;
    group.wait_until(is_known).await.unwrap();
    assert_eq!((keeps(LOG_BYTES_MAX), keeps(40 << 20)), (0, 1));
    // Nothing of it is flushed.
    for last_index in 5..=15 {
        group.shared.strides.add(last_index, 1, 16 << 20);
        group.purge(LOG_BYTES_MAX).await.unwrap();
    }
    assert_eq!(keeps(LOG_BYTES_MAX), 11);
    assert_eq!(machine.counts().1, 0);
    group.shared.strides.add(16, 1, 16 << 20);
    assert!(group.shared.strides.want_flush(0));
    group.shut_down().await;
}

#[tokio::test]
async fn a_leader_keeps_what_others_lack_up_to_a_limit_and_what_follows_a_snapshot_that_is_sent() {
    const STRIDE: u64 = 16 << 20;
    let (_writer, group) = start(&Counting::of([1].into())).await;
    group.lead_alone().await.unwrap();
    for last_index in 10..14 {
        group.shared.strides.add(last_index, 1, STRIDE as usize);
    }
    // The other one has nothing, and there are four strides and a blank entry.
    let needed_after = |strides| group.needed_after(&mut Purging::default(), strides * STRIDE);
    assert_eq!((needed_after(4), needed_after(5)), (u64::MAX, 0));
    let hold = group.shared.holds.hold(11);
    assert_eq!((needed_after(4), needed_after(5)), (11, 0));
    drop(hold);
    // It gets the rest from the log now.
    assert_eq!(needed_after(4), 11);
    group.shut_down().await;
}

#[tokio::test]
async fn a_vote_for_another_peer_suspends_the_lease_of_earlier_terms() {
    let (_writer, group) = start(&Counting::new()).await;
    let request = VoteRequest::new(Vote::new(5, 2), Some(LogId::new_term_index(1, 1)));
    assert!(group.vote(request).await.unwrap().vote_granted);
    assert!(group.lease.is_suspended(4));
    assert!(!group.lease.is_suspended(5));
    group.shut_down().await;
}

#[tokio::test]
async fn a_hand_over_suspends_the_lease_of_any_term_until_it_is_known_in_which_it_took_place() {
    let (_writer, group) = start(&Counting::new()).await;
    let hand_over = Arc::clone(&group.lease).hand_over();
    assert!(group.lease.is_suspended(u64::MAX));
    hand_over.end(3);
    assert!(group.lease.is_suspended(3));
    assert!(!group.lease.is_suspended(4));
    group.shut_down().await;
}

/// openraft publishes that it no longer leads only once the vote is durable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_vote_for_another_one_waits_for_the_log_is_not_live() {
    let (device, machine) = (Arc::<HeldDevice>::default(), Counting::of([1].into()));
    let (_writer, group) = start_on(Arc::clone(&device) as _, TICKING, &machine).await;
    group.lead_alone().await.unwrap();
    assert!(group.is_live());
    let mut request = VoteRequest::new(Vote::new(5, 2), Some(LogId::new_term_index(4, 9)));
    request.leadership_transfer = true;
    let held = device.lock.lock().unwrap();
    let voting = group.clone();
    let voting = tokio::spawn(async move { voting.vote(request).await });
    while !group.backlog.awaits_vote() {
        assert!(!voting.is_finished());
        thread::yield_now();
    }
    assert!(!group.is_live());
    drop(held);
    assert!(voting.await.unwrap().unwrap().vote_granted);
    group.shut_down().await;
}

/// Tells when it is installed.
struct Told(mpsc::Sender<()>);

impl ReceivedSnapshot for Told {
    fn install(self: Box<Self>) -> io::Result<()> {
        self.0.send(()).map_err(io::Error::other)
    }
}

/// The log has entries that a snapshot contradicts. Were the snapshot durable before they are gone, the next start would refuse both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_installed_only_after_what_contradicts_it_is_durably_gone() {
    let (device, machine) = (Arc::<HeldDevice>::default(), Counting::new());
    let (writer, group) = start_on(Arc::clone(&device) as _, TICKING, &machine).await;
    let append = append(1, LogId::new_term_index(0, 0), 9);
    assert!(group.append_entries(append).await.unwrap().is_success());
    let leader = heartbeat(3);
    let vote = leader.vote;
    assert!(group.append_entries(leader).await.unwrap().is_success());

    let held = device.lock.lock().unwrap();
    let applied = Applied {
        position: Some(LogId::new_term_index(2, 5)),
        ..machine.flushed().unwrap()
    };
    let (told, installed) = mpsc::channel();
    let installing = group.clone();
    let installing = tokio::spawn(async move {
        let received = Box::new(Told(told));
        installing.install(vote, applied, received).await
    });
    let early = installed.recv_timeout(Duration::from_millis(200));
    assert_eq!(early, Err(mpsc::RecvTimeoutError::Timeout));
    drop(held);
    installed.recv().unwrap();
    assert_eq!(installing.await.unwrap(), Ok(vote));
    group.shut_down().await;
    let mut log = writer.open_group(1).unwrap();
    // openraft purges what the snapshot has in its place after it has answered, so maybe not before the end.
    let left = log.get_log_state().await.unwrap();
    assert_eq!(left.last_log_id, left.last_purged_log_id, "no entry");
}

/// A follower in term 3 that has entries 1 to 3 of term 1, and has applied the first one before it was durable.
async fn follower(device: &Arc<HeldDevice>, machine: &Arc<Counting>) -> (LogWriter, Group) {
    let (writer, group) = start_on(Arc::clone(device) as _, TICKING, machine).await;
    assert!(appends(&group, heartbeat(1)).await.unwrap());
    let first = LogId::new_term_index(1, 1);
    let append = AppendEntriesRequest {
        leader_commit: Some(first),
        ..append(1, LogId::new_term_index(0, 0), 3)
    };
    let held = device.lock.lock().unwrap();
    let appending = appends(&group, append);
    assert_eq!(machine.next_applied(GUARD), Ok(first));
    drop(held);
    assert!(appending.await.unwrap());
    assert!(appends(&group, heartbeat(3)).await.unwrap());
    (writer, group)
}

/// Has it replace entries 2 and 3 by others, which are committed. It must not apply them while the device is held.
fn replaces(device: &HeldDevice, group: &Group, machine: &Counting) -> JoinHandle<bool> {
    let begun = || device.begun.load(Ordering::SeqCst);
    let begun_before = begun();
    let append = AppendEntriesRequest {
        leader_commit: Some(LogId::new_term_index(3, 3)),
        ..append(3, LogId::new_term_index(1, 1), 3)
    };
    let appending = appends(group, append);
    while begun() == begun_before {
        thread::yield_now();
    }
    let early = machine.next_applied(Duration::from_millis(200));
    assert_eq!(early, Err(mpsc::RecvTimeoutError::Timeout));
    appending
}

/// Otherwise the state could be durable and the old entries still be in the log. The next start would refuse the two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_applied_only_after_those_that_they_replace_are_durably_gone() {
    let (device, machine) = (Arc::<HeldDevice>::default(), Counting::new());
    let (_writer, group) = follower(&device, &machine).await;
    let held = device.lock.lock().unwrap();
    let appending = replaces(&device, &group, &machine);
    drop(held);
    for index in 2..=3 {
        let applied = machine.next_applied(GUARD);
        assert_eq!(applied, Ok(LogId::new_term_index(3, index)));
    }
    assert!(appending.await.unwrap());
    group.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_fails_ends_the_wait_for_what_is_replaced_and_nothing_is_applied() {
    let (device, machine) = (Arc::<HeldDevice>::default(), Counting::new());
    let (_writer, group) = follower(&device, &machine).await;
    let held = device.lock.lock().unwrap();
    let appending = replaces(&device, &group, &machine);
    device.is_broken.store(true, Ordering::SeqCst);
    drop(held);
    assert!(!appending.await.unwrap());
    let shut_down = timeout(GUARD, group.shut_down()).await;
    shut_down.expect("nothing waits any more");
    let applied = machine.next_applied(Duration::ZERO);
    assert_eq!(applied, Err(mpsc::RecvTimeoutError::Timeout));
}

/// The core has ended by then, so nobody else would end the wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_group_does_not_wait_for_a_disk_that_hangs_and_nothing_is_applied() {
    let (device, machine) = (Arc::<HeldDevice>::default(), Counting::new());
    let (_writer, group) = follower(&device, &machine).await;
    let held = device.lock.lock().unwrap();
    let appending = replaces(&device, &group, &machine);
    let (told, ended) = mpsc::channel();
    tokio::spawn(async move {
        group.shut_down().await;
        told.send(())
    });
    assert_eq!(ended.recv_timeout(GUARD), Ok(()), "nothing waits any more");
    drop(held);
    assert!(!appending.await.unwrap());
    let applied = machine.next_applied(Duration::ZERO);
    assert_eq!(applied, Err(mpsc::RecvTimeoutError::Timeout));
}

/// openraft's timer goes off each other millisecond, and nobody campaigns.
const TICKING: Timing = Timing {
    heartbeat_ms: 10,
    election_timeout_min_ms: 300_000,
    election_timeout_max_ms: 600_000,
};

/// By which a leader that was heard of once is there for long.
const PATIENT: Timing = Timing {
    heartbeat_ms: 600_000,
    ..TICKING
};

/// By which no leader is ever there.
const IMPATIENT: Timing = Timing {
    heartbeat_ms: 0,
    ..TICKING
};

fn heartbeat(term: u64) -> AppendEntriesRequest<TypeConfig> {
    AppendEntriesRequest {
        vote: Vote::new_committed(term, 2),
        prev_log_id: Some(LogId::new_term_index(0, 0)),
        entries: Vec::new(),
        leader_commit: None,
    }
}

/// Entries of the leader of a term, after one and up to an index.
fn append(term: u64, after: LogId, last_index: u64) -> AppendEntriesRequest<TypeConfig> {
    let entries = (after.index + 1..=last_index).map(|index| Entry {
        log_id: LogId::new_term_index(term, index),
        payload: Content::Blank,
    });
    AppendEntriesRequest {
        prev_log_id: Some(after),
        entries: entries.collect(),
        ..heartbeat(term)
    }
}

/// Sends it. Says whether it was taken, once it is durable.
fn appends(group: &Group, append: AppendEntriesRequest<TypeConfig>) -> JoinHandle<bool> {
    let group = group.clone();
    tokio::spawn(async move {
        let appended = group.append_entries(append).await;
        appended.is_ok_and(|answer| answer.is_success())
    })
}

/// Waits until openraft's timer wakes the core of a group, more often than anything that is left to be done.
async fn wakes(group: &Group) {
    let mut metrics = group.raft.metrics();
    for _ in 0..5 {
        metrics.borrow_and_update();
        let woken = timeout(GUARD, metrics.changed()).await;
        woken.expect("it goes off in time").unwrap();
    }
}

/// Waits until nothing wakes the core of a group any more, for many times as long as the timer needs.
async fn sleeps(group: &Group) {
    let mut metrics = group.raft.metrics();
    let often = Duration::from_millis(200);
    let wakes = async {
        let mut calm = 0;
        // On a busy machine time passes before the timer goes off.
        while calm < 2 {
            let is_calm = timeout(often, metrics.changed()).await.is_err();
            calm = if is_calm { calm + 1 } else { 0 };
        }
    };
    timeout(GUARD, wakes).await.expect("it is off in time");
}

#[tokio::test]
async fn openrafts_timer_is_off_while_the_leader_is_heard_of() {
    let (_writer, group) = start_with(TICKING, &Counting::new()).await;
    let heartbeat_of = async |term| {
        let heartbeat = heartbeat(term);
        group.append_entries(heartbeat).await.unwrap().is_success()
    };
    group.beat(&PATIENT);
    wakes(&group).await;
    // The leader of an earlier term leads nobody.
    let vote = VoteRequest::new(Vote::new(5, 2), Some(LogId::new_term_index(1, 1)));
    assert!(group.vote(vote).await.unwrap().vote_granted);
    assert!(!heartbeat_of(4).await);
    group.beat(&PATIENT);
    wakes(&group).await;
    assert!(heartbeat_of(5).await);
    group.beat(&PATIENT);
    sleeps(&group).await;
    group.beat(&IMPATIENT);
    wakes(&group).await;

    group.shut_down().await;
}

#[tokio::test]
async fn openrafts_timer_is_off_while_the_leader_streams_appends() {
    let (_writer, group) = start_with(TICKING, &Counting::new()).await;
    let mut answers = group.stream_append(stream::iter([heartbeat(1)]));
    assert!(answers.next().await.unwrap().unwrap().is_ok());
    assert!(answers.next().await.is_none());
    group.beat(&PATIENT);
    sleeps(&group).await;
    group.shut_down().await;
}

#[tokio::test]
async fn openrafts_timer_is_off_on_a_leader() {
    let alone = Counting::of_members([1].into(), [1].into());
    let (_writer, group) = start_with(TICKING, &alone).await;
    group.lead_alone().await.unwrap();
    wakes(&group).await;
    group.beat(&IMPATIENT);
    sleeps(&group).await;
    group.shut_down().await;
}

#[tokio::test]
async fn openrafts_timer_is_back_when_beats_end() {
    let alone = Counting::of_members([1].into(), [1].into());
    let (_writer, group) = start_with(TICKING, &alone).await;
    group.lead_alone().await.unwrap();
    let groups = Arc::new(Groups::new([(1, group.clone())].into()));
    let beats = tokio::spawn(beat_groups(groups, TICKING));
    sleeps(&group).await;
    beats.abort();
    wakes(&group).await;
    group.shut_down().await;
}

/// By which no promise is kept for long.
const BRIEF: Timing = Timing {
    heartbeat_ms: 10,
    election_timeout_min_ms: 30,
    election_timeout_max_ms: 31,
};

#[tokio::test]
async fn the_groups_of_a_node_keep_what_was_promised_by_a_longer_timeout() {
    let device = Arc::<MemoryDevice>::default();
    let writer = LogWriter::start(Arc::clone(&device) as _).unwrap();
    let mut log = writer.open_group(1).unwrap();
    log.save_vote(&Vote::new(1, 2)).await.unwrap();
    writer.close();
    let node = Node::start(BRIEF, device).unwrap();
    let node = node.after_promises(TICKING.election_timeout_max_ms);
    let began = tokio::time::Instant::now();
    let group = node.open(1, 1, Counting::new(), Alone).await.unwrap();
    assert!(group.quarantine.votes_from >= began + node.promises_last());
    node.shut_down().await;
}

#[tokio::test]
async fn a_leader_whose_log_is_full_is_busy_until_it_hands_over() {
    let device = Arc::<HeldDevice>::default();
    let writer = LogWriter::start(Arc::clone(&device) as _).unwrap();
    let log = writer.open_group(1).unwrap();
    let alone = Counting::of_members([1].into(), [1].into());
    let group = Group::start(1, BRIEF, 0, log, alone, Alone).await.unwrap();
    group.lead_alone().await.unwrap();
    let outcome = || {
        let (told, outcome) = mpsc::channel();
        let complete = move |answer: Result<Answer, _>| drop(told.send(answer.map(drop)));
        group.propose(Bytes::new(), complete);
        outcome.try_recv()
    };

    let mut other = writer.open_group(2).unwrap();
    let held = device.lock.lock().unwrap();
    append_too_much(&mut other);
    while !writer.stands_still(BRIEF.log_patience()) {
        thread::yield_now();
    }
    assert_eq!(outcome(), Ok(Err(ProposeError::Busy)));
    let _hand_over = Arc::clone(&group.lease).hand_over();
    assert_eq!(outcome(), Ok(Err(ProposeError::NotLeader)));
    drop(held);
    group.shut_down().await;
}
