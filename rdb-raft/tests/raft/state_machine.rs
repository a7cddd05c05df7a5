//! A state machine that is driven by a group of one voter.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, ClientWriteResult, SnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use openraft::{
    Config, OptionalSend, RaftMetrics, RaftNetworkFactory, RaftNetworkV2, SnapshotPolicy,
};
use rdb_raft::log::{LogWriter, MemoryDevice};
use rdb_raft::machine::{Applied, ApplyError, Committed, Machine, Position, StateMachine};
use rdb_raft::{
    Answer, Completion, Content, Dropped, Membership, Payload, Snapshot, StoreNode,
    StoredMembership, TypeConfig, Vote,
};
use tokio::sync::oneshot;

use crate::entries::{entry, log_id};

type Raft = openraft::Raft<TypeConfig, Machine>;

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

    fn bootstrapped() -> Arc<Self> {
        let beginning = log_id(0, 0);
        let nodes = BTreeMap::from([(1, StoreNode { store_id: 1 })]);
        let membership = Membership::new(vec![[1].into()], nodes).unwrap();
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

struct Group {
    raft: Raft,
    device: Arc<MemoryDevice>,
    _writer: LogWriter,
    payloads: Arc<Payloads>,
}

impl Group {
    async fn start(device: MemoryDevice, payloads: Arc<Payloads>) -> Self {
        let device = Arc::new(device);
        let writer = LogWriter::start(Arc::clone(&device) as _).unwrap();
        let store = writer.open_group(1).unwrap();
        let machine = Machine::new(Arc::clone(&payloads) as _, store.reader());
        let config = Config {
            // It leads once it is told to, in one term.
            enable_elect: false,
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            enable_leader_restore: Some(false),
            ..Config::default()
        };
        let config = Arc::new(config.validate().unwrap());
        let raft = Raft::build(1, config, Alone, store, machine).await.unwrap();
        raft.run();
        raft.trigger().elect(false).await.unwrap();
        let group = Self {
            raft,
            device,
            _writer: writer,
            payloads,
        };
        let wait = group.wait();
        let leads = wait.leader_with_quorum_acked(None, "it leads").await;
        leads.unwrap();
        group
    }

    async fn kill_and_start(self) -> Self {
        self.raft.shutdown().await.unwrap();
        let device = self.device.after_power_cut(usize::MAX);
        Self::start(device, self.payloads.after_crash()).await
    }

    fn wait(&self) -> openraft::metrics::Wait<TypeConfig> {
        self.raft.wait(Some(Duration::from_secs(60)))
    }

    async fn propose(&self, payload: &[u8]) -> Result<usize, Dropped> {
        self.begin(payload).await.outcome().await
    }

    /// Proposes as a server does.
    async fn begin(&self, payload: &[u8]) -> Proposed {
        let (sender, result) = oneshot::channel();
        let completion = Completion::new(|result| drop(sender.send(result)));
        let payload = Payload(Bytes::copy_from_slice(payload));
        let queued = self.raft.client_write_ff(payload, Some(completion));
        queued.await.unwrap();
        Proposed(result)
    }
}

struct Proposed(oneshot::Receiver<Result<ClientWriteResult<TypeConfig>, Dropped>>);

impl Proposed {
    /// The count of payloads once it is applied.
    async fn outcome(self) -> Result<usize, Dropped> {
        let written = self.0.await.unwrap()?.unwrap();
        Ok(written.data.into_inner().unwrap())
    }
}

#[tokio::test]
async fn proposals_are_answered_in_order_by_the_state_machine() {
    let group = Group::start(MemoryDevice::default(), Payloads::bootstrapped()).await;
    let payloads: Vec<_> = (0..500)
        .map(|number: u32| number.to_be_bytes().to_vec())
        .collect();
    let mut proposed = Vec::new();
    for payload in &payloads {
        proposed.push(group.begin(payload).await);
    }
    for (count, proposed) in (1..).zip(proposed) {
        assert_eq!(proposed.outcome().await, Ok(count));
    }
    assert_eq!(group.payloads.payloads(), payloads);
    assert_eq!(group.payloads.state().blocking_applies, 0);
}

#[tokio::test]
async fn what_would_read_the_disk_is_applied_where_it_may() {
    let group = Group::start(MemoryDevice::default(), Payloads::bootstrapped()).await;
    group.propose(b"a").await.unwrap();
    group.payloads.state().reads_the_disk = true;
    assert_eq!(group.propose(b"b").await, Ok(2));
    assert_eq!(group.payloads.state().blocking_applies, 1);
    assert_eq!(group.payloads.payloads(), ["a", "b"]);
}

#[tokio::test]
async fn what_was_not_flushed_is_applied_again_after_a_crash() {
    let group = Group::start(MemoryDevice::default(), Payloads::bootstrapped()).await;
    group.propose(b"a").await.unwrap();
    group.payloads.flush().unwrap();
    group.propose(b"b").await.unwrap();
    let group = group.kill_and_start().await;
    assert_eq!(group.propose(b"c").await, Ok(3));
    assert_eq!(group.payloads.payloads(), ["a", "b", "c"]);
}

#[tokio::test]
async fn the_log_can_be_purged_up_to_what_is_flushed() {
    let group = Group::start(MemoryDevice::default(), Payloads::bootstrapped()).await;
    for payload in [b"a", b"b", b"c"] {
        group.propose(payload).await.unwrap();
    }
    let last = log_id(1, 4);
    group.raft.trigger().snapshot().await.unwrap();
    let wait = group.wait();
    wait.snapshot(last, "a snapshot is built").await.unwrap();
    group.raft.trigger().purge_log(9).await.unwrap();
    wait.purged(Some(last), "the log is purged").await.unwrap();
    group.propose(b"d").await.unwrap();

    let group = group.kill_and_start().await;
    assert_eq!(group.propose(b"e").await, Ok(5));
    assert_eq!(group.payloads.payloads(), ["a", "b", "c", "d", "e"]);
}

#[tokio::test]
async fn a_snapshot_is_what_is_flushed_and_not_what_is_applied() {
    let payloads = Payloads::bootstrapped();
    let writer = LogWriter::start(Arc::<MemoryDevice>::default()).unwrap();
    let log = writer.open_group(1).unwrap().reader();
    let mut machine = Machine::new(Arc::clone(&payloads) as _, log);
    assert!(machine.get_current_snapshot().await.unwrap().is_none());
    payloads.state().does_not_flush = true;
    let applied = stream::iter([Ok((entry(1, 1, "a"), None))]);
    machine.apply(applied).await.unwrap();
    let mut builder = machine.try_create_snapshot_builder(true).await.unwrap();
    let built = builder.build_snapshot().await.unwrap();
    assert_eq!(built.meta.last_log_id, Some(log_id(0, 0)));
    let current = machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta, built.meta);
}

#[tokio::test]
async fn a_failed_apply_ends_the_group_and_leaves_the_outcome_unknown() {
    let group = Group::start(MemoryDevice::default(), Payloads::bootstrapped()).await;
    group.propose(b"a").await.unwrap();
    group.payloads.state().has_failed = true;
    assert_eq!(group.propose(b"b").await, Err(Dropped));
    let has_ended = |metrics: &RaftMetrics<TypeConfig>| metrics.running_state.is_err();
    let ended = group.wait().metrics(has_ended, "the group has ended").await;
    ended.unwrap();

    let group = group.kill_and_start().await;
    assert_eq!(group.propose(b"c").await, Ok(3));
    assert_eq!(group.payloads.payloads(), ["a", "b", "c"]);
}

/// The network of a group that has no other peer.
struct Alone;

impl RaftNetworkFactory<TypeConfig> for Alone {
    type Network = Self;

    async fn new_client(&mut self, _: u64, _: &StoreNode) -> Self {
        Self
    }
}

fn nobody() -> Unreachable<TypeConfig> {
    Unreachable::from_string("there is no other peer")
}

impl RaftNetworkV2<TypeConfig> for Alone {
    type SnapshotData = Position;

    async fn append_entries(
        &mut self,
        _: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(nobody().into())
    }

    async fn vote(
        &mut self,
        _: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(nobody().into())
    }

    async fn pre_vote(
        &mut self,
        _: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(nobody().into())
    }

    async fn full_snapshot(
        &mut self,
        _: Vote,
        _: Snapshot<Position>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(nobody().into())
    }
}
