//! What a group replicates here: a list of values in memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use rdb_raft::machine::{
    Applied, ApplyError, Committed, SnapshotSink, SnapshotSource, StateMachine,
};
use rdb_raft::{Answer, Content, LogId, Membership, StoreNode, StoredMembership};

use crate::history::Outcome;
use crate::world::World;

/// How many applies there are to one that is flushed at once.
const APPLIES_PER_FLUSH: u32 = 20;

pub(crate) struct List {
    world: Arc<World>,
    store_id: u64,
    group_id: u64,
    state: Mutex<State>,
}

struct State {
    now: Kept,
    flushed: Kept,
}

#[derive(Clone)]
struct Kept {
    applied: Applied,
    values: Vec<u64>,
}

impl List {
    /// What all peers of a group begin with.
    pub(crate) fn bootstrapped(world: &Arc<World>, store_id: u64, group_id: u64) -> Arc<Self> {
        let voters = world.store_ids();
        let nodes: BTreeMap<_, _> = voters.map(|id| (id, StoreNode { store_id: id })).collect();
        let voters = world.store_ids().collect();
        let membership = Membership::new(vec![voters], nodes).unwrap();
        let beginning = Some(LogId::new_term_index(0, 0));
        let kept = Kept {
            applied: Applied {
                position: beginning,
                membership: StoredMembership::new(beginning, membership),
            },
            values: Vec::new(),
        };
        Self::with(Arc::clone(world), store_id, group_id, kept)
    }

    /// What a crash leaves.
    pub(crate) fn after_crash(&self) -> Arc<Self> {
        let flushed = self.state().flushed.clone();
        Self::with(
            Arc::clone(&self.world),
            self.store_id,
            self.group_id,
            flushed,
        )
    }

    fn with(world: Arc<World>, store_id: u64, group_id: u64, kept: Kept) -> Arc<Self> {
        let state = Mutex::new(State {
            now: kept.clone(),
            flushed: kept,
        });
        Arc::new(Self {
            world,
            store_id,
            group_id,
            state,
        })
    }

    pub(crate) fn values(&self) -> Vec<u64> {
        self.state().now.values.clone()
    }

    pub(crate) fn seen(&self) -> Outcome {
        saw(&self.state().now.values)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

fn saw(values: &[u64]) -> Outcome {
    Outcome::Saw {
        length: values.len(),
        last: values.last().copied(),
    }
}

impl StateMachine for List {
    /// Answers with what is there then.
    fn apply(&self, entries: &[Committed], may_block: bool) -> Result<Vec<Answer>, ApplyError> {
        // As a state does that is not in memory.
        if !may_block && fastrand::u32(..APPLIES_PER_FLUSH) == 0 {
            return Err(ApplyError::Blocks);
        }
        let mut state = self.state();
        let now = &mut state.now;
        let answers = entries.iter().map(|Committed { entry, is_awaited }| {
            now.applied.position = Some(entry.log_id);
            match &entry.payload {
                Content::Blank => {}
                Content::Normal(payload) => {
                    let value = payload.0.as_ref().try_into().map(u64::from_be_bytes);
                    let value = value.expect("a value was proposed");
                    now.values.push(value);
                    let place = (self.group_id, now.values.len());
                    self.world.applies(self.store_id, place, value);
                }
                Content::Membership(membership) => {
                    let log_id = Some(entry.log_id);
                    now.applied.membership = StoredMembership::new(log_id, membership.clone());
                }
            }
            match is_awaited {
                true => Answer::new(saw(&now.values)),
                false => Answer::default(),
            }
        });
        let answers = answers.collect();
        if fastrand::u32(..APPLIES_PER_FLUSH) == 0 {
            state.flushed = state.now.clone();
        }
        Ok(answers)
    }

    fn flushed(&self) -> io::Result<Applied> {
        Ok(self.state().flushed.applied.clone())
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.state();
        state.flushed = state.now.clone();
        Ok(())
    }

    fn snapshot(&self) -> io::Result<(Applied, Box<dyn SnapshotSource>)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn receive(&self) -> io::Result<Box<dyn SnapshotSink>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
