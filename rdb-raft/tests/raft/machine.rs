//! A state machine in memory, which keeps the payloads that were applied.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use rdb_raft::{Answer, Content, LogId, SnapshotMeta, StoredMembership, TypeConfig};

pub(crate) type Snapshot = rdb_raft::Snapshot<Vec<Bytes>>;

/// Clones share the state, so a clone is what a restart finds of it.
#[derive(Clone, Default)]
pub(crate) struct MemoryMachine {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Default)]
struct State {
    position: Option<LogId>,
    membership: StoredMembership,
    payloads: Vec<Bytes>,
    snapshot: Option<Snapshot>,
}

impl MemoryMachine {
    /// A state machine that was given a state, as the first peers of a group are.
    pub(crate) fn bootstrapped(position: LogId, membership: StoredMembership) -> Self {
        let state = State {
            position: Some(position),
            membership,
            ..State::default()
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    pub(crate) fn payloads(&self) -> Vec<Bytes> {
        self.state().payloads.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl RaftStateMachine<TypeConfig> for MemoryMachine {
    type SnapshotData = Vec<Bytes>;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let state = self.state();
        Ok((state.position, state.membership.clone()))
    }

    /// Answers with the count of payloads.
    async fn apply<Entries>(&mut self, mut entries: Entries) -> io::Result<()>
    where
        Entries: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            let mut state = self.state();
            state.position = Some(entry.log_id);
            match entry.payload {
                Content::Blank => {}
                Content::Normal(payload) => state.payloads.push(payload.0),
                Content::Membership(membership) => {
                    state.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
            }
            if let Some(responder) = responder {
                responder.send(Answer::new(state.payloads.len()));
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Vec<Bytes>,
    ) -> io::Result<()> {
        *self.state() = State {
            position: meta.last_log_id,
            membership: meta.last_membership.clone(),
            payloads: snapshot.clone(),
            snapshot: Some(Snapshot {
                meta: meta.clone(),
                snapshot,
            }),
        };
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.state().snapshot.clone())
    }
}

impl RaftSnapshotBuilder<TypeConfig> for MemoryMachine {
    type SnapshotData = Vec<Bytes>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let mut state = self.state();
        let meta = SnapshotMeta {
            last_log_id: state.position,
            last_membership: state.membership.clone(),
        };
        let snapshot = Snapshot {
            meta,
            snapshot: state.payloads.clone(),
        };
        state.snapshot = Some(snapshot.clone());
        Ok(snapshot)
    }
}
