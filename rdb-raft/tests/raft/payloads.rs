//! A state machine that keeps payloads, and that waits and fails when it is told to.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use rdb_raft::machine::{
    Applied, ApplyError, Committed, ReceivedSnapshot, SnapshotSink, SnapshotSource, StateMachine,
};
use rdb_raft::{Answer, Content, Membership, StoreNode, StoredMembership};

use crate::device::Gate;
use crate::entries::log_id;

/// Keeps payloads, and remembers what would survive a crash.
#[derive(Default)]
pub(crate) struct Payloads {
    state: Arc<Mutex<State>>,
    /// Applies that may block have to pass it.
    pub(crate) applies: Gate,
    /// Whoever asks what is flushed has to pass it.
    pub(crate) flushes: Gate,
    /// Every chunk of a snapshot that is sent has to pass it.
    pub(crate) chunks: Arc<Gate>,
}

#[derive(Default)]
pub(crate) struct State {
    now: Kept,
    flushed: Kept,
    pub(crate) reads_the_disk: bool,
    pub(crate) refuses: bool,
    pub(crate) has_failed: bool,
    pub(crate) panics: bool,
    /// How often it can still say what is flushed.
    pub(crate) flushed_times_max: Option<usize>,
    /// How often it was applied to with `may_block`.
    pub(crate) blocking_applies: usize,
    /// How many snapshots were taken for other replicas.
    pub(crate) snapshots: usize,
    /// How many of them are not sent any more.
    pub(crate) snapshots_over: usize,
    /// How many snapshots were installed.
    pub(crate) installs: usize,
    pub(crate) has_no_space: bool,
    /// How many snapshots it had no space for.
    pub(crate) refused_snapshots: usize,
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
            state: Arc::new(Mutex::new(state)),
            ..Self::default()
        })
    }

    pub(crate) fn bootstrapped<const VOTERS: usize>(voters: [u64; VOTERS]) -> Arc<Self> {
        Self::with_learners(voters, [])
    }

    pub(crate) fn with_learners<const VOTERS: usize, const LEARNERS: usize>(
        voters: [u64; VOTERS],
        learners: [u64; LEARNERS],
    ) -> Arc<Self> {
        let members = voters.into_iter().chain(learners);
        let nodes: BTreeMap<_, _> = members.map(|id| (id, StoreNode { store_id: id })).collect();
        Self::beginning_with(Membership::new(vec![voters.into()], nodes).unwrap())
    }

    /// In the middle of a change of voters.
    pub(crate) fn joint(voters: [&[u64]; 2]) -> Arc<Self> {
        let members = voters.iter().copied().flatten();
        let nodes = members.map(|&id| (id, StoreNode { store_id: id }));
        let nodes: BTreeMap<_, _> = nodes.collect();
        let voters = voters.map(|voters| voters.iter().copied().collect());
        Self::beginning_with(Membership::new(voters.into(), nodes).unwrap())
    }

    fn beginning_with(membership: Membership) -> Arc<Self> {
        let beginning = log_id(0, 0);
        Self::with(Kept {
            applied: Applied {
                position: Some(beginning),
                membership: StoredMembership::new(Some(beginning), membership),
            },
            payloads: Vec::new(),
        })
    }

    pub(crate) fn after_crash(&self) -> Arc<Self> {
        Self::with(self.state().flushed.clone())
    }

    pub(crate) fn payloads(&self) -> Vec<Bytes> {
        self.state().now.payloads.clone()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl StateMachine for Payloads {
    /// Answers with the count of payloads.
    fn apply(&self, entries: &[Committed], may_block: bool) -> Result<Vec<Answer>, ApplyError> {
        if may_block {
            self.applies.pass();
        }
        let mut state = self.state();
        if state.panics {
            drop(state);
            panic!("the test says so");
        }
        if state.refuses {
            let error = io::Error::other("the test says so");
            return Err(ApplyError::Refused(error));
        }
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
        self.flushes.pass();
        let mut state = self.state();
        match &mut state.flushed_times_max {
            Some(0) => return Err(io::Error::other("the test says so")),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(state.flushed.applied.clone())
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.state();
        state.flushed = state.now.clone();
        Ok(())
    }

    fn snapshot(&self) -> io::Result<(Applied, Box<dyn SnapshotSource>)> {
        let mut state = self.state();
        state.snapshots += 1;
        let now = state.now.clone();
        let sent = Sent {
            state: Arc::clone(&self.state),
            payloads: now.payloads.into(),
            gate: Arc::clone(&self.chunks),
        };
        Ok((now.applied, Box::new(sent)))
    }

    fn receive(&self) -> io::Result<Box<dyn SnapshotSink>> {
        let mut state = self.state();
        if state.has_no_space {
            state.refused_snapshots += 1;
            return Err(io::Error::other("the test says so"));
        }
        Ok(Box::new(Receiving {
            state: Arc::clone(&self.state),
            payloads: Vec::new(),
        }))
    }
}

/// A payload is a chunk.
struct Sent {
    state: Arc<Mutex<State>>,
    payloads: VecDeque<Bytes>,
    gate: Arc<Gate>,
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.state.lock().unwrap().snapshots_over += 1;
    }
}

impl SnapshotSource for Sent {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        self.gate.pass();
        Ok(self.payloads.pop_front())
    }
}

struct Receiving {
    state: Arc<Mutex<State>>,
    payloads: Vec<Bytes>,
}

impl SnapshotSink for Receiving {
    fn add(&mut self, chunk: Bytes) -> io::Result<()> {
        self.payloads.push(chunk);
        Ok(())
    }

    fn complete(self: Box<Self>, applied: &Applied) -> io::Result<Box<dyn ReceivedSnapshot>> {
        Ok(Box::new(Received {
            state: self.state,
            kept: Kept {
                applied: applied.clone(),
                payloads: self.payloads,
            },
        }))
    }
}

struct Received {
    state: Arc<Mutex<State>>,
    kept: Kept,
}

impl ReceivedSnapshot for Received {
    fn install(self: Box<Self>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.installs += 1;
        state.flushed = self.kept.clone();
        state.now = self.kept;
        Ok(())
    }
}
