//! openraft's view of a state machine.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{FutureExt, Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use tokio::select;

use super::position::meta;
use super::{
    Applied, ApplyError, Committed, Holds, Outgoing, PositionBuilder, SnapshotData, StateMachine,
    Strides, User, Users,
};
use crate::log::{Barrier, LogReader, LogStore};
use crate::simulation::spawn_blocking;
use crate::types::{
    Answer, Content, LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig, entry_bytes,
};

/// Most that is applied at once, in entries and in bytes, but at least one entry. It bounds how long an apply blocks its thread.
const APPLY_ENTRIES_MAX: usize = 256;
const APPLY_BYTES_MAX: usize = 1 << 20;

/// Feeds a [`StateMachine`] the entries that are committed.
///
/// Entries are applied immediately, on the task of the group. Only those that have to read the disk go to a blocking thread.
pub(crate) struct Machine {
    machine: Arc<dyn StateMachine>,
    /// Reader of the group's log. It is told what is applied, which need not stay in memory.
    log: LogReader,
    barrier: Barrier,
    /// Whether an apply has failed. Released before anybody can learn of it.
    has_failed: Arc<AtomicBool>,
    /// How far the state machine has come.
    applied: Applied,
    shared: Shared,
    user: User,
}

/// What a group and its adapter have in common.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) strides: Arc<Strides>,
    pub(crate) snapshots: PositionBuilder,
    pub(crate) holds: Holds,
    pub(crate) users: Arc<Users>,
}

impl Machine {
    /// The state machine of the group whose log it is.
    pub(crate) fn new(
        machine: Arc<dyn StateMachine>,
        log: &LogStore,
        has_failed: Arc<AtomicBool>,
        shared: Shared,
    ) -> Self {
        Self {
            machine,
            log: log.reader(),
            barrier: log.barrier(),
            has_failed,
            applied: Applied::default(),
            user: shared.users.add(),
            shared,
        }
    }

    /// Waits until what openraft has truncated is durably gone. The end of the group does not wait for a disk that hangs.
    async fn pass_barrier(&mut self) -> io::Result<()> {
        select! {
            biased;
            passed = self.barrier.pass() => passed?,
            () = self.user.told_to_stop() => return Err(ended()),
        }
        self.check_running()
    }

    /// Refuses what the core has left in the queue at its end.
    fn check_running(&self) -> io::Result<()> {
        if self.user.should_stop() {
            return Err(ended());
        }
        Ok(())
    }

    /// Tells the state machine of an entry that is damaged.
    fn intact<T>(&self, entry: io::Result<T>) -> io::Result<T> {
        entry.inspect_err(|error| {
            if error.kind() == io::ErrorKind::InvalidData {
                self.machine.log_is_damaged(error);
            }
        })
    }

    async fn apply_chunk(&mut self, chunk: Chunk) -> io::Result<()> {
        let Chunk {
            entries,
            responders,
            bytes,
        } = chunk;
        let position = entries.last().map(|last| last.entry.log_id);
        let membership = entries.iter().rev().find_map(membership_of);
        let answers = match self.apply_entries(entries).await {
            Ok(answers) => answers,
            Err(ApplyError::Refused(error)) => return Err(error),
            Err(error) => {
                self.has_failed.store(true, Ordering::Release);
                return Err(io::Error::other(error));
            }
        };
        if let Some(membership) = membership {
            self.applied.membership = membership;
        }
        if let Some(position) = position {
            self.applied.position = Some(position);
            self.log.set_applied(position.index);
            self.shared
                .strides
                .add(position.index, answers.len(), bytes);
        }
        for (responder, answer) in responders.into_iter().zip(answers) {
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }

    /// The answer to each.
    async fn apply_entries(&self, entries: Vec<Committed>) -> Result<Vec<Answer>, ApplyError> {
        let count = entries.len();
        let answers = match apply(&*self.machine, &entries, false) {
            Err(ApplyError::Blocks) => {
                let machine = Arc::clone(&self.machine);
                let blocking = spawn_blocking(move || apply(&*machine, &entries, true));
                blocking.await.map_err(io::Error::other)?
            }
            applied => applied,
        }?;
        if answers.len() != count {
            let answers = answers.len();
            let message = format!("the state machine answered {answers} of {count} entries");
            return Err(io::Error::other(message).into());
        }
        Ok(answers)
    }
}

fn ended() -> io::Error {
    io::Error::other("the group has ended")
}

/// A panic is a failure. openraft would not notice that its task is gone, and lead on.
fn apply(
    machine: &dyn StateMachine,
    entries: &[Committed],
    may_block: bool,
) -> Result<Vec<Answer>, ApplyError> {
    // What may be half done is never looked at again.
    let apply = AssertUnwindSafe(|| machine.apply(entries, may_block));
    catch_unwind(apply).unwrap_or_else(|_| {
        let panicked = io::Error::other("the state machine panicked");
        Err(ApplyError::Failed(panicked))
    })
}

/// The membership that an entry is.
fn membership_of(committed: &Committed) -> Option<StoredMembership> {
    match &committed.entry.payload {
        Content::Membership(membership) => {
            let log_id = Some(committed.entry.log_id);
            Some(StoredMembership::new(log_id, membership.clone()))
        }
        Content::Blank | Content::Normal(_) => None,
    }
}

/// Entries that are applied together.
#[derive(Default)]
struct Chunk {
    entries: Vec<Committed>,
    responders: Vec<Option<ApplyResponder<TypeConfig>>>,
    bytes: usize,
}

impl Chunk {
    fn is_full(&self) -> bool {
        self.entries.len() >= APPLY_ENTRIES_MAX || self.bytes >= APPLY_BYTES_MAX
    }

    fn push(&mut self, (entry, responder): EntryResponder<TypeConfig>) {
        self.bytes += entry_bytes(&entry);
        let is_awaited = responder.is_some();
        self.entries.push(Committed { entry, is_awaited });
        self.responders.push(responder);
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = PositionBuilder;

    /// openraft asks at the start only.
    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        self.applied = self.machine.flushed()?;
        let Applied {
            position,
            membership,
        } = self.applied.clone();
        Ok((position, membership))
    }

    async fn apply<Entries>(&mut self, entries: Entries) -> io::Result<()>
    where
        Entries: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        // openraft has truncated what these replace.
        self.pass_barrier().await?;
        let mut entries = entries.fuse();
        while let Some(first) = entries.next().await {
            self.check_running()?;
            let mut chunk = Chunk::default();
            chunk.push(self.intact(first)?);
            while !chunk.is_full()
                && let Some(Some(next)) = entries.next().now_or_never()
            {
                chunk.push(self.intact(next)?);
            }
            self.apply_chunk(chunk).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> PositionBuilder {
        self.shared.snapshots.clone()
    }

    /// The core answers nothing until this is done.
    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        data: SnapshotData,
    ) -> io::Result<()> {
        let SnapshotData::Received(received) = data else {
            let message = "only what another replica has sent can be installed";
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        };
        // openraft has truncated entries that conflict with the snapshot.
        self.pass_barrier().await?;
        let installed = spawn_blocking(move || received.install()).await;
        installed.map_err(io::Error::other)??;
        self.shared.snapshots.set_installed(meta.clone());
        self.applied = Applied {
            position: meta.last_log_id,
            membership: meta.last_membership.clone(),
        };
        if let Some(last) = meta.last_log_id {
            self.log.set_applied(last.index);
            self.shared.strides.remove(last.index);
        }
        Ok(())
    }

    /// A snapshot for another replica, which will have at least what is applied now. While openraft starts, it asks for the initial
    /// state of an in-memory state machine; there is none here.
    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot<SnapshotData>>> {
        if !self.shared.snapshots.has_built() {
            return Ok(None);
        }
        let index = self.applied.position.map_or(0, |position| position.index);
        let outgoing = Outgoing::new(
            Arc::clone(&self.machine),
            Arc::clone(&self.shared.users),
            self.shared.holds.hold(index),
        );
        Ok(Some(Snapshot {
            meta: meta(self.applied.clone()),
            snapshot: SnapshotData::Outgoing(outgoing),
        }))
    }
}
